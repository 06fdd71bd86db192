"""Verdicts: what fails, what passes, and what the samples can't tell."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edgepipe.pipeline.errors import InputError
from edgepipe.pipeline.judging.gates import Gate, default_gate, judge, unreliable
from edgepipe.pipeline.numerics.intervals import Z, samples_needed, wilson
from edgepipe.pipeline.numerics.paired import Z_95
from edgepipe.pipeline.storage.document import plain
from edgepipe.pipeline.verdicts import FAIL, INCONCLUSIVE, PASS

GATE = Gate(min_sqnr_db=20.0, min_cosine=0.98, min_top1=0.85)


def logits(count: int = 64, classes: int = 10) -> np.ndarray:
    generator = np.random.default_rng(5)
    values = generator.normal(0, 1, (count, classes))
    values[np.arange(count), generator.integers(0, classes, count)] += 8
    return values.astype(np.float32)


def flip(outputs: np.ndarray, count: int) -> np.ndarray:
    """Move the answer of the first samples by the least change that does."""
    changed = outputs.copy()
    for row in changed[:count]:
        first, second = np.argsort(row)[::-1][:2]
        row[first], row[second] = row[second] - 0.01, row[second] + 0.01
    return changed


def test_equal_outputs_pass() -> None:
    reference = {"logits": logits()}
    judgement = judge(reference, reference, GATE)
    assert (judgement.verdict, judgement.reasons) == (PASS, ())
    assert plain(judgement.outputs["logits"])["sqnr_db"] is None


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("side", ["runner", "torch", "both"])
def test_what_is_not_finite_fails_on_either_side_and_on_both(value: float, side: str) -> None:
    clean, broken = logits(), logits()
    broken[3, 4] = value
    outputs = clean if side == "torch" else broken
    reference = clean if side == "runner" else broken
    judgement = judge({"logits": outputs}, {"logits": reference}, GATE)
    assert judgement.verdict == FAIL
    assert "NaN or infinite" in judgement.reasons[0]


@pytest.mark.parametrize(
    ("outputs", "says"),
    [
        ({}, "missing logits"),
        ({"logits": logits(), "more": logits()}, "extra more"),
        ({"scores": logits()}, "missing logits and extra scores"),
        ({"logits": logits()[:, :9]}, r"float32 \[64, 9\], the reference gave float32 \[64, 10\]"),
        ({"logits": logits().astype(np.float64)}, "is float64"),
        ({"logits": logits()[:63]}, r"\[63, 10\]"),
        ({"logits": logits().T.copy()}, r"\[10, 64\]"),
    ],
)
def test_outputs_of_another_form_fail_and_are_named(
    outputs: dict[str, np.ndarray], says: str
) -> None:
    judgement = judge(outputs, {"logits": logits()}, GATE)
    assert judgement.verdict == FAIL
    assert judgement.reasons[0].startswith("output")
    with pytest.raises(AssertionError, match=says):
        raise AssertionError(judgement.reasons[0])


def test_outputs_in_another_order_are_matched_by_name() -> None:
    a, b = logits(), logits() * 2
    assert judge({"b": b, "a": a}, {"a": a, "b": b}, GATE).verdict == PASS
    assert judge({"b": a, "a": b}, {"a": a, "b": b}, GATE).verdict == FAIL


def test_a_model_that_ignores_its_input_fails_as_degenerate() -> None:
    constant = {"logits": np.repeat(logits(1), 64, axis=0)}
    judgement = judge(constant, constant, GATE)
    assert judgement.verdict == FAIL
    assert "degenerate" in judgement.reasons[0]


def test_too_much_noise_fails() -> None:
    reference = logits()
    noise = np.random.default_rng(1).normal(0, 0.2 * np.std(reference), reference.shape)
    judgement = judge(
        {"logits": (reference + noise).astype(np.float32)}, {"logits": reference}, GATE
    )
    assert judgement.verdict == FAIL
    assert "SQNR" in judgement.reasons[0]


@pytest.mark.parametrize(
    ("flips", "verdict"), [(0, PASS), (2, PASS), (5, INCONCLUSIVE), (10, INCONCLUSIVE), (20, FAIL)]
)
def test_flipped_answers(flips: int, verdict: str) -> None:
    reference = logits()
    outputs = {"logits": flip(reference, flips)}
    judgement = judge(outputs, {"logits": reference}, Gate(-100, -1, 0.85))
    assert judgement.verdict == verdict
    assert judgement.outputs["logits"].flipped == list(range(flips))
    assert (judgement.samples_needed is not None) == (verdict == INCONCLUSIVE)


def test_inconclusive_names_the_number_that_would_do() -> None:
    reference = logits(16)
    outputs = {"logits": flip(reference, 1)}
    judgement = judge(outputs, {"logits": reference}, Gate(-100, -1, 0.85))
    assert judgement.verdict == INCONCLUSIVE
    needed = judgement.samples_needed
    assert needed
    assert f"{needed} samples" in judgement.reasons[0]
    assert wilson(15 / 16, needed)[0] >= 0.85 > wilson(15 / 16, needed - 1)[0]


def test_sixteen_samples_without_a_flip_carry_the_default() -> None:
    reference = {"logits": logits(16)}
    assert judge(reference, reference, default_gate("int8", 129.0)).verdict == PASS


def test_a_share_at_the_limit_is_settled_by_no_number() -> None:
    assert samples_needed(0.85, 0.85) is None


def test_wilson_bounds_against_published_values() -> None:
    # Newcombe 1998 (Statistics in Medicine 17), table I, method 3: 81 of 263, two-sided 95 %.
    assert wilson(81 / 263, 263, Z_95) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(0.0, 20, Z_95) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert pytest.approx(1.6449, abs=1e-4) == Z, "one-sided, as a pass is a claim in one direction"


def test_the_f32_limit_follows_torchs_own_error() -> None:
    assert default_gate("f32", 130.0).min_sqnr_db - default_gate("f32", 120.0).min_sqnr_db == 10


@pytest.mark.parametrize(
    ("reference_db", "limit"), [(np.inf, 114.5), (160.0, 114.5), (69.0, 40.0), (-np.inf, 40.0)]
)
def test_the_f32_limit_is_finite_and_has_a_floor(reference_db: float, limit: float) -> None:
    assert default_gate("f32", reference_db).min_sqnr_db == limit


@pytest.mark.parametrize(
    ("kind", "limit", "reference_db", "reliable"),
    [
        ("f32", None, 129.0, True),
        ("f32", None, 70.0, True),
        ("f32", None, 69.9, False),
        ("f32", None, 3.0, False),
        ("f32", None, np.inf, True),
        ("f32", 120.0, 129.0, True),
        ("f32", 20.0, 51.0, True),
        ("f32", 20.0, 49.0, False),
        ("tf32", None, 44.0, False),
        ("int8", None, 30.0, True),
        ("int8", None, 3.0, False),
    ],
)
def test_a_reference_that_is_none_fails_by_itself(
    kind: str, limit: float | None, reference_db: float, reliable: bool
) -> None:
    gate = default_gate(kind, reference_db)
    if limit is not None:
        gate = replace(gate, min_sqnr_db=limit)
    reason = unreliable(kind, gate, reference_db)
    assert (reason is None) == reliable
    assert reason is None or f"only {reference_db:.1f} dB from its own float64" in reason


def test_outputs_that_are_no_classes_have_no_top1() -> None:
    reference = {"features": logits().reshape(64, 5, 2)}
    judgement = judge(reference, reference, GATE)
    assert judgement.verdict == PASS
    assert judgement.outputs["features"].top1_agreement is None


def test_a_precision_that_nobody_records_is_bad_input() -> None:
    with pytest.raises(InputError, match=r"'fp8': no limits for it; run `edgepipe parity` again"):
        default_gate("fp8", 120.0)
