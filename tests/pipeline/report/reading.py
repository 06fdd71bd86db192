"""Pages as a reader and a parser see them."""

from __future__ import annotations

import html
import re
from html.parser import HTMLParser

HOSTILE = "<script>alert(1)</script> & \"'|`*](x)"
# The same in Markdown, where none of it means anything either.
ESCAPED = "&lt;script&gt;alert(1)&lt;/script&gt; &amp; \"'\\|\\`\\*\\](x)"


class Page(HTMLParser):
    """What is in a page: its elements, its ids, its headings."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        self.ids = [value for _, given in self.elements if (value := given.get("id"))]
        self.headings = re.findall(r"<h[1-6]>([^<]*)</h", text)
        self.levels = [int(tag[1]) for tag, _ in self.elements if re.fullmatch("h[1-6]", tag)]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))


def plain(page: str) -> str:
    """The text of a page, as one line."""
    body = re.sub(r"<style>.*?</style>|<svg.*?</svg>", "", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", body)).split())
