"""Goldens: recorded input images and the outputs that torch gave for them."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..runners.images import Preprocessing, batches, normalize
from . import metrics

FILE = "goldens.npz"
COUNT = 64


@dataclass(frozen=True)
class Goldens:
    """``images`` are uint8 ``[N, H, W, 3]`` after the geometry, ``labels`` their classes ``[N]``.

    ``fp32`` and ``fp64`` hold torch's outputs by name, ``[N, ...]``: the reference, and the
    same computed in double precision, which tells how exact the reference itself is.
    """

    images: np.ndarray
    labels: np.ndarray
    fp32: Mapping[str, np.ndarray]
    fp64: Mapping[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.images)

    @property
    def reference_sqnr_db(self) -> float:
        """Torch's float32 against its own float64, in dB, of the worst output."""
        return min(metrics.sqnr_db(self.fp32[name], self.fp64[name]) for name in self.fp32)

    def to_bytes(self) -> bytes:
        """As a compressed ``.npz``; equal goldens give equal bytes."""
        arrays = {"images": self.images, "labels": self.labels}
        arrays |= {f"fp32.{name}": array for name, array in self.fp32.items()}
        arrays |= {f"fp64.{name}": array for name, array in self.fp64.items()}
        buffer = io.BytesIO()
        np.savez_compressed(buffer, allow_pickle=False, **arrays)
        return buffer.getvalue()

    @classmethod
    def load(cls, path: Path) -> Goldens:
        """Read what ``to_bytes`` wrote."""
        with np.load(path) as archive:
            outputs = {
                prefix: {
                    name.removeprefix(prefix): archive[name]
                    for name in archive.files
                    if name.startswith(prefix)
                }
                for prefix in ("fp32.", "fp64.")
            }
            return cls(archive["images"], archive["labels"], outputs["fp32."], outputs["fp64."])

    def batches(
        self, preprocessing: Preprocessing, name: str, batch: int, count: int | None = None
    ) -> Iterator[tuple[dict[str, np.ndarray], slice, int]]:
        """Yield ``(feeds, rows, valid)`` over the first ``count`` goldens, as ``images.batches``.

        ``feeds`` is the input called ``name``, float32 ``[batch, 3, H, W]``.
        """
        for part, rows, valid in batches(self.images[:count], batch):
            yield {name: normalize(part, preprocessing)}, rows, valid
