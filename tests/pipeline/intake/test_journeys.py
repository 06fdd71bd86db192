"""Imported models through the commands behind import, as a user goes through them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest

from edgepipe.pipeline.numerics.precision import ASSUMED_DB
from edgepipe.pipeline.stages.quantize import needs_of
from edgepipe.pipeline.storage.goldens import Goldens
from edgepipe.pipeline.storage.manifest import Manifest, StageRecord
from edgepipe.runners import load_bundle
from edgepipe.runners.bundles.index import EXACT_INT8

from .files import refused, succeeded
from .test_import import embedding
from .test_repair import quantized

Run = Callable[..., CompletedProcess[str]]
ORT = ("--runner", "ort-cpu")
# Whether anything is faster than the defaults is the machine's to say, or that it can't be told.
TUNED = (0, 6)


def held(*variants: str, stage: str = "import") -> Manifest:
    return Manifest(
        variants={name: {"onnx": f"{name}.onnx"} for name in variants},
        stages=(StageRecord(stage, "", {}, (), {}),),
    )


@pytest.mark.parametrize(
    ("manifest", "asked", "way"),
    [
        (held("given"), "int8", "never quantized again; `edgepipe import FILE --reference"),
        (held("given"), "fp32", "--reference FLOAT.onnx` adds what is made of the float model"),
        (held("given"), "repaired", "`edgepipe import FILE --repair` makes it"),
        (held("fp32"), "given", "given is a file that came quantized, and this one didn't"),
        (held("fp32"), "int8", "run `edgepipe import FILE --variant int8`"),
        (held("fp32"), "fp16", "run `edgepipe import FILE --variant fp16`"),
        (held("fp32"), "int4", "edgepipe import makes fp32, int8, int8-avx2, fp16"),
        (held("given", stage="export"), "int8", "the module came quantized"),
        (held("fp32", stage="export"), "int8", "run `edgepipe export --variant int8`"),
    ],
)
def test_a_missing_variant_says_how_it_comes_about(
    manifest: Manifest, asked: str, way: str
) -> None:
    said = manifest.lacks(asked, Path("net"))
    assert said.startswith(f"variant {asked} is not in net, which has ")
    assert way in said


@pytest.mark.parametrize("variant", ["given", "repaired", "int8", "int8-percentile"])
def test_int8_that_nobody_bounded_needs_a_cpu_that_adds_exactly(variant: str) -> None:
    assert needs_of(variant) == EXACT_INT8


def test_a_reference_at_the_assumed_distance_is_a_measured_one() -> None:
    """What is assumed is told by what there is, not by a figure that may be measured, too."""
    exact = np.ones((4, 2))
    near = exact + np.array(10 ** (-ASSUMED_DB / 20))
    goldens = Goldens(None, np.zeros(4, int), {"y": near}, {"y": exact}, {"x": exact})
    assert goldens.reference_sqnr_db == pytest.approx(ASSUMED_DB, abs=1e-6)
    assert goldens.reference_json()["reference_state"] == "measured"
    without = Goldens(None, np.zeros(4, int), {"y": near}, {}, {"x": exact})
    assert without.reference_json() == {"reference_sqnr_db": None, "reference_state": "assumed"}


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Sixty of noise, six for each of ten classes, and "labels.txt"."""
    from PIL import Image

    random = np.random.default_rng(0)
    labels = "abcdefghij"
    for label in labels:
        (tmp_path / "photos" / label).mkdir(parents=True)
        for number in range(6):
            pixels = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            picture = Image.fromarray(pixels).resize((40, 48))
            picture.save(tmp_path / "photos" / label / f"{number}.png")
    (tmp_path / "labels.txt").write_text("\n".join(labels))
    return tmp_path / "photos"


