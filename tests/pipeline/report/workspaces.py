"""Workspaces with small files in the place of models, and made-up results of every command."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgepipe.pipeline import write_report
from edgepipe.pipeline.judging.evaluate_result import CellAccuracy, EvaluationResult
from edgepipe.pipeline.judging.explanation import ExplainResult, Explanation, LayerError, Step
from edgepipe.pipeline.judging.gates import Gate
from edgepipe.pipeline.judging.parity_result import CellVerdict, ParityResult
from edgepipe.pipeline.numerics.paired import Drop
from edgepipe.pipeline.numerics.ratios import Ratio
from edgepipe.pipeline.profiling.profile_result import (
    LayerTime,
    Node,
    OperatorTime,
    Peak,
    ProfiledCell,
    ProfileResult,
)
from edgepipe.pipeline.report.gather import Report
from edgepipe.pipeline.speed.bench_result import (
    BenchResult,
    CellResult,
    Latency,
    Pair,
    over_generations_ms,
)
from edgepipe.pipeline.speed.comparison.candidates import Candidate, Speed
from edgepipe.pipeline.speed.comparison.compare import CompareResult, with_fronts
from edgepipe.pipeline.speed.comparison.convolutions import Convolution, Timed
from edgepipe.pipeline.speed.ranking import cost
from edgepipe.pipeline.speed.tune import Trial, Tuned, TuneResult
from edgepipe.pipeline.storage.goldens import FILE, Goldens, reference_json
from edgepipe.pipeline.storage.manifest import Artifact, Manifest, Recommendation
from edgepipe.pipeline.storage.workspace import Workspace
from edgepipe.runners.machine.files import sha256_file

HOST = {
    "name": "box",
    "cpu": "A CPU & more",
    "cpu_flags": ["avx2", "avx512_vnni"],
    "physical_cores": 2,
    "logical_cpus": 4,
    "cpu_quota": None,
    "governor": None,
    "virtual_machine": True,
    "no_energy": "no RAPL counters",
    "memory_mib": 8192,
    "os": "Linux 6.1",
    "python": "3.11.7",
}


MODEL = {
    "name": "mobilenet_v2",
    "architecture": "mobilenet_v2",
    "weights": "digits",
    "weights_sha256": "ab" * 32,
    "weights_from": None,
    "trained": True,
    "parameters": 2_236_682,
    "classes": 3,
    "batch": 1,
    "input_size": 224,
    "named_inputs": (),
    "exporter": "onnx-dynamo",
    "opset": 20,
    "own_preprocessing": None,
    "simplify": True,
    "simplified": True,
    "not_simplified_because": None,
}


SHAPE = {"size": 224, "mean": [0.5] * 3, "std": [0.5] * 3, "resize": "squash", "resize_to": None}


VARIANTS = ("fp32", "int8", "int8-avx2")


REFERENCE_DB = 129.3


MS = {
    ("fp32", "ort-cpu"): 4.9,
    ("int8", "ort-cpu"): 2.11,
    ("int8-avx2", "ort-cpu"): 2.05,
    ("fp32", "openvino"): 4.6,
    ("int8", "openvino"): 2.3,
    ("int8-avx2", "openvino"): 2.35,
    ("fp32", "torch"): 14.6,
}


SQNR = {"fp32": 126.8, "int8": 29.2, "int8-avx2": 28.1}


MIB = {"fp32": 8.5, "int8": 2.5, "int8-avx2": 2.5}


class MadeUp:
    """A workspace with small files in the place of models, and whatever results are put in."""

    def __init__(
        self, root: Path, *, model: str = "mobilenet_v2", labels: Sequence[str] = "abc"
    ) -> None:
        self.root, self.model = root, model
        self.folder = root / model
        self.folder.mkdir(parents=True)
        self.place = Workspace(root, model)
        for name in VARIANTS:
            (self.folder / f"{name}.onnx").write_text(f"the {name} of {model}")
        self.labels = tuple(labels)
        self.model_facts: dict[str, Any] = {**MODEL, "name": model}
        self.recommended: tuple[Recommendation, ...] = ()
        self.manifest()

    def manifest(self) -> None:
        """(Re)write the manifest of the files that are there."""
        files = [*sorted(self.folder.glob("*.onnx")), *self.folder.glob(FILE)]
        artifacts = {path.name: Artifact(sha256_file(path), path.stat().st_size) for path in files}
        hashes = {found.sha256 for found in artifacts.values()}
        self.recommended = tuple(
            found for found in self.recommended if found.evidence["sha256"] in hashes
        )
        manifest = Manifest(
            model=self.model_facts,
            preprocessing=SHAPE,
            labels=self.labels,
            variants={path.stem: {"onnx": path.name} for path in files if path.name != FILE},
            artifacts=artifacts,
            tools={"edgepipe": "0.1.0", "torch": "2.13.0"},
            recommended=self.recommended,
        )
        (self.folder / "manifest.json").write_text(manifest.to_json())
        self.hashes = {name: found.sha256 for name, found in artifacts.items()}

    def bench(self, *cells: CellResult, generations: int = 6, **changes: Any) -> None:
        """Bench's files. The samples of the cells are of the right count and median."""
        random = np.random.default_rng(7)
        samples = tuple(self._samples(random, cell, generations) for cell in cells)
        measured = [
            replace(
                cell,
                samples=sum(map(len, found)),
                generations=len(found),
                generation_ms=tuple(float(np.median(one)) / 1e6 for one in found),
            )
            if found
            else cell
            for cell, found in zip(cells, samples, strict=True)
        ]
        measured = [
            self._timed(cell, found) if found and cell.latency_ms else cell
            for cell, found in zip(measured, samples, strict=True)
        ]
        measured = [_held(cell, measured) for cell in measured]
        result = BenchResult(
            model=MODEL,
            host=HOST,
            hosts={"local": HOST},
            scenario="single-stream",
            quick=False,
            baseline=None,
            reference="fp32",
            cells=tuple(measured),
            pairs=tuple(_pairs(measured)),
            meters={},
            artifacts=self.hashes,
            problems=(),
            samples=samples,
        )
        result = replace(result, **changes)
        self.place.write_result("bench.npz", result.samples_file())
        self.place.write(result)

    def parity(self, *cells: CellVerdict, **changes: Any) -> None:
        reference = reference_json(REFERENCE_DB)
        result = ParityResult(
            self.hashes, MODEL, {"local": HOST}, **reference, cells=cells, problems=()
        )
        self.place.write(replace(result, **changes))

    def evaluation(self, *cells: CellAccuracy) -> None:
        result = EvaluationResult(
            model=MODEL,
            artifacts=self.hashes,
            hosts={"local": HOST},
            data={"name": "photos", "images": 397, "classes": 3, "digest": "0" * 64},
            max_drop=1.5,
            reference={"variant": "fp32", "runner": "ort-cpu", "target": "local"},
            notes=("one of the notes",),
            cells=cells,
        )
        self.place.write(result)

    def explain(self, *cells: Explanation) -> None:
        self.place.write(ExplainResult(self.hashes, cells, MODEL))

    def tune(self, *cells: Tuned, **changes: Any) -> None:
        """Tune's file, and the manifest with what it recommends."""
        self.recommended = tuple(self._recommendation(cell) for cell in cells if cell.settings)
        self.manifest()
        result = TuneResult(
            self.hashes, MODEL, {"local": HOST}, 60.0, 58.5, cells, self.recommended
        )
        self.place.write(replace(result, **changes))

    def profile(self, **changes: Any) -> None:
        """Of the int8 variant on ort-cpu: int8 but for the first layer and the pooling."""
        times = (
            LayerTime("features.0.0", "Conv+Clip", "Conv", "f32", 280.0, 180.0, 0.46),
            LayerTime(
                "features.1", "Conv", "QLinearConv", "int8", 240.0, 30.0, 0.27, 10**7, 41.7, 0.1
            ),
            LayerTime(
                *("node_mean", "ReduceMean", "ReduceMean", "f32", 20.0, 10.0, 0.03),
                between_int8=True,
                around_us=40.0,
            ),
            LayerTime("classifier.1", "Gemm", "QGemm", "int8", 240.0, 0.0, 0.24, 12800, 0.05, 0.0),
        )
        nodes = tuple(
            Node(*(one.layer, one.kernel, "", one.precision, "CPU", one.us), 0.25, one.layer, False)
            for one in times
        )
        cell = ProfiledCell(
            *("int8", "ort-cpu", "local", "ok"),
            precision="f32",
            threads=2,
            batch=1,
            options={},
            tuned=False,
            chosen="",
        )
        result = ProfileResult(
            artifacts={"int8.onnx": self.hashes["int8.onnx"]},
            model=MODEL,
            host=HOST,
            measured="2026-01-02T03:04:05+00:00",
            quick=False,
            cell=cell,
            runs=100,
            rounds=5,
            statistic="median",
            wall_us=1000.0,
            profiled_us=1100.0,
            overhead=0.1,
            round_us=(1000.0,) * 5,
            nodes_us=1050.0,
            covered=0.95,
            macs=10_012_800,
            peaks=(Peak("int8", 400.0, None, "AVX-512 VNNI", "QLinearMatMul", "a product", 99),),
            operators=(OperatorTime("QLinearConv", "int8", 1, 240.0, 0.27),),
            layers=times,
            nodes=nodes,
            notes=(),
        )
        self.place.write(replace(result, **changes))

    def goldens(self, images: np.ndarray) -> None:
        """The goldens' file, and the manifest with it; the classes go round."""
        count = len(images)
        scores = np.eye(3)[np.arange(count) % 3]
        found = Goldens(
            *(images, np.arange(count) % 3),
            *({"logits": scores.astype(np.float32)}, {"logits": scores}),
        )
        (self.folder / FILE).write_bytes(found.to_bytes())
        self.manifest()

    def compare(self, *rows: Candidate, **changes: Any) -> None:
        """Compare's file, beside the models' folders."""
        result = CompareResult(
            artifacts={},
            models=with_fronts(rows),
            convolutions=(),
            host=HOST,
            static=False,
            measured="2026-01-02T03:04:05+00:00",
        )
        document = replace(result, **changes).to_json()
        (self.root / "compare.json").write_text(json.dumps(document))

    def everything(self) -> None:
        """All results, of all cells."""
        self.goldens(patches())
        self.bench(*(timed(variant, runner) for variant, runner in MS))
        self.parity(*(judged(variant, runner) for variant, runner in MS))
        drop = Drop(0.25, (-0.55, 1.4), 1.0, 2, 1)
        interval95 = (0.974, 0.996)
        self.evaluation(
            CellAccuracy("fp32", "ort-cpu", "local", "ok", top1=0.99, top1_ci95=interval95),
            CellAccuracy(
                *("int8", "ort-cpu", "local", "ok"),
                verdict="pass",
                top1=0.9874,
                top1_ci95=interval95,
                drop=drop,
            ),
        )
        self.explain(explained("int8", "ort-cpu"), explained("int8-avx2", "openvino"))
        self.tune(tuned("int8", "ort-cpu"), untuned("fp32", "ort-cpu"))
        self.profile()
        rows = (candidate("mobilenet_v2", 72.154, 3.0), candidate("squeezenet1_1", 58.178, 5.0))
        self.compare(*rows, convolutions=(convolution(),))

    def page(self, **options: Any) -> str:
        _, path = write_report(workspace=self.root, model=self.model, **options)
        return path.read_text()

    def report(self) -> Report:
        return write_report(workspace=self.root, model=self.model, format="markdown")[0]

    def _recommendation(self, cell: Tuned) -> Recommendation:
        names = ("ratio", "ci95", "default_ms", "tuned_ms", "seconds", "measured")
        evidence = {name: getattr(cell, name) for name in names}
        digest = self.hashes[f"{cell.variant}.onnx"]
        evidence |= {"sha256": digest, "cpu": HOST["cpu"], "candidates": len(cell.trials)}
        return Recommendation(
            *(cell.variant, cell.runner, cell.target, cell.device, cell.precision),
            *(cell.settings, evidence, cell.scenario),
        )

    @staticmethod
    def _samples(
        random: np.random.Generator, cell: CellResult, generations: int
    ) -> tuple[np.ndarray, ...]:
        if cell.status != "ok" or cell.latency_ms is None:
            return ()
        scale = cell.latency_ms.p50 * 1e6
        return tuple(
            (scale * random.normal(1, 0.01) * (1 + random.gamma(1.2, 0.02, 150))).astype(np.int64)
            for _ in range(generations)
        )

    @staticmethod
    def _timed(cell: CellResult, found: tuple[np.ndarray, ...]) -> CellResult:
        everything = np.concatenate(found) / 1e6
        typical = over_generations_ms(cell.generation_ms)
        assert cell.latency_ms
        latency = replace(
            cell.latency_ms,
            p50=typical.value,
            mean=float(everything.mean()),
            p90=float(np.percentile(everything, 90)),
            ci95=typical.ci95,
        )
        return replace(cell, latency_ms=latency)


