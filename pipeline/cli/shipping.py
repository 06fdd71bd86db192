"""Commands that ship: a bundle, its proof on the box, and the way there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import options
from .declared import declared


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
