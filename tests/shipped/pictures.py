"""Pictures of words, for models that find nothing in noise and so have nothing to be judged by."""

from __future__ import annotations

import random
import string
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

PAPER, INK = (230, 235, 240), (20, 20, 60)
SIDE, LINES, LETTERS = 320, 6, 14


def write_words(folder: Path, count: int = 48) -> None:
    """Draw pages of random letters into a folder, each time the same."""
    chance = random.Random(0)
    folder.mkdir()
    for number in range(count):
        page = Image.new("RGB", (SIDE, SIDE), PAPER)
        pen = ImageDraw.Draw(page)
        for line in range(LINES):
            word = "".join(chance.choices(string.ascii_letters + string.digits, k=LETTERS))
            font = ImageFont.load_default(chance.randrange(16, 34))
            pen.text((chance.randrange(10, 60), 10 + 50 * line), word, fill=INK, font=font)
        page.save(folder / f"{number:02}.png")
