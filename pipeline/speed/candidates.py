"""Where the models of a comparison come from: a workspace, or the zoo by way of the cache."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from ...exporters.zoo import ARCHITECTURES
from ...exporters.zoo.published import PUBLISHED
from ...runners.machine.files import cache_folder
from ..errors import InputError, UsageError
from ..progress import Progress
from ..settings.making import ExportConfig
from ..settings.nearest import nearest
from ..settings.speed import CompareConfig
from ..stages.chain import make
from ..stages.modelspec import settle
from ..storage.workspace import Workspace, models_in
from .turns import Source

COMMAND = "edgepipe compare"
# Of the zoo's models, as they are published.
CLASSES = 1000
# What is compared unless others are asked for.
VARIANTS = ("fp32", "int8")


def open_exported(
    root: Path, names: Sequence[str], stack: ExitStack, progress: Progress
) -> list[Source]:
    """The models of a workspace, locked and verified until the stack is closed.

    Raises ``InputError`` for a folder without any, ``WorkspaceError`` for a name that isn't there.
    """
    found = models_in(root)
    if not names and not found:
        raise InputError(f"{root}: nothing exported yet; run `edgepipe export`")
    sources = []
    for name in names or found:
        place = Workspace(root, name)
        manifest = stack.enter_context(place.exported(COMMAND, progress.say))
        sources.append(Source.of(place, manifest))
    return sources


def open_zoo(
    names: Sequence[str], section: CompareConfig, stack: ExitStack, progress: Progress
) -> list[Source]:
    """Architectures with random weights for 1000 classes, exported into the cache if need be.

    Raises ``UsageError`` for an unknown one.
    """
    for name in names:
        if name not in ARCHITECTURES:
            raise UsageError(f"model: no {name!r}; {nearest(name, ARCHITECTURES)}")
    roots = {}
    for name in names or tuple(ARCHITECTURES):
        size = section.input_size or PUBLISHED[name].input_size
        roots[name] = cache_folder() / "compare" / str(size)
        progress.say(f"{name}: random weights, {size} pixels, in {roots[name] / name}")
        # Not the user's own [export]: what is compared is to be the same everywhere.
        export = ExportConfig(
            weights="random",
            classes=CLASSES,
            input_size=size,
            variants=tuple(dict.fromkeys(("fp32", *(section.variants or VARIANTS)))),
        )
        settled, _ = settle(export, name, named=True)
        make(Workspace(roots[name], name), settled, force=False, progress=progress)
    return [
        source
        for name, root in roots.items()
        for source in open_exported(root, (name,), stack, progress)
    ]
