"""Write the embedded digits as PNG files in class folders, for `train`, `evaluate` and `predict`.

python examples/digits/as_files.py FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image

from edgepipe.pipeline.storage.digits import pictures


def main(folder: Path) -> None:
    """FOLDER/train and FOLDER/held_out, with a folder for each digit."""
    for part in ("train", "held_out"):
        for number, (picture, label) in enumerate(zip(*pictures(part), strict=True)):
            path = folder / part / str(label) / f"{number:04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(path)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]))
