"""From a file to an image: a picture as a person would see it, or an array of many channels."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..base import ImageError, MissingDecoder

if TYPE_CHECKING:
    import PIL.Image

Pixels = np.ndarray  # uint8 [H, W, C], or [N, H, W, C]

# Decoders for pictures only: Pillow would also start Ghostscript for an .eps.
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "AVIF")
ARRAY_SUFFIX = ".npy"  # of images with other channels than a picture has
# Pillow's own limit, above which it warns of a decompression bomb: a quarter of a GiB as RGB.
MAX_PIXELS = 89_478_485
# Two at a time keep a worker busy with pictures of a camera, and bound what is in memory.
DECODERS = 2


def load_image(path: Path, bands: int | None = None) -> Pixels:
    """Decode a file as a person would see it: uint8 ``[H, W, 3]``.

    With ``bands`` it is a ``.npy`` file instead, uint8 ``[H, W, bands]``, taken as it is.
    EXIF rotation is honoured, transparent parts show white, 16 bits become 8, of an animation
    the first frame is taken. Colour profiles are not applied, as nobody does in training.
    Raises ``ImageError`` that names the file: can't be opened, no picture, damaged, or more than
    ``MAX_PIXELS``, which is checked before anything is decoded.
    """
    if bands is not None:
        return np.array(_mapped(path, bands))
    with _opened(path) as picture:
        return np.asarray(_as_seen(picture))


def check_image(path: Path, bands: int | None = None) -> None:
    """Raise what ``load_image`` would raise, as far as the file's header tells."""
    if bands is not None:
        _mapped(path, bands)
        return
    with _opened(path):
        pass


def _mapped(path: Path, bands: int) -> Pixels:
    """The array in a file, of which nothing but the header is read so far."""
    try:
        if not path.is_file():
            path.stat()
            raise ImageError(f"{path}: not a file")
        found = np.lib.format.open_memmap(path, mode="r")
    except ImageError:
        raise
    except OSError as error:
        raise ImageError(f"{path}: {error.strerror or error}") from error
    except Exception as error:  # a damaged header fails in many ways inside numpy
        raise ImageError(
            f"{path}: no {ARRAY_SUFFIX} array; images of {bands} channels are uint8 "
            f"[H, W, {bands}] ({error})"
        ) from error
    if found.dtype != np.uint8 or found.shape[2:] != (bands,) or not found.size:
        raise ImageError(
            f"{path}: {found.dtype} {list(found.shape)}, uint8 [H, W, {bands}] expected"
        )
    if found.shape[0] * found.shape[1] > MAX_PIXELS:
        raise ImageError(_too_many(path))
    return found


def _too_many(path: Path) -> str:
    return f"{path}: over {MAX_PIXELS / 1e6:.0f} million pixels; make it smaller"


@contextmanager
def _opened(path: Path) -> Iterator[PIL.Image.Image]:
    """The picture in a file, its header read and its size checked; errors from here on named."""
    image = pillow()
    try:
        if not path.is_file():  # a pipe would be waited for
            path.stat()
            raise ImageError(f"{path}: not a file")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the decoders': either it can be seen, or it can't
            known = [name for name in FORMATS if name in image.OPEN]
            with image.open(path, formats=known) as picture:
                width, height = picture.size
                if width * height > MAX_PIXELS:
                    raise image.DecompressionBombError
                yield picture
    except ImageError:
        raise
    except image.DecompressionBombError as error:
        raise ImageError(_too_many(path)) from error
    except image.UnidentifiedImageError as error:
        raise ImageError(f"{path}: no picture in any of {', '.join(FORMATS)}") from error
    except OSError as error:
        raise ImageError(f"{path}: {error.strerror or error}") from error
    except Exception as error:  # a damaged file fails in many ways inside the decoders
        raise ImageError(f"{path}: can't be decoded ({error})") from error


def _as_seen(picture: PIL.Image.Image) -> PIL.Image.Image:
    from PIL import Image, ImageOps

    mode = picture.mode
    sixteen_bits = mode.startswith("I;16") or (mode == "I" and picture.format == "PPM")
    if mode in ("I", "F") and not sixteen_bits:
        raise ValueError("32-bit pixels, of which nothing says what is white")
    picture = ImageOps.exif_transpose(picture)
    if sixteen_bits:  # convert() would clip all above 255 to white
        picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        paper = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(paper, picture)
    return picture.convert("RGB")


def pillow() -> Any:
    """``PIL.Image`` with its decoders loaded. Raises ``MissingDecoder`` without it."""
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingDecoder(f'{error}; pip install "edgepipe[images]"') from error
    Image.init()
    return Image