def patches() -> np.ndarray:
    """Six images of 7 by 7 patches of colour, a black and a white one among them."""
    colors = np.random.default_rng(5).integers(0, 256, (6, 7, 7, 3), np.uint8)
    colors[:, 0, 0], colors[:, 6, 6] = 0, 255
    return colors.repeat(32, axis=1).repeat(32, axis=2)


def _held(cell: CellResult, cells: Sequence[CellResult]) -> CellResult:
    """A cell is held against fp32 on its runner, if that was measured there."""
    place = (cell.runner, cell.target)
    if any((one.runner, one.target) == place and one.variant == "fp32" for one in cells):
        return cell
    return replace(cell, speedup=None, speedup_ci95=None, against_reference=None)


def _pairs(cells: Sequence[CellResult], half: float = 0.03) -> Iterator[Pair]:
    """As the cells' times have it, each with an interval of 3 % to both sides."""
    for first, second in itertools.combinations(range(len(cells)), 2):
        costs = [cost(cells[place]) for place in (first, second)]
        if max(costs) < float("inf") and cells[first].target == cells[second].target:
            ratio = costs[1] / costs[0]
            found = Ratio(ratio, ratio * (1 - half), ratio * (1 + half), 8)
            yield Pair.of(first, second, found)


def timed(variant: str, runner: str, verdict: str = "valid", **changes: Any) -> CellResult:
    milliseconds = changes.pop("ms", MS.get((variant, runner), 3.0))
    cell = CellResult(
        variant,
        runner,
        "local",
        status="ok",
        verdict=verdict,
        file=f"{variant}.onnx",
        runner_version="1.31.1",
        threads=2,
        streams=1,
        batch=1,
        precision="f32",
        device="CPU",
        latency_ms=Latency(milliseconds, None, None, milliseconds, 0.1, (milliseconds,) * 2),
        throughput_per_s=1000 / milliseconds,
        speedup=4.9 / milliseconds,
        speedup_ci95=(4.8 / milliseconds, 5.0 / milliseconds),
        against_reference=None if variant == "fp32" else "faster",
        load_ms=40.0,
        peak_rss_mib=103.4,
        size_bytes=int(MIB.get(variant, 3) * 2**20),
    )
    return replace(cell, **changes)


