"""The command that puts models side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..progress import SILENT, Progress

if TYPE_CHECKING:
    from ..speed.compare import CompareResult


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
    shapes. What was measured is left in the workspace's root as ``compare.json``; ``static``
    leaves nothing. ``options`` are the keys of ``[compare]``. Raises what
    ``errors.EXIT_CODES`` lists.
    """
    from contextlib import ExitStack
    from dataclasses import replace

    from ...runners import documents
    from ..settings import load as configuration
    from ..speed import candidates
    from ..speed import compare as comparing
    from ..speed.convolutions import by_arithmetic, by_the_clock
    from ..storage.atomic import writable, write_whole

    config = configuration.load({"workspace": workspace, "compare": options})
    names = tuple(models)
    with ExitStack() as stack:
        found = []
        if workspace is not None:
            found = candidates.open_exported(config.workspace, names, stack, progress)
        if not static:
            writable(config.workspace)  # what follows takes minutes
        if not static and workspace is None:
            found = candidates.open_zoo(names, config.compare, stack, progress)
        if static:
            rows = tuple(map(comparing.exported, found))
            if workspace is None:
                rows = comparing.architectures(names, config.compare)
            result = comparing.CompareResult(rows, (), {}, static=True)
        else:
            result = comparing.compare(found, config, quick, progress)
            if workspace is not None:
                result = replace(result, artifacts=comparing.digests(found))
    if convolutions:
        shapes = by_arithmetic() if static else by_the_clock(config, progress)
        result = replace(result, convolutions=shapes)
    if not static:
        text = documents.text(result.to_json())
        write_whole(config.workspace / comparing.RESULT_FILE, text.encode())
    return result
