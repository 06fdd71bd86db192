"""What the build machine measured, as far as it is about the very files that are to be shipped."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path

from ....runners.bundles.index import Variant
from ....runners.bundles.monitoring.calibration import SCHEMA_VERSION, Calibration
from ....runners.timing.plan import SINGLE_STREAM
from ...errors import InputError
from ...judging.gates import Gate
from ...judging.parity_result import ParityResult
from ...quantization.histograms import Calibrated
from ...speed.bench_result import BenchResult
from ...storage.manifest import Manifest
from ...verdicts import FAIL, PASS

# (variant, runner, precision) -> the limits that hold now
GateOf = Callable[[str, str, str], Gate]


def parity_problems(
    parity: ParityResult | None,
    variants: Mapping[str, Variant],
    digests: Mapping[str, str],
    gate_of: GateOf,
) -> list[str]:
    """Why a parity result does not carry these variants, nothing if it does.

    Every file needs a cell that passed under the gates of today, and none that failed. A failure
    on a machine that the variant is not for says nothing against it: ``verify`` refuses it there.
    A machine that computes as another one is evidence of neither, where the variant passes.
    """
    if parity is None:
        return ["there is no parity.json"]
    if stale := parity.stale(digests, digests):
        return [f"parity.json is not about this {name}" for name in stale]
    problems = list(parity.problems)
    for name, variant in variants.items():
        cells = [cell for cell in parity.cells if cell.variant == name]
        misfits = [variant.misfit(parity.hosts.get(cell.target, {})) for cell in cells]
        problems += [
            f"{name} fails on {cell.runner} ({cell.target}): {cell.reason}"
            for cell, misfit in zip(cells, misfits, strict=True)
            if (cell.verdict == FAIL or cell.status == "failed") and misfit is None
        ]
        passed = [
            cell
            for cell in cells
            if cell.verdict == PASS and not parity.hosts.get(cell.target, {}).get("isa")
        ]
        where = "; judge it on a CPU with VNNI, or leave it out" if any(misfits) else ""
        problems += [
            f"no cell passed with {files[0]}{where}"
            for files in variant.files.values()
            if files[0] not in {cell.file for cell in passed}
        ]
        problems += [
            f"{name} passed on {cell.runner} under other gates than today's"
            for cell in passed
            if cell.gate != asdict(gate_of(name, cell.runner, cell.precision or ""))
        ]
    return problems


def recorded_p50(
    bench: BenchResult | None, variant: str, runner: str, precision: str
) -> float | None:
    """What bench measured for a cell on the build machine, ms; ``None`` if it didn't."""
    for cell in bench.cells if bench else ():
        same = (cell.variant, cell.runner, cell.precision) == (variant, runner, precision)
        alike = cell.scenario == SINGLE_STREAM and cell.target == "local"
        if same and alike and cell.latency_ms:
            return cell.latency_ms.p50
    return None


def p99_problem(bench: BenchResult | None, variants: Iterable[str], limit_ms: float) -> str | None:
    """Why a bench does not show that every variant's p99 is within a limit, ms.

    One cell of each is enough, and none that was not timed on the machine that it is about.
    """
    cells = [
        cell
        for cell in (bench.cells if bench else ())
        if bench
        and cell.scenario == SINGLE_STREAM
        and not bench.hosts.get(cell.target, {}).get("isa")
    ]
    for variant in variants:
        timed = [
            cell.latency_ms.p99 for cell in cells if cell.variant == variant and cell.latency_ms
        ]
        known = [p99 for p99 in timed if p99 is not None]
        if not known:
            return f"bench.json has no p99 of {variant}"
        if min(known) > limit_ms:
            return f"the p99 of {variant} is {min(known):.3g} ms in bench.json"
    return None


def precisions(parity: ParityResult | None) -> Iterable[str]:
    """The precisions that any cell was computed in."""
    cells = parity.cells if parity else ()
    return dict.fromkeys(cell.precision or "" for cell in cells if cell.status == "ok")


def calibrated(path: Path, manifest: Manifest) -> Calibrated | None:
    """The workspace's histograms; ``None`` for a model that was not calibrated here."""
    if path.name not in manifest.artifacts:
        return None
    try:
        return Calibrated.load(path)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path}: no histograms ({error}); run `edgepipe export` again") from error


def calibration(found: Calibrated, manifest: Manifest) -> Calibration:
    """What live images can be held to: of the histograms, those of the model's inputs."""
    names = [taken["name"] for taken in manifest.model["inputs"]]
    known = {name: found.histograms[name] for name in names if name in found.histograms}
    return Calibration(
        schema_version=SCHEMA_VERSION,
        images=found.images,
        inputs={name: (one.low, one.high) for name, one in known.items()},
        top1=None if found.top1 is None else tuple(found.top1.tolist()),
    )
