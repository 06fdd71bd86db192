"""explain: which step broke it, and which layer? From torch over each file to the runner.

Every file of the export is also run by a reference executor, ONNX Runtime on this machine with
its optimizations off, which computes each node as the file has it. What differs between two
files there is the step's doing; what differs between the executor and the runner on the same
file is the runner's. docs/parity.md explains how to read the result.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from ...runners.base import RunnerError
from ..cells.arithmetic import EXECUTOR, executor
from ..cells.session import Cell, OpenCell, open_cell
from ..errors import MissingLibrary, StageError
from ..numerics import metrics
from ..numerics.precision import FOREIGN, HALF
from ..progress import Progress
from ..settings.judging import GateConfig
from ..stages.export import EXPORTED, PROGRAM
from ..stages.graphs import FED, Layer, LayerGraph, Watched, optimized
from ..stages.native import Native, prepared
from ..stages.simplify import FP32
from ..storage import goldens, made_here, onnx_models
from ..storage.manifest import Manifest
from ..storage.workspace import Workspace
from ..verdicts import FAIL
from . import findings
from .explanation import ExplainResult, Explanation, LayerError, Step
from .findings import Finding
from .parity_result import CellVerdict, ParityResult
from .recording import CellOutputs, Recording
from .steps import EXPORT, RUN, SIMPLIFY, TORCH, Walk

PLOT_FILE = "explain.svg"
LAYER_SAMPLES = 8
# The whole model runs twice for each layer.
COST_SAMPLES = 16

Arrays = Mapping[str, np.ndarray]


def explain(
    workspace: Workspace,
    manifest: Manifest,
    limits: Mapping[str, GateConfig],
    trusted: bool,
    recording: Recording,
    result: ParityResult,
    progress: Progress,
) -> ExplainResult:
    """Explain the cells that failed or, where none did, every cell that runs an ONNX file.

    ``limits`` are those of ``[gates]``; the program of a workspace that is not ``trusted`` is read
    only if it was made here.

    ``recording`` and ``result`` are of this run. Raises ``MissingLibrary`` without onnx or the
    runner that executes the reference.
    """
    try:
        import onnx  # noqa: F401

        if find_spec("onnxruntime") is None:  # workers import it
            raise ImportError("No module named 'onnxruntime'")
    except ImportError as error:
        raise MissingLibrary(f'--explain: {error}; pip install "edgepipe[cpu,export]"') from error
    judged = [
        (outputs.cell, outputs, row)
        for outputs, row in zip(recording.cells, result.cells, strict=True)
        if outputs.cell
    ]
    broken = [one for one in judged if one[2].verdict == FAIL or one[2].status == "failed"]
    chosen = broken or [one for one in judged if one[2].status == "ok"]
    explainer = _Explainer(workspace, manifest, limits, trusted, recording)
    found = []
    for number, (cell, outputs, row) in enumerate(chosen):
        progress.step(number, len(chosen), f"explaining {cell}")
        if Path(cell.file).suffix == ".onnx":
            found.append(explainer.explain(cell, outputs, row))
    progress.step(1, 1, "")
    return ExplainResult(recording.artifacts, tuple(found), recording.model)


@dataclass(frozen=True)
class _Session:
    """A loaded model that is asked for layers: ``names`` maps a layer's tensor to its output."""

    opened: OpenCell
    names: Mapping[str, str]

    def run(self, feeds: Arrays) -> dict[str, np.ndarray]:
        """Every layer's tensor, of what is fed only the inputs that the model has."""
        wanted = {spec.name: feeds[spec.name] for spec in self.opened.loaded.inputs}
        outputs = self.opened.worker.run(wanted).arrays
        return {tensor: outputs[name] for tensor, name in self.names.items()}


