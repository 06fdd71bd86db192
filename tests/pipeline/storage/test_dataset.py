"""Class folders: what is taken, what is ignored and said, what is refused, and what stays small."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgepipe.pipeline.errors import InputError
from edgepipe.pipeline.storage.dataset import class_folders, decode, digits, list_images, synthetic
from edgepipe.runners.images import ImageError, Preprocessing, normalize

LABELS = ["ant", "bee", "cat"]
SMALL = Preprocessing(size=4, mean=(0, 0, 0), std=(1, 1, 1))


def picture(path: Path, grey: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (8, 8), grey).save(path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, label in enumerate(LABELS):
        for name in ("b.png", "a.PNG", "c.bmp"):
            picture(tmp_path / "data" / label / name, grey=10 * number)
    return tmp_path / "data"


def test_images_come_in_order_with_the_models_classes(folder: Path) -> None:
    data = class_folders(folder, LABELS)
    assert (len(data), data.classes, data.notes) == (9, 3, ())
    found = list(data.chunks(SMALL, 4))
    assert [len(pixels) for pixels, _ in found] == [4, 4, 1]
    pixels = np.concatenate([part for part, _ in found])
    labels = np.concatenate([part for _, part in found])
    assert pixels.shape == (9, 4, 4, 3)
    assert pixels[:, 0, 0, 0].tolist() == [0, 0, 0, 10, 10, 10, 20, 20, 20]
    assert labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_the_digest_is_of_names_and_sizes_wherever_the_folder_is(
    folder: Path, tmp_path: Path
) -> None:
    before = class_folders(folder, LABELS).digest
    moved = folder.rename(tmp_path / "elsewhere")
    assert class_folders(moved, LABELS).digest == before
    picture(moved / "ant" / "d.png")
    added = class_folders(moved, LABELS).digest
    assert added != before
    (moved / "cat").rename(moved / "dog")
    assert class_folders(moved, [*LABELS, "dog"]).digest not in (before, added)


def test_what_is_no_image_is_ignored_and_counted(folder: Path) -> None:
    (folder / "README.md").write_text("about")
    (folder / ".git").mkdir()
    (folder / "ant" / "Thumbs.db").write_text("")
    (folder / "ant" / ".hidden.png").write_text("")
    (folder / "ant" / "more").mkdir()
    picture(folder / "stray.png")
    data = class_folders(folder, LABELS)
    assert len(data) == 9
    assert data.notes == (f"{folder}: 6 entries ignored: hidden, no image, or not in a class",)


def test_classes_without_images_are_said(folder: Path) -> None:
    data = class_folders(folder, [*LABELS, "dog", "eel"])
    assert data.notes == (f"{folder}: no images of 2 classes: dog, eel",)
    assert data.classes == 3


def test_one_class_only_is_said(tmp_path: Path) -> None:
    picture(tmp_path / "bee" / "1.png")
    assert class_folders(tmp_path, LABELS).notes[-1].startswith(f"{tmp_path}: one class only")


def test_a_folder_that_is_no_label_is_named_with_the_known_ones(folder: Path) -> None:
    picture(folder / "Cat" / "1.png")
    with pytest.raises(InputError, match=r"Cat: not a label of the model; known: ant, bee, cat$"):
        class_folders(folder, LABELS)
    many = [str(number) for number in range(1000)]
    with pytest.raises(InputError, match=r"known: 0, 1, .*, 19 and 980 more$"):
        class_folders(folder, many)


def test_a_label_of_two_classes_is_no_answer(folder: Path) -> None:
    with pytest.raises(InputError, match="cat: 2 classes of the model have this label"):
        class_folders(folder, [*LABELS, "cat"])


@pytest.mark.parametrize("content", ["nothing", "empty classes", "other files"])
def test_no_image_at_all_is_refused(tmp_path: Path, content: str) -> None:
    if content != "nothing":
        (tmp_path / "ant").mkdir()
    if content == "other files":
        (tmp_path / "ant" / "notes.txt").write_text("")
    with pytest.raises(InputError, match=f"{tmp_path}: no images in class folders"):
        class_folders(tmp_path, LABELS)


def test_an_image_that_can_not_be_read_is_named_before_anything_runs(folder: Path) -> None:
    (folder / "bee" / "z.jpg").write_bytes(b"not a picture")
    with pytest.raises(ImageError, match=r"bee/z\.jpg: no picture"):
        class_folders(folder, LABELS)


def test_an_image_cut_off_in_the_middle_is_named_when_its_turn_comes(folder: Path) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (32, 32, 3), np.uint8)
    Image.fromarray(noise).save(folder / "cat" / "z.png")
    whole = (folder / "cat" / "z.png").read_bytes()
    (folder / "cat" / "z.png").write_bytes(whole[: len(whole) // 2])
    data = class_folders(folder, LABELS)
    with pytest.raises(ImageError, match=r"cat/z\.png: .*truncated"):
        list(data.chunks(SMALL, 4))


def test_links_in_circles_and_to_nowhere_are_named(folder: Path) -> None:
    for place, target, reason in (
        (folder / "ant" / "loop.png", "loop.png", "Too many levels of symbolic links"),
        (folder / "ant" / "gone.png", "nothing", "No such file"),
        (folder / "dog", "dog", "Too many levels of symbolic links"),
        (folder / "eel", "nothing", "No such file"),
    ):
        place.symlink_to(target)
        with pytest.raises((InputError, ImageError), match=f"{place}: {reason}"):
            class_folders(folder, LABELS)
        place.unlink()


def test_links_that_lead_somewhere_are_followed(folder: Path, tmp_path: Path) -> None:
    (folder / "cat").rename(tmp_path / "cats")
    (folder / "cat").symlink_to(tmp_path / "cats")
    (folder / "ant" / "all").symlink_to(folder)  # a circle that nobody walks into
    assert len(class_folders(folder, LABELS)) == 9


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_is_named(folder: Path) -> None:
    for path in (folder / "ant" / "b.png", folder / "ant", folder):
        mode = path.stat().st_mode
        path.chmod(0)
        with pytest.raises(InputError, match=f"^{path}: Permission denied"):
            class_folders(folder, LABELS)
        path.chmod(mode)


@pytest.mark.parametrize(("name", "reason"), [("gone", "No such file"), ("file", "Not a dir")])
def test_a_folder_that_is_none_is_refused(tmp_path: Path, name: str, reason: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=f"{name}: {reason}"):
        class_folders(tmp_path / name, LABELS)


def damage(folder: Path) -> tuple[Path, Path]:
    """Two images that can't be read: one by its header, the other only when it is decoded."""
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(pixels).save(folder / "bee" / "cut.jpg")
    whole = (folder / "bee" / "cut.jpg").read_bytes()
    (folder / "bee" / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "ant" / "none.png").write_text("no picture")
    return folder / "ant" / "none.png", folder / "bee" / "cut.jpg"


