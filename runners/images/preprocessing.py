"""What is done to an image before a model takes it, as data: sizes, channels, normalization.

Sizes are height first, then width, as tensors have them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

Size = int | tuple[int, int]  # the side of a square, or height and width

LARGEST_SIDE = 1 << 14  # of what a model may take

RESIZES = ("shorter-side", "squash")
INTERPOLATIONS = ("bilinear", "bicubic")
# In what order the model takes channels, and how many these are; of "bands" any number.
CHANNELS: Mapping[str, int | None] = {"rgb": 3, "bgr": 3, "grey": 1, "bands": None}
MOST_CHANNELS = 256
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

    ``size`` is the side of a square, or height and width. ``resize`` is "squash" (to the size,
    aspect ratio not kept) or "shorter-side" (kept, so that the image covers the size); the shorter
    side gets ``resize_to`` pixels (``None``: as few as that takes) by ``interpolation``, "bilinear"
    or "bicubic", and of that the centre of ``size`` is cut. ``channels`` is what the model takes:
    "rgb", "bgr", "grey" (of a picture, one channel), or "bands" (those of an array, as many as
    ``mean`` has); ``mean`` and ``std`` are in this order, of values in [0, 1]. With ``folded`` all
    but the geometry is part of the model, which then takes uint8 ``[N, H, W, C]``, RGB.
    """

    size: Size
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
        count = CHANNELS[self.channels] or min(max(1, len(self.mean)), MOST_CHANNELS)
        if len(self.mean) != count or len(self.std) != count or min(self.std) <= 0:
            values = f"{count} value{'s' * (count > 1)}"
            raise ValueError(f"mean and std have {values} each, those of std above 0")
        if not isinstance(self.size, int) and len(self.size) != 2:
            raise ValueError(f"a size is a side, or height and width, got {self.size}")
        if not 1 <= self.shorter <= (self.resize_to or self.shorter) <= LARGEST_SIDE:
            raise ValueError(f"can't cut {self.shorter} pixels out of {self.resize_to}")
        if max(self.height, self.width) > LARGEST_SIDE:
            raise ValueError(f"no side may be over {LARGEST_SIDE} pixels")

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """From the manifest's ``preprocessing``. Raises ``ValueError`` for what is none."""
        try:
            size = value["size"]
            sizes = {"size": tuple(size) if isinstance(size, list) else size}
            lists = {name: tuple(value[name]) for name in ("mean", "std")}
            return cls(**{**value, **sizes, **lists})
        except (TypeError, KeyError) as error:
            raise ValueError(f"no preprocessing: {error}") from error

    @classmethod
    def preset(
        cls, name: str, size: Size | None = None, channels: str | int = "rgb", **given: Any
    ) -> Self:
        """One of ``PRESETS``, which are given at 224 pixels, for an input size.

        ``channels`` is one of ``CHANNELS``, or their number: 1 is grey, 3 is rgb. ``given`` are
        fields that are to be other ones. Raises ``ValueError`` for a preset whose mean and
        deviation are of red, green and blue, where there are other channels.
        """
        order, count = ordered(channels)
        fields = {**PRESETS[name], "channels": order, **given}
        for field in {"mean", "std"} - given.keys():
            if count != 3:
                values = set(fields[field])
                if len(values) > 1:
                    raise ValueError(
                        f"{name} has a {field} for red, green and blue: give mean and std of "
                        f"{count} channel{'s' * (count > 1)}, or another preset"
                    )
                fields[field] = tuple(values) * count
        return cls(**fields).at(size)

    def to_json(self) -> dict[str, Any]:
        """For the manifest: JSON values only."""
        found = asdict(self)
        return {key: list(one) if isinstance(one, tuple) else one for key, one in found.items()}

    def at(self, size: Size | None) -> Self:
        """The same for another input size, the resize in proportion to its shorter side."""
        if size is None or size == self.size:
            return self
        resize_to = self.resize_to and round(self.resize_to * min(sides(size)) / self.shorter)
        return replace(self, size=size, resize_to=resize_to)

    @property
    def height(self) -> int:
        """Of the input, in pixels."""
        return sides(self.size)[0]

    @property
    def width(self) -> int:
        """Of the input, in pixels."""
        return sides(self.size)[1]

    @property
    def shorter(self) -> int:
        """The shorter one of height and width."""
        return min(sides(self.size))

    @property
    def bands(self) -> int | None:
        """How many channels the arrays have that images are read from; ``None`` for pictures."""
        return len(self.mean) if self.channels == "bands" else None

    @property
    def frame(self) -> tuple[int, int, int]:
        """The shape of an image at the input size: height, width, channels."""
        return self.height, self.width, len(self.mean)

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of an image as the model takes it, without the batch."""
        height, width, channels = self.frame
        return self.frame if self.folded else (channels, height, width)


def sides(size: Size) -> tuple[int, int]:
    """Height and width."""
    return (size, size) if isinstance(size, int) else size


def spelled(size: Size | Sequence[int]) -> str:
    """A size as one types it: "224", "480x640"."""
    return str(size) if isinstance(size, int) else "x".join(map(str, size))


def ordered(channels: str | int) -> tuple[str, int]:
    """What ``CHANNELS`` calls the channels, and how many there are. A number is 1 or more."""
    if isinstance(channels, int):
        return {1: "grey", 3: "rgb"}.get(channels, "bands"), channels
    return channels, CHANNELS[channels] or 0
