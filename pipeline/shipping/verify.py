"""verify: does a bundle hold on this machine? Integrity, signature, CPU, answers, one verdict.

Runs on the box: it needs the base install and one runtime, nothing of what made the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from time import perf_counter
from typing import Any, TypeVar

import numpy as np

from ...runners.base import BundleError
from ...runners.bundles import signature
from ...runners.bundles.bundle import Bundle, unpacked
from ...runners.bundles.index import GOLDENS, INDEX, BundleGate
from ...runners.bundles.selection import Choice, choose
from ...runners.bundles.signature import Trust
from ...runners.targets import Target
from ...runners.timing.plan import Plan
from ...runners.workers.answers import Loaded
from ...runners.workers.launch import Worker
from ..cells.arithmetic import Arithmetic
from ..cells.plan import python_of
from ..cells.row import read_back
from ..cells.session import OpenCell, audit, interpreter, run_goldens, timeouts_of
from ..errors import InputError, Refused
from ..judging.gates import Gate, Judgement, judge, unreliable
from ..judging.parity_result import ParityResult
from ..numerics import intervals
from ..numerics.precision import as_asked, kind_of
from ..progress import Progress
from ..settings.load import load
from ..settings.machine import Places
from ..settings.options import takes
from ..settings.shipping import VerifyRequest
from ..speed.bench_result import BenchResult
from ..speed.validity import MAX_TIMED_DEVIATION
from ..storage.goldens import Goldens
from ..verdicts import FAIL, INCONCLUSIVE, PASS
from .packing import evidence
from .there import check_variant, runners_of
from .verify_result import NOT_CHECKED, P99, WAIVED, Check, Verification

Evidence = TypeVar("Evidence", ParityResult, BenchResult)
TIMING = Plan(
    seconds=0.5, min_samples=16, max_seconds=10.0, window_seconds=0.05, warm_up_seconds=0.5
)
TAIL_TIMING = replace(TIMING, min_samples=intervals.SAMPLES_NEEDED[99], max_seconds=60.0)


@takes(VerifyRequest)
def verify(request: VerifyRequest) -> Verification:
    """Check a bundle and run its goldens on a target, where it is to be used.

    The keywords are the keys of ``[verify]``. Raises ``BundleError`` for a bundle that is not
    whole or not signed as required, and ``RunnerError`` if no runner gives an answer; every other
    failure is in the result.
    """
    started = perf_counter()
    config = load(request.flags())
    settings, places = config.verify, config.places
    path, target, progress = request.bundle, places.target(request.target), request.progress
    with unpacked(path) as bundle:
        check_variant(bundle, settings.variant)
        signed = _signature(bundle, Trust(settings.key, settings.roots))
        goldens = _goldens(bundle)
        second = {name: _second(bundle, name, goldens) for name in bundle.index.variants}
        count = min(settings.samples or len(goldens), len(goldens))
        host, formats = runners_of(bundle.index, settings.runner, places, target, progress)
        if not settings.variant:
            _check_fit(bundle, host)
        choice = choose(bundle.index, host, formats, variant=settings.variant, target=target.name)
        own = second[choice.variant]
        limit_ms = settings.max_p99 or bundle.index.max_p99_ms
        answers = _run(
            bundle, choice, places, target, goldens, own, host, count, limit_ms, progress
        )
        bench = _evidence_of(bundle, "bench", BenchResult)
        cell = (choice.variant, choice.runner, choice.settings.precision)
        recorded_p50_ms = evidence.recorded_p50(bench, *cell)
        recorded_on = str(bench.host.get("cpu")) if bench else None
        checks = (
            _integrity(bundle),
            signed,
            _evidence(bundle),
            fit(choice, settings.allow_unfit),
            *answers.checks,
        )
    figures = answers.judgement.figures()
    return Verification(
        bundle=_about(bundle),
        target=target.name,
        host=host,
        variant=choice.variant,
        runner=choice.runner,
        **read_back(choice.files[0], answers.loaded),
        recommended=choice.recommended,
        samples=count,
        sqnr_db=figures["sqnr_db"],
        file_sqnr_db=figures["file_sqnr_db"],
        kernels_sqnr_db=figures["kernels_sqnr_db"],
        kernels_limit_db=figures["kernels_limit_db"],
        fault=answers.judgement.fault,
        top1_agreement=figures["top1_agreement"],
        gate=asdict(answers.gate),
        p50_ms=answers.timed.p50_ms,
        recorded_p50_ms=recorded_p50_ms,
        recorded_on=recorded_on,
        p99_ms=answers.timed.p99_ms,
        max_p99_ms=limit_ms,
        load_ms=answers.loaded.load_ms,
        seconds=perf_counter() - started,
        passed_over=choice.passed_over,
        checks=checks,
    )


def _about(bundle: Bundle) -> dict[str, Any]:
    index = bundle.index
    return {
        "path": str(bundle.path),
        "name": index.name,
        "digest": bundle.digest,
        "left_out": sorted(bundle.left_out),
        "signed": bundle.signed,
        "edgepipe": index.edgepipe,
        "waived": list(index.waived),
        "release": index.release,
        "created": index.created,
        "provenance": index.provenance,
    }


def _integrity(bundle: Bundle) -> Check:
    """What ``unpacked`` found: it raises for anything else."""
    text = f"{len(bundle.index.members)} files match {INDEX}"
    if bundle.left_out:
        text += f"; a part of the bundle, without {', '.join(sorted(bundle.left_out))}"
    return Check("integrity", PASS, text)


def _signature(bundle: Bundle, trust: Trust) -> Check:
    if trust:
        signature.check(bundle, trust)
        by = trust.key or ", ".join(map(str, trust.roots))
        return Check("signature", PASS, f"of every file, by {by}")
    text = "signed, and no --key was given" if bundle.signed else "not signed"
    return Check("signature", NOT_CHECKED, text)


def _evidence(bundle: Bundle) -> Check:
    """Whether parity passed on the build machine with these very files, by what it says itself.

    Raises ``BundleError`` for evidence that is none.
    """
    index = bundle.index
    if index.waived:
        return Check("evidence", WAIVED, f"packaged although {' and '.join(index.waived)}")
    parity = _evidence_of(bundle, "parity", ParityResult)
    if parity is None:
        return Check("evidence", FAIL, "no parity of the build machine in it")

    def limits(variant: str, runner: str, precision: str) -> Gate:
        found = index.gate(variant, runner, precision)
        if found is None:
            raise BundleError(f"{bundle.path}: no gate for {variant} in {precision}")
        return _gate(found)

    files = [name for variant in index.variants.values() for name in variant.proofs()]
    digests = {name: index.members[name].sha256 for name in (*files, GOLDENS)}
    if problems := evidence.parity_problems(parity, index.variants, digests, limits):
        return Check("evidence", FAIL, f"on the build machine: {problems[0]}")
    return Check("evidence", PASS, "parity passed on the build machine, with these files")


def _evidence_of(bundle: Bundle, name: str, kind: type[Evidence]) -> Evidence | None:
    """A result of the build machine, if the bundle has it. Raises ``BundleError`` if it is none."""
    found = bundle.evidence(name)
    try:
        return None if found is None else kind.from_json(found, bundle.index.evidence[name])
    except InputError as error:
        raise BundleError(f"{bundle.path}: {error}") from error


def _gate(limits: BundleGate) -> Gate:
    """The gate that a bundle carries."""
    fields = asdict(limits)
    return Gate(**{name: fields[name] for name in Gate.__dataclass_fields__})


def fit(choice: Choice, allowed: bool) -> Check:
    """Whether the variant is one for the CPU. Goldens can't tell: saturation depends on the data.

    ``allowed`` accepts one that isn't, and the check says so.
    """
    if choice.misfit is None:
        return Check("fits", PASS, f"{choice.variant} is one for this CPU")
    verdict = WAIVED if allowed else FAIL
    return Check("fits", verdict, f"{choice.variant} is not one for this CPU: {choice.misfit}")


def _check_fit(bundle: Bundle, host: Mapping[str, Any]) -> None:
    """Raise ``Refused`` for a bundle none of whose variants is one for a machine."""
    misfits = {name: one.misfit(host) for name, one in bundle.index.variants.items()}
    if all(misfits.values()):
        listed = "; ".join(f"{name}: {why}" for name, why in misfits.items())
        raise Refused(
            f"{bundle.path}: no variant in it is one for this CPU ({listed}); "
            "--variant NAME --allow-unfit takes one all the same"
        )


def _goldens(bundle: Bundle) -> Goldens:
    """The goldens, checked before anything is allocated for them."""
    path = bundle.folder / GOLDENS
    try:
        goldens = Goldens.load(path)
        frame = bundle.index.preprocessing.frame
        if goldens.images is None:
            raise ValueError("no images")
        count = len(goldens.images)
        if goldens.images.dtype != np.uint8 or goldens.images.shape != (count, *frame):
            raise ValueError(f"images of {goldens.images.dtype} {goldens.images.shape}")
    except (InputError, ValueError) as error:
        raise BundleError(f"{bundle.path}: no goldens in {GOLDENS} ({error})") from error
    return goldens


def _second(bundle: Bundle, variant: str, goldens: Goldens) -> Arithmetic | None:
    """What a quantized file itself makes of the goldens; ``None`` for a float one."""
    name = bundle.index.variants[variant].goldens
    if name is None:
        if kind_of(variant, "") == "int8":
            raise BundleError(f"{bundle.path}: nothing in it of what {variant} itself says")
        return None
    try:
        found = Arithmetic.load(bundle.folder / name)
    except InputError as error:
        raise BundleError(f"{bundle.path}: {name}: no outputs of {variant} itself") from error
    members = bundle.index.members
    models = [members[file].sha256 for file in bundle.index.variants[variant].names()]
    if found.model not in models or found.goldens != members[GOLDENS].sha256:
        raise BundleError(f"{bundle.path}: {name} is not of this {variant} and these goldens")
    if any(len(array) != len(goldens) for array in found.outputs.values()):
        raise BundleError(f"{bundle.path}: {name} has not as many outputs as there are goldens")
    return found


@dataclass(frozen=True)
class _Timed:
    """What a short run took, in ms, and the check of its p99; ``changed`` fails for its answers."""

    p99: Check
    p50_ms: float | None = None
    p99_ms: float | None = None
    changed: tuple[Check, ...] = ()


@dataclass(frozen=True)
class _Answers:
    """What running the goldens gave, and how it was judged."""

    loaded: Loaded
    checks: tuple[Check, ...]
    gate: Gate
    judgement: Judgement
    timed: _Timed


def _run(
    bundle: Bundle,
    choice: Choice,
    places: Places,
    target: Target,
    goldens: Goldens,
    own: Arithmetic | None,
    host: Mapping[str, Any],
    count: int,
    limit_ms: float | None,
    progress: Progress,
) -> _Answers:
    """The goldens through the runner that the box will use, then the same session timed."""
    limits = bundle.index.gate(choice.variant, choice.runner, choice.settings.precision)
    if limits is None:
        raise BundleError(
            f"{bundle.path}: no gate for {choice.variant} in {choice.settings.precision}"
        )
    gate = _gate(limits)
    argv = target.argv(interpreter(target, python_of(choice.runner, places)))
    files = {name: bundle.folder / name for name in choice.files}
    label = f"{choice.variant} / {choice.runner}"
    with Worker(argv, timeouts_of(target)) as worker:
        loaded = worker.load(choice.runner, files, choice.settings)
        audit(loaded, choice.settings.allow_fallback)
        opened = OpenCell(worker, loaded)
        outputs = run_goldens(
            opened,
            goldens,
            bundle.index.preprocessing,
            count,
            step=lambda done: progress.step(done, count, label),
        )
        progress.step(1, 1, "")
        judgement = judge(
            outputs,
            {name: array[:count] for name, array in goldens.fp32.items()},
            gate,
            own=own.first(count) if own else None,
            saturates=bundle.index.variants[choice.variant].saturates(host),
        )
        kind = kind_of(choice.variant, choice.settings.precision)
        judgement = judgement.without(unreliable(kind, gate, goldens.reference_sqnr_db))
        checks = (_answers_check(judgement, choice, loaded, count),)
        emulated = target.emulated or bool(host.get("emulator"))
        if emulated or host.get("isa"):
            refused = "an emulated CPU has no times" if emulated else "an estimate is not judged"
            timed = _Timed(tail(None, 0, limit_ms, refused))
            if not emulated:
                timed = replace(_time(opened, bundle, goldens, None), p99=timed.p99)
        else:
            timed = _time(opened, bundle, goldens, limit_ms)
    return _Answers(loaded, (*checks, *timed.changed, timed.p99), gate, judgement, timed)


def _answers_check(judgement: Judgement, choice: Choice, loaded: Loaded, count: int) -> Check:
    asked, used = choice.settings.precision, loaded.placement.precision
    if not as_asked(choice.variant, asked, used):
        return Check("answers", FAIL, f"computed in {used}, {asked} was asked for")
    said = "; ".join(judgement.reasons) or f"{count} goldens within the gates"
    return Check("answers", judgement.verdict, said)


def _time(opened: OpenCell, bundle: Bundle, goldens: Goldens, limit_ms: float | None) -> _Timed:
    """A short run, long enough for the p99 where that has a limit.

    A check fails if the answers change while timed.
    """
    name = opened.loaded.inputs[0].name
    feeds, _, _ = next(goldens.batches(bundle.index.preprocessing, name, opened.batch))
    measured, _ = opened.worker.measure(feeds, TAIL_TIMING if limit_ms else TIMING)
    p99 = intervals.percentile(measured.samples, 99) if limit_ms else None
    p99_ms = None if p99 is None else p99 / 1e6
    check = tail(p99_ms, len(measured.samples), limit_ms)
    if measured.deviation > MAX_TIMED_DEVIATION:
        text = f"answers changed while timed (by {measured.deviation:.1%} of the largest)"
        return _Timed(check, changed=(Check("timed answers", FAIL, text),))
    return _Timed(check, float(np.median(measured.samples)) / 1e6, p99_ms)


def tail(
    p99_ms: float | None, samples: int, limit_ms: float | None, refused: str | None = None
) -> Check:
    """Whether 99 % of the runs took no longer than the limit, of so many that were timed.

    ``refused`` says why times are none here.
    """
    if limit_ms is None:
        return Check(P99, NOT_CHECKED, "no limit is certified")
    if refused:
        return Check(P99, NOT_CHECKED, f"the limit is {limit_ms:g} ms; {refused}")
    if p99_ms is None:
        needed = intervals.SAMPLES_NEEDED[99]
        text = f"{samples} runs in {TAIL_TIMING.max_seconds:g} s, {needed} needed"
        return Check(P99, INCONCLUSIVE, text)
    verdict = PASS if p99_ms <= limit_ms else FAIL
    return Check(P99, verdict, f"{p99_ms:.3g} ms of {samples} runs, limit {limit_ms:g}")
