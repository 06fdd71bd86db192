"""The Python API: everything the command line does, typed, from one place."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest

from edgepipe import pipeline
from edgepipe.pipeline.cli import app
from edgepipe.pipeline.errors import UsageError
from edgepipe.pipeline.settings.load import COMMANDS

WRONG = """
from pathlib import Path

from edgepipe.pipeline import bench, export, parity, verify

export("mobilenet_v2", weights="digits", width=0.5)
result = bench(runners=("ort-cpu",), threads=1, scenario="offline")
print(result.cells[0].latency_ms, parity(workspace=Path("here"), explain=True).verdicts)
verify(Path("a.edgepipe"), target="box")
bench(threads="two")
bench(thread=1)
verify()
export("mobilenet_v2", 0.5)
"""


def test_every_command_is_a_function_of_the_same_name() -> None:
    commands = {str(one.callback.__name__) for one in app.registered_commands if one.callback}
    functions = {"write_report" if name == "report" else name for name in commands}
    assert functions <= set(pipeline.__all__)


@pytest.mark.parametrize("name", pipeline.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(pipeline, name) is not None
    assert set(pipeline.__all__) == set(pipeline.ROOMS)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_function_takes_the_keys_of_its_section(name: str) -> None:
    function = "import_model" if name == "import" else name
    parameters = inspect.signature(getattr(pipeline, function)).parameters
    assert set(COMMANDS[name].model_fields) <= set(parameters)


def test_what_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'banch'"):
        _ = pipeline.banch  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"threads": 0}, r"bench.threads \(argument\): .* got 0"),
        ({"thread": 1}, r"unknown key bench.thread \(argument\); did you mean threads\?"),
        ({"quick": "perhaps"}, r"quick \(argument\): .* got 'perhaps'"),
        ({"max-slowdown": "x"}, r"bench.max-slowdown \(argument\): .* got 'x'"),
        ({"workspace": "a\0b"}, r"workspace \(argument\): a NUL"),
        ({"targets": ["moon"]}, r"bench.targets: no 'moon'; known: cortex-a53, .*, isa-.*, local$"),
    ],
)
def test_a_wrong_value_is_one_line(given: dict[str, object], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        pipeline.bench(**given)  # pyright: ignore[reportArgumentType]


def test_a_value_that_is_missing_is_named() -> None:
    with pytest.raises(UsageError, match=r"^bundle \(argument\): missing$"):
        pipeline.verify()  # pyright: ignore[reportCallIssue]


@pytest.mark.parametrize(
    ("name", "args", "given", "says"),
    [
        ("bench", ["x"], {}, r"bench\(\) takes nothing by its place, and got 1 values"),
        ("export", ["a", "b"], {}, r"export\(\) takes model alone by its place, and got 2 values"),
        ("export", ["a"], {"model": "b"}, r"export\(\) got multiple values for argument 'model'"),
    ],
)
def test_values_by_place_are_taken_as_python_takes_them(
    name: str, args: list[str], given: dict[str, str], says: str
) -> None:
    with pytest.raises(TypeError, match=says):
        getattr(pipeline, name)(*args, **given)


def test_a_type_checker_refuses_what_is_wrong_and_nothing_else(tmp_path: Path) -> None:
    checker = Path(sys.executable).with_name("basedpyright")
    if not checker.is_file():
        pytest.skip("needs basedpyright beside this Python: nox -s types has it")
    file = tmp_path / "calls.py"
    file.write_text(WRONG)
    # By itself it leaves out what is below a folder such as .nox.
    (tmp_path / "pyrightconfig.json").write_text('{"include": ["calls.py"], "exclude": []}')
    command = [str(checker), "--outputjson", "--pythonpath", sys.executable]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    found = json.loads(done.stdout)["generalDiagnostics"]
    lines = WRONG.splitlines()
    wrong = [lines[one["range"]["start"]["line"]] for one in found if one["severity"] == "error"]
    assert wrong == [
        'print(result.cells[0].latency_ms, parity(workspace=Path("here"), explain=True).verdicts)',
        'bench(threads="two")',
        "bench(thread=1)",
        "verify()",
        'export("mobilenet_v2", 0.5)',
    ]
