"""What is there: a bundle's variants, a target's CPU and the runners that work on it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...runners.base import RunnerUnavailable
from ...runners.bundles.bundle import Bundle
from ...runners.bundles.index import Index
from ...runners.bundles.selection import available
from ...runners.targets import Target
from ...runners.workers.launch import Worker
from ..cells.plan import abilities_of, python_of
from ..cells.session import interpreter, timeouts_of
from ..errors import UsageError
from ..progress import Progress
from ..settings.machine import Places
from ..settings.nearest import nearest


def check_variant(bundle: Bundle, variant: str | None) -> None:
    """Raise ``UsageError`` for a variant that was asked for and isn't in a bundle."""
    if variant and variant not in bundle.index.variants:
        there = nearest(variant, bundle.index.variants)
        why = ", which is a part of its bundle" if bundle.left_out else ""
        raise UsageError(f"no variant {variant} in {bundle.path}{why}; {there}")


def runners_of(
    index: Index, wanted: str | None, places: Places, target: Target, progress: Progress
) -> tuple[Mapping[str, Any], dict[str, tuple[str, ...]]]:
    """Facts about the machine, and the formats of each runner that works there.

    Of the runner that is ``wanted``, or of all. Raises ``RunnerUnavailable`` if there is none.
    """
    kinds = {kind for variant in index.variants.values() for kind in variant.files}
    host: Mapping[str, Any] = {}

    def formats_of(runner: str) -> tuple[str, ...]:
        nonlocal host
        taken = abilities_of(runner, places).formats
        if not kinds & set(taken):
            text = f"takes {', '.join(taken)}, the bundle has {', '.join(kinds)}"
            raise RunnerUnavailable(text)
        progress.say(f"looking for {runner}")
        argv = target.argv(interpreter(target, python_of(runner, places)))
        with Worker(argv, timeouts_of(target)) as worker:
            described, host = worker.describe(runner), worker.hello["host"]
        if described.reason:
            raise RunnerUnavailable(described.reason)
        return taken

    formats = available(index, wanted, formats_of, f"on {target.name}")
    return host, formats
