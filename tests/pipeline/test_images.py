"""Preprocessing: the geometry and the arithmetic, each against an answer worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from edgepipe.pipeline.images import Preprocessing, digits, normalize, stack, to_pixels

SQUASH = Preprocessing(size=8, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
SHORTER = Preprocessing(size=8, mean=(0, 0, 0), std=(1, 1, 1), resize="shorter-side", resize_to=8)


def test_normalize_scales_and_moves_the_channels() -> None:
    pixels = np.zeros((1, 2, 2, 3), np.uint8)
    pixels[0, 0, 1] = (255, 51, 0)
    preprocessing = Preprocessing(size=2, mean=(0.5, 0.2, 0.0), std=(0.5, 0.1, 1.0))
    tensor = normalize(pixels, preprocessing)
    assert tensor.shape == (1, 3, 2, 2)
    assert tensor.dtype == np.float32
    assert tensor.flags.c_contiguous
    np.testing.assert_allclose(tensor[0, :, 0, 1], [1, 0, 0], atol=1e-6)
    np.testing.assert_allclose(tensor[0, :, 0, 0], [-1, -2, 0], atol=1e-6)


def test_squash_uses_the_whole_image_and_shorter_side_its_centre() -> None:
    image = np.zeros((8, 24), np.uint8)
    image[:, 8:16] = 200
    assert np.all(to_pixels(image, SHORTER) == 200)
    squashed = to_pixels(image, SQUASH)
    assert squashed.shape == (8, 8, 3)
    assert squashed[0, 0, 0] == 0
    assert squashed[4, 4, 0] > 150


@pytest.mark.parametrize("shape", [(8, 8), (9, 31), (31, 9), (1, 1), (300, 7)])
@pytest.mark.parametrize("preprocessing", [SQUASH, SHORTER], ids=["squash", "shorter-side"])
def test_any_shape_becomes_the_input_size(
    shape: tuple[int, int], preprocessing: Preprocessing
) -> None:
    image = np.full((*shape, 3), 7, np.uint8)
    assert np.array_equal(to_pixels(image, preprocessing), np.full((8, 8, 3), 7, np.uint8))


def test_another_input_size_keeps_the_proportion() -> None:
    preprocessing = Preprocessing(224, (0, 0, 0), (1, 1, 1), "shorter-side", 256)
    assert preprocessing.at(112).resize_to == 128
    assert preprocessing.at(None) == preprocessing


def test_json_round_trip() -> None:
    assert Preprocessing.from_json(SHORTER.to_json()) == SHORTER


def test_the_digits_have_a_train_and_a_held_out_part_without_overlap() -> None:
    train, train_labels = digits("train")
    held_out, held_out_labels = digits("held_out")
    assert len(train) == len(train_labels) == 1400
    assert len(held_out) == len(held_out_labels) == 397
    assert set(np.unique(train_labels)) == set(np.unique(held_out_labels)) == set(range(10))
    seen = {image.tobytes() for image in train}
    assert not any(image.tobytes() in seen for image in held_out)
    assert stack(held_out[:2], SQUASH).shape == (2, 8, 8, 3)


def test_the_digits_are_scikit_learns() -> None:
    from sklearn.datasets import load_digits

    flat, labels = load_digits(return_X_y=True)
    images = np.round(np.reshape(flat, (-1, 8, 8)) * (255 / 16)).astype(np.uint8)
    theirs = sorted(
        (image.tobytes(), int(label)) for image, label in zip(images, labels, strict=True)
    )
    ours = sorted(
        (image.tobytes(), int(label))
        for part in ("train", "held_out")
        for image, label in zip(*digits(part), strict=True)
    )
    assert ours == theirs