def judged(variant: str, runner: str, verdict: str = "pass", **changes: Any) -> CellVerdict:
    least = REFERENCE_DB - 30 if variant == "fp32" else 15.0
    cosine = 0.999999 if variant == "fp32" else 0.98
    fields: dict[str, Any] = dict.fromkeys(CellVerdict.__dataclass_fields__)
    fields |= {
        "variant": variant,
        "runner": runner,
        "target": "local",
        "status": "ok",
        "verdict": verdict,
        "samples": 64,
        "sqnr_db": SQNR.get(variant, 20.0),
        "max_abs": 0.01,
        "cosine": 0.99,
        "top1_agreement": 1.0,
        "flipped": [],
        "outputs": {},
        "nodes": {},
        "gate": asdict(Gate(least, cosine, 0.85)),
        "placement": {},
        "convolutions": {},
        "precision": "f32",
        "threads": 2,
        "file": f"{variant}.onnx",
    }
    if variant != "fp32":
        fields |= {"file_sqnr_db": 31.0, "file_max_abs": 0.01}
        fields |= {"kernels_sqnr_db": 41.1, "kernels_max_abs": 0.01, "kernels_limit_db": 31.0}
    return CellVerdict(**{**fields, **changes})


def explained(variant: str, runner: str, name: str = "features") -> Explanation:
    random = np.random.default_rng(3)
    layers = [
        LayerError(
            *(f"{name}.{number}.conv", "Conv", f"t{number}"),
            sqnr_db=45.0 - number / 2 + float(random.normal(0, 1)),
            own_sqnr_db=40.0 + float(random.normal(0, 5)),
            clipped=0.0,
        )
        for number in range(52)
    ]
    step = Step("runner", runner, 28.0, 29.0, "pass", None)
    worst = sorted(layers, key=lambda layer: layer.badness)
    return Explanation(
        *(variant, runner, "local", "f32", "pass", 8, "runner", worst[0].layer),
        steps=(step,),
        layers=tuple(worst),
        order=tuple(layer.tensor for layer in layers),
        findings=(),
        notes=("watching its layers changed how nodes are fused",),
    )


