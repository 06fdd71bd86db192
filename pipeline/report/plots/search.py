"""The variants that a search found: nearness to float32 against time."""

from __future__ import annotations

from typing import Any

from ...quantization.search.search_result import Found, SearchResult
from .inline_svg import INK, SERIES, VARIABLES, figure_of

HEIGHT = 300  # pixels


def front(result: SearchResult | None, width: int) -> str | None:
    """Time in that of export's int8 against dB on the goldens, a colour for each runner."""
    if result is None:
        return None
    points = [
        (row, speed.runner, speed.ratio, speed.ci95, row.sqnr_db)
        for row in result.found
        for speed in row.speeds
        if speed.ratio is not None and row.sqnr_db is not None
    ]
    if not points:
        return None
    colors = _colors(result)
    with figure_of(width, HEIGHT) as (figure, finish):
        axes = figure.add_subplot()
        for row, runner, ratio, ends, sqnr_db in points:
            if ends:
                axes.plot(ends, (sqnr_db, sqnr_db), color=colors[runner], linewidth=1, alpha=0.5)
            filled = colors[runner] if runner in row.recommended else "none"
            marker: Any = "s" if row.candidate.exact_pairs else "o"
            axes.plot(
                *(ratio, sqnr_db, marker),
                color=colors[runner],
                markerfacecolor=filled,
                markersize=8,
            )
        for sqnr_db, name in _names(result.found):
            right = max(ratio for _, _, ratio, _, other in points if other == sqnr_db)
            axes.annotate(
                name,
                (right, sqnr_db),
                xytext=(8, 0),
                textcoords="offset points",
                va="center",
                fontsize=11,
                color=INK,
            )
        axes.set_xlabel("time, in that of the int8 that export made")
        axes.set_ylabel("SQNR on the goldens, dB")
        axes.margins(0.25, 0.2)
        described = "; ".join(
            f"{row.variant} on {runner} {ratio:.2f}, {sqnr_db:.1f} dB"
            for row, runner, ratio, _, sqnr_db in points
        )
        return finish("front", f"Nearness against time: {described}")


def legend(result: SearchResult) -> dict[str, str]:
    """What each colour stands for, as the page's variables."""
    return {runner: f"var({VARIABLES[color]})" for runner, color in _colors(result).items()}


def _colors(result: SearchResult) -> dict[str, str]:
    runners = dict.fromkeys(speed.runner for row in result.found for speed in row.speeds)
    return {runner: SERIES[place % len(SERIES)] for place, runner in enumerate(runners)}


def _names(found: tuple[Found, ...]) -> list[tuple[float, str]]:
    return [(row.sqnr_db, row.variant) for row in found if row.sqnr_db is not None]
