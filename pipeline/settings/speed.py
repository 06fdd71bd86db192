"""The keys of what is about speed: ``[bench]``, ``[tune]`` and ``[compare]``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from ..errors import UsageError
from .judging import CellsConfig, PlacedConfig
from .options import Duration, Help, InWorkspace, OfModel, Percent, Positive, Seconds, Side

QUICK = Help("A few short slices of each cell: a smoke test.")
# Of comparing with another workspace there are more: few cells take turns.
GENERATIONS, GATE_GENERATIONS = 8, 16
GENERATION_SECONDS = 0.35
# What took turns is told apart sooner than what is compared with a file, in runs of a meter.
MAX_SLOWDOWN, MAX_SLOWDOWN_OF_FILE = "5%", "10%"
ANEW = "Times that every cell is started anew: more make intervals narrower."
SECONDS = Help("Time measured of each cell in a generation.")


class BenchConfig(PlacedConfig):
    """What ``edgepipe bench`` measures, and for how long."""

    table: ClassVar[str] = "bench"
    scenario: Annotated[
        Literal["single-stream", "offline", "server", "cold"],
        Help(
            "single-stream (latency), offline (throughput), server (random arrivals), "
            "cold (a run now and then).",
            metavar="NAME",
        ),
    ] = "single-stream"
    batch: Annotated[
        Positive | Literal["sweep"] | None,
        Help("Images in a run, for a dynamic batch; or sweep.", metavar="N", unset="the model's"),
    ] = None
    concurrency: Annotated[
        Positive | None,
        Help("Runs side by side (offline, server).", metavar="N", unset="the runner's"),
    ] = None
    rate: Annotated[
        Annotated[float, Field(gt=0)] | None,
        Help("Runs that arrive in a second (server).", metavar="N"),
    ] = None
    max_slowdown: Annotated[
        Percent | None,
        Help(
            "How much slower than its baseline a cell may be.",
            metavar="N%",
            unset=f"{MAX_SLOWDOWN}, or {MAX_SLOWDOWN_OF_FILE} against a file",
        ),
    ] = None
    reference: Annotated[
        str, Help("The variant that every row is held against.", metavar="NAME")
    ] = "fp32"
    require: Annotated[
        tuple[Literal["valid", "decided", "faster"], ...],
        Help(
            "Fail unless every row is valid (its times), decided, or faster than the reference.",
            metavar="WHAT",
        ),
    ] = ()
    generations: Annotated[
        Positive | None,
        Help(ANEW, metavar="N", unset=f"{GENERATIONS}, or {GATE_GENERATIONS} to rerun a baseline"),
    ] = None
    seconds: Annotated[Seconds, SECONDS] = GENERATION_SECONDS


class BenchRequest(BenchConfig, OfModel):
    """``edgepipe bench``: time every variant on every runner, and check its outputs."""

    baseline: Annotated[
        Path | None, Help("Compare with an earlier bench.json of this machine.", metavar="FILE")
    ] = None
    rerun_baseline: Annotated[
        Path | None, Help("Compare with another workspace, in turns.", metavar="DIR")
    ] = None
    quick: Annotated[bool, QUICK] = False


class OneCellRequest(CellsConfig, OfModel):
    """A look into one cell of those that bench has."""

    table: ClassVar[str] = BenchConfig.table
    batch: Annotated[
        Positive | None, Help("Images in a run, for a dynamic batch.", unset="the model's")
    ] = None

    @classmethod
    def table_fields(cls) -> Mapping[str, Any]:
        """Its keys are those of ``[bench]`` that make sense for one cell."""
        return BenchConfig.model_fields

    def refuse_several(self, what: str) -> None:
        """Raise ``UsageError`` where more than one of a kind is named; ``what`` needs the cell."""
        for name in ("runners", "variants", "targets", "precisions"):
            if len(getattr(self, name)) > 1 and name in self.model_fields_set:
                flag = self.helps()[name].flag
                raise UsageError(f"{flag}: {what} is of one cell, name one")


class ProfileRequest(OneCellRequest):
    """``edgepipe bench --profile``: where the time of one cell goes, by operator and by layer."""

    seconds: Annotated[Seconds, Help("Least time profiled in a round.")] = 0.5
    quick: Annotated[bool, Help("One short round: a smoke test.")] = False


class SoakRequest(OneCellRequest):
    """``edgepipe bench --soak``: what one cell leaks, and when it slows down."""

    duration: Annotated[Duration, Help("How long at most: 90s, 10m, 8h.", metavar="TIME")]


class TuneConfig(CellsConfig):
    """What ``edgepipe tune`` searches for, and for how long."""

    table: ClassVar[str] = "tune"
    scenario: Annotated[
        Literal["single-stream", "offline"],
        Help("single-stream (latency) or offline (throughput).", metavar="NAME"),
    ] = "single-stream"
    budget: Annotated[
        Annotated[float, Field(gt=0)], Help("Time for all cells.", metavar="SECONDS")
    ] = 900.0
    seconds: Annotated[Seconds, SECONDS] = 0.3


class TuneRequest(TuneConfig, OfModel):
    """``edgepipe tune``: search for settings that are proven faster than the defaults."""


class CompareConfig(CellsConfig):
    """What ``edgepipe compare`` measures, and for how long."""

    table: ClassVar[str] = "compare"
    generations: Annotated[Positive, Help(ANEW)] = 5
    seconds: Annotated[Seconds, SECONDS] = 0.3
    input_size: Annotated[
        Side | None, Help("Side of the zoo's inputs in pixels.", unset="the published one")
    ] = None
    training: Annotated[
        bool, Help("Time a training step, too.", flag="--training/--no-training")
    ] = True


class CompareRequest(CompareConfig, InWorkspace):
    """``edgepipe compare``: put models side by side: size, memory, speed, accuracy."""

    workspace: Annotated[
        Path | None,
        Help(
            "The models exported there.",
            short="-w",
            metavar="DIR",
            unset="the zoo, random weights",
        ),
    ] = None
    models: Annotated[
        tuple[str, ...], Help("", argument=True, metavar="MODEL", unset="all there are")
    ] = Field(default=(), kw_only=False)
    static: Annotated[bool, Help("Only what needs no run: a few seconds.")] = False
    convolutions: Annotated[bool, Help("Also standard against separable convolutions.")] = False
    quick: Annotated[bool, QUICK] = False
