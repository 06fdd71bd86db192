"""Commands that judge cells by their answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..progress import SILENT, Progress

if TYPE_CHECKING:
    from ..judging.accuracies import EvaluationResult
    from ..judging.explanation import Explanation
    from ..judging.parity import ParityResult
    from ..judging.predict import PredictResult
    from ..storage.workspace import Workspace


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

    from ..errors import UsageError
    from ..judging import explain as explaining
    from ..judging.parity import OUTPUTS_FILE, RESULT_FILE, Recording, judge_all, record
    from ..settings import load as configuration
    from ..storage.workspace import Workspace

    config = configuration.load_exported(
        {"workspace": workspace, "model": model, "parity": options}
    )
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
    from ..judging.evaluate import RESULT_FILE
    from ..judging.evaluate import evaluate as judge
    from ..settings import load as configuration
    from ..storage.workspace import Workspace

    config = configuration.load_exported(
        {"workspace": workspace, "model": model, "evaluate": options}
    )
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

    from ..judging.predict import expand
    from ..judging.predict import predict as classify
    from ..settings import load as configuration
    from ..storage.workspace import Workspace

    config = configuration.load_exported(
        {"workspace": workspace, "model": model, "predict": options}
    )
    place = Workspace(config.workspace, config.model)
    names = expand([str(name) for name in images], sys.stdin)
    with place.exported("edgepipe predict", progress.say) as manifest:
        return classify(place, manifest, config, names, progress)


def _plot(place: Workspace, found: tuple[Explanation, ...], progress: Progress) -> None:
    """Write the plot of an explanation, or say what it lacks."""
    from ..judging.explain import PLOT_FILE
    from ..report.plots import layers as report

    try:
        place.write_result(PLOT_FILE, report.svg(found).encode())
    except ImportError as error:
        progress.say(f'warning: no {PLOT_FILE}: {error}; pip install "edgepipe[report]"')
