"""What bench, parity and evaluate say of a cell, as columns: for every kind of table the same."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter

from ...judging.evaluate_result import CellAccuracy
from ...judging.parity_result import CellVerdict
from ...speed.bench_result import CellResult
from .formatting import MIB, ms
from .table import Column, Get, Value, Verdict


def figure(title: str, get: Get, brief: str = "") -> Column:
    """A column that stands right."""
    return Column(title, get, figure=True, brief=brief)


def shown(value: float | None, form: str) -> str | None:
    """A figure, if there is one."""
    return None if value is None else format(value, form)


def _decibels(value: float | None, max_abs: float | None) -> str | None:
    """A distance in dB; "equal" where there is no error."""
    return "equal" if value is None and max_abs == 0 else shown(value, ".1f")


def _interval(ends: Sequence[float] | None, form: str, joint: str = "–") -> str | None:
    return None if ends is None else joint.join(format(end, form) for end in ends)


def _verdict(cell: CellResult | CellVerdict) -> Value:
    return Verdict(cell.verdict or cell.status)


VARIANT = Column("variant", attrgetter("variant"))
RUNNER = Column("runner", attrgetter("runner"))
TARGET = Column("target", attrgetter("target"))
PRECISION = Column("precision", lambda cell: cell.precision or "", brief="prec")
THREADS = figure("threads", lambda cell: shown(cell.threads, "d"), "thr")
VERDICT = Column("verdict", _verdict)
TIMES = Column("times", _verdict)
WHY = Column("why", lambda cell: cell.reason or "")

# Parity, and of accuracy what an int8 cell lost by its file and by the runner's kernels.
SQNR = figure("SQNR dB", lambda cell: _decibels(cell.sqnr_db, cell.max_abs))
LIMIT = figure("limit", lambda cell: shown(cell.gate.get("min_sqnr_db"), ".1f"))
FILE = figure("file dB", lambda cell: _decibels(cell.file_sqnr_db, cell.file_max_abs), "file")
KERNELS = figure(
    "kernels dB", lambda cell: _decibels(cell.kernels_sqnr_db, cell.kernels_max_abs), "kernels"
)
COSINE = figure("cosine", lambda cell: shown(cell.cosine, ".6f"))
MAX_REL = figure("max rel", lambda cell: shown(cell.max_rel, ".1e"))
TOP1_AGREEMENT = figure("top-1", lambda cell: shown(cell.top1_agreement, ".1%"))
SAMPLES = figure("n", lambda cell: str(cell.samples))


def _accuracy_verdict(cell: CellAccuracy) -> Value | None:
    if cell.verdict or cell.status != "ok":
        return Verdict(cell.verdict or cell.status)
    return None if cell.drop else "reference"


def _top1_interval(cell: CellAccuracy) -> str | None:
    return cell.top1_ci95 and f"{_interval([100 * end for end in cell.top1_ci95], '.1f')}%"


ACCURACY_VERDICT = Column("verdict", _accuracy_verdict)
TOP1 = figure("top-1", lambda cell: shown(cell.top1, ".2%"))
TOP1_INTERVAL = figure("95 % interval", _top1_interval, "95 % CI")
TOP5 = figure("top-5", lambda cell: shown(cell.top5, ".1%"))
DROP = figure("drop, points", lambda cell: cell.drop and shown(cell.drop.points, "+.2f"), "drop")
DROP_INTERVAL = figure(
    "95 % interval of the drop",
    lambda cell: cell.drop and _interval(cell.drop.ci95, "+.2f", " to "),
    "95 % CI",
)
P_VALUE = figure("p", lambda cell: cell.drop and shown(cell.drop.p_value, ".2g"))


def _milliseconds(value: float | None) -> str | None:
    return None if value is None else ms(value)


def _percentile(rank: int) -> Column:
    def get(cell: CellResult) -> str | None:
        return cell.latency_ms and _milliseconds(getattr(cell.latency_ms, f"p{rank}"))

    return figure(f"p{rank} ms", get, f"p{rank}")


def _latency_interval(cell: CellResult) -> str | None:
    if cell.latency_ms is None or cell.latency_ms.ci95 is None:
        return None
    return "–".join(map(ms, cell.latency_ms.ci95))


def _throughput_interval(cell: CellResult) -> str | None:
    return _interval(cell.throughput_ci95, ".1f")


P50, P90, P99 = map(_percentile, (50, 90, 99))
LATENCY_INTERVAL = figure("95 % interval", _latency_interval)
THROUGHPUT = figure("images/s", lambda cell: shown(cell.throughput_per_s, ".1f"))
THROUGHPUT_INTERVAL = figure("95 % interval", _throughput_interval)
# Against the reference variant, whose name the heading has: see ``against``.
SPEEDUP_INTERVAL = figure("95 % interval", lambda cell: _interval(cell.speedup_ci95, ".2f"))
RELATIVE = Column("speed", lambda cell: Verdict(cell.against_reference or cell.status), brief="is")
LOAD = figure("load ms", lambda cell: shown(cell.load_ms, ".0f"), "load")
CACHED = figure("cached", lambda cell: shown(cell.load_cached_ms, ".0f"))
RSS = figure("RSS MiB", lambda cell: shown(cell.peak_rss_mib, ".0f"), "RSS")
ENERGY = figure("mJ/image", lambda cell: shown(cell.energy_mj, ".1f"), "mJ")
SIZE = figure(
    "file MiB", lambda cell: f"{cell.size_bytes / MIB:.1f}" if cell.size_bytes else None, "MiB"
)
GENERATIONS = figure("generations", lambda cell: str(cell.generations), "gen")
STREAMS = figure("streams", lambda cell: shown(cell.streams, "d"))
BATCH = figure("batch", lambda cell: shown(cell.batch, "d"))
RATE = figure("rate", lambda cell: shown(cell.rate, "g"))


def speedup(reference: str) -> Column:
    """How many times as fast as the reference variant."""
    return figure(f"× {reference}", lambda cell: shown(cell.speedup, ".2f"), f"x {reference}")


def _against(cell: CellResult) -> str | None:
    found = cell.comparison
    return found and (found.reason or f"at most {1 + found.max_slowdown:.3g}")


# Against a baseline.
RATIO = figure("× as slow", lambda cell: shown(cell.comparison.ratio, ".3f"), "x as slow")
RATIO_INTERVAL = figure("95 % interval", lambda cell: _interval(cell.comparison.ci95, ".3f"))
AGAINST_VERDICT = Column("verdict", lambda cell: Verdict(cell.comparison.verdict))
AGAINST_WHY = Column("why", _against)
