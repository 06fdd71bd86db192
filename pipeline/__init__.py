"""edgepipe's pipeline. Everything that the command line does, as functions with the same names.

    from edgepipe.pipeline import bench, export

    exported = export("mobilenet_v2", weights="digits")
    result = bench(runners=("ort-cpu",), threads=1)

Options are those of the command line and of ``edgepipe.toml``, spelled with underscores.
"""

from ..runners.machine.own_process import refuse_telemetry
from .commands.judging import evaluate, parity, predict
from .commands.machine import doctor, runners
from .commands.making import export, train
from .commands.models import compare
from .commands.shipping import deploy, package, verify
from .commands.showing import write_report
from .commands.speed import bench, tune

__all__ = [
    "bench",
    "compare",
    "deploy",
    "doctor",
    "evaluate",
    "export",
    "package",
    "parity",
    "predict",
    "runners",
    "train",
    "tune",
    "verify",
    "write_report",
]

refuse_telemetry()