@pytest.mark.long
def test_a_classifier_that_came_quantized_goes_all_the_way(
    tmp_path: Path, photographs: Path, edgepipe: Run
) -> None:
    quantized(tmp_path, "S8", "S8")
    known = ("--preprocessing", "imagenet", "--labels", "labels.txt", "--calibration", "photos")
    flags = ("--reference", "float.onnx", "--repair", "--name", "net")
    succeeded(edgepipe("import", "int8.onnx", *flags, *known))
    succeeded(edgepipe("parity", *ORT))
    succeeded(edgepipe("bench", "--quick", *ORT))
    assert edgepipe("tune", "--budget", "4", *ORT, "--variant", "given").returncode in TUNED
    refused(edgepipe("evaluate"), 2, "no labelled images come with an imported file")
    found = json.loads(succeeded(edgepipe("evaluate", "--data", "photos", *ORT, "--json")).stdout)
    variants = {cell["variant"] for cell in found["cells"]}
    assert variants == {"fp32", "given", "repaired", "int8", "int8-avx2"}
    told = succeeded(edgepipe("predict", photographs / "a" / "0.png", "--variant", "given")).stdout
    assert "net given / ort-cpu" in told
    compared = succeeded(edgepipe("compare", "--workspace", "artifacts", "--quick", *ORT)).stdout
    assert "net · given" in compared
    assert "Models of the workspace" in compared

    succeeded(edgepipe("report", "--format", "markdown", "--output", "net.md"))
    report = (tmp_path / "net.md").read_text()
    assert "## What was imported" in report
    assert "* Reference: the float file's own float32, in ONNX Runtime" in report
    assert "edgepipe import float.onnx --name net --reference REFERENCE --labels LABELS" in report
    assert "| torch |" not in report

    succeeded(edgepipe("package"))
    (bundle,) = (tmp_path / "bundles").iterdir()
    succeeded(edgepipe("verify", bundle))
    python = json.dumps([sys.executable])
    (tmp_path / "edgepipe.toml").write_text(f"[targets.box]\ncommand = {python}\n")
    box = ("--target", "box", "--folder", tmp_path / "box")
    planned = succeeded(edgepipe("deploy", bundle, *box, "--dry-run")).stdout
    assert planned.startswith("would deploy: net-")
    with load_bundle(bundle) as model:
        assert model.choice.variant in ("int8", "int8-avx2")
        assert model.predict(str(photographs / "a" / "0.png")).label in "abcdefghij"
    card = subprocess.run(
        ["tar", "xzOf", bundle, "MODEL_CARD.md"], capture_output=True, text=True, check=True
    ).stdout
    assert "the float model's own float32" in card
    for name in ("given", "repaired"):
        assert f"| {name} | {name}.onnx | 0.0 | CPUs with VNNI |" in card


@pytest.mark.long
def test_a_quantized_file_alone_is_its_own_reference_everywhere(
    tmp_path: Path, photographs: Path, edgepipe: Run
) -> None:
    quantized(tmp_path, "U8", "S8")
    done = succeeded(edgepipe("import", "int8.onnx", "--preprocessing", "none", "--name", "net"))
    assert "the runners' kernels are judged" in done.stderr
    assert "60 dB" not in done.stderr
    shown = succeeded(edgepipe("parity", *ORT)).stdout
    assert "the reference is the quantized file itself" in shown
    told = succeeded(edgepipe("predict", photographs / "a" / "0.png")).stdout
    assert "net given / ort-cpu" in told
    refused(edgepipe("predict", "x.png", "--variant", "fp32"), 2, "--reference FLOAT.onnx")
    succeeded(edgepipe("bench", "--quick", *ORT))
    compared = succeeded(edgepipe("compare", "--workspace", "artifacts", "--quick", *ORT)).stdout
    assert "net · given" in compared
    static = succeeded(edgepipe("compare", "--workspace", "artifacts", "--static")).stdout
    assert "Models of the workspace" in static
    assert "given MiB" in static
    succeeded(edgepipe("report", "--format", "markdown", "--output", "net.md"))
    report = (tmp_path / "net.md").read_text()
    assert "* Quantized: QDQ; activations" in report
    assert "* Reference: the quantized file itself, node by node" in report
    succeeded(edgepipe("package"))
    (bundle,) = (tmp_path / "bundles").iterdir()
    succeeded(edgepipe("verify", bundle))


@pytest.mark.long
def test_a_text_model_is_judged_timed_and_reported(tmp_path: Path, edgepipe: Run) -> None:
    file = embedding(tmp_path / "text.onnx")
    tokens = np.random.default_rng(0).integers(0, 50, (100, 7))
    np.savez(tmp_path / "tokens.npz", tokens=tokens)
    done = succeeded(edgepipe("import", file, "--dim", "length=7", "--data", "tokens.npz"))
    assert "no convolutions; 1 QLinearMatMul in integers" in done.stdout
    succeeded(edgepipe("parity", *ORT, "--runner", "openvino"))
    succeeded(edgepipe("bench", "--quick", *ORT))
    assert edgepipe("tune", "--budget", "4", *ORT, "--variant", "fp32").returncode in TUNED
    succeeded(edgepipe("quantize", "--recipe", "minmax", "--calibration", "tokens.npz"))
    succeeded(edgepipe("report", "--format", "markdown", "--output", "text.md"))
    report = (tmp_path / "text.md").read_text()
    assert "* Inputs: tokens int64" in report
    assert "* Goldens: 33 samples, data" in report
    assert "--dim length=7" in report
    refused(edgepipe("package"), 2, "takes no images; a bundle is for models that do")
    refused(edgepipe("predict", "x.png"), 2, "no image classifier")
    refused(edgepipe("evaluate", "--data", "."), 2, "no image classifier")
    done = edgepipe("bench", "--runner", "torch")
    assert done.returncode == 5
    assert "no module behind an imported file" in done.stdout
