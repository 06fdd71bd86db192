"""edgepipe beside its peers: the same trained model, the same calibration images, one run.

    python benchmarks/peers.py --folder DIR [--only latency] [--runner openvino] [--threads 1]

DIR keeps the peers' environments and the models they made. Parts, in this order:

    costs          wall and CPU time of each pipeline, in turn; makes the models if they are missing
    quality        SQNR against torch on the goldens, accuracy on the held-out digits, size
    latency        p50 of each model on each runner that takes it, in edgepipe's own workers
    benchmark_app  OpenVINO's own tool beside edgepipe's single-stream, in pairs

Everything is printed as Markdown; RESULTS.md holds the last full run.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import subprocess
import sys
import time
import venv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
from harness import CLI, bench_p50, interval, paired

from edgepipe.pipeline.cells.plan import python_of
from edgepipe.pipeline.cells.session import Cell, open_cell, run_goldens
from edgepipe.pipeline.numerics import metrics, ratios
from edgepipe.pipeline.progress import Stderr
from edgepipe.pipeline.settings import load as configuration
from edgepipe.pipeline.speed.turns import Turns
from edgepipe.pipeline.speed.visits import Entry, Schedule, Source
from edgepipe.pipeline.storage import dataset, digits
from edgepipe.pipeline.storage.workspace import Workspace
from edgepipe.runners import images
from edgepipe.runners.base import RunnerError
from edgepipe.runners.environments import own_wheel
from edgepipe.runners.machine import host
from edgepipe.runners.targets import LOCAL

MODEL = "mobilenet_v2"
PARTS = ("costs", "quality", "latency", "benchmark_app")
RUNNERS = ("ort-cpu", "openvino", "ort-openvino")
EDGEPIPE = {"int8": "int8.onnx", "int8-avx2": "int8-avx2.onnx"}
# Of each model in a generation.
SECONDS = 1.0


@dataclass(frozen=True)
class Peer:
    """A pipeline of ``peer_pipelines.py``: the file it makes, and what its environment needs.

    Libraries that edgepipe uses, too, have the versions it uses, so that the tools are compared
    and not their releases. Without ``needs`` it runs in edgepipe's own environment.
    """

    name: str
    file: str
    environment: str = ""
    needs: tuple[str, ...] = ()
    takes_edgepipe: bool = False

    @property
    def beside(self) -> tuple[str, ...]:
        """OpenVINO IR comes in two files."""
        return (self.file.replace(".xml", ".bin"),) if self.file.endswith(".xml") else ()

    def runners(self) -> tuple[str, ...]:
        """The runners that take its file."""
        return ("openvino",) if self.beside else RUNNERS


def same(*names: str) -> tuple[str, ...]:
    """Requirements for the versions that are installed here."""
    return tuple(f"{name}=={version(name)}" for name in names)


NNCF = ("nncf==3.4.0", *same("onnx", "onnxruntime", "openvino"))
# Olive 0.13.0 imports requests and does not declare it.
OLIVE = (
    "olive-ai==0.13.0",
    "requests",
    *same("torch", "onnx", "onnxscript", "onnxruntime", "safetensors"),
)
PEERS = (
    Peer("quantize_static", "quantize-static.onnx"),
    Peer("olive", "olive.onnx", "olive", OLIVE, takes_edgepipe=True),
    Peer("nncf-onnx", "nncf-onnx.onnx", "nncf", NNCF),
    Peer("nncf-openvino", "nncf-openvino.xml", "nncf", NNCF),
)


def python(peer: Peer, folder: Path) -> str:
    """The peer's interpreter, in an environment that is made the first time."""
    if not peer.needs:
        return sys.executable
    place = folder / peer.environment
    stamp, needs = place / "needs.txt", "\n".join(peer.needs)
    if not stamp.is_file() or stamp.read_text() != needs:
        venv.create(place, clear=True, with_pip=True)
        pip = [str(place / "bin" / "python"), "-m", "pip", "install", "--quiet"]
        subprocess.run([*pip, *peer.needs], check=True)
        if peer.takes_edgepipe:
            subprocess.run([*pip, "--no-deps", str(own_wheel.pack(place))], check=True)
        stamp.write_text(needs)
    return str(place / "bin" / "python")


def timed(command: Sequence[str | Path], log: Path) -> tuple[float, float]:
    """Wall and CPU seconds of a command and its children. Raises if it fails.

    A home of its own, where nobody has agreed to being reported on.
    """
    home = log.parent / "home"
    home.mkdir(exist_ok=True)
    quiet = {"HOME": str(home), "OLIVE_DISABLE_TELEMETRY": "1"}
    with log.open("wb") as output:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=output, stderr=output, env=os.environ | quiet)
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return time.perf_counter() - started, usage.ru_utime + usage.ru_stime


