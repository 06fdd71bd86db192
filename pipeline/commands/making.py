"""Commands that make models: export and train."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..progress import SILENT, Progress

if TYPE_CHECKING:
    from ..storage.manifest import Manifest
    from ..training.train import TrainResult


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
    from ..settings import load as configuration
    from ..settings.sections import DEFAULT_MODEL
    from ..stages.chain import make
    from ..stages.modelspec import name_of, settle

    export = {"architecture": model, **options}
    flags = {"workspace": workspace, "model": name or (model and name_of(model)), "export": export}
    config = configuration.load(flags)
    unsaid = config.export.architecture is None and config.export.checkpoint is None
    if name and unsaid:  # a name is not what to export
        default = config.export.model_copy(update={"architecture": DEFAULT_MODEL})
        config = config.model_copy(update={"export": default})
    return make(settle(config), force, progress)


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

    from ..report.plots import matrix
    from ..settings import load as configuration
    from ..storage.atomic import write_whole
    from ..training.train import PLOT_SUFFIX
    from ..training.train import train as learn

    config = configuration.load({"model": model, "train": options})
    name = config.train.data.resolve().name if config.train.data else ""
    file = Path(output) if output else Path(f"{config.model}-{name}.safetensors")
    result = learn(config, file, restart, progress)
    try:
        write_whole(file.with_suffix(PLOT_SUFFIX), matrix.svg(result).encode())
    except ImportError as error:
        progress.say(f'warning: no {PLOT_SUFFIX}: {error}; pip install "edgepipe[report]"')
    return result
