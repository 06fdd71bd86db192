"""Images to calibrate with that can't be used, or not well (row 17 of the fault table)."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from .conftest import refused, snapshot

Run = Callable[..., subprocess.CompletedProcess[str]]


def photo(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 30), "red").save(path)
    return path


def empty(folder: Path) -> None:
    folder.mkdir()


def absent(folder: Path) -> None:
    pass


def a_file(folder: Path) -> None:
    folder.touch()


def no_images(folder: Path) -> None:
    (folder / "ant").mkdir(parents=True)
    (folder / "ant" / "notes.txt").write_text("no picture")


def unreadable(folder: Path) -> None:
    folder.mkdir(mode=0)


def text_called_jpeg(folder: Path) -> None:
    folder.mkdir()
    (folder / "a.jpg").write_text("no picture")


def truncated(folder: Path) -> None:
    path = photo(folder / "ant" / "a.png")
    os.truncate(path, path.stat().st_size // 2)


BAD: dict[Callable[[Path], None], str] = {
    empty: "photos: no images in it",
    absent: "photos: No such file",
    a_file: "photos: Not a directory",
    no_images: "photos: no images in it; 1 other entries are none",
    unreadable: "photos: Permission denied",
    text_called_jpeg: "a.jpg: no picture",
    truncated: "a.png: ",
}


@pytest.mark.parametrize("make", BAD, ids=lambda make: make.__name__)
def test_a_calibration_folder_that_can_not_be_used_is_named(
    make: Callable[[Path], None], edgepipe: Run, tmp_path: Path
) -> None:
    if make is unreadable and os.geteuid() == 0:
        pytest.skip("root may read everything")
    make(tmp_path / "photos")
    done = edgepipe(
        "export", "--weights", "random", "--input-size", "64", "--calibration", "photos", "--quiet"
    )
    refused(done, 3, BAD[make])
    assert snapshot(tmp_path / "artifacts") == {}
