"""What the model sees: the page's goldens, and the picture that predict draws."""

from __future__ import annotations

import io
import re
from base64 import b64decode
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgepipe.pipeline.judging.predict import Guess, Prediction, PredictResult
from edgepipe.pipeline.report.looks import look_at
from edgepipe.pipeline.report.plots import seen
from edgepipe.pipeline.report.tables import preparation
from edgepipe.runners.images import Geometry, Preprocessing

from ...made import templates
from ..judging.test_evaluate import linear, write_workspace
from .reading import Page, plain
from .workspaces import MadeUp, patches

Run = Callable[..., CompletedProcess[str]]
IMAGENET = Preprocessing.preset("imagenet")
# Left and right of what the crop leaves of a photograph that is twice as wide as high.
ASIDE = (0, 0, 255)


def photograph(path: Path, width: int = 512, height: int = 256) -> Path:
    """Red in the middle, blue where the crop of imagenet's preset doesn't reach."""
    pixels = np.full((height, width, 3), ASIDE, np.uint8)
    left, top, right, bottom = map(round, Geometry.of(width, height, IMAGENET).seen)
    pixels[top - 4 : bottom + 4, left - 4 : right + 4] = (255, 0, 0)
    Image.fromarray(pixels).save(path)
    return path


def result(*images: Path, preprocessing: Preprocessing = IMAGENET, **changes: Any) -> PredictResult:
    top = (Guess("tabby cat", 0, 0.75), Guess("$x_1$ \n猫", 1, 0.25))
    found = tuple(Prediction(str(image), None, top, 1.0, 1.0) for image in images)
    return PredictResult(
        model={"name": "photos"},
        variant="fp32",
        runner="ort-cpu",
        target="local",
        precision="f32",
        threads=1,
        scores="logits",
        predictions=found,
        preprocessing=preprocessing.to_json(),
        **changes,
    )


def panels(data: bytes, row: int = 0) -> list[np.ndarray]:
    """The three panels of a row, uint8 ``[256, 256, 3]``."""
    pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    top = seen.HEAD + row * (seen.NAME + seen.PANEL + seen.GAP) + seen.NAME
    lefts = [seen.MARGIN + place * (seen.PANEL + seen.GAP) for place in range(3)]
    return [pixels[top : top + seen.PANEL, left : left + seen.PANEL] for left in lefts]


def shares(pixels: np.ndarray) -> tuple[float, float]:
    """How much of a picture is red, and how much blue."""
    red, green, blue = (pixels[..., place].astype(int) for place in range(3))
    return float(np.mean((red > 200) & (green < 60) & (blue < 60))), float(
        np.mean((blue > 200) & (red < 60) & (green < 60))
    )


def test_what_the_crop_leaves_is_framed_and_goes_in(tmp_path: Path) -> None:
    data, drawn = seen.png(result(photograph(tmp_path / "a.png")))
    assert drawn == 1
    photo, pixels, tensor = panels(data)
    assert shares(photo)[1] > 0.2  # what is lost is shown
    red, blue = shares(pixels[:224, :224])
    assert (red > 0.99, blue) == (True, 0)
    assert shares(tensor[:224, :224])[0] > 0.99
    # The frame stands where the geometry says, in the colour that is nowhere else.
    frame = np.array([int(seen.FRAME[place : place + 2], 16) for place in (1, 3, 5)])
    columns = np.flatnonzero((np.abs(photo.astype(int) - frame).max(axis=2) < 24).sum(axis=0) > 50)
    left, _, right, _ = Geometry.of(512, 256, IMAGENET).seen
    assert abs(columns.min() - left / 2) <= 2
    assert abs(columns.max() - right / 2) <= 2


def test_a_model_of_bgr_is_seen_to_take_red_for_blue(tmp_path: Path) -> None:
    bgr = Preprocessing.from_json({**IMAGENET.to_json(), "channels": "bgr"})
    _, pixels, tensor = panels(
        seen.png(result(photograph(tmp_path / "a.png"), preprocessing=bgr))[0]
    )
    assert shares(pixels[:224, :224])[0] > 0.99
    assert shares(tensor[:224, :224])[1] > 0.99


def test_the_figures_are_those_of_the_tensor() -> None:
    pixels = np.zeros((2, 2, 3), np.uint8)
    pixels[0, 0] = (255, 51, 0)
    found = look_at(pixels, Preprocessing(2, (0.5, 0.2, 0.0), (0.5, 0.1, 1.0), folded=True))
    assert [one.name for one in found.channels] == ["0 R", "1 G", "2 B"]
    figures = [(one.least, one.most, one.mean) for one in found.channels]
    np.testing.assert_allclose(figures, [(-1, 1, -0.5), (-2, 0, -1.5), (0, 0, 0)], atol=1e-6)
    assert found.span == pytest.approx((-2, 8))
    # 1 and 0 and 0 of -2 to 8, which are black and white.
    assert found.tensor[0, 0].tolist() == [76, 51, 51]


