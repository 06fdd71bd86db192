"""One result says the same in a terminal, as Markdown and on a page."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from edgepipe.pipeline.report.text import comparison, markdown, terminal, tuning

from .reading import plain
from .workspaces import HOST, MadeUp, candidate, convolution


def cells(text: str, *, of: str) -> list[str]:
    """The words of the table row that begins with these, without marks and separators."""
    words: list[str] = re.findall(r"[^\s|✓✅○]+", text)
    names = of.split()
    place = next(i for i in range(len(words)) if words[i : i + len(names)] == names)
    return words[place:]


@pytest.mark.parametrize(("limit", "verdict"), [(1.5, "pass"), (None, "no gate")])
def test_accuracy_has_the_same_cells_everywhere(
    made_up: MadeUp, limit: float | None, verdict: str
) -> None:
    made_up.everything()
    found = made_up.report().evaluation
    assert found
    reference, int8 = (replace(cell, precision="f32", top5=0.9991) for cell in found.cells)
    int8 = replace(int8, verdict="pass" if limit else None, file_sqnr_db=31.0, file_max_abs=0.1)
    result = replace(found, cells=(reference, int8), max_drop=limit)
    made_up.place.write(result)
    expected = f"{verdict} 98.74% 97.4–99.6% 99.9% +0.25 -0.55 to +1.40 1 31.0 –".split()
    shown = terminal.evaluation_table(result)
    assert cells(shown, of="int8 ort-cpu f32")[3:][: len(expected)] == expected
    for text in (
        markdown.evaluation(result),
        plain(made_up.page()),
        made_up.page(format="markdown"),
    ):
        assert cells(text, of="int8 ort-cpu local f32")[4:][: len(expected)] == expected
        assert "compared with fp32 on ort-cpu (local)" in text
        assert "drops in percentage points" in text


def test_what_tune_found_is_the_same_row_in_a_terminal(full: MadeUp) -> None:
    report = full.report()
    assert report.tuning
    row = "int8 · ort-cpu recommended threads 1, spinning False 4.00 2.00 2.000 1.600–2.500"
    for text in (tuning.text(report.tuning), plain(full.page()), full.page(format="markdown")):
        assert " ".join(cells(text, of="int8 · ort-cpu recommended")).startswith(row)


def test_models_are_the_same_rows_in_a_terminal_that_they_fit(full: MadeUp) -> None:
    found = full.report().comparison
    assert found
    small = candidate("efficientnet_b0", 58.178, 5.0, input_size=128, width=0.5, weights="digits")
    wide = replace(convolution(), stride=2, inputs=144, outputs=32, size=112)
    shown = comparison.text(
        replace(found, models=(*found.models, small), convolutions=(convolution(), wide), host=HOST)
    )
    assert max(map(len, shown.splitlines())) <= 100
    for row in (
        "efficientnet_b0 × 0.5 digits 128 3,504,872 301 6.0 14.0 4.0 91.0 58.2",
        "mobilenet_v2 · int8 ort-cpu ◆ 2.00 1.80–2.20 100 valid",
        "960 → 320, 7 × 7 135 15.5 8.8 11 3.4 3.00 0.600 5.0 – – –",
        "144 → 32, 112 × 112, /2 135",
    ):
        assert row in " ".join(shown.split())
