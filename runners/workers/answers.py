"""What a worker says: of a runner, of the session that it loaded, of runs; read from its replies.

What reads a reply raises ``KeyError``, ``TypeError``, ``ValueError`` or ``AttributeError`` where it
lacks what the operation answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..base import NodeTime, NodeTimes, Placement, TensorSpec
from ..timing.conditions import Conditions
from ..timing.measure import Measurement

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Description:
    """What a worker said about a runner. ``reason`` is why it can't run there, if it can't.

    ``builds_for`` is that of a ``Builder``, empty of any other.
    """

    formats: tuple[str, ...]
    precisions: tuple[str, ...]
    reason: str | None
    version: str | None
    devices: tuple[str, ...]
    tunables: Mapping[str, tuple[Any, ...]]
    builds_for: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Loaded:
    """What a worker said about the session it loaded. Times are in ms.

    ``from_cache``: the cache that came with the request had what the runner needed. ``build_ms`` is
    what making that took, of a ``Builder``; whoever keeps it knows.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    placement: Placement
    runner_version: str
    load_ms: float
    from_cache: bool
    build_ms: float | None = None


@dataclass(frozen=True)
class Outputs:
    """The outputs of one run, with its time in ms and the worker's peak memory in MiB."""

    arrays: Mapping[str, np.ndarray]
    elapsed_ms: float
    peak_rss_mib: float


def description(reply: Mapping[str, Any]) -> Description:
    """Of "describe"."""
    return Description(
        formats=tuple(reply["formats"]),
        precisions=tuple(reply["precisions"]),
        reason=reply["reason"],
        version=reply["version"],
        devices=tuple(reply["devices"]),
        tunables={name: tuple(values) for name, values in reply["tunables"].items()},
        builds_for=dict(reply["builds_for"]),
    )


def loaded(reply: Mapping[str, Any]) -> Loaded:
    """Of "load"."""
    return Loaded(
        inputs=_specs(reply["inputs"]),
        outputs=_specs(reply["outputs"]),
        placement=Placement(**reply["placement"]),
        runner_version=reply["runner_version"],
        load_ms=reply["load_ms"],
        from_cache=reply["from_cache"],
    )


def measured(
    reply: Mapping[str, Any], arrays: Mapping[str, Any], count: int
) -> tuple[Measurement, float]:
    """Of "finish" and "measure": what so many slices gave, and the peak memory in MiB."""
    fields = dict(reply)
    peak_rss_mib = fields.pop("peak_rss_mib")
    conditions = Conditions(**fields.pop("conditions"))
    slices = tuple(fields.pop("slices"))
    samples = arrays["samples"]
    if len(slices) != count or not all(slices) or sum(slices) != len(samples):
        raise ValueError(f"{len(samples)} samples in {count} slices of {slices}")
    found = Measurement(samples, conditions=conditions, slices=slices, **fields)
    return found, peak_rss_mib


def node_times(reply: Mapping[str, Any]) -> NodeTimes:
    """Of "profile"."""
    nodes = (NodeTime(**{**node, "originals": tuple(node["originals"])}) for node in reply["nodes"])
    return NodeTimes(reply["statistic"], reply["total_us"], tuple(nodes))


def _specs(entries: Sequence[Mapping[str, Any]]) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(entry["name"], entry["dtype"], tuple(entry["shape"])) for entry in entries
    )
