"""What bench, parity and evaluate say of a cell, as columns: for every kind of table the same."""

from __future__ import annotations

import math
from operator import attrgetter

from ...judging.evaluate_result import CellAccuracy
from ...judging.parity_result import CellVerdict
from ...numerics import metrics
from ...numerics.metrics import BROKEN, EQUAL, MEASURED
from ...speed.bench_result import CellResult
from .formatting import NONE, interval, mebibytes, ms, number
from .table import Column, Value, Verdict, figure


def distance(sqnr_db: float | None, state: str) -> str:
    """A distance in dB, or what there is in its place: "equal", "broken" or a dash."""
    if sqnr_db is None:
        return state if state in (EQUAL, BROKEN) else NONE
    return f"{sqnr_db:.1f}" if math.isfinite(sqnr_db) else metrics.state(sqnr_db)


def _decibels(value: float | None, max_abs: float | None) -> str:
    return distance(value, EQUAL if max_abs == 0 else MEASURED)


def _verdict(cell: CellResult | CellVerdict) -> Value:
    return Verdict(cell.verdict or cell.status)


VARIANT = Column("variant", attrgetter("variant"))
RUNNER = Column("runner", attrgetter("runner"))
TARGET = Column("target", attrgetter("target"))
PRECISION = Column("precision", lambda cell: cell.precision or "", brief="prec")
THREADS = figure("threads", lambda cell: number(cell.threads, "d"), "thr")
VERDICT = Column("verdict", _verdict)
WHY = Column("why", lambda cell: cell.reason or "")

# Parity, and of accuracy what an int8 cell lost by its file and by the runner's kernels.
SQNR = figure("SQNR dB", lambda cell: _decibels(cell.sqnr_db, cell.max_abs))
LIMIT = figure("limit", lambda cell: number(cell.gate.get("min_sqnr_db"), ".1f"))
FILE = figure("file dB", lambda cell: _decibels(cell.file_sqnr_db, cell.file_max_abs), "file")
KERNELS = figure(
    "kernels dB", lambda cell: _decibels(cell.kernels_sqnr_db, cell.kernels_max_abs), "kernels"
)
COSINE = figure("cosine", lambda cell: number(cell.cosine, ".6f"))
MAX_REL = figure("max rel", lambda cell: number(cell.max_rel, ".1e"))
TOP1_AGREEMENT = figure("top-1", lambda cell: number(cell.top1_agreement, ".1%"))
SAMPLES = figure("n", lambda cell: str(cell.samples))


def _accuracy_verdict(cell: CellAccuracy) -> Value:
    if cell.verdict or cell.status != "ok":
        return Verdict(cell.verdict or cell.status)
    return "no gate" if cell.drop else "reference"


def _top1_interval(cell: CellAccuracy) -> str | None:
    return cell.top1_ci95 and f"{interval(cell.top1_ci95, lambda end: f'{100 * end:.1f}')}%"


def _drop_interval(cell: CellAccuracy) -> str | None:
    return cell.drop and interval(cell.drop.ci95, "{:+.2f}".format, " to ")


ACCURACY_VERDICT = Column("verdict", _accuracy_verdict)
TOP1 = figure("top-1", lambda cell: number(cell.top1, ".2%"))
TOP1_INTERVAL = figure("95 % interval", _top1_interval, "95 % CI")
TOP5 = figure("top-5", lambda cell: number(cell.top5, ".1%"))
DROP = figure("drop", lambda cell: cell.drop and f"{cell.drop.points:+.2f}")
DROP_INTERVAL = figure("95 % interval of the drop", _drop_interval, "95 % CI")
P_VALUE = figure("p", lambda cell: cell.drop and f"{cell.drop.p_value:.2g}")


def _percentile(rank: int) -> Column:
    def get(cell: CellResult) -> str | None:
        return cell.latency_ms and ms(getattr(cell.latency_ms, f"p{rank}"))

    return figure(f"p{rank} ms", get, f"p{rank}")


def _latency_interval(cell: CellResult) -> str | None:
    return cell.latency_ms and interval(cell.latency_ms.ci95, ms)


def _throughput_interval(cell: CellResult) -> str | None:
    return interval(cell.throughput_ci95, "{:.1f}".format)


def _relative(cell: CellResult) -> Value:
    if cell.status != "ok":
        return Verdict(cell.status)
    alone = "reference" if cell.speedup else NONE
    return Verdict(cell.against_reference) if cell.against_reference else alone


def _speedup_interval(cell: CellResult) -> str | None:
    return interval(cell.speedup_ci95, "{:.2f}".format)


def speedup(reference: str) -> Column:
    """How many times as fast as the reference variant."""
    return figure(f"× {reference}", lambda cell: number(cell.speedup, ".2f"), f"x {reference}")


# Against the reference, and whether the figures beside hold by themselves.
SPEEDUP_INTERVAL = figure("95 % interval", _speedup_interval)
RELATIVE = Column("speed", _relative, brief="is")
TIMES = Column("times", _verdict)
P50, P90, P99 = map(_percentile, (50, 90, 99))
LATENCY_INTERVAL = figure("95 % interval", _latency_interval)
THROUGHPUT = figure("images/s", lambda cell: number(cell.throughput_per_s, ".1f"))
THROUGHPUT_INTERVAL = figure("95 % interval", _throughput_interval)

LOAD = figure("load ms", lambda cell: number(cell.load_ms, ".0f"), "load")
BUILD = figure("build ms", lambda cell: number(cell.build_ms, ".0f"), "build")
CACHED = figure("cached", lambda cell: number(cell.load_cached_ms, ".0f"))
ON_DEVICE = figure("on device ms", lambda cell: number(cell.on_device_ms, ".3f"), "on device")
RSS = figure("RSS MiB", lambda cell: number(cell.peak_rss_mib, ".0f"), "RSS")
ENERGY = figure("mJ/image", lambda cell: number(cell.energy_mj, ".1f"), "mJ")
SIZE = figure("file MiB", lambda cell: mebibytes(cell.size_bytes), "MiB")
GENERATIONS = figure("generations", lambda cell: str(cell.generations), "gen")
STREAMS = figure("streams", lambda cell: number(cell.streams, "d"))
BATCH = figure("batch", lambda cell: number(cell.batch, "d"))
RATE = figure("rate", lambda cell: number(cell.rate, "g"))


def _ratio_interval(cell: CellResult) -> str | None:
    return cell.comparison and interval(cell.comparison.ci95, "{:.3f}".format)


# Against a baseline.
RATIO = figure("× as slow", lambda cell: number(cell.comparison.ratio, ".3f"), "x as slow")
RATIO_INTERVAL = figure("95 % interval", _ratio_interval)
AT_MOST = figure("at most", lambda cell: f"{1 + cell.comparison.max_slowdown:.3g}")
AGAINST_VERDICT = Column("verdict", lambda cell: Verdict(cell.comparison.verdict))
AGAINST_WHY = Column("why", lambda cell: cell.comparison.reason or "")
AGAINST = (RATIO, RATIO_INTERVAL, AT_MOST, AGAINST_VERDICT, AGAINST_WHY)

# Which cell it is, and what parity and evaluate say of it.
PLACE = (VARIANT, RUNNER, TARGET, PRECISION)
TWICE = (FILE, KERNELS)
PARITY = (VERDICT, SQNR, LIMIT, *TWICE, COSINE, MAX_REL, TOP1_AGREEMENT, SAMPLES)
ACCURACY = (
    *(ACCURACY_VERDICT, TOP1, TOP1_INTERVAL, TOP5, DROP, DROP_INTERVAL, P_VALUE),
    *TWICE,
)
