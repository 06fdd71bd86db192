"""Whether bench's verdicts hold, on this machine as it is and beside one who burns its cores.

    python benchmarks/trust.py ratios [--benches 20] [--threads 1] [--threads 2] [--neighbour]
    python benchmarks/trust.py gate [--benches 20] [--neighbour]
    python benchmarks/trust.py meter [--benches 20] [--neighbour]
    python benchmarks/trust.py loop [--neighbour]
    python benchmarks/trust.py peers [--neighbour]
    python benchmarks/trust.py record FILE [--generations 40] [--neighbour]

ratios: benches of fp32, int8 and a copy of int8 under another name. The copy is as fast as int8, so
its interval should hold one (in 18 of 20 on each runner) and hardly ever be called faster or slower
(once in 80); int8 should be called faster than fp32 each time.

gate: ``--rerun-baseline`` against the same files, which should never fail, and against a workspace
that was 10 % faster, which should (18 of 20). A hook in the workers makes it so: it waits after
each run for a tenth of what the run took.

meter: every bench is held against the file of the one before, though nothing has changed: how far
the time in runs of the meter moves, and how often that is called slower.

loop: the p50 of a cell over that of a bare loop, by turns in the same run, each in processes of its
own (within 3 % wanted).

peers: how much faster int8 is than fp32 by bench, by `benchmark_app` (openvino) and by hyperfine
(whole processes that load a model and run 64 images), each asked three times, one thread.

record: the slices of the three models on both runners, for the test of what intervals cover.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import random
import re
import shutil
import statistics as stats
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np

from edgepipe.pipeline import bench, export
from edgepipe.pipeline.cells.session import Cell, load_cell, start_worker
from edgepipe.pipeline.numerics import ratios as numerics
from edgepipe.pipeline.progress import SILENT
from edgepipe.pipeline.speed.bench_result import BenchResult
from edgepipe.pipeline.speed.turns import Turns
from edgepipe.pipeline.speed.visits import Entry, Schedule, Source
from edgepipe.pipeline.storage.workspace import Transaction, Workspace
from edgepipe.runners.targets import LOCAL

MODEL, RUNNERS = "mobilenet_v2", ("ort-cpu", "openvino")
COPY = "int8-avx2"  # its file is int8's here: names are those that edgepipe knows
VARIANTS = ("fp32", "int8", COPY)
SLOWER = "edgepipe-benchmark-slower"
# Loaded by every Python that finds it on PYTHONPATH, the workers' among them.
HOOK = f"""
import sys
from time import perf_counter_ns

def slow_down(module):
    create = module.create

    class Slower:
        def __init__(self, session):
            self.session = session

        def __getattr__(self, name):
            return getattr(self.session, name)

        def run(self, *arguments):
            started = perf_counter_ns()
            outputs = self.session.run(*arguments)
            until = perf_counter_ns() + (perf_counter_ns() - started) // 10
            while perf_counter_ns() < until:
                pass
            return outputs

    def slower(model, settings, provider):
        session = create(model, settings, provider)
        marked = "{SLOWER}" in session.get_modelmeta().custom_metadata_map
        return Slower(session) if marked else session

    module.create = slower

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name != "edgepipe.runners.backends.onnxruntime":
            return None
        sys.meta_path.remove(self)
        import importlib.util
        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module
        spec.loader.exec_module = lambda module: (load(module), slow_down(module))
        return spec

