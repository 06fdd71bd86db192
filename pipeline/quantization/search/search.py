"""A search: candidates tried, the nearest ones confirmed and timed, and kept as variants."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ....runners.machine.installed import versions
from ...cells import arithmetic
from ...errors import InputError
from ...numerics.ratios import FEWEST, MARGIN
from ...progress import Progress
from ...settings.load import Config
from ...settings.options import seconds
from ...speed.visits import Source
from ...stages import graphs
from ...stages.native import Native, prepared
from ...stages.quantize import (
    CALIBRATION,
    EXACT_PAIRS,
    SEARCHED,
    SOURCES,
    Calibrate,
    check_pairs,
    kernels,
)
from ...stages.simplify import FP32
from ...storage.goldens import FILE
from ...storage.manifest import Manifest, StageRecord, digest
from ...storage.workspace import Transaction, Workspace
from .. import recipes
from . import speeds
from .calibration import SEEN, calibration
from .on_cluster import on_cluster
from .search_result import Candidate, Found, SearchResult, Trial
from .strategy import Deadline, Strategy, front
from .trials import Trials

# The fewest images that can tell candidates apart.
FEWEST_SEEN = 16
# What is left for trials: measuring times and confirming take about so long.
RESERVED_SECONDS, FEWEST_SHARE = 120.0, 0.5
# Generations of timing, and the fewest, where less was asked for altogether than this.
GENERATIONS, SHORT_SECONDS = 6, 300.0
STOPPED = "it was stopped"
# The int8 that export makes for each CPU class.
VARIANT_OF = {exact: name for name, exact in EXACT_PAIRS.items()}
# Variants of each CPU class that are timed and kept, the nearest ones.
MOST_FOUND = 4


@dataclass
class Search:
    """One search in a locked workspace."""

    place: Workspace
    manifest: Manifest
    config: Config
    progress: Progress
    _pairs: dict[str, Mapping[str, int]] = field(default_factory=dict)

    def run(self) -> SearchResult:
        """Try, measure, confirm, and put what is worth having into the workspace."""
        section, folder = self.config.quantize, self.place.folder
        began = time.monotonic()
        budget = seconds(section.budget)
        for_trials = max(FEWEST_SHARE * budget, budget - RESERVED_SECONDS)
        deadline = Deadline(began, began + for_trials)
        with Native() as native, prepared(native, folder / FP32) as model:
            calibrate, further = calibration(self.manifest, section, native)
            seen, images = self._seen(calibrate, further)
            key = digest({**self._depends(calibrate), "seen": images})
            before = self._before()
            known = {one.candidate: one for one in before.trials} if before else {}
            if before is None or before.key != key or not section.resume:
                known = {}

            def result(made: Iterable[Trial], found: Sequence[Found], ended: str) -> SearchResult:
                return SearchResult(
                    artifacts=self.manifest.digests,
                    model=self.manifest.model,
                    key=key,
                    budget=budget,
                    seconds=time.monotonic() - began,
                    ended=ended,
                    images=images,
                    trials=tuple(made),
                    found=tuple(found),
                )

            def note(made: Iterable[Trial]) -> None:
                """So that a search that is killed goes on from there."""
                self.place.write(result(made, before.found if before else (), STOPPED))

            trials = Trials(folder, model, calibrate, seen, note, known)
            layers = trials.layers()
            with on_cluster(section.cluster, trials, self.progress) as cluster:
                attempts = cluster.attempts if cluster else trials.attempts
                strategy = Strategy(attempts, layers, deadline, self.progress)
                strategy.run(self._classes())
            for trial in strategy.trials:
                if trial.reason:
                    self.progress.say(f"warning: {_name(trial.candidate)}: {trial.reason}")
            names = graphs.LayerGraph(folder / FP32).names
            found = self._found(strategy.trials, trials, model.parent, names)
            self._keep(found, model.parent, calibrate)
        self.progress.step(1, 1, "")
        made = result(trials.known.values(), found, strategy.ended)
        return replace(made, cluster=cluster.use if cluster else None)

    def _before(self) -> SearchResult | None:
        """What an earlier search left; nothing of a file that can't be read."""
        try:
            return SearchResult.load(self.place.folder / SearchResult.FILE, "it starts anew")
        except InputError as error:
            self.progress.say(f"warning: {error}")
            return None

    def _seen(
        self, calibrate: Calibrate, further: Any
    ) -> tuple[list[Mapping[str, np.ndarray]], dict[str, Any]]:
        """Feeds that candidates are judged on, and what they are."""
        of = "further images of the same kind"
        if further is None or len(further) < FEWEST_SEEN:
            further, of = calibrate.samples.calibration, "the calibration images themselves"
            self.progress.say(
                f"warning: too few images to hold any out from calibration: judged on {of}"
            )
        about = calibrate.samples
        shown = replace(calibrate, samples=replace(about, calibration=further))
        feeds = []
        for batch, _ in shown.feeds():
            feeds.append(batch)
            if len(feeds) * calibrate.batch >= SEEN:
                break
        return feeds, {**about.about(further), "count": min(SEEN, len(further)), "are": of}

    def _depends(self, calibrate: Calibrate) -> dict[str, Any]:
        """What a trial's figures depend on besides the candidate."""
        artifacts = self.manifest.artifacts
        return {
            "model": artifacts[FP32].sha256,
            "calibration": artifacts[CALIBRATION].sha256,
            "images": calibrate.about(),
            "versions": versions("edgepipe", "onnxruntime", "onnx", "numpy"),
        }

    def _classes(self) -> list[bool]:
        """The CPU classes that the workspace has an int8 for, by ``Candidate.exact_pairs``."""
        return [exact for name, exact in EXACT_PAIRS.items() if name in self.manifest.variants]

    def _incumbent(self, exact_pairs: bool) -> tuple[str, Candidate]:
        """The int8 that export made for a class."""
        name = VARIANT_OF[exact_pairs]
        record = self.manifest.stage(name)
        assert record
        return name, Candidate(tuple(record.result["recipe"]), (), exact_pairs)

    def _found(
        self, made: Sequence[Trial], trials: Trials, folder: Path, names: Mapping[str, str]
    ) -> list[Found]:
        """The fronts, confirmed and timed, with one recommended for each runner and class."""
        chosen: dict[str, Candidate] = {}
        for exact_pairs in self._classes():
            name, incumbent = self._incumbent(exact_pairs)
            chosen[name] = incumbent
            nearer = front([trials.attempt(incumbent), *made], exact_pairs)[-MOST_FOUND:]
            found = (one.candidate for one in nearer)
            chosen |= {_name(one): one for one in found if one != incumbent}
        section = self.config.quantize
        files = {name: folder / "found" / f"{name}.onnx" for name in chosen}
        (folder / "found").mkdir()
        self.progress.step(0, 1, f"confirming {len(chosen)} on the goldens")
        confirmed = trials.confirm({one: files[name] for name, one in chosen.items()})
        self._pairs = {name: confirmed[one]["pairs"] for name, one in chosen.items()}
        source = Source.of(self.place, self.manifest)
        reference = next(iter(chosen))
        generations = GENERATIONS if seconds(section.budget) >= SHORT_SECONDS else FEWEST
        timed = speeds.measure(
            source,
            reference,
            files,
            self.config.bench,
            self.config.places,
            generations,
            self.progress,
        )
        rows = [
            Found(
                variant=name,
                candidate=one,
                layers=tuple(names.get(node, node) for node in one.floats),
                searched_db=trials.known[one].sqnr_db,
                sqnr_db=confirmed[one]["gained"][-1][1],
                agreement=confirmed[one]["agreement"],
                speeds=timed[name],
            )
            for name, one in chosen.items()
        ]
        return [replace(row, recommended=_recommended(row, rows)) for row in rows]

    def _keep(self, found: Sequence[Found], folder: Path, calibrate: Calibrate) -> None:
        """Make the rows variants of the workspace, in place of those of an earlier search."""
        before = self.manifest
        old = {one.name for one in before.stages if one.result.get(SEARCHED)}
        variants = {name: kinds for name, kinds in before.variants.items() if name not in old}
        with Transaction(self.place, before) as transaction:
            transaction.stages = {one.name: one for one in before.stages if one.name not in old}
            for row in found:
                if row.variant in EXACT_PAIRS:
                    continue
                path = folder / "found" / f"{row.variant}.onnx"
                check_pairs(row.variant, self._pairs[row.variant])
                own = arithmetic.compute(path, self.place.folder / FILE, calibrate.preprocessing)
                files = (path.name, arithmetic.file_of(row.variant))
                for name, data in zip(files, (path.read_bytes(), own.to_bytes()), strict=True):
                    transaction.write(name, data)
                depends = {**self._depends(calibrate), "candidate": asdict(row.candidate)}
                result = {
                    SEARCHED: {name: before.artifacts[name].sha256 for name in SOURCES},
                    "recipe": list(row.candidate.recipe),
                    "floats": list(row.candidate.floats),
                    "pairs": self._pairs[row.variant],
                    **kernels(path),
                }
                transaction.stages[row.variant] = StageRecord(
                    row.variant, digest(depends), depends, files, result
                )
                variants[row.variant] = {"onnx": path.name}
            self.manifest = transaction.amend(variants)


