"""Options that several commands share, and how each of them shows its result and ends."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol, TypeVar

import typer

from ...runners import documents

if TYPE_CHECKING:
    from ..progress import Progress

Workspace = Annotated[
    Path | None,
    typer.Option(
        "--workspace", "-w", metavar="DIR", help="Where artifacts live [default: artifacts]."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Nothing on stderr but errors.")]
Model = Annotated[
    str | None,
    typer.Option(
        "--model", "-m", metavar="NAME", help="[default: the only one there, or mobilenet_v2]"
    ),
]
Runner = Annotated[
    list[str] | None,
    typer.Option(
        "--runner", "-r", metavar="NAME", help="ort-cpu, ort-openvino, …; may be repeated."
    ),
]
Target = Annotated[
    list[str] | None,
    typer.Option(
        "--target", "-t", metavar="NAME", help="Where to run [default: local]; may be repeated."
    ),
]
Precision = Annotated[
    list[str] | None,
    typer.Option(
        "--precision", metavar="NAME", help="f32, tf32, bf16, f16 [default: f32]; may be repeated."
    ),
]
Threads = Annotated[
    int | None,
    typer.Option("--threads", help="Threads of every runner [default: physical cores]."),
]
Decoders = Annotated[
    int | None, typer.Option("--decoders", help="Images decoded at the same time [default: 2].")
]
SkipUnreadable = Annotated[
    bool | None,
    typer.Option("--skip-unreadable", help="Leave out images that can't be read, and name them."),
]
RequireEp = Annotated[
    list[str] | None,
    typer.Option(
        "--require-ep",
        metavar="EP=N%",
        help="Fail unless N % of the nodes are on that execution provider; may be repeated.",
    ),
]
AllowFallback = Annotated[
    bool | None,
    typer.Option("--allow-fallback", help="Let nodes that a provider doesn't take run on the CPU."),
]
TrustWorkspace = Annotated[
    bool | None,
    typer.Option(
        "--trust-workspace", help="Read fp32.pt2 though it was not made here: it can run code."
    ),
]
Untuned = Annotated[
    bool, typer.Option("--untuned", help="The default settings, whatever tune recommends.")
]
Variant = Annotated[
    list[str] | None,
    typer.Option(
        "--variant", "-v", metavar="NAME", help="fp32, int8, int8-avx2, fp16; may be repeated."
    ),
]

JUnit = Annotated[
    Path | None, typer.Option("--junit", metavar="FILE", help="Also write JUnit XML.")
]
Markdown = Annotated[
    Path | None,
    typer.Option("--markdown", metavar="FILE", help="Also write Markdown, for a job summary."),
]


def progress(quiet: bool) -> Progress:
    """What shows a command's progress: stderr, or nothing."""
    from ..progress import Silent, Stderr

    return Silent() if quiet else Stderr()


def some(values: list[str] | None) -> tuple[str, ...] | None:
    """What was given, or ``None`` for what the other layers of the configuration say."""
    return tuple(values) if values else None


class Result(Protocol):
    """What a command returns."""

    def to_json(self) -> Mapping[str, Any]:
        """The document that ``--json`` prints."""
        ...


AnyResult = TypeVar("AnyResult", bound=Result)


def show(result: AnyResult, as_json: bool, text: Callable[[AnyResult], str]) -> None:
    """Print a result: as the one document that is all of stdout, or as text."""
    if as_json:
        show_json(result.to_json())
    else:
        print(text(result))


def show_json(document: Mapping[str, Any]) -> None:
    """Print the one document that is all of stdout under ``--json``."""
    print(documents.text(document), end="")


def leave(code: int) -> None:
    """End the command with an exit code other than 0."""
    if code:
        raise typer.Exit(int(code))