sys.meta_path.insert(0, Finder())
"""


@contextmanager
def neighbour(burns: bool) -> Iterator[None]:
    """Somebody else at work on every core, now more and now less, if ``burns``."""
    cores = range(os.cpu_count() or 1) if burns else ()
    others = [multiprocessing.Process(target=_burn, args=(core,), daemon=True) for core in cores]
    for other in others:
        other.start()
    try:
        yield
    finally:
        for other in others:
            other.kill()


def _burn(seed: int) -> None:
    """A share of a core that changes every 0.2 to 3 seconds, in pieces of 10 ms."""
    chance = random.Random(seed)
    while True:
        share, until = chance.random(), time.monotonic() + chance.uniform(0.2, 3.0)
        while time.monotonic() < until:
            busy = time.monotonic() + 0.01 * share
            while time.monotonic() < busy:
                pass
            time.sleep(0.01 * (1 - share))


def ratios(workspace: Path, benches: int, threads: Sequence[int]) -> None:
    """Benches of two that are equal and one that isn't."""
    for count in threads:
        held: Counter[str] = Counter()
        verdicts: defaultdict[str, Counter[str | None]] = defaultdict(Counter)
        widths: defaultdict[str, list[float]] = defaultdict(list)
        seconds = []
        for number in range(benches):
            began = time.monotonic()
            result = bench(
                workspace=workspace,
                runners=RUNNERS,
                variants=VARIANTS,
                reference="int8",
                threads=count,
            )
            seconds.append(time.monotonic() - began)
            shown = []
            for row in result.cells:
                if row.variant == "int8":
                    continue
                low, high = row.speedup_ci95 or (math.nan, math.nan)
                name = f"{row.variant}/{row.runner}"
                verdicts[name][row.against_reference] += 1
                widths[name].append(high / low - 1)
                held[name] += low <= 1 <= high
                shown.append(f"{name} {row.speedup:.3f} [{low:.3f}-{high:.3f}]")
            print(f"{number + 1}: {seconds[-1]:.0f} s; {'; '.join(shown)}", flush=True)
        print(f"threads {count}: {stats.median(seconds):.0f} s, at most {max(seconds):.0f}")
        for name, found in verdicts.items():
            wide = f"median width {stats.median(widths[name]):.1%}"
            one = f", holds 1: {held[name]} of {benches}" if COPY in name else ""
            print(f"  {name}: {dict(found)}, {wide}{one}", flush=True)


def gate(workspace: Path, benches: int) -> None:
    """The gate against a workspace that was as fast, and against one that was faster."""
    with tempfile.TemporaryDirectory() as folder:
        hook = Path(folder) / "hook"
        hook.mkdir()
        (hook / "sitecustomize.py").write_text(HOOK)
        os.environ["PYTHONPATH"] = str(hook)
        same = Path(shutil.copytree(workspace, Path(folder) / "same"))
        slow = Path(shutil.copytree(workspace, Path(folder) / "slow"))
        _mark(slow)
        for name, other, wanted in (("no change", same, "pass"), ("10 % slower", slow, "fail")):
            verdicts: Counter[str] = Counter()
            found, seconds = [], []
            for _ in range(benches):
                began = time.monotonic()
                result = bench(
                    workspace=other,
                    rerun_baseline=workspace,
                    runners=("ort-cpu",),
                    variants=("int8",),
                    threads=1,
                )
                seconds.append(time.monotonic() - began)
                comparison = result.cells[0].comparison
                assert comparison, result.cells[0].reason
                verdicts[comparison.verdict] += 1
                low, high = comparison.ci95 or (math.nan, math.nan)
                found.append(f"{comparison.ratio:.3f} [{low:.3f}-{high:.3f}]")
                print(f"  {found[-1]} {comparison.verdict}, {seconds[-1]:.0f} s", flush=True)
            print(f"{name}: {dict(verdicts)}, {wanted} wanted; at most {max(seconds):.0f} s")


