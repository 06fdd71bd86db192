"""What became of a bundle on a box."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import ExitCode
from ..storage.document import UNWRITTEN, Document

DEPLOYED, UNCHANGED, REFUSED, ROLLED_BACK = "deployed", "unchanged", "refused", "rolled back"
WOULD_DEPLOY = "would deploy"


@dataclass(frozen=True)
class Deployment(Document):
    """What became of it.

    ``outcome``: "deployed", "unchanged" (it was served already, and holds; or it was to go back,
    and was not served), "refused" (it did not verify there, nothing changed), "rolled back" (it did
    not hold once it was in front, or was to go back) or "would deploy" (a dry run). ``before`` and
    ``current`` are the names of what was and is served.
    ``verification`` is the document of `edgepipe verify` on the box.
    """

    MADE_BY = "edgepipe deploy"

    target: str
    folder: str
    bundle: str
    outcome: str
    before: str | None
    current: str | None
    previous: str | None
    bytes_sent: int
    removed: tuple[str, ...]
    reason: str | None
    verification: Mapping[str, Any] | None
    exit_code: ExitCode = field(default=ExitCode.OK, metadata=UNWRITTEN)
