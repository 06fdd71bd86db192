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
Box = tuple[int, int, int, int]  # left, top, right, bottom

# Decoders for pictures only: Pillow would also start Ghostscript for an .eps.
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "AVIF")
# Pillow's own limit, above which it warns of a decompression bomb: a quarter of a GiB as RGB.
MAX_PIXELS = 89_478_485

LARGEST_SIDE = 1 << 14  # of what a model may take
# Sides of an image in relation to each other, beyond which its ends are cut off before a resize.
LONGEST = 16

RESIZES = ("shorter-side", "squash")
INTERPOLATIONS = ("bilinear", "bicubic")
CHANNELS = ("rgb", "bgr")
_CROPPED: Mapping[str, Any] = {"size": 224, "resize": "shorter-side", "resize_to": 256}
# What models are commonly trained with. "imagenet" is torchvision's, whose mean and deviation are
# those of ImageNet's training set; "inception" is that of TensorFlow's models, values in [-1, 1];
# "none" only scales to [0, 1].
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "imagenet": {**_CROPPED, "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)},
    "inception": {**_CROPPED, "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)},
    "none": {"size": 224, "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)},
}


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes a tensor.

    ``resize`` is "squash" (to a square, aspect ratio not kept) or "shorter-side"; the square's
    or the shorter side gets ``resize_to`` pixels (``None``: ``size``) by ``interpolation``,
    "bilinear" or "bicubic", and of that the centre square of ``size`` is cut. ``channels`` is the
    order that the model takes them in, "rgb" or "bgr"; ``mean`` and ``std`` are in this order, of
    values in [0, 1]. With ``folded`` all but the geometry is part of the model, which then takes
    uint8 ``[N, size, size, 3]``, RGB.
    """

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: str = "squash"
    resize_to: int | None = None
    interpolation: str = "bilinear"
    channels: str = "rgb"
    folded: bool = False

    def __post_init__(self) -> None:
        for name, value, known in (
            ("resize", self.resize, RESIZES),
            ("interpolation", self.interpolation, INTERPOLATIONS),
            ("channels", self.channels, CHANNELS),
        ):
            if value not in known:
                raise ValueError(f"{name} is one of {', '.join(known)}, got {value!r}")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ValueError("mean and std have 3 values each, those of std above 0")
        if not 1 <= self.size <= (self.resize_to or self.size) <= LARGEST_SIDE:
            raise ValueError(f"can't cut {self.size} pixels out of {self.resize_to}")

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """From the manifest's ``preprocessing``. Raises ``ValueError`` for what is none."""
        try:
            return cls(**{**value, "mean": tuple(value["mean"]), "std": tuple(value["std"])})
        except (TypeError, KeyError) as error:
            raise ValueError(f"no preprocessing: {error}") from error

    @classmethod
    def preset(cls, name: str, size: int | None = None) -> Self:
        """One of ``PRESETS``, which are given at 224 pixels, for an input size."""
        return cls(**PRESETS[name]).at(size)

    def to_json(self) -> dict[str, Any]:
        """For the manifest: JSON values only."""
        return {**asdict(self), "mean": list(self.mean), "std": list(self.std)}

    def at(self, size: int | None) -> Self:
        """The same for another input size, the resize in proportion."""
        if size is None or size == self.size:
            return self
        resize_to = self.resize_to and round(self.resize_to * size / self.size)
        return replace(self, size=size, resize_to=resize_to)

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of an image as the model takes it, without the batch."""
        side = self.size
        return (side, side, 3) if self.folded else (3, side, side)


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


@dataclass(frozen=True)
class Geometry:
    """Which part of an image a model sees, all in pixels.

    The ``strip`` of the image is resized to ``resized`` (width, height), and of that ``cut`` is
    the model's input.
    """

    strip: Box
    resized: tuple[int, int]
    cut: Box

    @classmethod
    def of(cls, width: int, height: int, preprocessing: Preprocessing) -> Self:
        """For an image of this size."""
        side = preprocessing.size
        before = preprocessing.resize_to or side
        strip, resized = (0, 0, width, height), (before, before)
        if preprocessing.resize == "shorter-side":
            strip = _centre(width, height)
            lengths = (strip[2] - strip[0], strip[3] - strip[1])
            scale = before / min(lengths)
            resized = (
                max(before, round(lengths[0] * scale)),
                max(before, round(lengths[1] * scale)),
            )
        left, top = (resized[0] - side) // 2, (resized[1] - side) // 2
        return cls(strip, resized, (left, top, left + side, top + side))

    @property
    def seen(self) -> tuple[float, float, float, float]:
        """What is left of the image, in its own pixels: left, top, right, bottom."""
        left, top, right, bottom = self.strip
        across, down = (right - left) / self.resized[0], (bottom - top) / self.resized[1]
        cut = self.cut
        return (
            left + across * cut[0],
            top + down * cut[1],
            left + across * cut[2],
            top + down * cut[3],
        )


def _centre(width: int, height: int) -> Box:
    """A strip cut down to what can end up in the crop: enlarged as a whole it fills the memory."""
    longest = LONGEST * min(width, height)
    left, top = (max(0, (length - longest) // 2) for length in (width, height))
    return left, top, width - left, height - top


def to_pixels(image: np.ndarray, preprocessing: Preprocessing) -> Pixels:
    """Bring an image to the model's input size, with antialiasing.

    ``image`` is uint8, ``[H, W]`` (grey, repeated over the channels) or ``[H, W, 3]``.
    Returns uint8 ``[size, size, 3]``.
    """
    from PIL import Image

    method = Image.Resampling[preprocessing.interpolation.upper()]
    picture = Image.fromarray(image).convert("RGB")
    geometry = Geometry.of(*picture.size, preprocessing)
    if geometry.strip != (0, 0, *picture.size):
        picture = picture.crop(geometry.strip)
    return np.asarray(picture.resize(geometry.resized, method).crop(geometry.cut))


def stack(images: np.ndarray, preprocessing: Preprocessing) -> Pixels:
    """``to_pixels`` over the first axis: uint8 ``[N, size, size, 3]``."""
    return np.stack([to_pixels(image, preprocessing) for image in images])


def normalize(pixels: Pixels, preprocessing: Preprocessing) -> np.ndarray:
    """Turn uint8 ``[N, H, W, 3]`` into what the model takes.

    float32 ``[N, 3, H, W]``, ``(x / 255 - mean) / std``; or, if the model does that itself
    (``folded``), the pixels as they are.
    """
    if preprocessing.folded:
        return pixels
    mean = np.asarray(preprocessing.mean, np.float32)[:, None]
    std = np.asarray(preprocessing.std, np.float32)[:, None]
    # A byte has 256 values: compute each once and look it up, a sixth of the time.
    values = (np.arange(256, dtype=np.float32) / np.float32(255) - mean) / std
    tensor = np.empty((len(pixels), 3, *pixels.shape[1:3]), np.float32)
    order = (0, 1, 2) if preprocessing.channels == "rgb" else (2, 1, 0)
    for place, channel in enumerate(order):
        # "clip" never happens; the default would check every index, and copy for that.
        np.take(values[place], pixels[..., channel], out=tensor[:, place], mode="clip")
    return tensor


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


# Two at a time keep a worker busy with pictures of a camera, and bound what is in memory.
DECODERS = 2