def costs(folder: Path, repeats: int) -> None:
    """Every pipeline in turn, in another order each time."""
    place = folder / "models" / MODEL
    scratch = folder / "scratch"
    commands: dict[str, Sequence[str]] = {}
    commands["edgepipe export"] = (*CLI, "export", "--workspace", str(scratch), "--quiet")
    for peer in PEERS:
        script = str(Path(__file__).with_name("peer_pipelines.py"))
        commands[peer.name] = (python(peer, folder), script, peer.name, str(place))
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    failed: dict[str, str] = {}
    for number in range(repeats + 1):  # the first one fills caches and is not counted
        for name in random.Random(number).sample(list(commands), len(commands)):
            shutil.rmtree(scratch, ignore_errors=True)
            log = folder / f"{name.replace(' ', '-')}.log"
            try:
                seconds = timed(commands[name], log)
            except subprocess.CalledProcessError:
                failed[name] = f"failed: {' '.join(log.read_text().split())[-200:]}"
                continue
            if number or not repeats:
                found[name].append(seconds)
    rows = []
    ours = np.median(found["edgepipe export"], axis=0)
    for name, seconds in found.items():
        if not seconds:
            rows.append((name, failed[name]))
            continue
        wall, cpu = np.median(seconds, axis=0)
        rows.append(
            (name, f"{wall:.1f}", f"{cpu:.1f}", f"{wall / ours[0]:.2f}", f"{cpu / ours[1]:.2f}")
        )
    show(("pipeline", "wall s", "CPU s", "wall / edgepipe's", "CPU / edgepipe's"), rows)


def prepare(folder: Path) -> Source:
    """Export with edgepipe, and lay the calibration images out for the peers."""
    exported, root = folder / "artifacts", folder / "models"
    place = Workspace(root, MODEL)
    if not place.folder.is_dir():
        subprocess.run((*CLI, "export", "--workspace", str(exported), "--quiet"), check=True)
        shutil.copytree(exported, root)  # a workspace takes no files of others
    manifest = place.manifest()
    assert manifest
    source = Source.of(place, manifest)
    train, _ = digits.pictures("train")
    assert source.preprocessing
    count = configuration.load().export.calibration_images
    pixels = images.stack(train[:count], source.preprocessing)
    np.save(place.folder / "calibration.npy", images.normalize(pixels, source.preprocessing))
    return source


def entries(source: Source, runner: str, threads: int) -> dict[str, Entry]:
    """The cells of a runner: edgepipe's variants, and the peers' models that are there."""
    places = configuration.load().places
    files = [("fp32", "fp32.onnx", ()), *((name, file, ()) for name, file in EDGEPIPE.items())]
    files += [(peer.name, peer.file, peer.beside) for peer in PEERS if runner in peer.runners()]
    return {
        name: Entry(
            Cell(
                name,
                runner,
                LOCAL,
                "f32",
                file,
                threads,
                python_of(runner, places),
                beside=beside,
            ),
            source,
        )
        for name, file, beside in files
        if (source.workspace.folder / file).is_file()
    }


def usable(runners: Iterable[str]) -> list[str]:
    """The runners whose environments are fit; says what is wrong with the others."""
    fit = []
    for runner in runners:
        try:
            python_of(runner, configuration.load().places)
            fit.append(runner)
        except RunnerError as error:
            print(error)
    return fit


def quality(source: Source, runners: Iterable[str]) -> dict[tuple[str, str], float]:
    """SQNR on the goldens, accuracy and size; returns the SQNR by runner and name."""
    rows, sqnr_db = [], {}
    for runner in runners:
        for name, entry in entries(source, runner, 2).items():
            place = source.workspace.folder
            size = sum(
                (place / file).stat().st_size for file in (entry.cell.file, *entry.cell.beside)
            )
            try:
                found, right, count = judge(entry)
            except RunnerError as error:
                rows.append((runner, name, str(error)[:100], "", ""))
                continue
            sqnr_db[runner, name] = found
            accuracy = f"{right}/{count} = {right / count:.2%}"
            rows.append((runner, name, f"{found:.1f}", accuracy, f"{size / 2**20:.2f}"))
    show(("runner", "model", "SQNR dB", "right", "MiB"), rows)
    return sqnr_db


def judge(entry: Entry) -> tuple[float, int, int]:
    """SQNR in dB against torch's float32, and how many of how many held-out digits are right."""
    source = entry.source
    assert source.preprocessing
    held_out = dataset.digits()
    right = 0
    with open_cell(entry.cell, source.workspace.folder / entry.cell.file) as opened:
        outputs = run_goldens(opened, source.goldens, source.preprocessing)
        sqnr_db = min(
            metrics.sqnr_db(outputs[name], rows) for name, rows in source.goldens.fp32.items()
        )
        for pixels, labels in held_out.chunks(source.preprocessing, opened.batch):
            feeds = {opened.loaded.inputs[0].name: images.normalize(pixels, source.preprocessing)}
            (logits,) = opened.worker.run(feeds).arrays.values()
            right += int(np.sum(logits.argmax(1) == labels))
    return sqnr_db, right, len(held_out)


