"""What the documents show: commands that run or say why not, flags that exist, links that hold.

A block of commands (```console) is run in a folder with a measured workspace in ``artifacts/``, or
has ``<!-- not run: why -->`` in the line above it. Its commands, and those in the text, have to be
the command line's own either way.
"""

from __future__ import annotations

import ast
import inspect
import re
import shlex
import shutil
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.core import TyperGroup

from edgepipe.pipeline.cli import app
from edgepipe.pipeline.settings.load import load
from edgepipe.pipeline.settings.options import asked
from edgepipe.pipeline.shipping.fleet.boxes import boxes_of

from .conftest import Run

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(
    [
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
        *(ROOT / name for name in ("benchmarks/README.md", "examples/digits/README.md")),
    ]
)
FENCED = re.compile(
    r"^(?P<before>[^\n]*)\n(?P<indent> *)```(?P<language>\w*)\n(?P<text>.*?)^(?P=indent)```$",
    re.M | re.S,
)
NOT_RUN = re.compile(r"^ *<!-- not run: (?P<reason>.+) -->$")
# Flags of other programs: pip's, and our own benchmarks'.
FOREIGN = {
    *("--help", "--extra-index-url", "--only", "--folder", "--neighbour", "--rehearse", "--part"),
}
# What gives a verdict may give any: it is the machine's to say which.
VERDICTS = {"parity": {0, 1, 6}, "evaluate": {0, 1, 6}, "bench": {0, 1, 6}, "doctor": {0, 1}}


@dataclass(frozen=True)
class Block:
    """A fenced block. ``reason`` says why it isn't run, where something does."""

    file: Path
    line: int
    language: str
    text: str
    reason: str | None

    def __str__(self) -> str:
        return f"{self.file.relative_to(ROOT)}:{self.line}"

    @property
    def commands(self) -> list[list[str]]:
        """The words of each command that it shows."""
        shown = re.sub(r"\\\n\s*", " ", self.text)
        lines = re.findall(r"^\$ (.+)$", shown, re.M)
        if self.language == "yaml":
            lines = re.findall(r"^\s*(?:- )?(?:run: )?(.*\bedgepipe .+)$", shown, re.M)
        parts = (part for line in lines for part in re.split(r" && | \|\| | >> ", line))
        return [shlex.split(part, comments=True) for part in parts]


def blocks() -> Iterator[Block]:
    for file in DOCUMENTS:
        text = file.read_text()
        for found in FENCED.finditer(text):
            why = NOT_RUN.match(found["before"])
            line = text.count("\n", 0, found.start()) + 2
            yield Block(file, line, found["language"], found["text"], why and why["reason"])


BLOCKS = list(blocks())
CONSOLE = [block for block in BLOCKS if block.language == "console"]
SHOWN = [
    pytest.param(words, id=f"{block}-{' '.join(words)}")
    for block in BLOCKS
    if block.language in ("console", "yaml")
    for words in block.commands
    if words[:1] == ["edgepipe"]
]
INLINE = sorted(
    {
        (str(file.relative_to(ROOT)), " ".join(found.split()))
        for file in DOCUMENTS
        for found in re.findall(
            r"`(edgepipe [^`]+)`", re.sub(r"^```.*?^```", "", file.read_text(), flags=re.M | re.S)
        )
    }
)
MENTIONED = [pytest.param(text.split(), id=f"{file}-{text}") for file, text in INLINE]


def resolve(words: list[str]) -> tuple[Any, str, list[str]]:
    """The command that the words call, its name, and what is left of them."""
    command: Any = typer.main.get_command(app)
    name, rest = words[0], words[1:]
    while isinstance(command, TyperGroup) and rest and not rest[0].startswith("-"):
        name, *rest = rest
        command = command.get_command(typer.Context(command), name)
        assert command is not None, f"no command {name}"
    return command, name, rest


def test_there_are_commands_to_check() -> None:
    assert len(SHOWN) > 40
    assert len(MENTIONED) > 20
    assert sum(block.reason is None for block in CONSOLE) >= 8


@pytest.mark.parametrize("words", SHOWN)
def test_a_command_in_a_block_is_one_that_the_command_line_takes(words: list[str]) -> None:
    command, name, rest = resolve(words)
    given = command.make_context(name, list(rest)).params
    listed = {str(one.name): one.callback for one in app.registered_commands if one.callback}
    if name in listed:  # and its values are of their types
        module, _, kind = vars(listed[name])["declared"][0].partition(":")
        request = getattr(import_module(f"edgepipe.pipeline.settings.{module}"), kind)
        fields = {key: value for key, value in given.items() if key in request.model_fields}
        asked(request, **fields)


@pytest.mark.parametrize("words", MENTIONED)
def test_a_command_in_the_text_is_there_with_its_flags(words: list[str]) -> None:
    command, _, rest = resolve(words)
    known = {name for one in command.params for name in (*one.opts, *one.secondary_opts)}
    known |= set(command.get_help_option_names(typer.Context(command)))
    assert {word.partition("=")[0] for word in rest if word.startswith("-")} <= known


