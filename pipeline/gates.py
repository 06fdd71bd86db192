"""Gates: the limits a cell must meet, where they come from, and the verdict on its outputs.

docs/parity.md gives the reasoning behind every default.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from . import metrics

PASS, FAIL, INCONCLUSIVE = "pass", "fail", "inconclusive"

# One-sided 95 %: a pass is a claim in one direction.
Z = 1.6448536269514722
MOST_SAMPLES_SUGGESTED = 1_000_000
# A reference whose samples differ by less than this share of their size is constant.
DEGENERATE = 1e-6

# How much further than torch's float32 is from float64 a float32 runner may be, in dB.
F32_MARGIN_DB = 30.0


@dataclass(frozen=True)
class Gate:
    """Limits. ``min_top1`` is the share of samples whose class must be the reference's."""

    min_sqnr_db: float
    min_cosine: float
    min_top1: float


def kind_of(variant: str, precision: str) -> str:
    """What decides the limits of a cell: how the variant keeps its numbers, else the precision."""
    if variant.startswith("int8"):
        return "int8"
    return "f16" if (variant, precision) == ("fp16", "f32") else precision


def default_gate(kind: str, reference_sqnr_db: float) -> Gate:
    """The gate for a kind of arithmetic: "f32", "tf32", "f16", "bf16" or "int8".

    ``reference_sqnr_db`` is torch's float32 against its own float64 on the goldens, which is
    what calibrates f32: everything else about it would be a guess.
    """
    return {
        "f32": Gate(reference_sqnr_db - F32_MARGIN_DB, 0.999999, 0.85),
        "tf32": Gate(45.0, 0.9999, 0.85),
        "f16": Gate(45.0, 0.9999, 0.85),
        "bf16": Gate(15.0, 0.98, 0.85),
        "int8": Gate(15.0, 0.98, 0.85),
    }[kind]


@dataclass(frozen=True)
class Distance:
    """One output of a cell against torch's. See ``metrics`` for the formulas."""

    sqnr_db: float
    max_abs: float
    max_rel: float
    cosine: float
    top1_agreement: float | None
    top1_agreement_clear: float | None
    top5_agreement: float | None
    flipped: list[int]

    def to_json(self) -> dict[str, Any]:
        """JSON values; what is not finite (equal outputs have infinite SQNR) becomes null."""
        return {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in asdict(self).items()
        }


@dataclass(frozen=True)
class Judgement:
    """A verdict with its reasons and what it was judged by."""

    verdict: str
    reasons: tuple[str, ...] = ()
    samples_needed: int | None = None
    outputs: Mapping[str, Distance] = field(default_factory=dict)


def judge(
    outputs: Mapping[str, np.ndarray],
    reference: Mapping[str, np.ndarray],
    gate: Gate,
    classifier: bool = True,
) -> Judgement:
    """Hold a cell's outputs, name -> ``[N, ...]``, against torch's.

    Fails for outputs that are missing, extra or of another shape or dtype, for anything that
    is not finite on either side, and for a model whose answer does not depend on its input.
    Inconclusive where the limit on top-1 is met or missed by less than the samples can tell.
    """
    structural = mismatch(outputs, reference)
    if structural:
        return Judgement(FAIL, (structural,))
    failures: list[str] = []
    doubts: list[str] = []
    needed: int | None = None
    distances: dict[str, Distance] = {}
    for name, expected in reference.items():
        where = f"output {name}: " if len(reference) > 1 else ""
        found = outputs[name]
        for whose, array in (("the runner's", found), ("torch's", expected)):
            if not np.all(np.isfinite(array)):
                count = int(np.count_nonzero(~np.isfinite(array)))
                failures.append(f"{where}{count} of {whose} outputs are NaN or infinite")
        if _constant(expected):
            failures.append(f"{where}degenerate: torch's answer does not depend on the input")
        distance = measure(found, expected, classifier)
        distances[name] = distance
        if distance.sqnr_db < gate.min_sqnr_db:
            failures.append(
                f"{where}SQNR {distance.sqnr_db:.1f} dB, at least {gate.min_sqnr_db:.1f} needed"
            )
        if distance.cosine < gate.min_cosine:
            failures.append(
                f"{where}cosine {distance.cosine:.6f}, at least {gate.min_cosine:g} needed"
            )
        if distance.top1_agreement is None:
            continue
        count = len(expected)
        low, high = wilson(distance.top1_agreement, count)
        what = f"{where}top-1 agreement {distance.top1_agreement:.1%} of {count}"
        if high < gate.min_top1:
            failures.append(f"{what}, at least {gate.min_top1:.0%} needed")
        elif low < gate.min_top1:
            needed = samples_needed(distance.top1_agreement, gate.min_top1)
            more = f"{needed} samples like these would" if needed else "no number would"
            doubts.append(f"{what} can't carry a claim of {gate.min_top1:.0%}; {more}")
    verdict = FAIL if failures else INCONCLUSIVE if doubts else PASS
    return Judgement(verdict, (*failures, *doubts), None if failures else needed, distances)


