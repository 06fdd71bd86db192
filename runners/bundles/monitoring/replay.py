"""Goldens replayed: the bits of the first time, as near to the reference as they must be."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np

from ...base import BundleError, TensorSpec
from ...images import Preprocessing, normalize
from .. import npz
from ..bundle import Bundle
from ..index import GOLDENS
from ..scores import sqnr_db

PASS, CHANGED, FAIL, ERROR = "pass", "changed", "fail", "error"
VERDICTS = (PASS, CHANGED, FAIL, ERROR)
Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Beat:
    """What one replay gave, ``at`` a time (UTC, ISO 8601).

    The verdict is "pass", "changed" (other bits than the ``first`` ones, and within the limit all
    the same), "fail" (below the limit, or not finite) or "error" (no answer). ``bits`` is a SHA-256
    of the outputs; ``sqnr_db`` is ``None`` where they equal the reference or there is none;
    ``seconds`` is how long all goldens took. ``first``: it set the baseline.
    """

    at: str
    verdict: str
    bits: str | None
    sqnr_db: float | None
    seconds: float
    first: bool
    reason: str | None = None


def bits_of(outputs: Arrays) -> str:
    """SHA-256 of outputs: names, types, shapes and all bits."""
    digest = hashlib.sha256()
    for name in sorted(outputs):
        array = np.ascontiguousarray(outputs[name])
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class Recorded:
    """The first goldens of a bundle: uint8 ``images`` ``[N, H, W, C]``, ``fp32`` by output."""

    images: np.ndarray
    fp32: Arrays

    @classmethod
    def of(cls, bundle: Bundle, count: int) -> Self:
        """So many of them, or all that there are. Raises ``BundleError`` for a damaged file."""
        try:
            found = npz.read(bundle.folder / GOLDENS)
            images = found["images"][:count]
            fp32 = {
                name.removeprefix("fp32."): array[:count]
                for name, array in found.items()
                if name.startswith("fp32.")
            }
            npz.outputs({"images": images, **fp32})
            if images.dtype != np.uint8 or images.shape[1:] != bundle.index.preprocessing.frame:
                raise ValueError(f"images of {images.dtype} {list(images.shape)}")
        except (OSError, KeyError, ValueError) as error:
            raise BundleError(f"{bundle.path}: no goldens in {GOLDENS} ({error})") from error
        return cls(images, fp32)

    def outputs(
        self,
        run: Callable[[Mapping[str, np.ndarray]], Arrays],
        taken: TensorSpec,
        preprocessing: Preprocessing,
    ) -> dict[str, np.ndarray]:
        """What ``run`` gives for each golden by itself, as an application would ask for it."""
        batch = taken.shape[0] or 1
        found: dict[str, list[np.ndarray]] = {}
        for place in range(len(self.images)):
            image = normalize(self.images[place : place + 1], preprocessing)
            for name, array in run({taken.name: np.repeat(image, batch, axis=0)}).items():
                found.setdefault(name, []).append(np.asarray(array)[:1].copy())
        return {name: np.concatenate(rows) for name, rows in found.items()}


def judge(
    outputs: Arrays,
    reference: Arrays,
    limit_db: float | None,
    first_bits: str | None,
    *,
    at: str,
    seconds: float,
) -> Beat:
    """Judge a replay: ``outputs`` and ``reference`` by name, ``[goldens, ...]``.

    ``limit_db`` is the bundle's gate, ``first_bits`` those of the baseline.
    """
    bits, first = bits_of(outputs), first_bits is None

    def beat(verdict: str, sqnr: float | None, reason: str | None = None) -> Beat:
        known = sqnr if sqnr is not None and np.isfinite(sqnr) else None
        return Beat(at, verdict, bits, known, seconds, first, reason)

    named = [name for name in reference if name in outputs]
    for name in named:
        if outputs[name].shape != reference[name].shape:
            shapes = f"{list(outputs[name].shape)}, not {list(reference[name].shape)}"
            return beat(FAIL, None, f"{name} is {shapes}")
    worst = min((sqnr_db(outputs[name], reference[name]) for name in named), default=None)
    if worst == -np.inf:
        return beat(FAIL, worst, "outputs that are not finite, or nothing but noise")
    if worst is not None and limit_db is not None and worst < limit_db:
        return beat(FAIL, worst, f"SQNR {worst:.1f} dB, at least {limit_db:.1f} is required")
    if first or bits == first_bits:
        return beat(PASS, worst)
    return beat(CHANGED, worst, "other bits than the first time, within the limit")


def failed(error: Exception, *, at: str) -> Beat:
    """A replay that gave no answer."""
    reason = " ".join(str(error).split()) or type(error).__name__
    return Beat(at, ERROR, None, None, 0.0, first=False, reason=reason[:600])
