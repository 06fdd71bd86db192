"""Options that several commands share, and how each of them shows its result and ends."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol, TypeVar

import typer

from ...runners import documents

if TYPE_CHECKING:
    from .. import EvaluationResult, ParityResult, PredictResult, TrainResult
    from ..progress import Progress

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Nothing on stderr but errors.")]
JUnit = Annotated[
    Path | None, typer.Option("--junit", metavar="FILE", help="Also write JUnit XML.")
]
Markdown = Annotated[
    Path | None,
    typer.Option("--markdown", metavar="FILE", help="Also write Markdown, for a job summary."),
]
Show = Annotated[
    Path | None,
    typer.Option("--show", metavar="FILE.png", help="Also draw what the model sees of them."),
]


def progress(quiet: bool) -> Progress:
    """What shows a command's progress: stderr, or nothing."""
    from ..progress import Silent, Stderr

    return Silent() if quiet else Stderr()


def plot(result: ParityResult | TrainResult, progress: Progress) -> None:
    """Draw a result beside its other files, or say what that lacks: the result stands without."""
    from .. import write_plot
    from ..errors import MissingLibrary

    try:
        write_plot(result)
    except MissingLibrary as error:
        progress.say(f"warning: {error}")


def write(
    result: ParityResult | EvaluationResult, junit: Path | None, markdown: Path | None
) -> None:
    """Write a result for a CI server, as far as asked for."""
    from .. import write_junit, write_markdown

    if junit:
        write_junit(result, junit)
    if markdown:
        write_markdown(result, markdown)


def check_picture(path: Path | None) -> None:
    """Say before anything runs that a picture can't be written there, if one was asked for."""
    from .. import check_picture as check

    if path:
        check(path)


def picture(result: PredictResult, path: Path | None, progress: Progress) -> None:
    """Draw what the model saw, if asked for, and say how much of it is on the picture."""
    from .. import write_picture

    if path is None:
        return
    answered = sum(one.error is None for one in result.predictions)
    drawn = write_picture(result, path)
    if not drawn:
        progress.say(f"warning: {path} was not written: no image could be read")
    elif drawn < answered:
        progress.say(f"{path}: the first {drawn} of {answered} images")


class Result(Protocol):
    """What a command returns."""

    def to_json(self) -> Mapping[str, Any]:
        """The document that ``--json`` prints."""
        ...


AnyResult = TypeVar("AnyResult", bound=Result)


def show(result: AnyResult, as_json: bool, text: Callable[[AnyResult], str]) -> None:
    """Print a result: as the one document that is all of stdout, or as text.

    One that has an exit code other than 0 ends the command with it.
    """
    if as_json:
        show_json(result.to_json())
    else:
        print(text(result))
    if code := getattr(result, "exit_code", 0):
        raise typer.Exit(int(code))


def show_json(document: Mapping[str, Any]) -> None:
    """Print the one document that is all of stdout under ``--json``."""
    print(documents.text(document), end="")
