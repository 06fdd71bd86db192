"""What the model sees: a few of the goldens as pixels and as tensors, and their figures."""

from __future__ import annotations

import io
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ....runners.images import Pixels, Preprocessing
from ...storage.goldens import Goldens
from ..gather import Report
from ..looks import CHANNELS_SHOWN, Look, in_colors, look_at
from ..tables import preparation
from ..tables.table import Column, Table, figure

SHOWN = 4  # goldens
LARGEST = 224  # pixels of a side: a page with larger ones would be megabytes


@dataclass(frozen=True)
class Picture:
    """A golden: what it is of, and its pixels and tensor as addresses that hold a PNG."""

    name: str
    pixels: str
    tensor: str


def section(report: Report) -> Mapping[str, Any] | None:
    """``None`` for a model that takes no images, or a workspace without goldens."""
    goldens = report.goldens
    if goldens is None or goldens.images is None:
        return None
    preprocessing = Preprocessing.from_json(report.manifest.preprocessing)
    looks = [look_at(one, preprocessing) for one in goldens.images[:SHOWN]]
    names = [_name(goldens, row, report.manifest.labels) for row in range(len(looks))]
    return {
        "words": preparation.steps(preprocessing),
        "pictures": [
            Picture(name, _address(look.pixels), _address(look.tensor))
            for name, look in zip(names, looks, strict=True)
        ],
        "table": _table(names, looks),
        "count": len(goldens),
        "span": looks[0].ends,
        "colors": in_colors(preprocessing),
        "further": max(0, len(preprocessing.mean) - CHANNELS_SHOWN),
        "shrunk": LARGEST if max(goldens.images.shape[1:3]) > LARGEST else None,
    }


def _name(goldens: Goldens, row: int, labels: Sequence[str] | None) -> str:
    """ "golden 0, of class cat", as far as that is known."""
    label = int(goldens.labels[row])
    if label < 0:
        return f"golden {row}"
    return f"golden {row}, of class {labels[label] if labels and label < len(labels) else label}"


def _table(names: Sequence[str], looks: Sequence[Look]) -> Table:
    rows = [
        (name, one.name, *(f"{value:.2f}" for value in (one.least, one.most, one.mean)))
        for name, look in zip(names, looks, strict=True)
        for one in look.channels
    ]
    heads = (Column("golden"), Column("channel"), *map(figure, ("least", "most", "mean")))
    return Table("The tensors' values", heads, tuple(rows))


def _address(pixels: Pixels) -> str:
    """A picture as PNG in a ``data:`` address; shrunk to ``LARGEST`` if it is larger."""
    from PIL import Image

    picture = Image.fromarray(np.ascontiguousarray(pixels))
    picture.thumbnail((LARGEST, LARGEST))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return f"data:image/png;base64,{b64encode(buffer.getvalue()).decode()}"