def tuned(variant: str, runner: str, **changes: Any) -> Tuned:
    """A search that found one thread without spinning to be twice as fast."""
    best = {"threads": 1, "options": {"spinning": False}}
    cell = Tuned(
        *(variant, runner, "local", "CPU", "f32", "single-stream", "ok", "recommended", "x 0.500"),
        settings=best,
        ratio=0.5,
        ci95=(0.4, 0.625),
        default_ms=4.0,
        tuned_ms=2.0,
        trials=(
            Trial({"threads": 4}, 1.25, 3),
            Trial({"options": {"spinning": False}}, 0.8, 3),
            Trial({"options": {"level": "all"}}, None, 0, reason="no such level"),
            Trial(best, 0.5, 12, (0.4, 0.625)),
        ),
        seconds=31.4,
        measured="2026-01-02T03:04:05+00:00",
    )
    return replace(cell, **changes)


def untuned(variant: str, runner: str, **changes: Any) -> Tuned:
    """A search that found nothing."""
    cell = Tuned(
        *(variant, runner, "local", "CPU", "f32", "single-stream", "ok"),
        verdict="default",
        reason="nothing that was tried is faster",
        trials=(Trial({"threads": 1}, 1.9, 3),),
        seconds=7.0,
        measured="2026-01-02T03:05:00+00:00",
    )
    return replace(cell, **changes)


def candidate(name: str, top1: float | None, ms: float, **changes: Any) -> Candidate:
    """A model of the zoo with ``ms`` on ort-cpu in fp32, a third less in int8."""
    speeds = tuple(
        Speed(
            *(variant, "ort-cpu", "ok", None, "valid", (), "f32", 2),
            *(share * ms, (0.9 * share * ms, 1.1 * share * ms), 100.0, "1.31.1"),
        )
        for variant, share in (("fp32", 1.0), ("int8", 2 / 3))
    )
    row = Candidate(
        *(name, name, "random", None, 1000, 224, 3_504_872, 300_774_272, 6 << 20, top1),
        None if top1 is None else "a paper",
        {"fp32": 14 << 20, "int8": 4 << 20},
        91.0,
        speeds,
    )
    return replace(row, **changes)


def convolution() -> Convolution:
    times = (Timed("ort-cpu", 3.0, 0.6), Timed("openvino", None, None, "failed: it burnt"))
    return Convolution(960, 320, 7, 1, 135_475_200, 15_476_160, 10.9, 3.4, times)