def _options(command: Any) -> set[str]:
    """Every option of a command and of those below it."""
    known = {name for one in command.params for name in (*one.opts, *one.secondary_opts)}
    if isinstance(command, TyperGroup):
        context = typer.Context(command)
        below = (command.get_command(context, name) for name in command.list_commands(context))
        known = known.union(*map(_options, below))
    return known


@pytest.mark.parametrize("file", DOCUMENTS, ids=lambda file: str(file.relative_to(ROOT)))
def test_a_flag_in_the_text_is_one_of_some_command(file: Path) -> None:
    known = _options(typer.main.get_command(app)) | FOREIGN
    text = re.sub(r"^```.*?^```", "", file.read_text(), flags=re.M | re.S)
    assert set(re.findall(r"`(--[a-z][a-z0-9-]*)", text)) <= known


@pytest.mark.parametrize("block", CONSOLE, ids=str)
def test_a_block_that_is_not_run_says_why_and_names_tests_that_are_there(block: Block) -> None:
    assert block.commands, "a block of commands without a command"
    for name in re.findall(r"\btests/[\w/.]*\w", block.reason or ""):
        assert (ROOT / name).exists(), name


@pytest.mark.parametrize("block", [one for one in CONSOLE if one.reason is None], ids=str)
def test_a_block_of_commands_runs(
    block: Block, measured: Path, edgepipe: Run, tmp_path: Path
) -> None:
    shutil.copytree(measured, tmp_path / "artifacts")
    for program, *words in block.commands:
        assert program == "edgepipe", f"{program}: only edgepipe's own commands are run"
        done = edgepipe(*(_found(word, tmp_path) for word in words))
        assert done.returncode in VERDICTS.get(words[0], {0}), done.stdout + done.stderr


def _found(word: str, folder: Path) -> str:
    """A file's name that the document cuts short, as the one file that it can be."""
    if "…" not in word:
        return word
    (path,) = folder.glob(word.replace("…", "*"))
    return str(path.relative_to(folder))


@pytest.mark.parametrize("block", [one for one in BLOCKS if one.language == "python"], ids=str)
def test_python_imports_what_is_there_and_calls_it_by_its_keywords(block: Block) -> None:
    tree = ast.parse(block.text)
    names: dict[str, Any] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and f"{node.module}.".startswith("edgepipe."):
            module = import_module(str(node.module))
            names |= {alias.name: getattr(module, alias.name) for alias in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            called = names.get(node.func.id)
            if inspect.isfunction(called):
                parameters = inspect.signature(called).parameters
                assert {one.arg for one in node.keywords if one.arg} <= set(parameters)


@pytest.mark.parametrize("block", [one for one in BLOCKS if one.language == "toml"], ids=str)
def test_a_configuration_is_one_that_is_taken(block: Block, tmp_path: Path) -> None:
    if {"project", "build-system"} & tomllib.loads(block.text).keys():
        pytest.skip("a package's pyproject.toml")
    if {"box", "defaults"} & tomllib.loads(block.text).keys():
        (tmp_path / "fleet.toml").write_text(block.text)
        boxes_of(tmp_path / "fleet.toml", load(folder=tmp_path))
        return
    (tmp_path / "edgepipe.toml").write_text(block.text)
    load(folder=tmp_path)


def _anchors(file: Path) -> set[str]:
    text = re.sub(r"^```.*?^```", "", file.read_text(), flags=re.M | re.S)
    titles = (
        re.sub(r"[^\w\s-]", "", one).strip().lower() for one in re.findall(r"^#+ (.+)$", text, re.M)
    )
    return {re.sub(r"[-\s]+", "-", title) for title in titles}


@pytest.mark.parametrize("file", DOCUMENTS, ids=lambda file: str(file.relative_to(ROOT)))
def test_links_lead_somewhere(file: Path) -> None:
    text = re.sub(r"^```.*?^```", "", file.read_text(), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"\w+:", target):
            continue
        name, _, anchor = target.partition("#")
        found = (file.parent / name).resolve() if name else file
        assert found.exists(), target
        if anchor:
            assert anchor in _anchors(found), target


def test_every_page_is_in_the_navigation_and_no_other() -> None:
    pages = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")}
    navigation = (ROOT / "mkdocs.yml").read_text().partition("\nnav:\n")[2]
    assert sorted(re.findall(r": (\S+\.md)$", navigation, re.M)) == sorted(pages)


def test_pages_that_the_sources_name_are_there() -> None:
    for floor in ("pipeline", "exporters", "runners", "tests"):
        for path in (ROOT / floor).rglob("*.py"):
            for name in re.findall(r"\bdocs/[\w/-]+\.md", path.read_text()):
                assert (ROOT / name).is_file(), f"{path}: {name}"
