"""Runners: from a model file to its outputs and to timing samples, in a worker process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .bundles.monitoring.heartbeat import Heartbeat
    from .bundles.runtime import LoadedBundle, Prediction, load_bundle

__all__ = ["Heartbeat", "LoadedBundle", "Prediction", "load_bundle"]


def __getattr__(name: str) -> Any:
    """The runtime for applications, imported when asked for: workers do without it."""
    if name in __all__:
        from .bundles import runtime

        return getattr(runtime, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
