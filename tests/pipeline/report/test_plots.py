"""report: its plots."""

from __future__ import annotations

import re

from .workspaces import MadeUp, explained


def test_plots_take_their_colours_from_the_page(full_page: str) -> None:
    pictures = re.findall(r"<svg.*?</svg>", full_page, flags=re.DOTALL)
    assert pictures
    for picture in pictures:
        assert "var(--quiet)" in picture
        assert set(re.findall(r"#[0-9a-f]{6}\b", picture)) == set()


def test_names_that_no_font_or_xml_has_are_drawn_all_the_same(made_up: MadeUp) -> None:
    made_up.explain(explained("int8", "ort-cpu", "層\x01$"))
    picture = re.findall(r"<svg.*?</svg>", made_up.page(), flags=re.DOTALL)[0]
    assert "層\N{REPLACEMENT CHARACTER}$." in picture
