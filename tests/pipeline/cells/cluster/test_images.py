"""The images of a shard: the same pixels whichever way they come."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgepipe.pipeline.cells.cluster import environment, images
from edgepipe.pipeline.cells.cluster.images import ElsewhereError, Part, stamps
from edgepipe.pipeline.storage import dataset
from edgepipe.pipeline.storage.dataset import Dataset
from edgepipe.runners.base import ImageError


@pytest.fixture
def photos(tmp_path: Path) -> Dataset:
    """Ten pictures of two classes."""
    random = np.random.default_rng(0)
    for number in range(10):
        place = tmp_path / "photos" / str(number % 2)
        place.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 256, (9, 12, 3), np.uint8)
        Image.fromarray(pixels).save(place / f"a picture {number}.png")
    return dataset.class_folders(tmp_path / "photos", ["0", "1"])


@pytest.mark.parametrize("way", [images.SAME_MACHINE, images.SAME_FILES, images.SENT])
def test_they_are_the_same_pixels_whichever_way_they_come(photos: Dataset, way: str) -> None:
    with Part.of(photos, range(3, 8), way).dataset() as part:
        assert part.labels.tolist() == photos.labels[3:8].tolist()
        for row in range(len(part)):
            np.testing.assert_array_equal(part.image(row), photos.image(row + 3))


def test_images_that_are_no_files_come_as_arrays() -> None:
    digits = dataset.digits()
    with Part.of(digits, range(5, 9), images.SAME_MACHINE).dataset() as part:
        np.testing.assert_array_equal(part.image(2), digits.image(7))


def test_a_file_that_changed_is_not_taken_for_what_it_was(photos: Dataset) -> None:
    parts = [Part.of(photos, range(4), way) for way in (images.SAME_MACHINE, images.SAME_FILES)]
    before = stamps(photos, range(4))
    Image.new("RGB", (9, 12)).save(photos.files[1])
    assert stamps(photos, range(4)) != before
    for part in parts:
        with pytest.raises(ElsewhereError), part.dataset():
            pass


def test_a_path_of_another_machine_says_nothing(
    photos: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = Part.of(photos, range(4), images.SAME_MACHINE)
    monkeypatch.setattr(environment, "kernel", lambda: "another boot")
    with pytest.raises(ElsewhereError), part.dataset():
        pass


def test_a_sent_file_that_is_no_picture_is_called_by_its_name(photos: Dataset) -> None:
    photos.files[0].write_bytes(b"no picture")
    part = Part.of(photos, range(2), images.SENT)
    with part.dataset() as found, pytest.raises(ImageError) as caught:
        found.image(0)
    assert str(caught.value).startswith(f"{photos.files[0]}: no picture")
