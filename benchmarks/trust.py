"""Do bench's verdicts hold? What it calls valid is measured again, and what is slower is told.

    python benchmarks/trust.py repeat [--runs 1]
    python benchmarks/trust.py gate [--tries 20]

repeat: full benches in a row, each held against the one before. Of the cells that a bench calls
valid, how many have their next p50 in its interval, widened by 3 %? At least 95 % should.

gate: the regression gate against the same workspace (no alarm in 19 of 20), and against one
whose int8 model is 10 % slower (an alarm in 19 of 20). A hook in the workers makes it so: it
waits after each run for a tenth of what the run took.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import tempfile
from collections import Counter
from pathlib import Path

from edgepipe.pipeline import bench, export
from edgepipe.pipeline.storage.workspace import Transaction, Workspace

MODEL, RUNNERS = "mobilenet_v2", ("ort-cpu", "openvino", "torch")
WIDER = 0.03
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


def repeat(workspace: Path, runs: int) -> None:
    """A bench, and ``runs`` more after it."""
    held = valid = 0
    verdicts: Counter[str | None] = Counter()
    benches = (bench(workspace=workspace, runners=RUNNERS) for _ in range(runs + 1))
    for first, second in itertools.pairwise(benches):
        for one, two in zip(first.cells, second.cells, strict=True):
            verdicts[one.verdict] += 1
            if one.verdict != "valid" or one.latency_ms is None or two.latency_ms is None:
                continue
            low, high = one.latency_ms.ci95
            inside = low * (1 - WIDER) <= two.latency_ms.p50 <= high * (1 + WIDER)
            valid, held = valid + 1, held + inside
            print(
                f"{one.variant:<10} {one.runner:<9} {one.latency_ms.p50:7.3f} ms "
                f"[{low:.3f}-{high:.3f}]  then {two.latency_ms.p50:7.3f}  "
                f"{'inside' if inside else 'OUTSIDE'} ({one.rounds} rounds)",
                flush=True,
            )
        print(
            f"inside: {held} of {valid} valid cells (at least 95 %); {dict(verdicts)}", flush=True
        )


def gate(workspace: Path, tries: int) -> None:
    """The gate on a workspace that is as fast, and on one that isn't."""
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
            ratios = []
            for _ in range(tries):
                result = bench(
                    workspace=other,
                    rerun_baseline=workspace,
                    runners=("ort-cpu",),
                    variants=("int8",),
                    threads=1,
                    seconds=0.3,
                )
                found = result.cells[0].comparison
                assert found, result.cells[0].reason
                verdicts[found.verdict] += 1
                ratios.append(found.ratio or 0.0)
            shown = " ".join(f"{ratio:.3f}" for ratio in sorted(ratios))
            print(f"{name}: {dict(verdicts)}, {wanted} wanted; ratios {shown}", flush=True)


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
    parser.add_argument("what", choices=("repeat", "gate"))
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--tries", type=int, default=20)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        export(workspace=Path(folder))
        if arguments.what == "repeat":
            repeat(Path(folder), arguments.runs)
        else:
            gate(Path(folder), arguments.tries)


if __name__ == "__main__":
    main()
