"""profile: where the time of one cell goes, by operator and by layer, against the machine's peak.

Each round loads the model in two fresh workers, one of them with the runner's profiler on, and
runs the two one after the other: so the result says what the profiler itself costs, and how much
of a run its nodes account for.
"""

from __future__ import annotations

import statistics as stats
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from ...runners import registry
from ...runners.base import NodeTime, NodeTimes, RunnerError
from ...runners.timing.plan import Plan
from ..cells.session import Cell, OpenCell, open_cell
from ..progress import Progress
from ..settings.load import load_exported
from ..settings.options import takes
from ..settings.speed import ProfileRequest
from ..speed.ranking import one_cell
from ..speed.visits import Source
from ..stages.graphs import Layer, LayerGraph
from ..storage.workspace import Workspace
from . import ir, layers
from .peak import peak
from .profile_result import INT8, Peak, ProfiledCell, ProfileResult

ROUNDS, QUICK_ROUNDS, QUICK_SECONDS = 5, 1, 0.2
LEAST_RUNS = 3
# Rounds that differ by more say that the machine was busy with something else.
SPREAD = 0.10
# Medians of nodes add up to less than the median of runs; to so much less if nodes often wait.
WAITING = 0.9
ONNX = "onnx"
A_PROFILE = "a profile"


@takes(ProfileRequest)
def profile(request: ProfileRequest) -> ProfileResult:
    """Say what each operator and each layer of one cell takes; writes ``profile.json``.

    The cell is the one that runners, variants and so on leave; of several it is the fastest in
    ``bench.json`` or, without one that is up to date, the first: fp32 on ort-cpu. The keywords are
    keys of ``[bench]``. Raises what ``errors.EXIT_CODES`` lists, ``RunnerError`` for a cell that
    does not run and for a runner that can't say.
    """
    request.refuse_several(A_PROFILE)
    config = load_exported(request.flags())
    section = config.bench
    place = Workspace(config.workspace, config.model)
    with place.exported("edgepipe bench --profile", request.progress.say) as manifest:
        cell, chosen = one_cell(
            place.folder, manifest, section, config.places, A_PROFILE, _profiles
        )
        seconds = QUICK_SECONDS if request.quick else section.seconds
        rounds = QUICK_ROUNDS if request.quick else ROUNDS
        run = _Run(Source.of(place, manifest), cell, seconds, rounds, request.progress)
        result = run.result(chosen, request.quick)
        place.write(result)
    return result


def _profiles(cell: Cell) -> bool:
    return registry.entry(cell.runner).profiles


@dataclass
class _Rounds:
    """What came back from the rounds: of whole runs in us, and of nodes."""

    plain_us: list[float] = field(default_factory=list)
    profiled_us: list[float] = field(default_factory=list)
    times: list[NodeTimes] = field(default_factory=list)
    runs: int = 0
    opened: OpenCell | None = None

    def merged(self) -> tuple[NodeTime, ...]:
        """Each node with the median over the rounds; the first round knows which there are."""
        per_round = [_by_name(one.nodes) for one in self.times]
        return tuple(
            replace(node, us=stats.median(one[key].us if key in one else 0.0 for one in per_round))
            for key, node in per_round[0].items()
        )


def _by_name(nodes: Sequence[NodeTime]) -> dict[tuple[str, int], NodeTime]:
    """Nodes by name and, of several of the same name, by which one of them it is."""
    seen: dict[str, int] = {}
    found = {}
    for node in nodes:
        seen[node.name] = number = seen.get(node.name, 0) + 1
        found[node.name, number] = node
    return found


