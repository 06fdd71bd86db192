"""Each ONNX file that a package ships: looked at, taken in, and judged on two runners."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from ..pipeline.intake.files import refused, succeeded
from .files import FILES, IMAGE, SOUND, TEXT, WORDS, Shipped
from .pictures import write_words

Run = Callable[..., CompletedProcess[str]]
RUNNERS = ("ort-cpu", "openvino")
# float64 by ONNX's own evaluator takes minutes for the largest.
PATIENCE_SECONDS = 1800


def located(shipped: Shipped) -> Path:
    """Where the file is installed. Its package is never imported."""
    try:
        package = metadata.distribution(shipped.package)
    except metadata.PackageNotFoundError:
        pytest.skip(f"{shipped.package} is installed by `nox -s shipped`")
    path = Path(str(package.locate_file(shipped.file)))
    assert path.is_file(), f"{shipped.package} doesn't have {shipped.file} any more"
    return path


def test_text_sound_and_images_are_among_them() -> None:
    assert {one.kind for one in FILES} == {TEXT, SOUND, IMAGE}
    assert len(FILES) >= 10


@pytest.mark.parametrize("shipped", FILES, ids=str)
def test_a_shipped_file_is_taken_in_and_judged(
    shipped: Shipped, tmp_path: Path, edgepipe: Run
) -> None:
    file = located(shipped)
    shown = succeeded(edgepipe("inspect", file)).stdout
    assert all(runner in shown for runner in RUNNERS)

    taking_in = ("import", file, "--name", "taken")
    if shipped.open:
        refused(edgepipe(*taking_in), 3, shipped.open)
        assert not (tmp_path / "artifacts" / "taken").exists()
    if WORDS in shipped.options:
        write_words(tmp_path / "words")
    succeeded(edgepipe(*taking_in, *shipped.options.split(), timeout=PATIENCE_SECONDS))

    flags = [part for runner in RUNNERS for part in ("--runner", runner)]
    done = edgepipe("parity", *flags, "--json", timeout=PATIENCE_SECONDS)
    assert done.returncode in (0, 1, 5), done.stderr
    assert "Traceback" not in done.stderr
    passed: dict[str, set[str]] = defaultdict(set)
    cells = json.loads(done.stdout)["cells"]
    for cell in cells:
        assert cell["verdict"] in ("pass", "fail") or cell["reason"], cell
        assert "\n" not in (cell["reason"] or "")
        passed[cell["variant"]].update([cell["runner"]] if cell["verdict"] == "pass" else [])
    assert len(cells) == len(RUNNERS) * len(passed)
    # int8 of noise may fail, and saturates on some CPUs; what came in may not.
    came_in = "given" if "given" in passed else "fp32"
    assert passed[came_in] == set(RUNNERS), cells
    quantized = "--calibration" in shipped.options and "--variant" not in shipped.options
    assert not quantized or set(passed) >= {"int8", "int8-avx2"}