@dataclass
class _Explainer:
    """What the cells of one workspace share: goldens, reference runs, graphs."""

    workspace: Workspace
    manifest: Manifest
    limits: Mapping[str, GateConfig]
    trusted: bool
    recording: Recording
    _graphs: dict[str, LayerGraph] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.goldens = goldens.Goldens.load(self.workspace.folder / goldens.FILE)
        self.preprocessing = goldens.preprocessing_of(self.manifest)
        self.walk = Walk(
            self.workspace.folder, self.goldens, self.preprocessing, self.recording, self.limits
        )

    def explain(self, cell: Cell, outputs: CellOutputs, row: CellVerdict) -> Explanation:
        """Walk the steps of a cell, then look into the layers of the one that adds the error."""
        steps = self.walk.steps(cell, outputs, row)
        culprit = next((step for step in steps if step.verdict == FAIL), None)
        culprit = culprit or min(steps, key=lambda step: step.step_sqnr_db or 0.0)
        notes: list[str] = []
        layers: list[LayerError] = []
        layer: str | None = None
        if culprit.name == TORCH:
            notes.append("no layers: nothing can be told from a distance to such a reference")
        elif culprit.name == EXPORT:
            layers, layer = self._against_torch(notes)
        else:
            layers, layer = self._against_float(cell, culprit, notes)
        findings: list[Finding] = []
        if cell.variant != "fp32":
            findings = self._findings(cell, outputs, layers)
        if layers and cell.variant not in (*FOREIGN, "fp32", HALF):
            layers = self._with_costs(cell.file, layers, notes)
        return Explanation(
            variant=cell.variant,
            runner=cell.runner,
            target=cell.target.name,
            precision=cell.precision,
            verdict=row.verdict or row.status,
            samples=min(LAYER_SAMPLES, self.recording.samples),
            step=culprit.name,
            layer=layer,
            steps=tuple(steps),
            layers=tuple(sorted(layers, key=lambda found: found.rank)),
            order=tuple(found.tensor for found in layers),
            findings=tuple(findings),
            notes=tuple(notes),
        )

    def _with_costs(
        self, file: str, layers: Sequence[LayerError], notes: list[str]
    ) -> list[LayerError]:
        """The layers with what their weights and their outputs cost in int8, see ``costs``."""
        folder = self.workspace.folder
        try:
            with Native() as native, prepared(native, folder / FP32) as model:
                batch = self.manifest.model["batch"]
                size = 1 if batch == "dynamic" else int(batch)
                name = self.manifest.model["inputs"][0]["name"]
                for feeds in self.goldens.as_feeds(self.preprocessing, name, size, COST_SAMPLES):
                    native.ask("held_out", feeds)
                told = native.ask("costs", model=model, int8=folder / file)
        except (RunnerError, StageError, ImportError) as error:
            notes.append(f"what single layers cost isn't known: {error}")
            return list(layers)
        parts = {layer.tensor: layer.parts for layer in self._graph(file).layers}

        def cost(kind: str, layer: LayerError) -> float | None:
            known = told[kind]
            found = (known[name] for name in parts.get(layer.tensor, ()) if name in known)
            return next(found, None)

        return [
            replace(layer, weights_db=cost("weights", layer), values_db=cost("values", layer))
            for layer in layers
        ]

    def _against_torch(self, notes: list[str]) -> tuple[list[LayerError], str | None]:
        """The layers of the exported graph against whatever tensor of torch's is like them.

        No names lead from a graph's tensors to torch's, so values do. The culprit is the first
        layer that is like none, with none behind it that is: a tensor that torch never computes
        (convolution and BatchNorm folded into one) is followed by tensors that it does.
        """
        from ...runners.backends import torch as torch_runner

        if PROGRAM not in self.manifest.artifacts:
            notes.append(f"no layers: {self.manifest.model['no_program_because']}")
            return [], None
        doubt = made_here.distrusted(self.manifest, PROGRAM)
        if doubt and not self.trusted:
            notes.append(f"no layers: {doubt}")
            return [], None
        graph = self._graph(EXPORTED)
        totals: dict[str, metrics.Noise] = {}
        twins: dict[str, str | None] = {}
        try:
            trace = torch_runner.tracer(self.workspace.folder / PROGRAM)
            with self._longest_prefix(graph) as session:
                for feeds in self._feeds(session.opened):
                    found, expected = session.run(feeds), trace(feeds)
                    twins = twins or {name: _nearest(found[name], expected) for name in found}
                    for tensor, array in found.items():
                        if twin := twins[tensor]:
                            noise = totals.setdefault(tensor, metrics.Noise())
                            noise.add(array, expected[twin])
        except RunnerError as error:
            notes.append(f"no layers: {error}")
            return [], None
        except ImportError as error:
            notes.append(f'no layers: {error}; pip install "edgepipe[export]"')
            return [], None
        layers = [
            LayerError(layer.name, layer.operators, layer.tensor, _db(totals, layer), None)
            for layer in graph.layers
            if layer.tensor in twins
        ]
        alike = {
            layer.tensor
            for layer in layers
            if layer.sqnr_db is not None and layer.sqnr_db >= self.walk.exact.min_sqnr_db
        }
        return layers, _first_unlike(graph.layers, alike)

    def _against_float(
        self, cell: Cell, culprit: Step, notes: list[str]
    ) -> tuple[list[LayerError], str | None]:
        """The layers of the culprit's file against those of the file before it."""
        before = EXPORTED if culprit.name == SIMPLIFY else FP32
        before = before if before in self.manifest.artifacts else cell.file  # none behind it
        file = FP32 if culprit.name == SIMPLIFY else cell.file
        reference, graph = self._graph(before), self._graph(file)
        own_cell = replace(cell, file=file) if culprit.name == RUN else executor(file)
        piled, own = dict[str, metrics.Noise](), dict[str, metrics.Noise]()
        outside = dict[str, list[float]]()
        with ExitStack() as stack:
            exact = stack.enter_context(self._open(executor(before), reference.shown()))
            every = list(self._feeds(exact.opened))
            expected = exact.run(every[0])
            names = {layer.tensor for layer in graph.layers}
            shapes = {name: array.shape for name, array in expected.items() if name in names}
            apart = graph.apart(shapes)
            seen = self._try(
                stack, replace(cell, file=file), graph.shown(), "watching its layers", notes
            )
            alone = self._try(stack, own_cell, apart, "running its layers apart", notes)
            # A runner is held against what the file says, not against the float model.
            meant = None
            if culprit.name == RUN:
                meant = stack.enter_context(self._open(executor(file), apart))
            for feeds in every:
                expected = exact.run(feeds)
                fed = feeds | {FED + name: expected[name] for name in shapes}
                _collect(piled, seen, feeds, expected, notes)
                _collect(own, alone, fed, meant.run(fed) if meant else expected, notes)
                for name in shapes:
                    limits = graph.range_of(name)
                    if limits:
                        out = (expected[name] < limits[0]) | (expected[name] > limits[1])
                        outside.setdefault(name, []).append(float(np.mean(out)))
        layers = [
            LayerError(
                layer.name,
                layer.operators,
                layer.tensor,
                _db(piled, layer),
                _db(own, layer),
                float(np.mean(outside[layer.tensor])) if layer.tensor in outside else None,
            )
            for layer in graph.layers
            if layer.tensor in shapes
        ]
        return layers, self._worst(layers, culprit)

    def _worst(self, layers: Sequence[LayerError], culprit: Step) -> str | None:
        """A rewritten graph breaks at its first wrong layer; noise is where there is most."""
        layers = [layer for layer in layers if layer.state != metrics.UNKNOWN]
        if not layers:
            return None
        if culprit.name == SIMPLIFY:
            for layer in layers:
                if layer.badness < self.walk.exact.min_sqnr_db:
                    return layer.layer
        return min(layers, key=lambda layer: layer.badness).layer

    def _findings(
        self, cell: Cell, outputs: CellOutputs, layers: Sequence[LayerError]
    ) -> list[Finding]:
        path = self.workspace.folder / cell.file
        clipped = {layer.layer: layer.clipped for layer in layers if layer.clipped is not None}
        found = [*findings.recorded(self.manifest, cell.variant), *findings.of_ranges(clipped)]
        found += findings.of_cpu(path, outputs.host)
        found += findings.of_convolutions(outputs.convolutions)
        if cell.runner == EXECUTOR:
            found += findings.of_kernels(optimized(path))
        return found

    def _graph(self, file: str) -> LayerGraph:
        if file not in self._graphs:
            self._graphs[file] = LayerGraph(self.workspace.folder / file)
        return self._graphs[file]

    def _feeds(self, opened: OpenCell) -> Iterator[dict[str, np.ndarray]]:
        name = opened.loaded.inputs[0].name
        count = min(LAYER_SAMPLES, self.recording.samples)
        for feeds, _, _ in self.goldens.batches(self.preprocessing, name, opened.batch, count):
            yield feeds

    @contextmanager
    def _open(self, cell: Cell, watched: Watched) -> Iterator[_Session]:
        with tempfile.TemporaryDirectory(prefix="edgepipe-") as folder:
            path = Path(folder) / cell.file
            onnx_models.save(watched.model, path)
            with open_cell(cell, path) as opened:
                yield _Session(opened, watched.names)

    def _try(
        self, stack: ExitStack, cell: Cell, watched: Watched, what: str, notes: list[str]
    ) -> _Session | None:
        """Open a session; a runner that can't is a note and no failure."""
        try:
            return stack.enter_context(self._open(cell, watched))
        except RunnerError as error:
            notes.append(f"{what} on {cell.runner} failed: {error}")
            return None

    @contextmanager
    def _longest_prefix(self, graph: LayerGraph) -> Iterator[_Session]:
        """The graph with its layers shown or, where it fails on the way, as far as it runs."""
        cell = executor(EXPORTED)

        def runs(count: int | None) -> bool:
            try:
                with self._open(cell, graph.shown(count)) as session:
                    session.run(next(self._feeds(session.opened)))
            except RunnerError:
                return False
            return True

        count = None if runs(None) else _largest(len(graph.layers), runs)
        with self._open(cell, graph.shown(count)) as session:
            yield session


