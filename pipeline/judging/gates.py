"""Gates: the limits a cell must meet, where they come from, and the verdict on its outputs.

docs/parity.md gives the reasoning behind every default.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace

import numpy as np

from ..errors import InputError
from ..numerics import metrics
from ..numerics.intervals import samples_needed, wilson
from ..numerics.precision import FLOAT_FLOOR_DB, MIN_HALF_DB, float_limit, kind_of
from ..settings.judging import GateConfig
from ..verdicts import FAIL, INCONCLUSIVE, PASS
from .judgement import FILE, KERNELS, SATURATION, Distance, Judgement, Twice

# A reference whose samples differ by less than this share of their size is constant.
DEGENERATE = 1e-6

# How much further than torch's float32 is from float64 a float32 runner may be, in dB.
F32_MARGIN_DB = 30.0
# Noise of kernels that harms nothing, however good the file is.
KERNELS_ENOUGH_DB = 35.0


@dataclass(frozen=True)
class Gate:
    """Limits. ``min_top1`` is the share of samples whose class must be the reference's.

    ``min_kernels_sqnr_db`` is for a cell that is judged twice, see ``judge``: how near its
    kernels have to come to what the file says. ``None``: at least as near as the file comes to
    torch, or 35 dB.
    """

    min_sqnr_db: float
    min_cosine: float
    min_top1: float
    min_kernels_sqnr_db: float | None = None

    def kernels_limit(self, file: Distance) -> float:
        """The limit for the kernels of a file that is so far from torch."""
        if self.min_kernels_sqnr_db is not None:
            return self.min_kernels_sqnr_db
        return min(file.sqnr_db, KERNELS_ENOUGH_DB)


def default_gate(kind: str, reference_sqnr_db: float) -> Gate:
    """The gate for a kind of arithmetic: "f32", "tf32", "f16", "bf16" or "int8".

    ``reference_sqnr_db`` is torch's float32 against its own float64 on the goldens, which is
    what calibrates f32: everything else about it would be a guess. Raises ``InputError`` for
    another kind, which no edgepipe of this version has recorded.
    """
    gates = {
        "f32": Gate(float_limit(reference_sqnr_db, F32_MARGIN_DB), 0.999999, 0.85),
        "tf32": Gate(MIN_HALF_DB, 0.9999, 0.85),
        "f16": Gate(MIN_HALF_DB, 0.9999, 0.85),
        "bf16": Gate(15.0, 0.98, 0.85),
        "int8": Gate(15.0, 0.98, 0.85),
    }
    if kind not in gates:
        raise InputError(f"a precision of {kind!r}: no limits for it; run `edgepipe parity` again")
    return gates[kind]


def gate_of(
    variant: str,
    runner: str | None,
    precision: str,
    reference_sqnr_db: float,
    limits: Mapping[str, GateConfig],
) -> Gate:
    """The default for the cell's kind, then what ``[gates]`` says of its variant and runner."""
    gate = asdict(default_gate(kind_of(variant, precision), reference_sqnr_db))
    for key in (variant, f"{variant}/{runner}"):
        override = limits.get(key, GateConfig())
        gate |= {name: value for name, value in vars(override).items() if value is not None}
    return Gate(**gate)


def unreliable(kind: str, gate: Gate, reference_sqnr_db: float) -> str | None:
    """Why the reference's float32 is none for a cell under this gate, ``None`` if it is one.

    It has to lie as far above an f32 limit as the default does, or at least where the default
    begins; any other limit has to be met by itself.
    """
    least = gate.min_sqnr_db
    if kind == "f32":
        least = min(least, FLOAT_FLOOR_DB) + F32_MARGIN_DB
    if not math.isfinite(reference_sqnr_db) or reference_sqnr_db >= least:
        return None
    return (
        f"the reference's float32 is only {reference_sqnr_db:.1f} dB from its own float64, at "
        f"least {least:.1f} needed: the model is numerically unstable, or random"
    )


