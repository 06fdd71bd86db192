"""evaluate: the whole command, on a linear model that runs in no time and on the default one.

More of its verdicts, and what becomes of cells that fail, is in tests/combinations.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from edgepipe.pipeline import evaluate
from edgepipe.pipeline.errors import UsageError
from edgepipe.pipeline.storage import digits
from edgepipe.pipeline.storage.manifest import Artifact, Manifest
from edgepipe.runners import images

from ...made import PREPROCESSING, templates

Run = Callable[..., CompletedProcess[str]]

LABELS = tuple("0123456789")


def linear(
    weights: np.ndarray,
    bias: np.ndarray,
    batch: int | str,
    shape: tuple[int, int, int] = PREPROCESSING.shape,
) -> bytes:
    """``[batch, *shape] -> [batch, classes]`` as ONNX."""
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["input"], ["flat"]),
            helper.make_node("Gemm", ["flat", "weights", "bias"], ["logits"]),
        ],
        "linear",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [batch, *shape])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, weights.shape[1]])],
        [numpy_helper.from_array(weights, "weights"), numpy_helper.from_array(bias, "bias")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return model.SerializeToString()


def write_workspace(
    root: Path,
    files: dict[str, bytes],
    preprocessing: images.Preprocessing = PREPROCESSING,
    **model: Any,
) -> Path:
    """A workspace that holds the given variants, with a manifest that vouches for them."""
    folder = root / "mobilenet_v2"
    folder.mkdir(parents=True)
    for variant, content in files.items():
        (folder / f"{variant}.onnx").write_bytes(content)
    about = {"name": "mobilenet_v2", "weights": "digits", "trained": True, "classes": 10}
    manifest = Manifest(
        model=about | model,
        preprocessing=preprocessing.to_json(),
        labels=LABELS[: (about | model)["classes"]],
        variants={variant: {"onnx": f"{variant}.onnx"} for variant in files},
        artifacts={
            f"{variant}.onnx": Artifact(sha256(content).hexdigest(), len(content))
            for variant, content in files.items()
        },
    )
    (folder / "manifest.json").write_text(manifest.to_json())
    return root


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """fp32: the nearest class mean. int8: the same with classes 3 and 8 the wrong way round."""
    weights, bias = templates()
    order = [0, 1, 2, 8, 4, 5, 6, 7, 3, 9]
    files = {"fp32": linear(weights, bias, 1), "int8": linear(weights[:, order], bias[order], 1)}
    return write_workspace(tmp_path / "artifacts", files)


def right(weights: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Which held-out digits numpy gets right with the same model."""
    pictures, labels = digits.pictures("held_out")
    tensor = images.normalize(images.stack(pictures, PREPROCESSING), PREPROCESSING)
    return np.argmax(tensor.reshape(len(tensor), -1) @ weights + bias, axis=1) == labels


ORT = ("--runner", "ort-cpu")
HALF = ("--max-drop", "0.5")


def test_a_variant_that_lost_accuracy_fails(tiny: Path, edgepipe: Run, tmp_path: Path) -> None:
    flags = (*ORT, "--junit", "out.xml", "--markdown", "out.md", "--json", *HALF)
    done = edgepipe("evaluate", "--workspace", tiny, *flags)
    assert done.returncode == 1, done.stderr
    document = json.loads(done.stdout)
    assert document == json.loads((tiny / "mobilenet_v2" / "evaluation.json").read_text())
    weights, bias = templates()
    labels = digits.pictures("held_out")[1]
    correct = right(weights, bias)
    lost = int(np.count_nonzero(correct & np.isin(labels, (3, 8))))
    fp32, int8 = document["cells"]
    assert document["reference"] == {"variant": "fp32", "runner": "ort-cpu", "target": "local"}
    assert (fp32["verdict"], fp32["drop"]) == (None, None)
    assert (fp32["images"], fp32["correct"]) == (397, np.count_nonzero(correct))
    assert fp32["top1_ci95"][0] < fp32["top1"] < fp32["top1_ci95"][1]
    assert int8["verdict"] == "fail"
    assert int8["drop"]["lost"] == lost
    assert int8["drop"]["points"] == pytest.approx(100 * (lost - int8["drop"]["won"]) / 397)
    assert int8["drop"]["p_value"] < 1e-6
    assert int8["reason"].startswith("top-1 lost ")
    assert fp32["correct"] - int8["correct"] == lost - int8["drop"]["won"]
    data = document["data"]
    assert (data["name"], data["images"], data["classes"]) == ("digits (held out)", 397, 10)
    suite = ElementTree.parse(tmp_path / "out.xml").getroot()
    assert [case.get("classname") for case in suite.iter("testcase")] == [
        "evaluate.local.ort-cpu",
        "evaluate.local.ort-cpu",
    ]
    assert suite.find(".//failure") is not None
    assert "| int8 | ort-cpu | local | f32 | ❌ fail |" in (tmp_path / "out.md").read_text()


