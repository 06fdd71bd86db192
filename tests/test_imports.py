"""Who may import what: heavy libraries load in the function that needs them, and only there."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("torch", "onnx", "onnxruntime", "openvino", "onnxsim", "onnxscript", "PIL", "safetensors")
COMMANDS = (
    *("export", "import", "inspect", "quantize", "bench", "tune", "parity", "evaluate", "predict"),
    *("compare", "train", "package", "verify", "deploy", "push", "pull", "release", "rollout"),
    *("status", "heartbeat", "report", "runners", "doctor"),
)
PACKAGES = ("pipeline", "exporters", "runners")
BLOCK = f"""
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {HEAVY!r}:
            raise ImportError(f"{{name}} is blocked in this test")
sys.meta_path.insert(0, Block())
"""


def installed_root() -> Path:
    spec = importlib.util.find_spec("edgepipe.runners")
    assert spec
    assert spec.origin
    return Path(spec.origin).parent.parent


def modules() -> list[str]:
    root = installed_root()
    found = []
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            relative = path.relative_to(root).with_suffix("")
            # An architecture is an nn.Module: its file can't do without torch.
            architecture = relative.parts[:2] == ("exporters", "zoo") and path.stem != "__init__"
            if not architecture:
                found.append(".".join(("edgepipe", *relative.parts)).removesuffix(".__init__"))
    return found


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-c", BLOCK + code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_there_are_modules_to_test() -> None:
    assert len(modules()) > 25


def test_every_module_imports_without_heavy_libraries() -> None:
    code = "import importlib\nfor name in sys.argv[1:]: importlib.import_module(name)"
    done = run(code, *modules())
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "command",
    [(), *((name,) for name in (*COMMANDS, "env"))],
    ids=str,
)
def test_help_works_without_heavy_libraries(command: tuple[str, ...]) -> None:
    code = "sys.argv[0] = 'edgepipe'\nfrom edgepipe.pipeline.cli import main\nmain()"
    done = run(code, *command, "--help")
    assert done.returncode == 0, done.stderr
    assert "Usage: edgepipe" in done.stdout


def test_help_lists_every_command_that_is_tested_here() -> None:
    from edgepipe.pipeline.cli import app

    names = {command.name for command in app.registered_commands}
    assert names == set(COMMANDS)


def test_export_without_its_libraries_says_what_to_install(tmp_path: Path) -> None:
    code = "sys.argv[0] = 'edgepipe'\nfrom edgepipe.pipeline.cli import main\nmain()"
    done = run(code, "export", "--workspace", str(tmp_path / "artifacts"))
    assert done.returncode == 5
    (line,) = done.stderr.splitlines()
    assert line.startswith("edgepipe: stage export: torch is blocked")
    assert line.endswith('pip install "edgepipe[cpu,export]"')


def test_help_does_not_load_numpy() -> None:
    code = """
sys.argv = ["edgepipe", "--help"]
from edgepipe.pipeline.cli import main
try:
    main()
except SystemExit:
    pass
sys.exit("numpy" in sys.modules or "pydantic" in sys.modules)
"""
    assert run(code).returncode == 0


@pytest.mark.parametrize(
    ("package", "others"),
    [("exporters", ("pipeline", "runners")), ("runners", ("pipeline", "exporters"))],
)
def test_exporters_and_runners_import_nothing_of_the_others(
    package: str, others: tuple[str, ...]
) -> None:
    root = installed_root() / package
    for path in root.rglob("*.py"):
        depth = len(path.relative_to(root).parts)
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level > depth:
                assert (node.module or "").split(".")[0] not in others, f"{path}:{node.lineno}"
            if isinstance(node, ast.ImportFrom | ast.Import):
                names = [alias.name for alias in node.names]
                absolute = [node.module or ""] if isinstance(node, ast.ImportFrom) else names
                assert not any(name.startswith("edgepipe.") for name in absolute), (
                    f"{path}:{node.lineno}: relative imports between the packages"
                )


def test_the_runtime_for_applications_leaves_their_process_alone() -> None:
    """``load_bundle`` is imported by somebody else's program: its environment is its own."""
    code = """
import os
before = dict(os.environ)
from edgepipe.runners import LoadedBundle, Prediction, load_bundle
assert dict(os.environ) == before, set(os.environ) ^ set(before)
assert "openvino_telemetry" not in sys.modules
"""
    done = run(code)
    assert done.returncode == 0, done.stderr
