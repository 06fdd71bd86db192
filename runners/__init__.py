"""Runners: from a model file to its outputs and to timing samples, in a worker process."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

# onnxruntime's Linux wheels collect telemetry unless told not to before anything imports them,
# and onnxsim imports them, too. Every entrance to edgepipe leads through this package.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
# openvino reports each import through this package if it finds it, and does without if not.
sys.modules.setdefault("openvino_telemetry", None)  # pyright: ignore[reportArgumentType]

if TYPE_CHECKING:
    from .runtime import LoadedBundle, Prediction, load_bundle

__all__ = ["LoadedBundle", "Prediction", "load_bundle"]


def __getattr__(name: str) -> Any:
    """The runtime for applications, imported when asked for: workers do without it."""
    if name in __all__:
        from . import runtime

        return getattr(runtime, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
