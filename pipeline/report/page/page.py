"""A report as one HTML file that needs nothing else, or as Markdown."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib import resources
from typing import Any

from ...errors import MissingLibrary
from ...judging.evaluate_result import EvaluationResult
from ...judging.explanation import ExplainResult
from ...judging.parity_result import ParityResult
from ...numerics.metrics import BROKEN
from ...numerics.ratios import MARGIN
from ...profiling.profile_result import ProfileResult
from ...speed.bench_result import SAMPLES
from ...speed.comparison.compare import CompareResult
from ...speed.tune import TuneResult
from ..choice import choose, speed
from ..gather import Report
from ..plots import pareto, plots
from ..plots import profile as profile_plot
from ..plots import search as search_plot
from ..results import CURRENT, OUTDATED
from ..tables.table import Table, Verdict, escaped
from ..text import explanation, judged
from . import cell_table, contents, identity, models, profile, search, seen, tuning
from .again import commands, placeholders

LAYERS_SHOWN = 5


def html(report: Report) -> str:
    """The page. Raises ``MissingLibrary`` without jinja2 or matplotlib."""
    template = environment(autoescape=True).get_template("report.html.j2")
    return template.render(**_contents(report), **_plots(report))


def markdown(report: Report) -> str:
    """The same facts without the plots, for a pull request or the summary of a CI job."""
    template = environment(finalize=_plain).get_template("report.md.j2")
    known = _contents(report)
    # In a block of code nothing but the end of the line means anything.
    known["commands"] = [_Code(" ".join(line.splitlines())) for line in known["commands"]]
    return re.sub(r"\n{3,}", "\n\n", template.render(**known)).strip() + "\n"


def _contents(report: Report) -> dict[str, Any]:
    explained = report.explanation.cells if report.explanation else ()
    evaluation = report.evaluation
    return {
        "model": report.manifest.model,
        "lead": identity.lead(report.manifest),
        "version": report.manifest.tools.get("edgepipe"),
        "outdated": [source for source in report.sources if source.state == OUTDATED],
        "lacking": {source.file: source for source in report.sources if source.state != CURRENT},
        "choices": choose(report),
        "identity_title": identity.title(report.manifest),
        "identity": identity.facts(report.manifest),
        "artifacts": contents.artifacts(report),
        "margin": f"{MARGIN:.0%}",
        "cells": cell_table.cells(report) if report.rows else None,
        "reasons": contents.reasons(report),
        "absent": report.absent,
        "comparisons": contents.comparisons(report),
        "accuracy": judged.accuracies(evaluation) if evaluation else None,
        "accuracy_notes": judged.notes(evaluation) if evaluation else (),
        "explained": [
            (cell, explanation.worst_layers(cell, LAYERS_SHOWN) if cell.layers else None)
            for cell in explained
        ],
        "settings": contents.settings(report),
        "hosts": contents.hosts(report) if report.hosts else None,
        "tools": contents.tools(report),
        "commands": commands(report),
        "placeholders": placeholders(report),
        "limits": contents.limits(report),
        "tuned": tuning.section(report),
        "profiled": profile.section(report),
        "searched": search.section(report),
        "seen": seen.section(report),
        "compared": models.section(report),
        "files": {
            "parity": ParityResult.FILE,
            "evaluation": EvaluationResult.FILE,
            "explanation": ExplainResult.FILE,
            "tuning": TuneResult.FILE,
            "profile": ProfileResult.FILE,
            "comparison": CompareResult.FILE,
        },
        "samples_file": SAMPLES,
    }


def _plots(report: Report) -> dict[str, Any]:
    """Each plot for a desk and for a phone, safe as it is; ``None`` where it has nothing."""
    from markupsafe import Markup

    def both(draw: Callable[[int], str | None]) -> tuple[Markup, Markup] | None:
        wide, narrow = draw(plots.WIDE), draw(plots.NARROW)
        # matplotlib and ElementTree have escaped every text in it
        return (Markup(wide), Markup(narrow)) if wide and narrow else None  # noqa: S704

    rows = report.rows
    explained = report.explanation.cells if report.explanation else ()
    models = report.comparison.models if report.comparison else ()
    timed = [row for row in rows if speed(row.bench)]
    return {
        "tradeoff": both(lambda width: plots.tradeoff(rows, width)),
        "undrawn": [row.name(" · ") for row in timed if not plots.drawn(row)],
        "distributions": both(lambda width: plots.distributions(rows, width)),
        "broken": any(layer.state == BROKEN for cell in explained for layer in cell.layers),
        "layers": both(lambda width: plots.layers(explained, width)),
        "front": both(lambda width: search_plot.front(report.search, width)),
        "profile": both(lambda width: profile_plot.layers(report.profile, width)),
        "runner_colors": plots.runner_colors(rows),
        "pareto": both(lambda width: pareto.pareto(models, width)),
        "variant_colors": pareto.legend_in_page(models),
    }


def environment(**options: Any) -> Any:
    """The templates. Raises ``MissingLibrary`` without jinja2."""
    try:
        from jinja2 import DictLoader, Environment, StrictUndefined
    except ImportError as error:
        raise MissingLibrary(f'report: {error}; pip install "edgepipe[report]"') from error
    folder = resources.files(contents.__package__ or "") / "templates"
    files = {path.name: path.read_text("utf-8") for path in folder.iterdir() if path.is_file()}
    return Environment(  # noqa: S701 - HTML asks for escaping, Markdown brings its own
        loader=DictLoader(files),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        **options,
    )


class _Code(str):
    """Markdown that is ready."""


def _plain(value: object) -> object:
    """Text that stays text, a table as Markdown."""
    if isinstance(value, Table):
        return _Code(f"{escaped(value.caption)}\n\n{value.markdown()}")
    if isinstance(value, _Code) or not isinstance(value, str | Verdict):
        return value
    return escaped(str(value))
