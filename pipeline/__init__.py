"""edgepipe's pipeline. Everything that the command line does, as functions with the same names.

    from edgepipe.pipeline import bench, export

    exported = export("mobilenet_v2", weights="digits")
    result = bench(runners=("ort-cpu",), threads=1)

Options are those of the command line and of ``edgepipe.toml``, spelled with underscores.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .progress import Progress, Silent

if TYPE_CHECKING:
    from pathlib import Path

    from .deployment import Deployment
    from .diagnosis import Diagnosis
    from .inventory import Inventory
    from .measured import BenchResult
    from .reporting import Report
    from .stages.compare import CompareResult
    from .stages.evaluate import EvaluationResult
    from .stages.explain import Explanation
    from .stages.package import Packaged
    from .stages.parity import ParityResult
    from .stages.predict import PredictResult
    from .stages.train import TrainResult
    from .stages.tune import TuneResult
    from .stages.verify import Verification
    from .workspace import Manifest, Workspace

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

SILENT = Silent()


def export(
    model: str | None = None,
    *,
    name: str | None = None,
    workspace: Any = None,
    force: bool = False,
    progress: Progress = SILENT,
    **options: Any,
) -> Manifest:
    """Export, simplify and quantize a model; returns the workspace's manifest.

    ``model`` is an architecture or "package.module:attribute", code of your own that is imported
    from the current folder. ``name`` is what it is called in the workspace: the same, or the
    attribute. ``options`` are the keys of ``[export]``. ``force`` makes everything again, whatever
    is in the workspace. Raises what ``errors.EXIT_CODES`` lists.
    """
    from . import config as configuration
    from .modelspec import name_of, settle
    from .stages import run_stages
    from .stages.chain import sections, stages_for
    from .workspace import Manifest, Transaction, Workspace

    export = {"architecture": model, **options}
    flags = {"workspace": workspace, "model": name or (model and name_of(model)), "export": export}
    config = settle(configuration.load(flags))
    place = Workspace(config.workspace, config.model)
    with place.locked("edgepipe export", progress.say):
        before = Manifest() if force else place.manifest() or Manifest()
        if not force:
            place.check_unaltered(before)
        with Transaction(place, before) as transaction:
            stages = stages_for(config, progress)
            run_stages(stages, place, before, transaction, progress)
            return transaction.commit(**sections(transaction, config))


def bench(
    *,
    workspace: Any = None,
    model: str | None = None,
    quick: bool = False,
    baseline: Any = None,
    rerun_baseline: Any = None,
    progress: Progress = SILENT,
    **options: Any,
) -> BenchResult:
    """Measure every cell and write ``bench.json`` and ``bench.npz`` into the workspace.

    Cells are compared with those of the file ``baseline``, an earlier ``bench.json``, or of
    another workspace, ``rerun_baseline``, which is measured in the same rounds. ``options`` are
    the keys of ``[bench]``. Raises what ``errors.EXIT_CODES`` lists; a cell that fails is part
    of the result, whose ``exit_code`` says so.
    """
    from contextlib import ExitStack
    from pathlib import Path

    from . import config as configuration
    from .errors import UsageError
    from .regression import Baseline
    from .rounds import Source
    from .stages.bench import RESULT_FILE, SAMPLES_FILE
    from .stages.bench import bench as measure
    from .workspace import Workspace

    config = configuration.load({"workspace": workspace, "model": model, "bench": options})
    if baseline is not None and rerun_baseline is not None:
        raise UsageError("--baseline compares with a file, --rerun-baseline measures: choose one")
    earlier = None if baseline is None else Baseline.load(Path(baseline))
    with ExitStack() as stack:

        def source(root: Path) -> Source:
            place = Workspace(root, config.model)
            return Source.of(place, stack.enter_context(place.exported(command, progress.say)))

        command, old = "edgepipe bench", None
        new = source(config.workspace)
        if rerun_baseline is not None:
            if Path(rerun_baseline).resolve() == config.workspace.resolve():
                raise UsageError("--rerun-baseline: that is the workspace itself")
            old = source(Path(rerun_baseline))
        result = measure(new, config, quick, progress, earlier, old)
        new.workspace.write_result(SAMPLES_FILE, result.samples_file())
        new.workspace.write_json(RESULT_FILE, result.to_json())
    return result


def tune(
    *,
    workspace: Any = None,
    model: str | None = None,
    progress: Progress = SILENT,
    **options: Any,
) -> TuneResult:
    """Search for the fastest settings of every cell; what wins becomes the recommended setting.

    Writes ``tune.json`` and the manifest's recommendations. ``options`` are the keys of
    ``[tune]``. Raises what ``errors.EXIT_CODES`` lists; a cell that fails is part of the result.
    """
    from . import config as configuration
    from .rounds import Source
    from .stages.tune import RESULT_FILE
    from .stages.tune import tune as search
    from .workspace import Transaction, Workspace

    config = configuration.load({"workspace": workspace, "model": model, "tune": options})
    place = Workspace(config.workspace, config.model)
    with place.exported("edgepipe tune", progress.say) as manifest:
        result = search(Source.of(place, manifest), config, progress)
        with Transaction(place, manifest) as transaction:
            transaction.recommend(result.recommended)
        place.write_json(RESULT_FILE, result.to_json())
    return result


def parity(
    *,
    workspace: Any = None,
    model: str | None = None,
    recording: Any = None,
    explain: bool = False,
    progress: Progress = SILENT,
    **options: Any,
) -> ParityResult:
    """Judge the outputs of every cell on the goldens against torch's.

    Writes ``parity.npz`` (the outputs) and ``parity.json`` (the verdicts) into the workspace.
    With ``recording``, the path of such a ``parity.npz``, nothing is run or written: its
    outputs are judged under the gates of the configuration. With ``explain`` the result also
    says which step and layer adds the error, and ``explain.json`` holds that. ``options`` are
    the keys of ``[parity]``. Raises what ``errors.EXIT_CODES`` lists; verdicts are in the result.
    """
    from dataclasses import replace
    from pathlib import Path

    from . import config as configuration
    from .errors import UsageError
    from .stages import explain as explaining
    from .stages.parity import OUTPUTS_FILE, RESULT_FILE, Recording, judge_all, record
    from .workspace import Workspace

    config = configuration.load({"workspace": workspace, "model": model, "parity": options})
    if recording is not None:
        if explain:
            raise UsageError("--explain runs the model again, --from runs nothing: choose one")
        return judge_all(Recording.load(Path(recording)), config)
    place = Workspace(config.workspace, config.model)
    with place.exported("edgepipe parity", progress.say) as manifest:
        recorded = record(place, manifest, config, progress)
        result = judge_all(recorded, config)
        place.write_result(OUTPUTS_FILE, recorded.to_bytes())
        place.write_json(RESULT_FILE, result.to_json())
        if explain:
            found = explaining.explain(place, manifest, config, recorded, result, progress)
            place.write_json(explaining.RESULT_FILE, explaining.document(found, recorded))
            _plot(place, found, progress)
            result = replace(result, explanations=found)
    return result


def evaluate(
    *,
    workspace: Any = None,
    model: str | None = None,
    progress: Progress = SILENT,
    **options: Any,
) -> EvaluationResult:
    """Judge the accuracy of every cell on labelled images against fp32's on the same ones.

    Writes ``evaluation.json`` into the workspace. ``options`` are the keys of ``[evaluate]``.
    Raises what ``errors.EXIT_CODES`` lists; verdicts are in the result.
    """
    from . import config as configuration
    from .stages.evaluate import RESULT_FILE
    from .stages.evaluate import evaluate as judge
    from .workspace import Workspace

    config = configuration.load({"workspace": workspace, "model": model, "evaluate": options})
    place = Workspace(config.workspace, config.model)
    with place.exported("edgepipe evaluate", progress.say) as manifest:
        result = judge(place, manifest, config, progress)
        place.write_json(RESULT_FILE, result.to_json())
    return result


def predict(
    images: Sequence[str],
    *,
    workspace: Any = None,
    model: str | None = None,
    progress: Progress = SILENT,
    **options: Any,
) -> PredictResult:
    """Classify images: files, folders, patterns, or "-" for a list of files on stdin.

    ``options`` are the keys of ``[predict]``. Raises what ``errors.EXIT_CODES`` lists; an image
    that can't be read is part of the result, whose ``exit_code`` says so.
    """
    import sys

    from . import config as configuration
    from .stages.predict import expand
    from .stages.predict import predict as classify
    from .workspace import Workspace

    config = configuration.load({"workspace": workspace, "model": model, "predict": options})
    place = Workspace(config.workspace, config.model)
    names = expand([str(name) for name in images], sys.stdin)
    with place.exported("edgepipe predict", progress.say) as manifest:
        return classify(place, manifest, config, names, progress)


def package(
    *,
    workspace: Any = None,
    model: str | None = None,
    progress: Progress = SILENT,
    **options: Any,
) -> Packaged:
    """Write the bundle of a workspace: variants, proof and settings in one archive.

    ``options`` are the keys of ``[package]``. Raises what ``errors.EXIT_CODES`` lists.
    """
    from . import config as configuration
    from .stages.package import package as write
    from .workspace import Workspace

    config = configuration.load({"workspace": workspace, "model": model, "package": options})
    place = Workspace(config.workspace, config.model)
    with place.exported("edgepipe package", progress.say) as manifest:
        return write(place, manifest, config, progress)


def verify(
    bundle: Any, *, target: str = "local", progress: Progress = SILENT, **options: Any
) -> Verification:
    """Check a bundle and run its goldens on a target.

    ``options`` are the keys of ``[verify]``. Raises what ``errors.EXIT_CODES`` lists; the verdict
    is in the result.
    """
    from pathlib import Path

    from . import config as configuration
    from .stages.verify import verify as check

    config = configuration.load({"verify": options})
    return check(Path(bundle), config, config.target(target), progress)


def deploy(
    bundle: Any,
    *,
    target: str,
    dry_run: bool = False,
    runner: str | None = None,
    variant: str | None = None,
    samples: int | None = None,
    progress: Progress = SILENT,
    **options: Any,
) -> Deployment:
    """Bring a bundle onto a target, verify it there, and let it be served there.

    ``runner``, ``variant`` and ``samples`` are those of ``[verify]``, ``options`` are the keys of
    ``[deploy]``. Raises what ``errors.EXIT_CODES`` lists; what became of it is in the result.
    """
    from pathlib import Path

    from . import config as configuration
    from .deployment import deploy as bring

    checks = {"runner": runner, "variant": variant, "samples": samples}
    config = configuration.load({"deploy": options, "verify": checks})
    return bring(Path(bundle), config, config.target(target), dry_run, progress)


def write_report(
    *,
    workspace: Any = None,
    model: str | None = None,
    format: str = "html",  # noqa: A002 - the option's name
    output: Any = None,
    progress: Progress = SILENT,
) -> tuple[Report, Path]:
    """Put what the workspace's results say on one page; runs and measures nothing.

    ``format`` is "html" or "markdown". Without ``output`` the page is ``report.html`` or
    ``report.md`` in the workspace. Returns what is on the page, and its path. Not called
    ``report``: that is the package of the renderers. Raises what ``errors.EXIT_CODES`` lists.
    """
    from pathlib import Path

    from . import config as configuration
    from .errors import UsageError
    from .report import page
    from .reporting import gather
    from .workspace import Workspace, writing

    renderers = {"html": (page.html, "report.html"), "markdown": (page.markdown, "report.md")}
    if format not in renderers:
        raise UsageError(f"format: no {format!r}; {configuration.nearest(format, renderers)}")
    render, name = renderers[format]
    config = configuration.load({"workspace": workspace, "model": model})
    place = Workspace(config.workspace, config.model)
    with place.exported("edgepipe report", progress.say) as manifest:
        found = gather(place.folder, manifest)
        data = render(found).encode()
        if output is None:
            return found, place.write_result(name, data)
    path = Path(output)
    with writing(path):
        path.write_bytes(data)
    return found, path


def compare(
    models: Sequence[str] = (),
    *,
    workspace: Any = None,
    static: bool = False,
    convolutions: bool = False,
    quick: bool = False,
    progress: Progress = SILENT,
    **options: Any,
) -> CompareResult:
    """Put models side by side: what they cost by arithmetic and, unless ``static``, measured.

    With ``workspace`` those exported there, all of them if none is named. Without one the
    architectures of the zoo, which are exported with random weights into the user's cache the
    first time. ``convolutions`` compares standard with separable ones, too, at MobileNetV2's
    shapes. ``options`` are the keys of ``[compare]``. Raises what ``errors.EXIT_CODES`` lists.
    """
    from contextlib import ExitStack
    from dataclasses import replace

    from . import candidates
    from . import config as configuration
    from .stages import compare as comparing
    from .stages.convolutions import by_arithmetic, by_the_clock

    config = configuration.load({"workspace": workspace, "compare": options})
    names = tuple(models)
    with ExitStack() as stack:
        if workspace is not None:
            found = candidates.open_exported(config.workspace, names, stack, progress)
        elif static:
            found = []
        else:
            found = candidates.open_zoo(names, config.compare, stack, progress)
        if static:
            rows = tuple(map(comparing.exported, found))
            if workspace is None:
                rows = comparing.architectures(names, config.compare)
            result = comparing.CompareResult(rows, (), {}, static=True)
        else:
            result = comparing.compare(found, config, quick, progress)
    if convolutions:
        shapes = by_arithmetic() if static else by_the_clock(config, progress)
        result = replace(result, convolutions=shapes)
    return result


def train(
    model: str | None = None,
    *,
    output: Any = None,
    restart: bool = False,
    progress: Progress = SILENT,
    **options: Any,
) -> TrainResult:
    """Fine-tune a model of the zoo on a folder of images; writes a checkpoint for ``export``.

    ``output`` is the file of weights, ``MODEL-DATA.safetensors`` by default. A run that was
    killed goes on after its last epoch, unless ``restart``. ``options`` are the keys of
    ``[train]``. Raises what ``errors.EXIT_CODES`` lists.
    """
    from pathlib import Path

    from . import config as configuration
    from .report import confusion
    from .stages.train import PLOT_SUFFIX
    from .stages.train import train as learn
    from .workspace import write_whole

    config = configuration.load({"model": model, "train": options})
    name = config.train.data.resolve().name if config.train.data else ""
    file = Path(output) if output else Path(f"{config.model}-{name}.safetensors")
    result = learn(config, file, restart, progress)
    try:
        write_whole(file.with_suffix(PLOT_SUFFIX), confusion.svg(result).encode())
    except ImportError as error:
        progress.say(f'warning: no {PLOT_SUFFIX}: {error}; pip install "edgepipe[report]"')
    return result


def runners(*, targets: Sequence[str] = ("local",), progress: Progress = SILENT) -> Inventory:
    """Ask every runner on every target what it is and has, and why it can't run if it can't.

    Raises ``UsageError`` for an unknown target; a runner that fails is part of the result.
    """
    from . import config as configuration
    from .inventory import inventory

    return inventory(configuration.load(), targets, progress)


def doctor(*, targets: Sequence[str] = ("local",)) -> Diagnosis:
    """Look for what would make numbers or installs wrong: the machine and its packages.

    Raises ``UsageError`` for an unknown or emulated target; everything else is a finding.
    """
    from . import config as configuration
    from .diagnosis import diagnose

    return diagnose(configuration.load(), targets)


def _plot(place: Workspace, found: tuple[Explanation, ...], progress: Progress) -> None:
    """Write the plot of an explanation, or say what it lacks."""
    from .report import explanation as report
    from .stages.explain import PLOT_FILE

    try:
        place.write_result(PLOT_FILE, report.svg(found).encode())
    except ImportError as error:
        progress.say(f'warning: no {PLOT_FILE}: {error}; pip install "edgepipe[report]"')
