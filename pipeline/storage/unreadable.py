"""Image files that can't be read: all of them are named at once, or left out when that was asked.

A folder as a camera leaves it has some; one that ended the command at the first of them would be
mended one image a run. ``bands`` are those of ``images.load_image``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from ...runners import images
from ...runners.base import ImageError
from ...runners.images import DECODERS

FLAG = "--skip-unreadable"


def sort_out(files: Sequence[Path], bands: int | None = None) -> tuple[list[Path], list[str]]:
    """The files that can be decoded, and what is wrong with each of the others, in order."""
    with ThreadPoolExecutor(DECODERS, "edgepipe-decode") as pool:
        problems = dict(zip(files, pool.map(partial(_problem, bands), files), strict=True))
    readable = [file for file in files if problems[file] is None]
    return readable, [problem for problem in problems.values() if problem is not None]


def check_headers(files: Iterable[Path], bands: int | None = None) -> None:
    """Raise ``ImageError`` where a header can't be read, which names all unreadable images."""
    files = list(files)
    try:
        for file in files:
            images.check_image(file, bands)
    except ImageError:
        refuse_all(files, bands)
        raise


def refuse_all(files: Sequence[Path], bands: int | None = None) -> None:
    """Raise ``ImageError`` that names every one of the files that can't be decoded, if any."""
    _, problems = sort_out(files, bands)
    if len(problems) == 1:
        raise ImageError(f"{problems[0]}; {FLAG} leaves it out")
    if problems:
        raise ImageError(
            f"{len(problems)} of {len(files):,} images can't be read; {FLAG} leaves them out: "
            + "; ".join(problems)
        )


def left_out(problems: Sequence[str]) -> tuple[str, ...]:
    """What there is to say about the images that were left out."""
    if not problems:
        return ()
    images_ = "image" if len(problems) == 1 else "images"
    return (f"{len(problems)} unreadable {images_} left out: {'; '.join(problems)}",)


def _problem(bands: int | None, file: Path) -> str | None:
    try:
        images.load_image(file, bands)
    except ImageError as error:
        return str(error)
    return None
