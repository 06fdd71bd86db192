"""What every command's row says of a cell: which it is, how it went, where and how it ran."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Self

from ...runners.base import RunnerError
from ...runners.workers.answers import Loaded
from .plan import Refused
from .session import Cell, status_of


@dataclass(frozen=True, kw_only=True)
class Placed:
    """Where and how a cell ran, as read back from its session: see ``runners.base.Placement``.

    Of one that did not run ``precision`` and ``device`` are those asked for, the rest is empty.
    ``nodes`` counts graph nodes by provider, ``placement`` is the per cent of them on each, and
    ``provider`` the one asked for. ``precision_from`` is how the precision is known,
    ``convolutions`` counts them by the precision of their kernels. ``file`` is what was run.
    ``isa`` is the instruction set in oneDNN's own words, on a target that computes as an older CPU.
    """

    file: str | None = None
    runner_version: str | None = None
    threads: int | None = None
    precision: str | None = None
    precision_from: str | None = None
    device: str | None = None
    device_name: str | None = None
    provider: str | None = None
    nodes: Mapping[str, int] = field(default_factory=dict)
    placement: Mapping[str, float] = field(default_factory=dict)
    convolutions: Mapping[str, int] = field(default_factory=dict)
    isa: str | None = None


def read_back(file: str, loaded: Loaded) -> dict[str, Any]:
    """The fields of ``Placed``, of a session that was loaded."""
    placed = loaded.placement
    return {
        "file": file,
        "runner_version": loaded.runner_version,
        "threads": placed.threads,
        "precision": placed.precision,
        "precision_from": placed.precision_from,
        "device": placed.device,
        "device_name": placed.device_name,
        "provider": placed.provider,
        "nodes": placed.nodes,
        "placement": placed.shares(),
        "convolutions": placed.convolutions,
        "isa": placed.isa,
    }


@dataclass(frozen=True)
class _Cell:
    """Which cell it is. ``status`` is "ok", "unavailable" or "failed", these with a ``reason``."""

    variant: str
    runner: str
    target: str
    status: str
    reason: str | None = None


@dataclass(frozen=True)
class CellRow(Placed, _Cell):
    """A cell's row in any result."""

    @classmethod
    def ran(cls, cell: Cell, loaded: Loaded, /, **more: Any) -> Self:
        """Of a cell whose session was loaded, with what a command has to say besides."""
        name = (cell.variant, cell.runner, cell.target.name)
        return cls(*name, "ok", **read_back(cell.file, loaded), **more)

    @classmethod
    def failed(cls, cell: Cell, error: RunnerError, /, **more: Any) -> Self:
        """Of a cell that gave nothing."""
        name = (cell.variant, cell.runner, cell.target.name)
        asked = {"precision": cell.precision, "device": cell.device}
        return cls(*name, status_of(error), str(error), **asked, **more)

    @classmethod
    def refused(cls, one: Refused, /, **more: Any) -> Self:
        """Of a cell that was asked for and can't be."""
        name = (one.variant, one.runner, one.target)
        return cls(*name, one.status, one.reason, precision=one.precision, **more)

    def shared(self) -> dict[str, Any]:
        """What all rows have, for another command's row of the same cell."""
        return {one.name: getattr(self, one.name) for one in fields(CellRow)}
