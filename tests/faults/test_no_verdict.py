"""What is no verdict never looks like one: damaged goldens, and a fault of edgepipe itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgepipe.pipeline import cli, verify
from edgepipe.pipeline.errors import ExitCode, InputError, exit_code
from edgepipe.pipeline.storage.goldens import Goldens
from edgepipe.runners.base import BundleError
from edgepipe.runners.bundles.index import GOLDENS, INDEX, Variant

from .. import bundles


@pytest.mark.parametrize("seed", range(40))
def test_damaged_goldens_of_a_rehashed_bundle_are_an_integrity_error(
    seed: int, tmp_path: Path
) -> None:
    random = np.random.default_rng(seed)
    damaged = bytearray(bundles.goldens())
    for place in random.integers(len(damaged), size=12):
        damaged[place] = random.integers(256)
    members = {"fp32.onnx": bundles.onnx("fp32"), GOLDENS: bytes(damaged)}
    index = bundles.index(members, variants={"fp32": Variant({"onnx": ("fp32.onnx",)})})
    path = bundles.write(tmp_path / "b.tar.gz", {INDEX: index.to_bytes(), **members})
    with pytest.raises(BundleError) as caught:
        verify(path, runner="openvino", samples=1)
    assert exit_code(caught.value) == ExitCode.INTEGRITY


@pytest.mark.parametrize("size", [0, 1, 30, 500])
def test_goldens_that_are_cut_off_are_bad_input(size: int, tmp_path: Path) -> None:
    path = tmp_path / "goldens.npz"
    path.write_bytes(bundles.goldens()[:size])
    with pytest.raises(InputError, match=r"goldens\.npz"):
        Goldens.load(path)


def test_a_bug_keeps_its_traceback_and_is_no_failed_gate(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def broken() -> None:
        raise IndexError("list index out of range")

    assert cli._guarded(broken, []) == 70
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert said.endswith("edgepipe: a fault of edgepipe itself, not of what it was given\n")