@pytest.mark.parametrize("batch", ["batch", 5], ids=["dynamic", "five"])
def test_batches_change_nothing_but_the_speed(
    tmp_path: Path, batch: int | str, edgepipe: Run
) -> None:
    weights, bias = templates()
    root = write_workspace(tmp_path / "artifacts", {"fp32": linear(weights, bias, batch)})
    done = edgepipe("evaluate", "--workspace", root, *ORT, "--json")
    assert done.returncode == 0, done.stderr
    (cell,) = json.loads(done.stdout)["cells"]
    assert cell["batch"] == {"batch": 16}.get(str(batch), batch)
    assert cell["images"] == 397
    assert cell["correct"] == np.count_nonzero(right(weights, bias))


def test_top_5_of_few_classes_is_not_given_and_said(tmp_path: Path, edgepipe: Run) -> None:
    weights, bias = (array[..., :5] for array in templates())
    root = write_workspace(tmp_path / "artifacts", {"fp32": linear(weights, bias, 1)}, classes=5)
    folders(tmp_path / "data", 10)
    done = edgepipe("evaluate", "--workspace", root, *ORT, "--data", "data", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["cells"][0]["top5"] is None
    assert "no top-5: the model has 5 classes" in document["notes"]


def folders(root: Path, count: int, classes: int = 5) -> Path:
    """Held-out digits of the first classes as image files in class folders."""
    pictures, labels = digits.pictures("held_out")
    chosen = np.flatnonzero(labels < classes)[:count]
    for number in chosen:
        folder = root / str(labels[number])
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pictures[number]).save(folder / f"{number:03}.png")
    return root


def test_a_folder_of_images_gives_what_the_same_arrays_give(
    tiny: Path, edgepipe: Run, tmp_path: Path
) -> None:
    folders(tmp_path / "data", 397, classes=10)
    (tmp_path / "data" / "0" / "notes.txt").write_text("")
    done = edgepipe("evaluate", "--workspace", tiny, *ORT, "--data", "data", "--json", *HALF)
    assert done.returncode == 1
    assert "data: 1 entries ignored" in done.stderr
    document = json.loads(done.stdout)
    assert document["data"]["name"] == "data"
    assert document["cells"][0]["images"] == 397
    assert document["cells"][0]["correct"] == np.count_nonzero(right(*templates()))


@pytest.mark.parametrize("fault", ["cut off", "no label", "empty"])
def test_bad_images_are_one_line_and_lose_nothing(
    tiny: Path, edgepipe: Run, tmp_path: Path, fault: str
) -> None:
    result = tiny / "mobilenet_v2" / "evaluation.json"
    result.write_text("what was there before")
    data = tmp_path / "data"
    data.mkdir()
    if fault != "empty":
        folders(data, 60)
    if fault == "cut off":
        noise = np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8)
        Image.fromarray(noise).save(data / "4" / "z.png")
        (data / "4" / "z.png").write_bytes((data / "4" / "z.png").read_bytes()[:5000])
    if fault == "no label":
        (data / "4").rename(data / "four")
    done = edgepipe("evaluate", "--workspace", tiny, *ORT, "--data", "data", "--quiet")
    named = {"cut off": "data/4/z.png: ", "no label": "data/four: ", "empty": "data: "}[fault]
    assert done.returncode == 3
    assert done.stderr.startswith(f"edgepipe: {named}")
    assert len(done.stderr.splitlines()) == 1
    assert result.read_text() == "what was there before"


def test_weights_without_images_ask_for_some(tmp_path: Path) -> None:
    files = {"fp32": linear(*templates(), 1)}
    root = write_workspace(tmp_path / "artifacts", files, weights="imagenet")
    with pytest.raises(UsageError, match="name some with --data"):
        evaluate(workspace=root)


def test_the_default_model_keeps_its_accuracy(workspace: Path, edgepipe: Run) -> None:
    flags = (*ORT, "--max-drop", "1.5", "--json")
    done = edgepipe("evaluate", "--workspace", workspace, *flags)
    assert done.returncode == 0, done.stdout
    fp32, *others = json.loads(done.stdout)["cells"]
    assert fp32["correct"] == 393
    assert [cell["verdict"] for cell in others] == ["pass", "pass"]


def test_without_pillow_it_is_said_before_anything_starts(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(images.MissingDecoder, match=r'pip install "edgepipe\[images\]"'):
        evaluate(workspace=tiny)
