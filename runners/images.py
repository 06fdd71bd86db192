"""Preprocessing as data: from an image file to the tensor a model takes, in one place.

``load_image`` decodes. The two steps after it are kept apart on purpose. ``to_pixels`` does
the geometry and ends in uint8, which is what a camera delivers and what goldens store.
``normalize`` is elementwise float32 arithmetic, so that the same pixels give the same tensor,
bit for bit, on every machine.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from .base import ImageError, MissingDecoder

if TYPE_CHECKING:
    import PIL.Image

Pixels = np.ndarray  # uint8 [H, W, 3], or [N, H, W, 3]

# Decoders for pictures only: Pillow would also start Ghostscript for an .eps.
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "AVIF")
# Pillow's own limit, above which it warns of a decompression bomb: a quarter of a GiB as RGB.
MAX_PIXELS = 89_478_485


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes a tensor.

    ``size`` is the side of the square input in pixels. ``resize`` is "squash" (to the square,
    aspect ratio not kept) or "shorter-side" (the shorter side to ``resize_to``, then the
    centre square), ``interpolation`` "bilinear" or "bicubic". ``mean`` and ``std`` are per
    channel (R, G, B) of values in [0, 1].
    """

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: str = "squash"
    resize_to: int | None = None
    interpolation: str = "bilinear"

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """From the manifest's ``preprocessing``."""
        return cls(**{**value, "mean": tuple(value["mean"]), "std": tuple(value["std"])})

    def to_json(self) -> dict[str, Any]:
        """For the manifest: JSON values only."""
        return {**asdict(self), "mean": list(self.mean), "std": list(self.std)}

    def at(self, size: int | None) -> Self:
        """The same for another input size, the resize in proportion."""
        if size is None or size == self.size:
            return self
        resize_to = self.resize_to and round(self.resize_to * size / self.size)
        return replace(self, size=size, resize_to=resize_to)


def load_image(path: Path) -> Pixels:
    """Decode a file as a person would see it: uint8 ``[H, W, 3]``.

    EXIF rotation is honoured, transparent parts show white, 16 bits become 8, of an animation
    the first frame is taken. Colour profiles are not applied, as nobody does in training.
    Raises ``ImageError`` that names the file: can't be opened, no picture, damaged, or more than
    ``MAX_PIXELS``, which is checked before anything is decoded.
    """
    with _opened(path) as picture:
        return np.asarray(_as_seen(picture))


def check_image(path: Path) -> None:
    """Raise what ``load_image`` would raise, as far as the file's header tells."""
    with _opened(path):
        pass


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
        raise ImageError(
            f"{path}: over {MAX_PIXELS / 1e6:.0f} million pixels; make it smaller"
        ) from error
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


def to_pixels(image: np.ndarray, preprocessing: Preprocessing) -> Pixels:
    """Bring an image to the model's input size, with antialiasing.

    ``image`` is uint8, ``[H, W]`` (grey, repeated over the channels) or ``[H, W, 3]``.
    Returns uint8 ``[size, size, 3]``.
    """
    from PIL import Image

    side = preprocessing.size
    method = Image.Resampling[preprocessing.interpolation.upper()]
    picture = Image.fromarray(image).convert("RGB")
    if preprocessing.resize == "squash":
        return np.asarray(picture.resize((side, side), method))
    shorter = preprocessing.resize_to or side
    scale = shorter / min(picture.size)
    width, height = (max(shorter, round(length * scale)) for length in picture.size)
    picture = picture.resize((width, height), method)
    left, top = (width - side) // 2, (height - side) // 2
    return np.asarray(picture.crop((left, top, left + side, top + side)))


def stack(images: np.ndarray, preprocessing: Preprocessing) -> Pixels:
    """``to_pixels`` over the first axis: uint8 ``[N, size, size, 3]``."""
    return np.stack([to_pixels(image, preprocessing) for image in images])


def normalize(pixels: Pixels, preprocessing: Preprocessing) -> np.ndarray:
    """Turn uint8 ``[N, H, W, 3]`` into float32 ``[N, 3, H, W]``: ``(x / 255 - mean) / std``."""
    mean = np.asarray(preprocessing.mean, np.float32)
    std = np.asarray(preprocessing.std, np.float32)
    # A byte has 256 values: compute each once and look it up, a quarter of the time.
    values = (np.arange(256, dtype=np.float32)[:, None] / np.float32(255) - mean) / std
    return np.stack([values[:, channel][pixels[..., channel]] for channel in range(3)], axis=1)


def batches(array: np.ndarray, batch: int) -> Iterator[tuple[np.ndarray, slice, int]]:
    """Cut ``[N, ...]`` into runs of ``batch``: yields ``(part, rows, valid)``.

    A last part that isn't full is filled up with its own images, of whose outputs only the
    first ``valid`` count.
    """
    for start in range(0, len(array), batch):
        rows = slice(start, min(start + batch, len(array)))
        part = array[rows]
        full = part if len(part) == batch else np.resize(part, (batch, *part.shape[1:]))
        yield full, rows, len(part)
