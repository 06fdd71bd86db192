"""A rollout as one HTML file that needs nothing else, in the looks of the report."""

from __future__ import annotations

from ...shipping.fleet.rollout_result import Rollout
from ..text import shipping
from .page import environment


def html(result: Rollout) -> str:
    """The page. Raises ``MissingLibrary`` without jinja2."""
    return (
        environment(autoescape=True)
        .get_template("rollout.html.j2")
        .render(
            rollout=result,
            sentence=shipping.sentence(result),
            waves=shipping.waves(result),
            boxes=shipping.boxes(result),
        )
    )
