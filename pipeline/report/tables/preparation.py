"""How an image becomes a model's input, in words."""

from __future__ import annotations

from collections.abc import Sequence

from ....runners.images import Preprocessing


def size_of(preprocessing: Preprocessing) -> str:
    """ "224 × 224"."""
    return f"{preprocessing.size} × {preprocessing.size}"


def resizing(preprocessing: Preprocessing) -> str:
    """From the photograph to the input's pixels."""
    size, by = size_of(preprocessing), preprocessing.interpolation
    side = preprocessing.resize_to or preprocessing.size
    cut = "" if side == preprocessing.size else f", then the centre {size} is cut out"
    if preprocessing.resize == "squash":
        return f"squashed to {side} × {side} ({by}), whatever its aspect ratio{cut}"
    cut = cut or f", then the centre {size} is cut out"
    return f"shorter side resized to {side} ({by}){cut}"


def normalization(preprocessing: Preprocessing) -> str:
    """From the pixels to the tensor."""
    mean, std = figures(preprocessing.mean), figures(preprocessing.std)
    where = ", by the model itself" if preprocessing.folded else ""
    order = preprocessing.channels.upper()
    return f"{order}, (x / 255 − mean) / std{where}; mean {mean}; std {std}"


def tensor(preprocessing: Preprocessing) -> str:
    """The type and the shape of what the model is fed."""
    kind = "uint8" if preprocessing.folded else "float32"
    return f"{kind} [N, {', '.join(map(str, preprocessing.shape))}]"


def figures(values: Sequence[float]) -> str:
    """ "0.485, 0.456, 0.406"; one of them for all if they are equal."""
    shown = values[:1] if len(set(values)) == 1 else values
    return ", ".join(f"{value:g}" for value in shown)