class _Run:
    """One profile of one cell. The workspace is locked and verified."""

    def __init__(
        self,
        source: Source,
        cell: Cell,
        seconds: float,
        rounds: int,
        progress: Progress,
    ) -> None:
        self._source, self._cell = source, cell
        self._folder, self._manifest = source.workspace.folder, source.manifest
        self._rounds, self._progress = rounds, progress
        self._plan = Plan(
            seconds=seconds,
            min_samples=LEAST_RUNS,
            max_seconds=max(30.0, 5 * seconds),
            window_seconds=min(0.1, seconds / 4),
            warm_up_seconds=seconds,
        )
        self._notes: list[str] = []

    def result(self, chosen: str, quick: bool) -> ProfileResult:
        """Measure and put together."""
        cell, model = self._cell, self._manifest.model
        seen = _Rounds()
        for number in range(self._rounds):
            self._progress.step(number, self._rounds + 1, f"profiling {cell}")
            self._round(seen)
        opened = seen.opened
        assert opened
        in_file, images = self._layers(opened)
        found = layers.named(seen.merged(), in_file)
        times = layers.by_layer(found, in_file, images)
        host = opened.worker.hello["host"]
        self._progress.step(self._rounds, self._rounds + 1, "matrix products")
        peaks = self._peaks({one.precision for one in times if one.macs}, opened, host)
        self._progress.step(1, 1, "")
        wall, profiled = stats.median(seen.plain_us), stats.median(seen.profiled_us)
        nodes_us = stats.median(one.total_us for one in seen.times)
        self._doubt(seen, sum(one.node.us for one in found), nodes_us)
        macs = [layer.macs for layer in in_file]
        known = bool(macs) and None not in macs
        return ProfileResult(
            artifacts={name: self._manifest.digests[name] for name in self._files()},
            model=model,
            host=host,
            measured=datetime.now(UTC).isoformat(timespec="seconds"),
            quick=quick,
            cell=ProfiledCell.ran(
                cell,
                opened.loaded,
                batch=opened.batch,
                options=dict(cell.options),
                tuned=cell.tuned,
                chosen=chosen,
            ),
            runs=seen.runs,
            rounds=self._rounds,
            statistic=seen.times[0].statistic,
            wall_us=wall,
            profiled_us=profiled,
            overhead=profiled / wall - 1,
            round_us=tuple(seen.plain_us),
            nodes_us=nodes_us,
            covered=nodes_us / profiled,
            macs=sum(one or 0 for one in macs) * images if known else None,
            peaks=peaks,
            operators=layers.by_operator(found),
            layers=layers.against(times, peaks),
            nodes=layers.shown(found),
            notes=tuple(self._notes),
        )

    def _round(self, seen: _Rounds) -> None:
        """The model in two workers, without and with the profiler, never both in memory."""
        path, cell = self._folder / self._cell.file, self._cell
        with open_cell(cell, path) as plain:
            measured, _ = plain.worker.measure(self._source.batch(plain)[0], self._plan)
        with open_cell(cell, path, profiled=True) as watched:
            samples, times = watched.worker.profile(self._source.batch(watched)[0], self._plan)
        middle = np.mean if times.statistic == "mean" else np.median
        seen.plain_us.append(float(middle(measured.samples)) / 1e3)
        seen.profiled_us.append(float(middle(samples)) / 1e3)
        seen.times.append(times)
        seen.runs += len(samples)
        seen.opened = seen.opened or watched

    def _layers(self, opened: OpenCell) -> tuple[tuple[Layer, ...], int]:
        """The layers of the variant's ONNX file, and how many images their counts are for."""
        file = self._onnx()
        if file is None:
            self._notes.append("no names of layers: the variant has no ONNX file")
            return (), 1
        try:
            import onnx  # noqa: F401
        except ImportError as error:
            self._notes.append(f'no names of layers: {error}; pip install "edgepipe[export]"')
            return (), 1
        images = opened.batch if self._manifest.model["batch"] == "dynamic" else 1
        known = LayerGraph(self._folder / file).layers
        if Path(self._cell.file).suffix != ir.SUFFIX:
            return known, images
        found = ir.with_operations(known, self._folder / self._cell.file)
        if found is None:
            self._notes.append(f"no names of layers: {self._cell.file} has others than {file}")
        return found or (), images

    def _onnx(self) -> str | None:
        return self._manifest.variants[self._cell.variant].get(ONNX)

    def _files(self) -> list[str]:
        """What the result is about: what was run, and what its layers are named by."""
        files = [self._cell.file, *self._cell.beside, *filter(None, [self._onnx()])]
        return list(dict.fromkeys(files))

    def _peaks(
        self, precisions: set[str], opened: OpenCell, host: Mapping[str, Any]
    ) -> tuple[Peak, ...]:
        """The peak of each precision that layers were computed in."""
        placed, flags, found = opened.loaded.placement, host["cpu_flags"], []
        for precision in sorted(precisions):
            if precision not in (INT8, placed.precision):
                continue
            try:
                found.append(
                    peak(self._cell, precision, placed.threads, flags, quick=self._rounds == 1)
                )
            except RunnerError as error:
                self._notes.append(f"no peak for {precision}: {error}")
        return tuple(found)

    def _doubt(self, seen: _Rounds, usually: float, nodes_us: float) -> None:
        low, high = min(seen.plain_us), max(seen.plain_us)
        if high > (1 + SPREAD) * low:
            self._notes.append(
                f"the rounds differ by {high / low - 1:.0%}: the machine was busy with other "
                "things, trust shares more than times"
            )
        if usually < WAITING * nodes_us:
            self._notes.append(
                f"what each node usually takes adds up to {usually / nodes_us:.0%} of what all of "
                "them take in a run: in most runs one of them or another waits for a processor"
            )
        if self._rounds == 1:
            self._notes.append("a quick profile: one round")
