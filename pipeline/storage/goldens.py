"""Goldens: recorded inputs and the outputs that torch gave for them."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...runners.bundles import npz
from ...runners.images import Pixels, Preprocessing, batches, normalize
from ..errors import InputError
from ..numerics import metrics
from ..numerics.precision import ASSUMED_DB
from .arrays import Arrays
from .manifest import Manifest

FILE = "goldens.npz"
COUNT = 64
# How answers are told from inputs where both are handed over.
EXPECTED = "expected/"


@dataclass(frozen=True)
class Goldens:
    """``images`` are uint8 ``[N, H, W, C]`` after the geometry, ``labels`` their classes ``[N]``.

    A model that takes no images has ``arrays`` instead, its inputs by name, ``[N, ...]``. A label
    that isn't known is -1.
    ``fp32`` and ``fp64`` hold the model's own outputs by name, ``[N, ...]``: the reference, and
    the same computed in double precision, which tells how exact the reference itself is. An
    imported file may have ``fp64`` of the first samples only, or none.
    """

    images: Pixels | None
    labels: np.ndarray
    fp32: Mapping[str, np.ndarray]
    fp64: Mapping[str, np.ndarray]
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def reference_sqnr_db(self) -> float:
        """The reference's float32 against its own float64, in dB, of the worst output.

        ``precision.ASSUMED_DB`` where there is no float64.
        """
        if self.reference_assumed:
            return ASSUMED_DB
        return min(
            metrics.sqnr_db(self.fp32[name][: len(exact)], exact)
            for name, exact in self.fp64.items()
        )

    @property
    def reference_assumed(self) -> bool:
        """Whether there is no float64 to hold the reference against."""
        return not self.fp64

    def reference_json(self) -> dict[str, Any]:
        """How exact the reference's float32 is, as JSON has it."""
        return reference_json(self.reference_sqnr_db, assumed=self.reference_assumed)

    def to_bytes(self) -> bytes:
        """As a compressed ``.npz``; equal goldens give equal bytes."""
        arrays = {} if self.images is None else {"images": self.images}
        arrays["labels"] = self.labels
        for prefix, part in (("input.", self.arrays), ("fp32.", self.fp32), ("fp64.", self.fp64)):
            arrays |= {f"{prefix}{name}": array for name, array in part.items()}
        return packed(arrays)

    @classmethod
    def load(cls, path: Path) -> Goldens:
        """Read what ``to_bytes`` wrote. Raises ``InputError`` for anything else."""
        try:
            found = npz.read(path)
            arrays, fp32, fp64 = (
                {
                    name.removeprefix(prefix): array
                    for name, array in found.items()
                    if name.startswith(prefix)
                }
                for prefix in ("input.", "fp32.", "fp64.")
            )
            goldens = cls(found.get("images"), found["labels"], fp32, fp64, arrays)
            goldens._check()
            return goldens
        except OSError as error:
            raise InputError(f"{path}: {error.strerror or error}") from error
        except KeyError as error:
            raise InputError(f"{path}: no goldens (no {error} in it)") from error
        except ValueError as error:
            raise InputError(f"{path}: no goldens ({error})") from error

    def _check(self) -> None:
        """Raise ``ValueError`` unless everything is of equally many samples, and fits."""
        count = npz.outputs({"labels": self.labels})
        if self.labels.ndim != 1 or self.labels.dtype.kind not in "iu":
            raise ValueError(f"labels are {self.labels.dtype} {list(self.labels.shape)}")
        for part in (self.fp32, self.arrays):
            npz.outputs(dict(part), count)
        if self.fp64 and npz.outputs(dict(self.fp64)) > count:
            raise ValueError("more samples in float64 than in float32")
        shapes = [
            {name: one.shape[1:] for name, one in part.items()} for part in (self.fp32, self.fp64)
        ]
        if not self.fp32 or (self.fp64 and shapes[0] != shapes[1]):
            raise ValueError("no outputs, or other ones in float32 than in float64")
        if self.images is None:
            if not self.arrays:
                raise ValueError("no inputs")
        elif self.images.dtype != np.uint8 or self.images.ndim != 4:
            raise ValueError(f"images are {self.images.dtype} {list(self.images.shape)}")
        elif len(self.images) != count:
            raise ValueError(f"{len(self.images)} images, {count} labels")

    def part(self, rows: range) -> Goldens:
        """Some of them, by their numbers."""
        some = slice(rows.start, rows.stop)
        images = None if self.images is None else self.images[some]
        fp32, fp64, arrays = (
            {name: array[some] for name, array in one.items()}
            for one in (self.fp32, self.fp64, self.arrays)
        )
        return Goldens(images, self.labels[some], fp32, fp64, arrays)

    def batches(
        self,
        preprocessing: Preprocessing | None,
        name: str,
        batch: int,
        count: int | None = None,
    ) -> Iterator[tuple[dict[str, np.ndarray], slice, int]]:
        """Yield ``(feeds, rows, valid)`` over the first ``count`` goldens, as ``images.batches``.

        ``feeds`` is the image input, which is called ``name``, as ``images.normalize`` makes it,
        or every input of a model that takes no images.
        """
        if self.images is None or preprocessing is None:
            kept = {name: array[:count] for name, array in self.arrays.items()}
            yield from Arrays(kept).batches(batch)
            return
        for part, rows, valid in batches(self.images[:count], batch):
            yield {name: normalize(part, preprocessing)}, rows, valid

    def as_feeds(
        self,
        preprocessing: Preprocessing | None,
        name: str,
        batch: int,
        count: int | None = None,
    ) -> Iterator[dict[str, np.ndarray]]:
        """Batches for the quantizing worker, with the reference as "expected/OUTPUT"."""
        for feeds, rows, valid in self.batches(preprocessing, name, batch, count):
            expected = {name: part[rows][:valid] for name, part in self.fp32.items()}
            yield feeds | {f"{EXPECTED}{name}": part for name, part in expected.items()}


def packed(arrays: Mapping[str, np.ndarray]) -> bytes:
    """A compressed ``.npz``; equal arrays in equal order give equal bytes."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def preprocessing_of(manifest: Manifest) -> Preprocessing | None:
    """How images become the model's input; ``None`` for a model that takes no images."""
    return Preprocessing.from_json(manifest.preprocessing) if manifest.preprocessing else None


def valid_rows(output: np.ndarray, batch: int, valid: int) -> np.ndarray:
    """The rows of an output that count: those of the first ``valid`` samples of a ``batch``.

    An output without the batch in front can't be cut; it is taken as it is, as one row.
    """
    whole = output.ndim == 0 or len(output) != batch
    return output[None] if whole else output[:valid]


def reference_json(sqnr_db: float, *, assumed: bool = False) -> dict[str, Any]:
    """How exact a reference's float32 is, as JSON has it; ``assumed`` without a float64."""
    if assumed:
        return {"reference_sqnr_db": None, "reference_state": metrics.ASSUMED}
    state = metrics.state(sqnr_db)
    return {"reference_sqnr_db": metrics.finite(sqnr_db), "reference_state": state}