def mismatch(outputs: Mapping[str, np.ndarray], reference: Mapping[str, np.ndarray]) -> str:
    """What is wrong with the form of the outputs, or an empty string."""
    missing = [name for name in reference if name not in outputs]
    extra = [name for name in outputs if name not in reference]
    if missing or extra:
        parts = [f"{label} {', '.join(names)}" for label, names in
                 (("missing", missing), ("extra", extra)) if names]  # fmt: skip
        return f"outputs {' and '.join(parts)}"
    for name, expected in reference.items():
        found = outputs[name]
        if (found.shape, found.dtype) != (expected.shape, expected.dtype):
            return (
                f"output {name} is {found.dtype} {list(found.shape)}, "
                f"torch gave {expected.dtype} {list(expected.shape)}"
            )
    return ""


def measure(outputs: np.ndarray, reference: np.ndarray, classifier: bool = True) -> Distance:
    """All metrics of one output; top-1 and top-5 only for a classifier's ``[N, classes]``."""
    with np.errstate(invalid="ignore"):
        classes = classifier and reference.ndim == 2 and reference.shape[1] > 1
        clear = ~metrics.near_ties(reference) if classes else np.zeros(len(reference), bool)
        return Distance(
            sqnr_db=metrics.sqnr_db(outputs, reference),
            max_abs=metrics.max_abs(outputs, reference),
            max_rel=metrics.max_rel(outputs, reference),
            cosine=metrics.cosine(outputs, reference),
            top1_agreement=metrics.top1_agreement(outputs, reference) if classes else None,
            top1_agreement_clear=metrics.top1_agreement(outputs[clear], reference[clear])
            if clear.any()
            else None,
            top5_agreement=metrics.topk_agreement(outputs, reference, 5) if classes else None,
            flipped=metrics.flipped(outputs, reference) if classes else [],
        )


def wilson(share: float, count: int, z: float = Z) -> tuple[float, float]:
    """Bounds of a proportion, each one-sided 95 % by default (Wilson 1927, score interval)."""
    centre = share + z**2 / (2 * count)
    half = z * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    scale = 1 + z**2 / count
    return (centre - half) / scale, (centre + half) / scale


def samples_needed(share: float, limit: float) -> int | None:
    """The smallest number of samples that settles it at this share; ``None`` beyond a million."""
    side = 0 if share >= limit else 1

    def settled(count: int) -> bool:
        bound = wilson(share, count)[side]
        return bound >= limit if side == 0 else bound < limit

    return fewest(settled)


def fewest(settled: Callable[[int], bool]) -> int | None:
    """The smallest count for which ``settled``, and with it every larger one, is true."""
    low, high = 1, MOST_SAMPLES_SUGGESTED
    if not settled(high):
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if settled(middle) else (middle + 1, high)
    return low


def _constant(reference: np.ndarray) -> bool:
    """Whether all samples have the same answer. One sample can't tell."""
    if len(reference) < 2:
        return False
    spread = float(np.max(np.ptp(reference.reshape(len(reference), -1), axis=0)))
    return spread <= DEGENERATE * float(np.max(np.abs(reference), initial=0.0))