def judge(
    outputs: Mapping[str, np.ndarray],
    reference: Mapping[str, np.ndarray],
    gate: Gate,
    classifier: bool = True,
    own: Mapping[str, np.ndarray] | None = None,
    saturates: bool = False,
) -> Judgement:
    """Hold a cell's outputs, name -> ``[N, ...]``, against the reference's.

    Fails for outputs that are missing, extra or of another shape or dtype, for anything that
    is not finite on either side, and for a model whose answer does not depend on its input.
    Inconclusive where the limit on top-1 is met or missed by less than the samples can tell.

    ``own`` is what a quantized file's own arithmetic gives for the same inputs. With it the cell
    is judged twice: the file has to meet the gate, too, and the kernels may not cost more than
    the quantization did (``Gate.kernels_limit``). Kernels that bring the cell at least as near to
    torch as the file's own arithmetic is are no fault. ``saturates`` says that the machine's
    kernels can't compute this file exactly (``index.Variant.saturates``).
    """
    if structural := mismatch(outputs, reference):
        return Judgement(FAIL, (structural,))
    if own is not None and (structural := mismatch(own, reference)):
        return Judgement(FAIL, (f"the file itself: {structural}",), fault=FILE)
    found = _Found()
    for name, expected in reference.items():
        where = f"output {name}: " if len(reference) > 1 else ""
        distance = measure(outputs[name], expected, classifier)
        found.outputs[name] = distance
        broken = _broken({"the runner's": outputs[name], "the reference's": expected})
        found.failures += [f"{where}{reason}" for reason in broken]
        if _constant(expected):
            said = "degenerate: the reference does not depend on the input"
            found.failures.append(f"{where}{said}")
        missed = _missed(distance, gate, len(expected))
        if own is not None:
            file = measure(own[name], expected, classifier)
            kernels = measure(outputs[name], own[name], classifier)
            parts = Twice(file, kernels, gate.kernels_limit(file))
            found.twice[name] = parts
            of_file = _missed(file, gate, len(expected))
            unusable = _broken({"the file's own": own[name]})
            if not np.all(np.isfinite(expected)):
                continue
            if missed.doubt:  # of both: it is said once, of the cell
                of_file = replace(of_file, doubt="", needed=None)
            found.blame_file(where, parts, of_file, unusable)
            if not unusable:
                found.blame_kernels(where, parts, distance, saturates, said=bool(broken))
            missed = missed.beyond(of_file)
        if not broken:
            found.add(where, missed)
    return found.judgement()


@dataclass(frozen=True)
class _Missed:
    """What a distance misses of a gate, in words by metric, and what the samples can't tell."""

    failures: Mapping[str, str]
    doubt: str = ""
    needed: int | None = None

    def beyond(self, other: _Missed) -> _Missed:
        """Less what the other one misses as well."""
        failures = {key: text for key, text in self.failures.items() if key not in other.failures}
        return _Missed(failures) if "top1" in other.failures else replace(self, failures=failures)


def _missed(distance: Distance, gate: Gate, count: int) -> _Missed:
    failures: dict[str, str] = {}
    if distance.sqnr_db < gate.min_sqnr_db:
        failures["sqnr"] = f"SQNR {_db(distance.sqnr_db)}, at least {gate.min_sqnr_db:.1f} needed"
    if distance.cosine < gate.min_cosine:
        failures["cosine"] = f"cosine {distance.cosine:.6f}, at least {gate.min_cosine:g} needed"
    if distance.top1_agreement is None:
        return _Missed(failures)
    low, high = wilson(distance.top1_agreement, count)
    what = f"top-1 agreement {distance.top1_agreement:.1%} of {count}"
    if high < gate.min_top1:
        failures["top1"] = f"{what}, at least {gate.min_top1:.0%} needed"
    elif low < gate.min_top1:
        needed = samples_needed(distance.top1_agreement, gate.min_top1)
        more = f"{needed} samples like these would" if needed else "no number would"
        return _Missed(
            failures, f"{what} can't carry a claim of {gate.min_top1:.0%}; {more}", needed
        )
    return _Missed(failures)


