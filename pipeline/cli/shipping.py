"""Commands that ship: a bundle, its proof on the box, the way there, and many boxes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from . import options
from .declared import declared

Page = Annotated[
    Path | None, typer.Option("--page", metavar="FILE.html", help="Also write a page about it.")
]


@declared("shipping:PackageRequest")
def package(
    said: Mapping[str, Any], as_json: options.Json = False, quiet: options.Quiet = False
) -> None:
    """Put variants, their proof and settings into one file for the box."""
    from .. import package as run
    from ..report.text import shipping

    result = run(**said, progress=options.progress(quiet))
    options.show(result, as_json, shipping.packaged)


@declared("shipping:VerifyRequest")
def verify(
    said: Mapping[str, Any], as_json: options.Json = False, quiet: options.Quiet = False
) -> None:
    """Judge BUNDLE here: integrity, signature, CPU, answers."""
    from .. import verify as run
    from ..report.text import shipping

    result = run(**said, progress=options.progress(quiet))
    options.show(result, as_json, shipping.verification)


@declared("shipping:DeployRequest")
def deploy(
    said: Mapping[str, Any], as_json: options.Json = False, quiet: options.Quiet = False
) -> None:
    """Bring BUNDLE onto a box: verified there, served, with a way back."""
    from .. import deploy as run
    from ..report.text import shipping

    result = run(**said, progress=options.progress(quiet))
    options.show(result, as_json, shipping.deployment)


@declared("shipping:PushRequest")
def push(
    said: Mapping[str, Any], as_json: options.Json = False, quiet: options.Quiet = False
) -> None:
    """Bring BUNDLE to a registry or a folder, a layer for each file."""
    from .. import push as run
    from ..report.text import shipping

    result = run(**said, progress=options.progress(quiet))
    options.show(result, as_json, shipping.pushed)


@declared("shipping:PullRequest")
def pull(
    said: Mapping[str, Any], as_json: options.Json = False, quiet: options.Quiet = False
) -> None:
    """Fetch of a bundle what fits this machine, held to its digests."""
    from .. import pull as run
    from ..report.text import shipping

    result = run(**said, progress=options.progress(quiet))
    options.show(result, as_json, shipping.pulled)


@declared("shipping:ReleaseRequest")
def release(
    said: Mapping[str, Any], as_json: options.Json = False, quiet: options.Quiet = False
) -> None:
    """Sign that BUNDLE is the newest; without one: nothing is newer."""
    from .. import release as run
    from ..report.text import shipping

    result = run(**said, progress=options.progress(quiet))
    options.show(result, as_json, shipping.released)


@declared("shipping:RolloutRequest")
def rollout(
    said: Mapping[str, Any], as_json: options.Json = False, quiet: options.Quiet = False
) -> None:
    """Bring BUNDLE onto the boxes of FLEET, wave after wave."""
    from .. import rollout as run
    from ..report.text import shipping

    result = run(**said, progress=options.progress(quiet))
    options.show(result, as_json, shipping.rollout)


@declared("shipping:StatusRequest")
def status(said: Mapping[str, Any], page: Page = None, as_json: options.Json = False) -> None:
    """Tell from JOURNAL how far a rollout is, and why."""
    from .. import status as run
    from .. import write_rollout
    from ..report.text import shipping

    result = run(**said)
    if page:
        write_rollout(result, page)
    options.show(result, as_json, shipping.rollout)


@declared("shipping:HeartbeatRequest")
def heartbeat(
    said: Mapping[str, Any], as_json: options.Json = False, quiet: options.Quiet = False
) -> None:
    """Replay BUNDLE's goldens here, and compare with the first time."""
    from .. import heartbeat as run
    from ..report.text import shipping

    result = run(**said, progress=options.progress(quiet))
    options.show(result, as_json, shipping.heartbeat)
