"""predict: what it says is what the model computes, and a bad image costs only itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgepipe.pipeline import evaluate, predict
from edgepipe.pipeline.storage import digits
from edgepipe.runners import images
from edgepipe.runners.bundles.scores import kind_in, kind_of, probabilities

from ...made import PREPROCESSING, templates
from .test_evaluate import LABELS, linear, write_workspace

Run = Callable[..., CompletedProcess[str]]


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """The nearest class mean, one image at a time, and in threes as "int8"."""
    weights, bias = templates()
    files = {"fp32": linear(weights, bias, 1), "int8": linear(weights, bias, 3)}
    return write_workspace(tmp_path / "artifacts", files)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Five of the held-out digits as files, and something that is no image between them."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, picture in enumerate(digits.pictures("held_out")[0][:5]):
        Image.fromarray(picture).save(folder / f"{number}.png")
    return folder


def softmax(photos: Path) -> np.ndarray:
    """What numpy makes of the same files."""
    weights, bias = templates()
    rows = [images.load_image(photos / f"{number}.png") for number in range(5)]
    tensor = images.normalize(images.stack(np.stack(rows), PREPROCESSING), PREPROCESSING)
    scores = tensor.reshape(5, -1).astype(np.float64) @ weights + bias
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("variant", ["fp32", "int8"], ids=["single", "batch of 3"])
def test_top_5_with_labels_probabilities_and_times(
    tiny: Path, photos: Path, edgepipe: Run, variant: str
) -> None:
    done = edgepipe("predict", photos, "--workspace", tiny, "--json", "--variant", variant)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert (document["variant"], document["runner"]) == (variant, "ort-cpu")
    assert document["scores"] == "logits"
    expected = softmax(photos)
    assert [Path(found["image"]).name for found in document["predictions"]] == [
        f"{number}.png" for number in range(5)
    ]
    for found, shares in zip(document["predictions"], expected, strict=True):
        order = np.argsort(-shares)[:5]
        assert [guess["label"] for guess in found["top"]] == [LABELS[index] for index in order]
        given = [guess["probability"] for guess in found["top"]]
        np.testing.assert_allclose(given, shares[order], atol=1e-4)
        assert found["run_ms"] > 0
        assert found["decode_ms"] > 0


@pytest.mark.parametrize("channels", ["grey", 6], ids=["grey", "arrays"])
def test_rectangles_of_other_channels(tmp_path: Path, channels: str | int) -> None:
    """Of a picture grey is made, an array is taken as it is; of a folder what the model reads."""
    preprocessing = images.Preprocessing.preset("inception", (4, 6), channels)
    random = np.random.default_rng(3)
    weights = random.normal(size=(np.prod(preprocessing.shape), 10)).astype(np.float32)
    bias = np.zeros(10, np.float32)
    files = {"fp32": linear(weights, bias, 1, preprocessing.shape)}
    root = write_workspace(tmp_path / "artifacts", files, preprocessing)
    for label in range(2):
        folder = tmp_path / "photos" / str(label)
        folder.mkdir(parents=True)
        for number in range(3):
            pixels = random.integers(0, 256, (9, 12, 6), np.uint8)
            np.save(folder / f"{number}.npy", pixels)
            Image.fromarray(pixels[..., :3]).save(folder / f"{number}.png")
    found = predict((tmp_path / "photos",), workspace=root)
    names = [Path(one.image).name for one in found.predictions]
    suffix = ".png" if channels == "grey" else ".npy"
    assert names == [f"{number}{suffix}" for number in range(3)] * 2
    for one in found.predictions:
        pixels = images.to_pixels(
            images.load_image(Path(one.image), preprocessing.bands), preprocessing
        )
        tensor = images.normalize(pixels[None], preprocessing)
        expected = probabilities(tensor.reshape(1, -1).astype(np.float64) @ weights, "logits")[0]
        given = {guess.index: guess.probability for guess in one.top}
        assert given == pytest.approx({index: expected[index] for index in given}, abs=1e-4)
    assert found.preprocessing["size"] == [4, 6]
    judged = evaluate(workspace=root, data=tmp_path / "photos", runners=("ort-cpu",))
    assert judged.data["images"] == 6


def test_an_image_that_can_not_be_read_is_named_and_the_others_are_answered(
    tiny: Path, photos: Path, edgepipe: Run
) -> None:
    (photos / "2.png").write_bytes(b"no picture")
    names = [photos / "2.png", photos / "1.png", photos / "absent.png"]
    done = edgepipe("predict", *names, "--workspace", tiny, "--json")
    assert done.returncode == 3, done.stderr
    bad, good, absent = json.loads(done.stdout)["predictions"]
    assert bad["error"].startswith(f"{photos / '2.png'}: no picture in any of")
    assert "absent.png: No such file" in absent["error"]
    assert (bad["top"], absent["top"]) == ([], [])
    assert (good["error"], len(good["top"])) == (None, 5)
    shown = edgepipe("predict", *names, "--workspace", tiny)
    assert shown.returncode == 3
    assert "2.png: no picture" in shown.stdout
    assert "Traceback" not in shown.stderr


def test_a_pattern_a_folder_and_a_list_name_the_same_images(
    tiny: Path, photos: Path, edgepipe: Run
) -> None:
    def answers(*names: str | Path, **options: Any) -> list[Any]:
        done = edgepipe("predict", *names, "--workspace", tiny, "--json", "--top", "1", **options)
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)["predictions"]
        return [(Path(one["image"]).name, one["top"]) for one in found]

    listed = "\n".join(str(photos / f"{number}.png") for number in range(5))
    by_folder = answers(photos)
    assert len(by_folder) == 5
    assert answers(f"{photos}/*.png") == by_folder
    assert answers("-", input=listed) == by_folder


@pytest.mark.parametrize(
    ("names", "code", "words"),
    [
        (("-",), 3, "no images to predict"),
        (("nowhere",), 3, ""),
        (("photos/*.gif",), 3, ""),
        (("photos", "--variant", "int9"), 2, "predict.variant: no 'int9'"),
        (("photos", "--runner", "onnx"), 2, "predict.runner: no 'onnx'"),
        (("photos", "--model", "../up"), 2, "model"),
        (("photos", "--model", "other"), 3, "nothing exported"),
    ],
)
def test_what_can_not_be_done_is_said_in_one_line(
    tiny: Path, photos: Path, edgepipe: Run, names: tuple[str, ...], code: int, words: str
) -> None:
    done = edgepipe("predict", *names, "--workspace", tiny, input="")
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert done.stderr.count("\n") <= 1


def test_probabilities_of_the_model_itself_are_left_alone() -> None:
    shares = np.array([[0.7, 0.2, 0.1], [0.0, 0.0, 1.0]], np.float32)
    assert kind_of(shares) == "probabilities"
    np.testing.assert_array_equal(probabilities(shares, kind_of(shares)), shares.astype(np.float64))
    logits = np.log(np.array([[1, 2, 5]], np.float32))
    assert kind_of(logits) == "logits"
    made = probabilities(logits, "logits")
    np.testing.assert_allclose(made, [[1 / 8, 2 / 8, 5 / 8]], atol=1e-7)
    assert np.all(np.isfinite(probabilities(np.array([[1e4, 0.0]]), "logits")))


@pytest.mark.parametrize(
    ("outputs", "kind"),
    [
        ([[0.7, 0.3], [0.5, 0.5]], "probabilities"),
        ([[0.7, 0.3], [0.5, 0.6]], "logits"),
        ([[1.2, -0.2]], "logits"),
        ([[np.nan, 1.0]], "logits"),
        ([[-0.1, -3.0]], "logits"),
        (np.zeros((0, 3)), "logits"),
        ([0.5, 0.5], "logits"),
    ],
    ids=str,
)
def test_scores_are_probabilities_if_all_of_them_are(outputs: Any, kind: str) -> None:
    assert kind_of(np.asarray(outputs, np.float32)) == kind


def test_a_batch_that_adds_up_by_chance_does_not_decide() -> None:
    """What the model's scores are was recorded at export, over all goldens."""
    model = {"outputs": [{"name": "logits", "scores": "logits"}]}
    assert kind_in(model, "logits") == "logits"
    by_chance = np.array([[0.25, 0.75]], np.float32)
    assert probabilities(by_chance, kind_in(model, "logits"))[0, 0] == pytest.approx(
        0.3775, abs=1e-4
    )
