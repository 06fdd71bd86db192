"""status: how far a rollout is, told from its journal alone; no box is asked."""

from __future__ import annotations

from ...settings.options import takes
from ...settings.shipping import StatusRequest
from . import journal
from .rollout_result import Rollout


@takes(StatusRequest)
def status(request: StatusRequest) -> Rollout:
    """Tell how far the last rollout in a journal is, also while it runs.

    Raises ``InputError`` for a file that is no journal.
    """
    found = Rollout.of(request.journal, journal.read(request.journal))
    Rollout.from_json(found.to_json(), request.journal)  # its values are of the right types
    return found
