"""edgepipe's pipeline. Everything that the command line does, as functions with the same names.

    from edgepipe.pipeline import bench, export

    exported = export("mobilenet_v2", weights="digits")
    result = bench(runners=("ort-cpu",), threads=1)

Options are those of the command line and of ``edgepipe.toml``, spelled with underscores, and
typed. Each function lives in the room that does the work, and is imported when it is asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ..runners.machine.own_process import refuse_telemetry

if TYPE_CHECKING:
    from ..runners.environments import environments as environments
    from .judging.evaluate import evaluate
    from .judging.parity import parity
    from .judging.predict import predict
    from .machine.doctor import doctor
    from .machine.inventory import runners
    from .report.write import write_junit, write_markdown, write_plot, write_report
    from .shipping.deploy import deploy
    from .shipping.package import package
    from .shipping.verify import verify
    from .speed.bench import bench
    from .speed.compare import compare
    from .speed.tune import tune
    from .stages.chain import export
    from .training.train import train

__all__ = [
    "bench",
    "compare",
    "deploy",
    "doctor",
    "environments",
    "evaluate",
    "export",
    "package",
    "parity",
    "predict",
    "runners",
    "train",
    "tune",
    "verify",
    "write_junit",
    "write_markdown",
    "write_plot",
    "write_report",
]
# Where each is, from the top of the house.
ROOMS = {
    "bench": "speed.bench",
    "compare": "speed.compare",
    "deploy": "shipping.deploy",
    "doctor": "machine.doctor",
    "evaluate": "judging.evaluate",
    "export": "stages.chain",
    "package": "shipping.package",
    "parity": "judging.parity",
    "predict": "judging.predict",
    "runners": "machine.inventory",
    "train": "training.train",
    "tune": "speed.tune",
    "verify": "shipping.verify",
    **dict.fromkeys(
        ("write_junit", "write_markdown", "write_plot", "write_report"), "report.write"
    ),
}


def __getattr__(name: str) -> Any:
    """A command's function, from its room."""
    if name == "environments":
        return import_module("..runners.environments.environments", __name__)
    if name in ROOMS:
        return getattr(import_module(f".{ROOMS[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


refuse_telemetry()