def _recommended(row: Found, rows: Sequence[Found]) -> tuple[str, ...]:
    """The runners on which a row is the nearest of its class that is no slower, or as fast."""
    peers = [one for one in rows if one.candidate.exact_pairs == row.candidate.exact_pairs]
    found = []
    for speed in row.speeds:
        fit = [one for one in peers if _as_fast(one, speed.runner) or one is peers[0]]
        best = max(fit, key=lambda one: np.inf if one.sqnr_db is None else one.sqnr_db)
        if best is row:
            found.append(speed.runner)
    return tuple(found)


def _as_fast(row: Found, runner: str) -> bool:
    """Whether a row is faster than the incumbent there, or the same within the margin."""
    ends = row.speed(runner).ci95
    return ends is not None and ends[1] <= 1 + MARGIN


def _name(candidate: Candidate) -> str:
    """A variant's name, which says what it is: "int8-avx2-percentile-float2"."""
    usual = recipes.RECIPES[recipes.DEFAULT]
    parts = [step for step in candidate.recipe if step not in usual]
    parts += [f"float{len(candidate.floats)}"] if candidate.floats else []
    # The plain name is that of what export made, by whatever recipe.
    return "-".join((VARIANT_OF[candidate.exact_pairs], *(parts or [recipes.DEFAULT])))
