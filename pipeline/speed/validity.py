"""Can a cell's numbers be trusted? "valid", "noisy" or "invalid", with the reasons."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...runners.timing.measure import Measurement
from ...runners.timing.plan import OFFLINE, SERVER, SINGLE_STREAM
from ..cells.session import Cell
from ..numerics import intervals
from ..numerics.precision import float_limit, kind_of
from ..numerics.ratios import FEWEST
from .visits import figure

VALID, NOISY, INVALID = "valid", "noisy", "invalid"
QUICK = "quick: a few short slices, good for a smoke test only"
TOO_FEW = "too few"

# A smoke test of the outputs, not parity: far enough below any healthy cell to raise no false
# alarm, far above a broken one (int8 without VNNI lands at -2 dB).
FLOAT_MARGIN_DB = 40.0
MIN_SQNR_DB = {"tf32": 35.0, "f16": 40.0, "bf16": 12.0, "int8": 12.0}
# Timed outputs against untimed ones of the same session, relative to the largest output.
MAX_TIMED_DEVIATION = 1e-3

MIN_SAMPLES = 64
MAX_SPREAD = 0.10
MAX_DRIFT = 0.10
MAX_STEAL_PERCENT = 2.0
MAX_OTHERS_PERCENT = 5.0
# Completed runs of those that were to arrive, less what chance allows at 2 standard deviations.
MIN_SERVED = 0.95


def judge(
    cell: Cell,
    measurements: Sequence[Measurement],
    sqnr_db: Sequence[float],
    reference_db: float,
    scenario: str = SINGLE_STREAM,
    rate: float = 0.0,
) -> tuple[str, tuple[str, ...]]:
    """The verdict on a cell's generations, with what speaks against them.

    ``sqnr_db`` are the checked outputs of each generation against torch, ``reference_db`` is
    torch's own float32 against its float64. ``rate`` is the server scenario's.
    """
    wrong = _wrong(cell, measurements, sqnr_db, reference_db)
    if scenario == SERVER:
        wrong += _overload(measurements, rate)
    noise = _noise(measurements, scenario)
    return INVALID if wrong else NOISY if noise else VALID, (*wrong, *noise)


def _wrong(
    cell: Cell,
    measurements: Sequence[Measurement],
    sqnr_db: Sequence[float],
    reference_db: float,
) -> list[str]:
    wrong = []
    kind = kind_of(cell.variant, cell.precision, cell.quantized)
    floor = MIN_SQNR_DB.get(kind, float_limit(reference_db, FLOAT_MARGIN_DB))
    if np.isneginf(min(sqnr_db)):
        wrong.append("wrong outputs: some are NaN or infinite")
    elif min(sqnr_db) < floor:
        wrong.append(f"wrong outputs: SQNR {min(sqnr_db):.1f} dB, at least {floor:.1f} expected")
    deviation = max(found.deviation for found in measurements)
    if deviation > MAX_TIMED_DEVIATION:
        wrong.append(f"outputs changed while timed (by {deviation:.1%} of the largest)")
    return wrong


def _overload(measurements: Sequence[Measurement], rate: float) -> list[str]:
    """A backlog that grows makes every percentile a matter of how long one measures."""
    served = sum(len(found.samples) for found in measurements)
    due = rate * sum(found.conditions.seconds for found in measurements)
    if served < MIN_SERVED * due - 2 * np.sqrt(due):
        return [f"overloaded: {rate:g} runs/s were to arrive, {rate * served / due:.1f} were made"]
    return []


def _noise(measurements: Sequence[Measurement], scenario: str) -> list[str]:
    noise = []
    figures = [
        float(np.median([figure(part, scenario) for part in found.by_slice()]))
        for found in measurements
    ]
    samples = sum(len(found.samples) for found in measurements)
    if len(figures) < FEWEST:
        noise.append(f"{TOO_FEW} generations: {len(figures)}, at least {FEWEST}")
    if samples < MIN_SAMPLES:
        noise.append(f"{TOO_FEW} samples: {samples}, at least {MIN_SAMPLES}")
    spread = intervals.spread(figures)
    if spread > MAX_SPREAD:
        noise.append(f"generations differ by {spread:.0%}")
    center = np.mean if scenario == OFFLINE else np.median
    drift = max((intervals.drift(found.samples, center) for found in measurements), key=abs)
    if scenario != SERVER and abs(drift) > MAX_DRIFT:  # arrivals come in bunches
        noise.append(f"drifted by {drift:+.0%} within a generation")
    noise += interference(measurements)
    if not all(found.rests for found in measurements):
        noise.append("its idle threads keep the CPU busy, which slows the other cells down")
    return noise


def of_quick_run(verdict: str, notes: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """The verdict on a smoke test: never valid. Its few samples need no further mention."""
    kept = (note for note in notes if not note.startswith(TOO_FEW))
    return INVALID if verdict == INVALID else NOISY, (*kept, QUICK)


def interference(measurements: Sequence[Measurement]) -> list[str]:
    """What the machine did beside: such numbers say little about it when it is left alone."""
    noise = []
    conditions = [found.conditions for found in measurements]
    steal = max(found.steal_percent for found in conditions)
    if steal > MAX_STEAL_PERCENT:
        noise.append(f"{steal:.0f} % of the CPU time was stolen by the host")
    others = max(found.others_percent for found in conditions)
    if others > MAX_OTHERS_PERCENT:
        noise.append(f"other processes took {others:.0f} % of the CPU time")
    throttled = sum(found.throttled for found in conditions)
    if throttled:
        noise.append(f"the CPU slowed down {throttled} times because of its heat")
    return noise
