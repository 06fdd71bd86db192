"""int8 that can't be made costs the int8: the float model is there, and the error says both.

A quantizer that fails or dies stands in for ONNX Runtime's; all else is real. What a file itself
does to int8 is in tests/pipeline/intake.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from edgepipe.pipeline.errors import StageError
from edgepipe.pipeline.intake.import_model import import_model
from edgepipe.pipeline.stages import chain
from edgepipe.pipeline.stages.native import Native
from edgepipe.pipeline.storage.workspace import Workspace

from ..pipeline.intake.files import product
from .conftest import Small, snapshot

Run = Callable[..., subprocess.CompletedProcess[str]]
pytestmark = pytest.mark.long
# An export's own worker with another quantizer.
INSTEAD = """
import os, signal
from edgepipe.pipeline.stages import native

real = native.Quantization.quantize

def quantize(self, fields, feeds):
    {program}
    return real(self, fields, feeds)

native.Quantization.quantize = quantize
native.main()
"""
REFUSES = "raise ValueError('unknown operator')"
ONE_REFUSES = f"if fields['exact_pairs']: {REFUSES}"
CRASHES = "os.kill(os.getpid(), signal.SIGSEGV)"


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Put a line of Python into the quantizer: ``broken(REFUSES)``; an empty one mends it."""

    def put(program: str) -> None:
        command = (sys.executable, "-c", INSTEAD.format(program=program or "pass"))
        monkeypatch.setattr(chain, "Native", partial(Native, command))

    return put


def taken_in(folder: Path, **options: Any) -> None:
    """Import the product of a vector and a matrix, with int8."""
    file = product(folder / "sound.onnx")
    import_model(file, workspace=folder / "artifacts", calibration=Path("synthetic"), **options)


@pytest.mark.parametrize(
    ("program", "reason"),
    [(REFUSES, "quantize failed: ValueError: unknown operator"), (CRASHES, "SIGSEGV")],
)
def test_int8_that_cannot_be_made_leaves_the_float_model(
    tmp_path: Path, broken: Callable[[str], None], program: str, reason: str
) -> None:
    broken("")
    taken_in(tmp_path)
    place = Workspace(tmp_path / "artifacts", "sound")
    whole = snapshot(place.folder)
    for name in whole:
        (place.folder / name).unlink()
    broken(program)
    with pytest.raises(StageError, match=reason) as told:
        taken_in(tmp_path)
    assert str(told.value).startswith("int8, int8-avx2 not made: ")
    assert str(told.value).endswith(f"; {place.folder} has fp32")
    assert set(place.verified().variants) == {"fp32"}
    # The next one that works makes the rest, and it is what it would have been.
    broken("")
    taken_in(tmp_path)
    assert snapshot(place.folder) == whole


def test_one_int8_that_cannot_be_made_costs_no_other(
    tmp_path: Path, broken: Callable[[str], None]
) -> None:
    broken(ONE_REFUSES)
    with pytest.raises(StageError, match=r"^int8-avx2 not made: .* has fp32, int8$"):
        taken_in(tmp_path)
    manifest = Workspace(tmp_path / "artifacts", "sound").verified()
    assert set(manifest.variants) == {"fp32", "int8"}


@pytest.mark.parametrize("force", [False, True])
def test_int8_of_before_is_not_lost_to_one_that_cannot_be_made(
    tmp_path: Path, broken: Callable[[str], None], force: bool
) -> None:
    broken("")
    taken_in(tmp_path)
    before = snapshot(tmp_path / "artifacts")
    broken(REFUSES)
    with pytest.raises(StageError, match="stays as it was, with its int8, int8-avx2"):
        taken_in(tmp_path, recipe="minmax", force=force)
    assert snapshot(tmp_path / "artifacts") == before


def test_an_export_keeps_its_float_model_as_well(
    small: Small, tmp_path: Path, broken: Callable[[str], None]
) -> None:
    broken(REFUSES)
    with pytest.raises(StageError, match=r"^int8, int8-avx2 not made: .* has fp32$"):
        chain.export(workspace=tmp_path, **small.options)
    made = snapshot(tmp_path / "mobilenet_v2")
    del made["manifest.json"]
    assert made.items() <= small.files.items()
