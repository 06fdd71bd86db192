"""Commands about speed: bench and tune."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..progress import SILENT, Progress

if TYPE_CHECKING:
    from pathlib import Path

    from ..speed.rows import BenchResult
    from ..speed.tune import TuneResult


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

    from ..errors import UsageError
    from ..settings import load as configuration
    from ..speed.bench import RESULT_FILE, SAMPLES_FILE
    from ..speed.bench import bench as measure
    from ..speed.regression import Baseline
    from ..speed.rounds import Source
    from ..storage.workspace import Workspace

    config = configuration.load_exported({"workspace": workspace, "model": model, "bench": options})
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
    from ..settings import load as configuration
    from ..speed.rounds import Source
    from ..speed.tune import RESULT_FILE
    from ..speed.tune import tune as search
    from ..storage.workspace import Transaction, Workspace

    config = configuration.load_exported({"workspace": workspace, "model": model, "tune": options})
    place = Workspace(config.workspace, config.model)
    with place.exported("edgepipe tune", progress.say) as manifest:
        result = search(Source.of(place, manifest), config, progress)
        with Transaction(place, manifest) as transaction:
            transaction.recommend(result.recommended)
        place.write_json(RESULT_FILE, result.to_json())
    return result