def meter(workspace: Path, benches: int) -> None:
    """Benches of the same files one after the other, each held against the file before."""
    verdicts: Counter[str] = Counter()
    moves: defaultdict[str, list[float]] = defaultdict(list)
    before: BenchResult | None = None
    kept = workspace.with_name("before.json")
    for _ in range(benches + 1):
        result = bench(
            workspace=workspace,
            runners=RUNNERS,
            variants=("fp32", "int8"),
            threads=1,
            baseline=kept if before else None,
        )
        for row, old in zip(result.cells, before.cells if before else (), strict=False):
            assert row.comparison
            verdicts[row.comparison.verdict] += 1
            moved = math.log(_typical(row.in_meters) / _typical(old.in_meters))
            in_ms = math.log(_typical(row.generation_ms) / _typical(old.generation_ms))
            moves["in runs of the meter"].append(moved)
            moves["in ms"].append(in_ms)
            name = f"{row.variant}/{row.runner}"
            print(f"  {name}: {moved:+.3f} in meters, {in_ms:+.3f} in ms", flush=True)
        (workspace / MODEL / BenchResult.FILE).rename(kept)
        before = result
    for unit, found in moves.items():
        most = max(map(abs, found))
        print(f"{unit}: standard deviation {stats.stdev(found):.3f}, at most {most:.3f}")
    print(f"verdicts on no change, at 10 %: {dict(verdicts)}")


def loop(workspace: Path, generations: int = 6, cycles: int = 24) -> None:
    """What bench's worker says of a cell beside the same session in a plain loop."""
    place = Workspace(workspace, MODEL)
    with place.exported("benchmark", print) as manifest:
        source = Source.of(place, manifest)
        for runner in RUNNERS:
            for variant in ("fp32", "int8"):
                cell = Cell(variant, runner, LOCAL, "f32", f"{variant}.onnx", 1)
                logs = [_beside_a_loop(Entry(cell, source), cycles) for _ in range(generations)]
                found = numerics.over_generations(logs)
                ends = f"[{found.low:.3f}-{found.high:.3f}]"
                print(f"p50 / bare loop, {variant}/{runner}: {found.value:.3f} {ends}", flush=True)


