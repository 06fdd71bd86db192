"""The embedded digits."""

from __future__ import annotations

import numpy as np

from edgepipe.pipeline.storage.digits import pictures


def test_the_digits_have_a_train_and_a_held_out_part_without_overlap() -> None:
    train, train_labels = pictures("train")
    held_out, held_out_labels = pictures("held_out")
    assert len(train) == len(train_labels) == 1400
    assert len(held_out) == len(held_out_labels) == 397
    assert set(np.unique(train_labels)) == set(np.unique(held_out_labels)) == set(range(10))
    seen = {image.tobytes() for image in train}
    assert not any(image.tobytes() in seen for image in held_out)


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
        for image, label in zip(*pictures(part), strict=True)
    )
    assert ours == theirs
