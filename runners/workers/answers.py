"""What a worker says: of a runner, of the session that it loaded, of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..base import Placement, TensorSpec

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Description:
    """What a worker said about a runner. ``reason`` is why it can't run there, if it can't."""

    formats: tuple[str, ...]
    precisions: tuple[str, ...]
    reason: str | None
    version: str | None
    devices: tuple[str, ...]
    tunables: Mapping[str, tuple[Any, ...]]


@dataclass(frozen=True)
class Loaded:
    """What a worker said about the session it loaded. Times are in ms.

    ``from_cache``: the cache that came with the request had what the runner needed.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    placement: Placement
    runner_version: str
    load_ms: float
    from_cache: bool


@dataclass(frozen=True)
class Outputs:
    """The outputs of one run, with its time in ms and the worker's peak memory in MiB."""

    arrays: Mapping[str, np.ndarray]
    elapsed_ms: float
    peak_rss_mib: float
