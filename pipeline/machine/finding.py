"""What a check of ``edgepipe doctor`` found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...runners.targets import LOCAL

OK, WARNING, PROBLEM = "ok", "warning", "problem"
Facts = Mapping[str, Any]


@dataclass(frozen=True)
class Finding:
    """What a check found. ``status`` is "ok", "warning" (numbers need care) or "problem"
    (numbers or installs are wrong); ``remedy`` is what to do. ``where`` is a target, with the
    interpreter if it is a runner's own.
    """

    check: str
    status: str
    what: str
    remedy: str | None = None
    where: str = LOCAL.name
