"""Commands that bring what was proven onto a box."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..progress import SILENT, Progress

if TYPE_CHECKING:
    from ..shipping.deploy import Deployment
    from ..shipping.package import Packaged
    from ..shipping.verification import Verification


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
    from ..settings import load as configuration
    from ..shipping.package import package as write
    from ..storage.workspace import Workspace

    config = configuration.load_exported(
        {"workspace": workspace, "model": model, "package": options}
    )
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

    from ..settings import load as configuration
    from ..shipping.verify import verify as check

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

    from ..settings import load as configuration
    from ..shipping.deploy import deploy as bring

    checks = {"runner": runner, "variant": variant, "samples": samples}
    config = configuration.load({"deploy": options, "verify": checks})
    return bring(Path(bundle), config, config.target(target), dry_run, progress)