def test_all_unreadable_images_are_named_at_once(folder: Path) -> None:
    none, cut = damage(folder)
    with pytest.raises(ImageError, match="2 of 11 images can't be read; --skip-unreadable") as said:
        class_folders(folder, LABELS)
    assert str(none) in str(said.value)
    assert str(cut) in str(said.value)
    none.unlink()
    data = class_folders(folder, LABELS)
    (folder / "ant" / "b.png").write_text("damaged since")
    large = Preprocessing(size=8, mean=(0, 0, 0), std=(1, 1, 1))
    with pytest.raises(ImageError, match="2 of 10 images") as said:
        for _ in data.chunks(large, 2):
            pass
    assert str(cut) in str(said.value)


def test_unreadable_images_are_left_out_and_named(folder: Path) -> None:
    before = class_folders(folder, LABELS)
    damaged = damage(folder)
    data = class_folders(folder, LABELS, skip_unreadable=True)
    assert (len(data), data.digest) == (len(before), before.digest)
    assert data.labels.tolist() == before.labels.tolist()
    assert "2 unreadable images left out" in data.notes[-1]
    assert all(str(path) in data.notes[-1] for path in damaged)
    listing = list_images(folder).readable()
    assert not set(damaged) & set(listing.sample(100))
    assert "2 unreadable images left out" in listing.notes[-1]