def test_a_rotated_photograph_is_framed_as_a_person_sees_it(tmp_path: Path) -> None:
    upright = Image.open(photograph(tmp_path / "a.png"))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise by 90 degrees to see it upright
    turned = upright.transpose(Image.Transpose.ROTATE_90)
    turned.save(tmp_path / "turned.png", exif=exif)
    straight, back = (
        panels(seen.png(result(tmp_path / name))[0]) for name in ("a.png", "turned.png")
    )
    for one, other in zip(straight, back, strict=True):
        np.testing.assert_array_equal(one, other)


def test_equal_images_give_equal_bytes_and_only_so_many_are_drawn(tmp_path: Path) -> None:
    images = [photograph(tmp_path / f"{number}.png", 64, 32) for number in range(14)]
    data, drawn = seen.png(result(*images))
    assert (data, drawn) == seen.png(result(*images)) == (data, seen.MOST_SHOWN)


@pytest.mark.parametrize(
    ("preprocessing", "resizing", "normalization", "tensor"),
    [
        (
            IMAGENET,
            "shorter side resized to 256 (bilinear), then the centre 224 × 224 is cut out",
            "RGB, (x / 255 − mean) / std; mean 0.485, 0.456, 0.406; std 0.229, 0.224, 0.225",
            "float32 [N, 3, 224, 224]",
        ),
        (
            Preprocessing(8, (0.5,) * 3, (0.5,) * 3, channels="bgr", folded=True),
            "squashed to 8 × 8 (bilinear), whatever its aspect ratio",
            "BGR, (x / 255 − mean) / std, by the model itself; mean 0.5; std 0.5",
            "uint8 [N, 8, 8, 3]",
        ),
    ],
    ids=["imagenet", "folded"],
)
def test_preprocessing_in_words(
    preprocessing: Preprocessing, resizing: str, normalization: str, tensor: str
) -> None:
    assert preparation.resizing(preprocessing) == resizing
    assert preparation.normalization(preprocessing) == normalization
    assert preparation.tensor(preprocessing) == tensor


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A model of 8 by 8 pixels, which runs in no time."""
    return write_workspace(tmp_path / "artifacts", {"fp32": linear(*templates(), 1)})


def test_predict_draws_what_it_was_shown(tiny: Path, tmp_path: Path, edgepipe: Run) -> None:
    (tmp_path / "bad.png").write_bytes(b"no picture")
    photograph(tmp_path / "a.png")
    flags = ("--workspace", tiny, "--show", tmp_path / "look.png", "--json")
    done = edgepipe("predict", tmp_path / "bad.png", tmp_path / "a.png", *flags)
    assert done.returncode == 3, done.stderr  # as without the picture: one can't be read
    assert "a.png" in done.stdout
    photo, pixels, _ = panels((tmp_path / "look.png").read_bytes())
    assert shares(photo)[1] > 0.2
    # All of it, squashed: as large as whole numbers make 8 pixels.
    assert shares(pixels)[1] > 0.2
    nothing = edgepipe("predict", tmp_path / "bad.png", "--workspace", tiny, "--show", "no.png")
    assert nothing.returncode == 3
    assert "no.png was not written: no image could be read" in nothing.stderr


@pytest.mark.parametrize(
    ("path", "code", "says"),
    [
        ("look.jpg", 2, "a picture is a PNG: call it look.png"),
        ("nowhere/look.png", 3, "nowhere/look.png: No such file or directory; make the folder"),
        ("folder.png", 3, "folder.png: Is a directory; choose another path"),
    ],
)
def test_what_can_not_be_written_is_said_before_anything_runs(
    tiny: Path, tmp_path: Path, edgepipe: Run, path: str, code: int, says: str
) -> None:
    (tmp_path / "folder.png").mkdir()
    photograph(tmp_path / "a.png")
    done = edgepipe(
        "predict", tmp_path / "a.png", "--workspace", tiny, "--show", tmp_path / path, "--quiet"
    )
    assert (done.returncode, done.stdout) == (code, "")
    assert says in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_page_shows_goldens_and_says_what_it_does_not_have(full_page: str) -> None:
    page = Page(full_page)
    pictures = [given for tag, given in page.elements if tag == "img"]
    assert len(pictures) == 8
    assert pictures[1]["alt"] == "golden 0, of class a: the tensor as a picture"
    sources = [str(one["src"]).partition(",")[2] for one in pictures]
    found = [Image.open(io.BytesIO(b64decode(source))) for source in sources]
    assert {one.size for one in found} == {(224, 224)}
    np.testing.assert_array_equal(np.asarray(found[0]), patches()[0])
    said = plain(full_page)
    assert "squashed to 224 × 224 (bilinear)" in said
    assert "The first 4 of 6 goldens" in said
    assert "the photographs that they were cut from are not in the workspace" in said
    assert re.search(r"golden 0, of class a 0 R -1\.00 1\.00 -?0\.\d\d", said)


def test_the_markdown_has_the_figures(full: MadeUp) -> None:
    text = full.page(format="markdown")
    assert "## What the model sees" in text
    assert "| golden 0, of class a | 0 R | -1.00 | 1.00 |" in text


def test_a_model_without_images_and_a_workspace_without_goldens_say_so(made_up: MadeUp) -> None:
    assert "The workspace holds no goldens." in plain(made_up.page())
    made_up.model_facts |= {"input_size": None}
    made_up.manifest()
    assert "The model takes no images." in plain(made_up.page())