def latency(
    source: Source, runners: Iterable[str], threads: Iterable[int], rounds: int
) -> dict[tuple[str, int], dict[str, list[float]]]:
    """p50 in ms of each generation, by runner and threads, then by model."""
    found = {}
    for runner in runners:
        for count in threads:
            group = entries(source, runner, count)
            turns = Turns(list(group.values()), Schedule(rounds, SECONDS), Stderr())
            turns.run()
            figures = {name: turns.visits[entry].figures() for name, entry in group.items()}
            found[runner, count] = {name: ms for name, ms in figures.items() if len(ms) == rounds}
            for name, entry in group.items():
                if error := turns.visits[entry].error:
                    print(f"{runner}, {name}: {error}")
    return found


def compare(
    found: dict[tuple[str, int], dict[str, list[float]]], sqnr_db: dict[tuple[str, str], float]
) -> None:
    """Each model against edgepipe's fastest one on the same runner, round by round."""
    rows, verdicts = [], []
    for (runner, threads), figures in found.items():
        ours = [name for name in EDGEPIPE if name in figures]
        if not ours:
            continue
        best = min(ours, key=lambda name: np.median(figures[name]))
        for name, ms in figures.items():
            row = [runner, str(threads), name, f"{np.median(ms):.2f}"]
            exact = f"{sqnr_db[runner, name]:.1f}" if (runner, name) in sqnr_db else "–"
            rows.append([*row, exact, *over(ms, figures[best])] if name != best else [*row, exact])
        peers = [peer.name for peer in PEERS if peer.name in figures]
        if peers:
            rival = min(peers, key=lambda name: np.median(figures[name]))
            ratio, bounds = over(figures[rival], figures[best])
            known = [f"{sqnr_db.get((runner, name), np.nan):.1f} dB" for name in (best, rival)]
            verdicts.append(
                f"{runner}, threads {threads}: the fastest peer, {rival} ({known[1]}), takes "
                f"{ratio} [{bounds}] times as long as edgepipe's {best} ({known[0]})"
            )
    show(("runner", "threads", "model", "p50 ms", "SQNR dB", "/ edgepipe's best", "95 %"), rows)
    print("", *verdicts, sep="\n")


def over(ms: Sequence[float], best: Sequence[float]) -> tuple[str, str]:
    """The paired ratio of two models' generations, and its 95 % interval."""
    found = ratios.over_generations(np.log(np.divide(ms, best)).tolist())
    return f"{found.value:.2f}", f"{found.low:.2f} to {found.high:.2f}"


def benchmark_app_p50(model: Path) -> float:
    """Median latency in ms as OpenVINO's benchmark_app reports it: latency hint, f32."""
    flags = ("-d", "CPU", "-hint", "latency", "-api", "sync", "-infer_precision", "f32", "-t", "2")
    command = [Path(sys.executable).with_name("benchmark_app"), "-m", model, *flags]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    median = re.search(r"Median:\s+([\d.]+) ms", done.stdout)
    assert median, done.stdout
    return float(median[1])


def second_opinion(folder: Path, pairs: int) -> None:
    """Single-stream of edgepipe on ``openvino`` over benchmark_app's, in pairs.

    On every core: benchmark_app takes no number of threads beside a hint.
    """
    rows = []
    place, threads = folder / "artifacts", host.physical_cores()
    for variant in ("fp32", "int8"):
        pairs_of = paired(
            lambda name=variant: bench_p50(place, "openvino", name, threads),
            lambda name=variant: benchmark_app_p50(place / MODEL / f"{name}.onnx"),
            pairs,
        )
        low, high = interval(pairs_of)
        rows.append(
            (variant, str(threads), f"{np.median(pairs_of):.3f}", f"{low:.3f} to {high:.3f}")
        )
    show(("model", "threads", "edgepipe / benchmark_app", "95 % interval"), rows)


def show(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A Markdown table."""
    print(f"\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for row in rows:
        print(f"| {' | '.join(row)} |", flush=True)


def main() -> None:
    """Make what is missing, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--only", action="append", choices=PARTS, help="may be repeated")
    parser.add_argument("--runner", action="append", choices=RUNNERS, help="may be repeated")
    parser.add_argument("--threads", action="append", type=int, help="may be repeated: 1 and 2")
    parser.add_argument(
        "--rounds", type=int, default=7, help="generations, and pairs of benchmark_app"
    )
    parser.add_argument(
        "--repeats",
        type=int,
        default=3,
        help="of every pipeline, after one that is not counted (0: count that one)",
    )
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    parts, runners = arguments.only or PARTS, usable(arguments.runner or RUNNERS)
    threads = arguments.threads or (1, 2)
    folder.mkdir(parents=True, exist_ok=True)
    source = prepare(folder)
    if "costs" in parts:
        costs(folder, arguments.repeats)
    sqnr_db = quality(source, runners) if "quality" in parts else {}
    if "latency" in parts:
        compare(latency(source, runners, threads, arguments.rounds), sqnr_db)
    if "benchmark_app" in parts:
        second_opinion(folder, arguments.rounds)


if __name__ == "__main__":
    main()
