"""The patches of docs/extending.md, each applied to a copy of the sources and tried there."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "extending.md").read_text()
PATCHES = dict(re.findall(r"^## (.+?)\n.*?^```diff\n(.*?)^```", PAGE, re.M | re.S))
# The command's own function is public besides.
MOST_FILES = {"A command": 4}
Env = Mapping[str, str] | None
FLOORS = ("pipeline", "exporters", "runners")

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="needs git, to apply a patch")


class Copy:
    """The sources with one patch, in the place of the installed package."""

    def __init__(self, folder: Path, heading: str) -> None:
        self.folder, self.sources = folder, folder / "copy" / "edgepipe"
        for floor in FLOORS:
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / floor, self.sources / floor, ignore=ignored)
        (self.sources / "__init__.py").touch()
        # With what stands around a change in mind, and not on which line it stands.
        command = ["git", "apply", "--whitespace=nowarn", "-C1", "-"]
        done = subprocess.run(
            command, input=PATCHES[heading], cwd=self.sources, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{heading}: {done.stderr}"

    def python(self, *arguments: str | Path, code: int = 0, env: Env = None) -> str:
        """Run the copy's Python; returns what it printed."""
        path = os.pathsep.join(
            filter(None, [str(self.folder / "copy"), os.environ.get("PYTHONPATH")])
        )
        done = subprocess.run(
            [sys.executable, *map(str, arguments)],
            cwd=self.folder,
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": path, **(env or {})},
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout

    def edgepipe(self, *arguments: str | Path, code: int = 0, env: Env = None) -> str:
        """Run its command line."""
        return self.python("-m", "edgepipe.pipeline.cli", *arguments, code=code, env=env)


@pytest.fixture
def patched(tmp_path: Path) -> Callable[[str], Copy]:
    return lambda heading: Copy(tmp_path, heading)


@pytest.mark.parametrize("heading", PATCHES)
def test_it_takes_few_files_and_keeps_the_order_of_the_house(
    patched: Callable[[str], Copy], heading: str
) -> None:
    files = re.findall(r"^\+\+\+ b/(.+)$", PATCHES[heading], re.M)
    assert len(files) <= MOST_FILES.get(heading, 3)
    copy = patched(heading)
    (copy.sources / "tests").mkdir()
    shutil.copy(ROOT / "tests" / "test_rooms.py", copy.sources / "tests")
    flags = ("-q", "-p", "no:cacheprovider", "--import-mode=importlib")
    copy.python("-m", "pytest", *flags, copy.sources / "tests" / "test_rooms.py")


def test_there_is_a_patch_for_each_kind() -> None:
    kinds = ["A runner", "A stage", "An option", "A section of the report", "A command"]
    assert list(PATCHES) == kinds


def test_a_runner_is_listed_judged_and_has_its_row(
    patched: Callable[[str], Copy], workspace: Path
) -> None:
    copy = patched("A runner")
    listed = json.loads(copy.edgepipe("runners", "--json"))["runners"]
    (row,) = (row for row in listed if row["name"] == "onnx-reference")
    assert (row["status"], row["formats"]) == ("ok", ["onnx"])
    # One image: so few can't pass, whatever the answers are.
    flags = ("--runner", "onnx-reference", "--variant", "fp32", "--samples", "1", "--json")
    done = copy.edgepipe("parity", *flags, "--workspace", workspace, code=6)
    (cell,) = json.loads(done)["cells"]
    assert (cell["variant"], cell["runner"], cell["status"]) == ("fp32", "onnx-reference", "ok")
    assert cell["sqnr_db"] > 100


def test_a_stage_is_run_by_the_chain_and_only_once(
    patched: Callable[[str], Copy], workspace: Path
) -> None:
    copy = patched("A stage")
    made = json.loads(copy.edgepipe("export", "--workspace", workspace, "--json"))
    (stage,) = (one for one in made["stages"] if one["name"] == "operators")
    counts = json.loads((workspace / "mobilenet_v2" / "operators.json").read_text())
    assert counts == stage["result"]["operators"]
    assert counts["Conv"] == 52
    before = (workspace / "mobilenet_v2" / "operators.json").stat().st_mtime_ns
    copy.edgepipe("export", "--workspace", workspace)
    assert (workspace / "mobilenet_v2" / "operators.json").stat().st_mtime_ns == before


def test_an_option_is_a_flag_a_key_a_variable_a_keyword_and_a_row(
    patched: Callable[[str], Copy], workspace: Path, tmp_path: Path
) -> None:
    copy = patched("An option")
    assert "--min-probability" in copy.edgepipe("predict", "--help")
    copy.python("-m", "edgepipe.pipeline.cli.documentation", tmp_path)
    page = (tmp_path / "configuration.md").read_text()
    (row,) = (line for line in page.splitlines() if "| `min-probability` |" in line)
    assert "`EDGEPIPE_PREDICT_MIN_PROBABILITY` | `--min-probability` |" in row

    pixels = np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "noise.png")
    flags = ("predict", "noise.png", "--workspace", workspace, "--json")

    def classes(*more: str, env: Env = None) -> int:
        (found,) = json.loads(copy.edgepipe(*flags, *more, env=env))["predictions"]
        return len(found["top"])

    assert classes() == 5
    assert classes("--min-probability", "0.5") <= 1
    assert classes(env={"EDGEPIPE_PREDICT_MIN_PROBABILITY": "0.5"}) <= 1
    (tmp_path / "edgepipe.toml").write_text("[predict]\nmin-probability = 0.5\n")
    assert classes() <= 1
    assert classes("--min-probability", "0") == 5
    call = "print(len(predict(['noise.png'], workspace=sys.argv[1], min_probability=0.0)"
    code = f"import sys; from edgepipe.pipeline import predict; {call}.predictions[0].top))"
    assert copy.python("-c", code, workspace).strip() == "5"


def test_a_section_is_on_the_page_and_in_its_markdown(
    patched: Callable[[str], Copy], workspace: Path
) -> None:
    copy = patched("A section of the report")
    for flags in ((), ("--format", "markdown")):
        copy.edgepipe("report", "--workspace", workspace, *flags)
    folder = workspace / "mobilenet_v2"
    assert "<h2>How it was made</h2>" in (folder / "report.html").read_text()
    assert "* simplify: same answers as exported" in (folder / "report.md").read_text()


def test_a_command_is_listed_answers_and_can_be_called(
    patched: Callable[[str], Copy], workspace: Path
) -> None:
    copy = patched("A command")
    assert re.search(r"^  history +Tell which stages", copy.edgepipe("--help"), re.M)
    document = json.loads(copy.edgepipe("history", "--workspace", workspace, "--json"))
    assert list(document["stages"])[:2] == ["export", "simplify"]
    assert "simplify: same answers" in copy.edgepipe("history", "--workspace", workspace)
    code = (
        "import sys; from edgepipe.pipeline import history; print(history(workspace=sys.argv[1]))"
    )
    assert "simplify" in copy.python("-c", code, workspace)
