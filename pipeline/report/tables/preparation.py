"""How an image becomes a model's input, in words."""

from __future__ import annotations

from collections.abc import Sequence

from ....runners.images import Geometry, Preprocessing


def size_of(preprocessing: Preprocessing) -> str:
    """ "224 × 224", or height before width and said so."""
    size = f"{preprocessing.height} × {preprocessing.width}"
    return size if isinstance(preprocessing.size, int) else f"{size} (height × width)"


def steps(preprocessing: Preprocessing) -> tuple[str, ...]:
    """A line each: from the photograph to pixels, from these to the tensor, and what that is."""
    fed = f"fed as {tensor(preprocessing)}"
    return resizing(preprocessing), normalization(preprocessing), fed


def resizing(preprocessing: Preprocessing) -> str:
    """From the photograph to the input's pixels."""
    size, by = size_of(preprocessing), preprocessing.interpolation
    side = preprocessing.resize_to or preprocessing.shorter
    cut = f", then the centre {size} is cut out"
    if preprocessing.resize == "squash":
        across, down = Geometry.of(side, side, preprocessing).resized
        whole = side == preprocessing.shorter
        to = size if whole else f"{down} × {across}"
        return f"squashed to {to} ({by}), whatever its aspect ratio{'' if whole else cut}"
    if isinstance(preprocessing.size, int):
        return f"shorter side resized to {side} ({by}){cut}"
    to = f"shorter side resized to {side}, or more" if preprocessing.resize_to else "resized"
    return f"{to} until it covers the input ({by}){cut}"


def normalization(preprocessing: Preprocessing) -> str:
    """From the pixels to the tensor."""
    mean, std = figures(preprocessing.mean), figures(preprocessing.std)
    where = ", by the model itself" if preprocessing.folded else ""
    order = named(preprocessing)
    return f"{order}, (x / 255 − mean) / std{where}; mean {mean}; std {std}"


def named(preprocessing: Preprocessing) -> str:
    """Which channels: "RGB", "grey", "8 channels"."""
    if preprocessing.bands is not None:
        return f"{preprocessing.bands} channels"
    return "grey" if preprocessing.channels == "grey" else preprocessing.channels.upper()


def tensor(preprocessing: Preprocessing) -> str:
    """The type and the shape of what the model is fed."""
    kind = "uint8" if preprocessing.folded else "float32"
    return f"{kind} [N, {', '.join(map(str, preprocessing.shape))}]"


def figures(values: Sequence[float]) -> str:
    """ "0.485, 0.456, 0.406"; one of them for all if they are equal."""
    shown = values[:1] if len(set(values)) == 1 else values
    return ", ".join(f"{value:g}" for value in shown)