@dataclass
class _Found:
    """What was found of a cell, output by output."""

    failures: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)
    needed: list[int] = field(default_factory=list)
    outputs: dict[str, Distance] = field(default_factory=dict)
    twice: dict[str, Twice] = field(default_factory=dict)
    faults: set[str] = field(default_factory=set)

    def add(self, where: str, missed: _Missed) -> None:
        """Count in what one distance misses."""
        self.failures += [f"{where}{text}" for text in missed.failures.values()]
        self.doubts += [f"{where}{missed.doubt}"] if missed.doubt else []
        self.needed += [missed.needed] if missed.needed else []

    def blame_file(self, where: str, parts: Twice, missed: _Missed, unusable: list[str]) -> None:
        """What the quantization costs, if that is too much."""
        if missed.failures or unusable:
            self.faults.add(FILE)
        where = f"{where}the file itself: "
        if unusable:
            self.failures += [f"{where}{text}" for text in unusable]
            return
        texts = ", ".join(missed.failures.values())
        said = {"all": f"{texts} (the kernels {_db(parts.kernels.sqnr_db)})"} if texts else {}
        self.add(where, replace(missed, failures=said))

    def blame_kernels(
        self, where: str, parts: Twice, cell: Distance, saturates: bool, said: bool
    ) -> None:
        """What the runner costs, if that is too much. ``said``: why is among the failures."""
        if parts.margin >= 0 or cell.sqnr_db >= parts.file.sqnr_db:
            return
        self.faults.add(SATURATION if saturates else KERNELS)
        if said:
            return
        why = "the runner does not compute what the file says; `parity --explain` names the layer"
        if saturates:
            why = (
                "most likely saturation, as the CPU has no VNNI: int8-avx2 is the variant for it; "
                "`parity --explain` names the layer"
            )
        self.failures.append(
            f"{where}the kernels: SQNR {_db(parts.kernels.sqnr_db)}, at least {parts.limit:.1f} "
            f"needed (the file itself {_db(parts.file.sqnr_db)}): {why}"
        )

    def judgement(self) -> Judgement:
        """The verdict on all of it. A file that is at fault comes before whoever runs it."""
        verdict = FAIL if self.failures else INCONCLUSIVE if self.doubts else PASS
        needed = None if self.failures or not self.needed else max(self.needed)
        fault = next((one for one in (FILE, SATURATION, KERNELS) if one in self.faults), None)
        reasons = (*self.failures, *self.doubts)
        return Judgement(verdict, reasons, needed, self.outputs, self.twice, fault)


def _broken(arrays: Mapping[str, np.ndarray]) -> list[str]:
    """Whose outputs are not finite, and how many."""
    counts = {whose: int(np.sum(~np.isfinite(array))) for whose, array in arrays.items()}
    return [f"{n} of {whose} outputs are NaN or infinite" for whose, n in counts.items() if n]


def _db(sqnr_db: float) -> str:
    """A distance in words: equal outputs have none in dB."""
    return "without any error" if sqnr_db == math.inf else f"{sqnr_db:.1f} dB"


def mismatch(outputs: Mapping[str, np.ndarray], reference: Mapping[str, np.ndarray]) -> str:
    """What is wrong with the form of the outputs, or an empty string."""
    missing = [name for name in reference if name not in outputs]
    extra = [name for name in outputs if name not in reference]
    if missing or extra:
        parts = [f"{label} {', '.join(names)}" for label, names in
                 (("missing", missing), ("extra", extra)) if names]  # fmt: skip
        return f"outputs {' and '.join(parts)}"
    for name, expected in reference.items():
        found = outputs[name]
        if (found.shape, found.dtype) != (expected.shape, expected.dtype):
            return (
                f"output {name} is {found.dtype} {list(found.shape)}, "
                f"the reference gave {expected.dtype} {list(expected.shape)}"
            )
    return ""


def measure(outputs: np.ndarray, reference: np.ndarray, classifier: bool = True) -> Distance:
    """All metrics of one output; top-1 and top-5 only for a classifier's ``[N, classes]``."""
    with np.errstate(invalid="ignore"):
        classes = classifier and reference.ndim == 2 and reference.shape[1] > 1
        clear = ~metrics.near_ties(reference) if classes else np.zeros(len(reference), bool)
        return Distance(
            sqnr_db=metrics.sqnr_db(outputs, reference),
            max_abs=metrics.max_abs(outputs, reference),
            max_rel=metrics.max_rel(outputs, reference),
            cosine=metrics.cosine(outputs, reference),
            top1_agreement=metrics.top1_agreement(outputs, reference) if classes else None,
            top1_agreement_clear=metrics.top1_agreement(outputs[clear], reference[clear])
            if clear.any()
            else None,
            top5_agreement=metrics.topk_agreement(outputs, reference, 5) if classes else None,
            flipped=metrics.flipped(outputs, reference) if classes else [],
        )


def _constant(reference: np.ndarray) -> bool:
    """Whether all samples have the same answer. One sample can't tell."""
    if len(reference) < 2:
        return False
    # Differences of integers could leave their type, and booleans have none.
    values = np.asarray(reference, np.float64).reshape(len(reference), -1)
    spread = float(np.max(np.ptp(values, axis=0), initial=0.0))
    return spread <= DEGENERATE * float(np.max(np.abs(values), initial=0.0))