def _beside_a_loop(entry: Entry, cycles: int) -> float:
    """One generation: the median over cycles of the log ratio of two medians."""
    cell, folder = entry.cell, entry.source.workspace.folder
    script = Path(__file__).with_name("bare_loop.py")
    asked = [cell.runner, entry.model, folder / "goldens.npz", str(cell.threads), "turns"]
    with (
        subprocess.Popen(
            [sys.executable, script, *asked],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as bare,
        closing(start_worker(cell)) as worker,
    ):
        assert bare.stdin
        assert bare.stdout
        bare.stdout.readline()
        feeds, _ = entry.source.batch(load_cell(worker, cell, entry.model))
        worker.warm_up(feeds, Schedule().plan(0))
        plain = []
        for cycle in range(cycles):
            for who in ("bare", "worker") if cycle % 2 else ("worker", "bare"):
                if who == "worker":
                    worker.slice()
                    continue
                bare.stdin.write("\n")
                bare.stdin.flush()
                plain.append(float(bare.stdout.readline()))
        measured, _ = worker.finish()
        bare.stdin.close()
    ours = np.array([np.median(part) / 1e6 for part in measured.by_slice()])
    return numerics.of_cycles(ours, np.array(plain))


def peers(workspace: Path, times: int = 3) -> None:
    """What each tool says, and how far its own answers are apart."""
    folder = workspace / MODEL
    said: defaultdict[str, list[float]] = defaultdict(list)
    for _ in range(times):
        app = [_benchmark_app(folder / f"{name}.onnx") for name in ("fp32", "int8")]
        said["benchmark_app, openvino"].append(app[0] / app[1])
        if shutil.which("hyperfine"):
            for runner in RUNNERS:
                process = [_hyperfine(runner, folder, name) for name in ("fp32", "int8")]
                said[f"hyperfine, {runner}"].append(process[0] / process[1])
        result = bench(workspace=workspace, runners=RUNNERS, variants=("fp32", "int8"), threads=1)
        for row in result.cells:
            if row.variant == "int8" and row.speedup and row.speedup_ci95:
                said[f"bench, {row.runner}"].append(row.speedup)
                ends = "[{:.2f}-{:.2f}]".format(*row.speedup_ci95)
                print(f"bench, {row.runner}: {row.speedup:.2f} {ends}", flush=True)
    for tool, found in sorted(said.items()):
        listed = ", ".join(f"{one:.2f}" for one in found)
        print(f"| {tool} | {listed} | {max(found) / min(found) - 1:.0%} |")


def _benchmark_app(model: Path) -> float:
    """Its median, in ms."""
    app = shutil.which("benchmark_app") or Path(sys.executable).with_name("benchmark_app")
    command = [app, "-m", model, "-hint", "none", "-nstreams", "1", "-nthreads", "1", "-t", "10"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    median = re.search(r"Median: +([\d.]+) ms", done.stdout)
    assert median, done.stdout
    return float(median[1])


def _hyperfine(runner: str, folder: Path, variant: str) -> float:
    """The mean time of a process, in seconds."""
    script = Path(__file__).with_name("bare_loop.py")
    files = f"{folder / variant}.onnx {folder / 'goldens.npz'}"
    command = f"{sys.executable} {script} {runner} {files} 1 once"
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        asked = ["hyperfine", "--warmup", "1", "--runs", "10", "--export-json", file.name, command]
        subprocess.run(asked, capture_output=True, check=True)
        return float(json.load(file)["results"][0]["mean"])


def record(workspace: Path, file: Path, generations: int, threads: int) -> None:
    """Slices as they come, and nothing judged: name -> ms of ``[generation, cycle]``."""
    place = Workspace(workspace, MODEL)
    with place.exported("benchmark", print) as manifest:
        source = Source.of(place, manifest)
        entries = [
            Entry(Cell(variant, runner, LOCAL, "f32", f"{variant}.onnx", threads), source)
            for runner in RUNNERS
            for variant in VARIANTS
        ]
        turns = Turns(entries, Schedule(generations), SILENT)
        turns.run()
    found = {
        f"{entry.cell.variant}/{entry.cell.runner}": np.array(
            list(visits.cycles.values()), np.float32
        )
        for entry, visits in turns.visits.items()
        if not entry.role
    }
    np.savez_compressed(file, allow_pickle=False, **found)


def _typical(figures: Sequence[float]) -> float:
    return stats.geometric_mean(figures)


def _add_copy(workspace: Path) -> None:
    """int8's file under another variant's name."""
    place = Workspace(workspace, MODEL)
    with (
        place.exported("benchmark", print) as manifest,
        Transaction(place, manifest) as transaction,
    ):
        transaction.write(f"{COPY}.onnx", (place.folder / "int8.onnx").read_bytes())
        transaction.recommend(())


def _mark(root: Path) -> None:
    """Say in int8.onnx that it is to be slower, as an export would have made it so."""
    import onnx

    place = Workspace(root, MODEL)
    with place.exported("benchmark", print) as manifest:
        model = onnx.load(place.folder / "int8.onnx")
        model.metadata_props.add(key=SLOWER, value="1.1")
        with Transaction(place, manifest) as transaction:
            transaction.write("int8.onnx", model.SerializeToString())
            transaction.recommend(())


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("ratios", "gate", "meter", "loop", "peers", "record"))
    parser.add_argument("file", type=Path, nargs="?")
    parser.add_argument("--benches", type=int, default=20)
    parser.add_argument("--generations", type=int, default=40)
    parser.add_argument("--threads", type=int, action="append")
    parser.add_argument("--neighbour", action="store_true")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        workspace = Path(folder) / "artifacts"
        export(workspace=workspace)
        _add_copy(workspace)
        with neighbour(asked.neighbour):
            if asked.what == "ratios":
                ratios(workspace, asked.benches, asked.threads or (1, 2))
            elif asked.what in ("loop", "peers"):
                (loop if asked.what == "loop" else peers)(workspace)
            elif asked.what == "record":
                record(workspace, asked.file, asked.generations, (asked.threads or [1])[0])
            else:
                (gate if asked.what == "gate" else meter)(workspace, asked.benches)


if __name__ == "__main__":
    main()
