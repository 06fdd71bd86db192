"""edgepipe's pipeline. Everything that the command line does, as functions with the same names.

    from edgepipe.pipeline import bench, export

    exported = export("mobilenet_v2", weights="digits")
    result = bench(runners=("ort-cpu",), threads=1)

Options are those of the command line and of ``edgepipe.toml``, spelled with underscores.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .progress import Progress, Silent

if TYPE_CHECKING:
    from .stages.bench import BenchResult
    from .workspace import Manifest

__all__ = ["bench", "export"]

SILENT = Silent()


def export(
    model: str | None = None,
    *,
    workspace: Any = None,
    force: bool = False,
    progress: Progress = SILENT,
    **options: Any,
) -> Manifest:
    """Export, simplify and quantize a model; returns the workspace's manifest.

    ``options`` are the keys of ``[export]``. ``force`` makes everything again, whatever is in
    the workspace. Raises what ``errors.EXIT_CODES`` lists.
    """
    from pathlib import Path

    from . import config as configuration
    from .stages import run_stages
    from .stages.chain import sections, stages_for
    from .workspace import Manifest, Transaction, Workspace

    flags = {"workspace": workspace, "model": model, "export": options}
    config = configuration.load(flags)
    place = Workspace(Path(config.workspace), config.model)
    with place.locked("edgepipe export", progress.say):
        before = Manifest() if force else place.manifest() or Manifest()
        if not force:
            place.check_unaltered(before)
        with Transaction(place, before) as transaction:
            stages = stages_for(config)
            run_stages(stages, place, before, transaction, progress)
            return transaction.commit(**sections(transaction, config))


def bench(
    *,
    workspace: Any = None,
    model: str | None = None,
    quick: bool = False,
    progress: Progress = SILENT,
    **options: Any,
) -> BenchResult:
    """Measure the latency of every cell and write ``bench.json`` into the workspace.

    ``options`` are the keys of ``[bench]``. Raises what ``errors.EXIT_CODES`` lists; a cell
    that fails is part of the result, whose ``exit_code`` says so.
    """
    import json
    from pathlib import Path

    from . import config as configuration
    from .stages.bench import bench as measure
    from .workspace import Workspace

    flags = {"workspace": workspace, "model": model, "bench": options}
    config = configuration.load(flags)
    place = Workspace(Path(config.workspace), config.model)
    if not place.folder.is_dir():
        from .errors import WorkspaceError

        raise WorkspaceError(f"{place.folder}: nothing exported yet; run `edgepipe export`")
    with place.locked("edgepipe bench", progress.say):
        result = measure(place, place.verified(), config, quick, progress)
        place.write_result("bench.json", (json.dumps(result.to_json(), indent=2) + "\n").encode())
    return result
