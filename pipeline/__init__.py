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
    from ..runners.environments import environments
    from .intake.import_model import import_model
    from .intake.inspection import Inspection, inspect
    from .judging.evaluate import evaluate
    from .judging.evaluate_result import EvaluationResult
    from .judging.parity import parity
    from .judging.parity_result import ParityResult
    from .judging.predict import PredictResult, predict
    from .machine.doctor import Diagnosis, doctor
    from .machine.inventory import Inventory, runners
    from .profiling.profile import profile
    from .profiling.profile_result import ProfileResult
    from .quantization.search.quantize import quantize
    from .quantization.search.search_result import SearchResult
    from .report.write import (
        check_picture,
        write_junit,
        write_markdown,
        write_picture,
        write_plot,
        write_report,
        write_rollout,
    )
    from .shipping.deploy import deploy
    from .shipping.deploy_result import Deployment
    from .shipping.fleet.rollout import rollout
    from .shipping.fleet.rollout_result import Rollout
    from .shipping.fleet.status import status
    from .shipping.packing.package import Packaged, package
    from .shipping.registry.pull import Pulled, pull
    from .shipping.registry.push import Pushed, push
    from .shipping.registry.releases.release import Released, release
    from .shipping.verify import verify
    from .shipping.verify_result import Verification
    from .shipping.watching.heartbeat import heartbeat
    from .shipping.watching.heartbeat_result import HeartbeatResult
    from .speed.bench import bench
    from .speed.bench_result import BenchResult
    from .speed.comparison.compare import CompareResult, compare
    from .speed.soak.soak import soak
    from .speed.soak.soak_result import SoakResult
    from .speed.tune import TuneResult, tune
    from .stages.chain import export
    from .storage.manifest import Manifest
    from .training.train import TrainResult, train

# Where each is. What is imported is what a call needs.
ROOMS = {
    "environments": "..runners.environments",
    "export": ".stages.chain",
    "import_model": ".intake.import_model",
    "inspect": ".intake.inspection",
    "Inspection": ".intake.inspection",
    "Manifest": ".storage.manifest",
    "quantize": ".quantization.search.quantize",
    "SearchResult": ".quantization.search.search_result",
    "train": ".training.train",
    "TrainResult": ".training.train",
    "bench": ".speed.bench",
    "BenchResult": ".speed.bench_result",
    "profile": ".profiling.profile",
    "ProfileResult": ".profiling.profile_result",
    "soak": ".speed.soak.soak",
    "SoakResult": ".speed.soak.soak_result",
    "tune": ".speed.tune",
    "TuneResult": ".speed.tune",
    "compare": ".speed.comparison.compare",
    "CompareResult": ".speed.comparison.compare",
    "parity": ".judging.parity",
    "ParityResult": ".judging.parity_result",
    "evaluate": ".judging.evaluate",
    "EvaluationResult": ".judging.evaluate_result",
    "predict": ".judging.predict",
    "PredictResult": ".judging.predict",
    "package": ".shipping.packing.package",
    "Packaged": ".shipping.packing.package",
    "verify": ".shipping.verify",
    "Verification": ".shipping.verify_result",
    "deploy": ".shipping.deploy",
    "push": ".shipping.registry.push",
    "Pushed": ".shipping.registry.push",
    "pull": ".shipping.registry.pull",
    "Pulled": ".shipping.registry.pull",
    "release": ".shipping.registry.releases.release",
    "Released": ".shipping.registry.releases.release",
    "Deployment": ".shipping.deploy_result",
    "rollout": ".shipping.fleet.rollout",
    "Rollout": ".shipping.fleet.rollout_result",
    "status": ".shipping.fleet.status",
    "heartbeat": ".shipping.watching.heartbeat",
    "HeartbeatResult": ".shipping.watching.heartbeat_result",
    "runners": ".machine.inventory",
    "Inventory": ".machine.inventory",
    "doctor": ".machine.doctor",
    "Diagnosis": ".machine.doctor",
    "write_report": ".report.write",
    "write_rollout": ".report.write",
    "write_junit": ".report.write",
    "write_markdown": ".report.write",
    "write_picture": ".report.write",
    "write_plot": ".report.write",
    "check_picture": ".report.write",
}
__all__ = [
    "BenchResult",
    "CompareResult",
    "Deployment",
    "Diagnosis",
    "EvaluationResult",
    "HeartbeatResult",
    "Inspection",
    "Inventory",
    "Manifest",
    "Packaged",
    "ParityResult",
    "PredictResult",
    "ProfileResult",
    "Pulled",
    "Pushed",
    "Released",
    "Rollout",
    "SearchResult",
    "SoakResult",
    "TrainResult",
    "TuneResult",
    "Verification",
    "bench",
    "check_picture",
    "compare",
    "deploy",
    "doctor",
    "environments",
    "evaluate",
    "export",
    "heartbeat",
    "import_model",
    "inspect",
    "package",
    "parity",
    "predict",
    "profile",
    "pull",
    "push",
    "quantize",
    "release",
    "rollout",
    "runners",
    "soak",
    "status",
    "train",
    "tune",
    "verify",
    "write_junit",
    "write_markdown",
    "write_picture",
    "write_plot",
    "write_report",
    "write_rollout",
]


def __getattr__(name: str) -> Any:
    """A function or the class of its result, from its room."""
    if name not in ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "environments":
        return import_module(f"{ROOMS[name]}.{name}", __name__)
    return getattr(import_module(ROOMS[name], __name__), name)


refuse_telemetry()