def _collect(
    totals: dict[str, metrics.Noise],
    session: _Session | None,
    feeds: Arrays,
    expected: Arrays,
    notes: list[str],
) -> None:
    """Run a batch and count in each layer's noise; a failed run is noted once."""
    if session is None:
        return
    try:
        found = session.run(feeds)
    except RunnerError as error:
        if str(error) not in notes:
            notes.append(str(error))
        return
    for tensor, array in found.items():
        if tensor in expected:
            totals.setdefault(tensor, metrics.Noise()).add(array, expected[tensor])


def _first_unlike(layers: Sequence[Layer], alike: set[str]) -> str | None:
    """The first layer in order that is not alike and feeds, however far, none that is."""
    leads_to_alike: set[str] = set()
    for layer in reversed(layers):
        if layer.tensor in alike or layer.tensor in leads_to_alike:
            leads_to_alike |= {layer.tensor, *layer.reads}
    return next((layer.name for layer in layers if layer.tensor not in leads_to_alike), None)


def _nearest(array: np.ndarray, candidates: Arrays) -> str | None:
    """The tensor of the same shape with the least distance."""
    same = [name for name, other in candidates.items() if other.shape == array.shape]
    return max(same, key=lambda name: metrics.sqnr_db(array, candidates[name]), default=None)


def _largest(count: int, holds: Callable[[int], bool]) -> int:
    """The largest number below ``count`` for which ``holds``, true up to it and not beyond."""
    low, high = 1, count
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if holds(middle) else (low, middle - 1)
    return low


def _db(totals: Mapping[str, metrics.Noise], layer: Layer) -> float | None:
    return totals[layer.tensor].sqnr_db if layer.tensor in totals else None
