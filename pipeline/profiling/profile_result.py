"""What a profile found: one cell's time by node, by layer and by operator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..cells.row import CellRow
from ..errors import ExitCode
from ..storage.document import UNWRITTEN, Result

INT8 = "int8"


@dataclass(frozen=True, kw_only=True)
class ProfiledCell(CellRow):
    """The cell, as its profiled session ran: one run at a time.

    ``chosen`` says why it is this one, where several could have been it.
    """

    batch: int
    options: Mapping[str, Any]
    tuned: bool
    chosen: str


@dataclass(frozen=True)
class Node:
    """A node as the runner executes it. ``us`` are microseconds a run, ``share`` is of all nodes'.

    ``kernel`` is the runner's word for what executes it, empty where it has none. ``layer`` is the
    layer of the file that it belongs to, ``null`` where names don't tell. A ``conversion`` changes
    types or layouts for the nodes around it and computes nothing.
    """

    name: str
    operator: str
    kernel: str
    precision: str
    provider: str
    us: float
    share: float
    layer: str | None
    conversion: bool


@dataclass(frozen=True)
class OperatorTime:
    """All nodes of an operator in one precision."""

    operator: str
    precision: str
    nodes: int
    us: float
    share: float


@dataclass(frozen=True)
class LayerTime:
    """A layer, named as ``parity --explain`` names it, in the order of execution.

    ``us`` is what it computes in and ``conversion_us`` what is converted behind it, before the
    next layer (of the first one, before it as well): all layers' add up to all nodes'. ``share``
    is of both. ``precision`` and ``kernel`` are those of its costliest node. ``macs`` are a run's
    multiply-accumulates, and ``peak_share`` its ``gmacs_per_s`` by the peak of its precision;
    ``null`` for what multiplies nothing, or is too short to be seen. A float layer is
    ``between_int8`` if int8 layers feed it and are fed by it; ``around_us`` are the conversions
    right before and right behind it.
    """

    layer: str
    operators: str
    kernel: str
    precision: str
    us: float
    conversion_us: float
    share: float
    macs: int | None = None
    gmacs_per_s: float | None = None
    peak_share: float | None = None
    between_int8: bool = False
    around_us: float | None = None


@dataclass(frozen=True)
class Peak:
    """The best matrix product of the same runner with the same settings, in 10^9 MAC a second.

    ``kernel_unit`` is the unit that its kernel's name tells, ``null`` where it doesn't;
    ``cpu_unit`` is the best one that the CPU has, whether it is used or not.
    """

    precision: str
    gmacs_per_s: float
    kernel_unit: str | None
    cpu_unit: str | None
    kernel: str
    shape: str
    runs: int


@dataclass(frozen=True)
class ProfileResult(Result):
    """Where the time of one cell goes, in microseconds a run.

    Times of nodes are a ``statistic`` over ``runs`` ("median", or "mean" where the runner only
    adds up) in each of ``rounds`` fresh processes, and the median over these. ``wall_us`` is that
    of whole runs of an ordinary session, ``profiled_us`` with the times of nodes being taken, and
    ``overhead`` how much longer these are. ``nodes_us`` is what all nodes take together, and
    ``covered`` its share of ``profiled_us``. ``round_us`` has ``wall_us`` of each round.
    """

    FILE = "profile.json"
    MADE_BY = "edgepipe bench --profile"

    model: Mapping[str, Any]
    host: Mapping[str, Any]
    measured: str
    quick: bool
    cell: ProfiledCell
    runs: int
    rounds: int
    statistic: str
    wall_us: float
    profiled_us: float
    overhead: float
    round_us: tuple[float, ...]
    nodes_us: float
    covered: float
    macs: int | None
    peaks: tuple[Peak, ...]
    operators: tuple[OperatorTime, ...]
    layers: tuple[LayerTime, ...]
    nodes: tuple[Node, ...]
    notes: tuple[str, ...]
    exit_code: ExitCode = field(default=ExitCode.OK, metadata=UNWRITTEN)

    @property
    def between_int8(self) -> tuple[LayerTime, ...]:
        """The layers that run in float between int8 ones, the costliest first."""
        found = (layer for layer in self.layers if layer.between_int8)
        return tuple(sorted(found, key=cost_of_float, reverse=True))

    @property
    def costliest(self) -> tuple[LayerTime, ...]:
        """All layers, the costliest first."""
        return tuple(sorted(self.layers, key=lambda one: one.share, reverse=True))


def cost_of_float(layer: LayerTime) -> float:
    """Microseconds that a float layer and the conversions around it take."""
    return layer.us + (layer.around_us or 0.0)