def test_a_folder_of_nothing_but_unreadable_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ant").mkdir()
    (tmp_path / "ant" / "a.png").write_text("no picture")
    with pytest.raises(InputError, match="none of its 1 images can be read"):
        class_folders(tmp_path, LABELS, skip_unreadable=True)
    with pytest.raises(InputError, match="none of the 1 images can be read"):
        list_images(tmp_path).readable()


def test_memory_does_not_grow_with_the_number_of_images(tmp_path: Path) -> None:
    """numpy reports its arrays to tracemalloc: 40 or 400 images of 150 kB, the same peak."""
    picture(tmp_path / "one.png")
    large = Preprocessing(size=224, mean=(0, 0, 0), std=(1, 1, 1))
    peaks = []
    for count in (40, 400):
        folder = tmp_path / str(count)
        (folder / "ant").mkdir(parents=True)
        for number in range(count):
            (folder / "ant" / f"{number}.png").hardlink_to(tmp_path / "one.png")
        data = class_folders(folder, LABELS)
        tracemalloc.start()
        assert sum(len(labels) for _, labels in data.chunks(large, 8)) == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]
    assert peaks[1] < 8 * 1024 * 1024


def test_the_embedded_digits_are_a_dataset(tmp_path: Path) -> None:
    data = digits()
    assert (len(data), data.classes, data.notes) == (397, 10, ())
    pixels, labels = next(data.chunks(SMALL, 5))
    assert pixels.shape == (5, 4, 4, 3)
    assert labels.dtype == np.int64


def test_a_sample_is_spread_over_the_classes_and_the_same_everywhere(
    folder: Path, tmp_path: Path
) -> None:
    def names(files: list[Path]) -> list[str]:
        return [f"{file.parent.name}/{file.name}" for file in files]

    before = names(list_images(folder).sample(7))
    classes = [name.partition("/")[0] for name in before]
    assert sorted(classes[:3]) == sorted(classes[3:6]) == LABELS
    moved = folder.rename(tmp_path / "elsewhere")
    assert names(list_images(moved).sample(7)) == before
    assert names(list_images(moved).sample(4)) == before[:4]
    assert len(set(names(list_images(moved).sample(100)))) == 9


def test_images_beside_each_other_need_no_classes(tmp_path: Path) -> None:
    for name in ("b.png", "a.png"):
        picture(tmp_path / name)
    (tmp_path / "notes.txt").touch()
    picture(tmp_path / "deeper" / "c.png")
    found = list_images(tmp_path)
    assert [file.name for file in found.files[""]] == ["a.png", "b.png"]
    assert (found.classes, len(found.notes)) == (False, 1)
    assert "2 entries ignored" in found.notes[0]


def test_synthetic_pictures_differ_and_never_change() -> None:
    some, others = synthetic(0, 3), synthetic(3, 3)
    pictures = [data.image(row) for data in (some, others) for row in range(3)]
    assert all(one.shape == (256, 256, 3) and one.dtype == np.uint8 for one in pictures)
    assert len({one.tobytes() for one in pictures}) == 6
    np.testing.assert_array_equal(synthetic(2, 5).image(1), others.image(0))
    assert some.digest != others.digest


def test_tensors_are_normalized_chunks(folder: Path) -> None:
    data = class_folders(folder, LABELS)
    plain = [normalize(pixels, SMALL) for pixels, _ in data.chunks(SMALL, 4)]
    ready = [tensor for tensor, _ in data.tensors(SMALL, 4, decoders=3)]
    assert [len(part) for part in ready] == [4, 4, 1]
    for expected, found in zip(plain, ready, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_decoding_goes_on_after_an_image_that_can_not_be_read(folder: Path) -> None:
    bad = folder / "ant" / "bad.png"
    bad.write_text("no picture")
    names = [str(folder / "ant" / "a.PNG"), str(bad), str(folder / "cat" / "c.bmp")] * 5
    found = list(decode(names, SMALL, decoders=2))
    assert [one.file for one in found] == names
    assert [one.pixels is None for one in found] == [False, True, False] * 5
    assert found[1].error is not None
    assert str(bad) in found[1].error
