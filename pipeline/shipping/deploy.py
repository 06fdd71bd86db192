"""deploy: a bundle onto a box, verified there before it is served, with a way back."""

from __future__ import annotations

from ..errors import UsageError
from ..settings.load import load
from ..settings.options import takes
from ..settings.shipping import DeployRequest
from .delivery import Release, connected
from .deploy_result import Deployment


@takes(DeployRequest)
def deploy(request: DeployRequest) -> Deployment:
    """Bring a bundle onto a target, verify it there, and let it be served there.

    ``runner``, ``variant`` and ``samples`` are those of ``[verify]``, the other keywords the keys
    of ``[deploy]``. With ``rollback`` the box goes back from the bundle instead, to what it served
    before; one that does not serve it stays as it is. What became of it is in the result. Raises
    ``BundleError`` for a bundle that is not whole (looked at before anything is sent),
    ``UsageError`` for a target that computes as another CPU, and ``RunnerError`` if the box can't
    be reached or the connection breaks.
    """
    checks = {name: getattr(request, name) for name in ("runner", "variant", "samples")}
    config = load(request.flags(verify=checks))
    target, progress = config.places.target(request.target), request.progress
    if request.rollback and request.dry_run:
        raise UsageError("--rollback and --dry-run: ask for one of them")
    release = Release.of(request.bundle)
    progress.say(f"connecting to {target.name}")
    with connected(target, config.deploy, config.verify, progress) as box:
        if request.dry_run:
            return box.foresee(release)
        return box.go_back(release) if request.rollback else box.bring(release)
