"""report: as Markdown, and the commands that it lists."""

from __future__ import annotations

import re
from pathlib import Path

from edgepipe.pipeline import write_report

from .reading import plain
from .workspaces import MadeUp


def test_markdown_has_the_same_facts_in_tables_that_hold(full: MadeUp) -> None:
    text = full.page(format="markdown")
    widths = [line.count("|") for line in re.sub(r"\\\|", "", text).splitlines() if "|" in line]
    heads = [number for number, line in enumerate(text.splitlines()) if line.startswith("|---")]
    assert len(heads) == 16
    assert len(set(widths)) <= len(heads)
    for part in ("## Recommendation", "is the fastest of the 7 cells that pass", "98.74%"):
        assert part in text
    assert "| cell | bench: speed | bench: × fp32 | bench: 95 % interval | bench: p50 ms |" in text
    assert "| int8 · ort-cpu | ✓ faster | 2.32 | 2.27–2.37 | 2." in text
    assert "\n\n\n" not in text


def test_commands_spell_out_what_was_run(workspace: Path) -> None:
    found, _ = write_report(workspace=workspace, format="markdown")
    text = (workspace / "mobilenet_v2" / "report.md").read_text()
    assert found.manifest.model["weights"] == "digits"
    assert (
        "    edgepipe export mobilenet_v2 --weights digits --calibration-images 128 "
        "--exporter onnx-dynamo --opset 20 "
        "--batch 1 --input-size 224 --variant fp32 --variant int8 --variant int8-avx2\n"
    ) in text


def test_commands_of_a_checkpoint_have_placeholders(made_up: MadeUp) -> None:
    made_up.model_facts |= {
        "weights": "checkpoint",
        "width": 0.5,
        "trained": True,
        "goldens": {"from": "folder", "count": 64, "digest": "0" * 64},
        "calibration": {"from": "folder", "count": 100, "digest": "1" * 64},
    }
    made_up.manifest()
    text = plain(made_up.page())
    assert "--checkpoint CHECKPOINT --width 0.5" in text
    assert "--calibration IMAGES --calibration-images 100" in text
    assert "CHECKPOINT is the file" in text
    assert "IMAGES is the folder" in text
    assert "mobilenet_v2 of width 0.5" in text
