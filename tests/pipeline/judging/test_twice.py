"""An int8 cell is judged twice: what the file costs, and what the kernels cost. Made-up outputs."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgepipe.pipeline.cells.arithmetic import Arithmetic
from edgepipe.pipeline.cells.session import Cell
from edgepipe.pipeline.errors import InputError, UsageError
from edgepipe.pipeline.judging.gates import Gate, default_gate, gate_of, judge
from edgepipe.pipeline.judging.parity_result import CellVerdict, ParityResult, judge_all
from edgepipe.pipeline.judging.recording import CellOutputs, Recording
from edgepipe.pipeline.numerics import metrics
from edgepipe.pipeline.report.text import markdown, terminal
from edgepipe.pipeline.settings.judging import GateConfig, ParityConfig
from edgepipe.pipeline.settings.load import Config, load
from edgepipe.pipeline.shipping.packing import evidence
from edgepipe.runners.bundles.index import Variant
from edgepipe.runners.targets import LOCAL

VNNI = {"machine": "x86_64", "cpu_flags": ["avx2", "avx512_vnni"]}
AVX2 = {"machine": "x86_64", "cpu_flags": ["avx2"]}
ARM = {"machine": "aarch64", "cpu_flags": []}
INT8 = default_gate("int8", 129.0)
COUNT = 64


def torch_said() -> np.ndarray:
    generator = np.random.default_rng(5)
    values = generator.normal(0, 1, (COUNT, 10))
    values[np.arange(COUNT), generator.integers(0, 10, COUNT)] += 8
    return values.astype(np.float32)


TORCH = torch_said()


def noisy(array: np.ndarray, sqnr_db: float, seed: int = 1) -> np.ndarray:
    """The array with so much noise, to a tenth of a dB."""
    noise = np.random.default_rng(seed).normal(0, 1, array.shape)
    noise *= np.linalg.norm(array) / np.linalg.norm(noise) * 10 ** (-sqnr_db / 20)
    return (array + noise).astype(np.float32)


def cell(file_db: float, kernels_db: float) -> tuple[dict[str, Any], dict[str, Any]]:
    """(the cell's outputs, the file's own): noise of the file, and other noise on top of it."""
    own = noisy(TORCH, file_db)
    return {"logits": noisy(own, kernels_db, seed=2)}, {"logits": own}


@pytest.mark.parametrize(
    ("file_db", "kernels_db", "verdict", "fault"),
    [
        (31.0, 41.1, "pass", None),  # the default model: ort-cpu, openvino, and int8-avx2
        (31.0, 37.0, "pass", None),
        (28.6, 40.9, "pass", None),
        (31.0, 29.0, "fail", "kernels"),  # a CPU that saturates
        (30.7, 22.6, "fail", "kernels"),  # a wrong pooling kernel
        (18.6, 26.9, "pass", None),  # a coarse file: noise of the kernels is less
        (18.6, 17.0, "fail", "kernels"),
        (50.0, 36.0, "pass", None),  # a fine file: 35 dB harm nothing
        (50.0, 34.0, "fail", "kernels"),
        (12.0, 40.0, "fail", "file"),
        (12.0, 11.0, "fail", "file"),
        (15.5, 15.9, "fail", None),  # either is within its limits, both together are not
    ],
)
def test_the_kernels_may_not_cost_more_than_the_quantization(
    file_db: float, kernels_db: float, verdict: str, fault: str | None
) -> None:
    outputs, own = cell(file_db, kernels_db)
    judgement = judge(outputs, {"logits": TORCH}, replace(INT8, min_cosine=-1), own=own)
    assert (judgement.verdict, judgement.fault) == (verdict, fault), judgement.reasons
    assert bool(judgement.reasons) == (verdict == "fail")
    figures = judgement.figures()
    assert figures["file_sqnr_db"] == pytest.approx(file_db, abs=0.1)
    assert figures["kernels_sqnr_db"] == pytest.approx(kernels_db, abs=0.1)
    assert figures["kernels_limit_db"] == pytest.approx(min(file_db, 35.0), abs=0.1)


def test_the_reason_has_both_figures_and_says_who() -> None:
    outputs, own = cell(31.0, 29.0)
    (reason,) = judge(outputs, {"logits": TORCH}, INT8, own=own).reasons
    assert "SQNR 29.0 dB, at least 31.0 needed (the file itself 31.0 dB)" in reason
    assert "parity --explain" in reason
    (reason,) = judge(outputs, {"logits": TORCH}, INT8, own=own, saturates=True).reasons
    assert "saturation" in reason
    assert "int8-avx2" in reason
    outputs, own = cell(12.0, 40.0)
    (reason,) = judge(outputs, {"logits": TORCH}, INT8, own=own).reasons
    assert reason.startswith("the file itself: SQNR 12.0 dB, at least 15.0 needed")
    assert "(the kernels 40.0 dB)" in reason


def test_a_runner_that_is_more_exact_than_the_file_is_at_no_fault() -> None:
    """It leaves Quantize/Dequantize pairs out: far from the file, as near to torch."""
    own = {"logits": noisy(TORCH, 25.0)}
    found = {"logits": noisy(TORCH, 30.0, seed=3)}
    judgement = judge(found, {"logits": TORCH}, INT8, own=own)
    assert judgement.twice["logits"].margin < 0
    assert (judgement.verdict, judgement.fault) == ("pass", None)
    strict = replace(INT8, min_kernels_sqnr_db=60.0)
    assert judge({"logits": TORCH}, {"logits": TORCH}, strict, own=own).verdict == "pass"


def test_equal_outputs_have_no_distance_and_pass() -> None:
    same = {"logits": TORCH}
    judgement = judge(same, same, INT8, own=same)
    assert judgement.verdict == "pass"
    figures = judgement.figures()
    assert (figures["kernels_sqnr_db"], figures["kernels_max_abs"]) == (None, 0)
    assert figures["kernels_limit_db"] == 35


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_the_fault_of_whoever_made_it(value: float) -> None:
    clean, broken = {"logits": TORCH}, {"logits": TORCH.copy()}
    broken["logits"][3, 4] = value
    of_file = judge(broken, clean, INT8, own=broken)
    assert (of_file.verdict, of_file.fault) == ("fail", "file")
    assert any("1 of the file's own outputs" in reason for reason in of_file.reasons)
    of_runner = judge(broken, clean, INT8, own=clean)
    assert (of_runner.verdict, of_runner.fault) == ("fail", "kernels")
    assert of_runner.reasons == ("1 of the runner's outputs are NaN or infinite",)
    of_model = judge(broken, broken, INT8, own=broken)
    assert (of_model.verdict, of_model.fault) == ("fail", None)
    assert any("the reference's" in reason for reason in of_model.reasons)


@pytest.mark.parametrize(
    "own", [{}, {"scores": TORCH}, {"logits": TORCH[:5]}, {"logits": TORCH.astype(np.float64)}]
)
def test_a_file_of_another_form_is_the_files_fault(own: dict[str, np.ndarray]) -> None:
    judgement = judge({"logits": TORCH}, {"logits": TORCH}, INT8, own=own)
    assert (judgement.verdict, judgement.fault) == ("fail", "file")
    assert judgement.reasons[0].startswith("the file itself: output")


def test_one_wrong_output_of_several_is_named() -> None:
    (good, own), (bad, coarse) = cell(31.0, 41.0), cell(31.0, 20.0)
    outputs = {"a": good["logits"], "b": bad["logits"]}
    files = {"a": own["logits"], "b": coarse["logits"]}
    judgement = judge(outputs, {"a": TORCH, "b": TORCH}, INT8, own=files)
    (reason,) = judgement.reasons
    assert reason.startswith("output b: the kernels: SQNR 20.0 dB")
    assert judgement.figures()["kernels_sqnr_db"] == pytest.approx(20.0, abs=0.1)


def test_a_doubt_about_the_top_1_of_file_and_cell_is_said_once() -> None:
    flipped = TORCH.copy()
    for row in flipped[:5]:
        first, second = np.argsort(row)[::-1][:2]
        row[first], row[second] = row[second] - 0.01, row[second] + 0.01
    same = {"logits": flipped}
    judgement = judge(same, {"logits": TORCH}, Gate(-100, -1, 0.85), own=same)
    assert judgement.verdict == "inconclusive"
    (reason,) = judgement.reasons
    assert reason.startswith("top-1 agreement 92.2% of 64 can't carry")
    assert judgement.samples_needed
    (reason,) = judge({"logits": TORCH}, {"logits": TORCH}, Gate(-100, -1, 0.85), own=same).reasons
    assert reason.startswith("the file itself: top-1 agreement 92.2%")


# Whole recordings -----------------------------------------------------------------------------


def ran(variant: str, arrays: Mapping[str, np.ndarray], **facts: Any) -> CellOutputs:
    about = {"asked": "f32", "precision": "f32", "file": f"{variant}.onnx", "host": VNNI, **facts}
    runner, target = about.pop("runner", "ort-cpu"), about.pop("target", "local")
    cell = Cell(variant, runner, LOCAL, about["asked"], f"{variant}.onnx", None)
    return CellOutputs(variant, runner, target, status="ok", arrays=arrays, cell=cell, **about)


def recording(*cells: CellOutputs, reference_db: float = 129.0, **own: Any) -> Recording:
    return Recording({"name": "m", "weights": "w", "classes": 10}, {}, reference_db,
                     {"logits": TORCH}, cells, own)  # fmt: skip


def judged(*cells: CellOutputs, config: Config | None = None, **more: Any) -> ParityResult:
    config = config or Config()
    return judge_all(recording(*cells, **more), config.parity, config.gates)


@pytest.mark.parametrize(
    ("variant", "host", "fault"),
    [
        ("int8", AVX2, "saturation"),
        ("int8", VNNI, "kernels"),
        ("int8", ARM, "kernels"),
        ("int8", {}, "kernels"),
        ("int8-avx2", AVX2, "kernels"),
        ("int8-avx2", VNNI, "kernels"),
    ],
)
def test_saturation_is_where_the_variant_does_not_fit_the_cpu(
    variant: str, host: dict[str, Any], fault: str
) -> None:
    outputs, own = cell(31.0, 29.0)
    found = replace(recording(ran(variant, outputs, host=host)), own={variant: own})
    (row,) = judge_all(found, ParityConfig(), {}).cells
    assert (row.verdict, row.fault) == ("fail", fault)
    assert ("int8-avx2 is the variant for it" in (row.reason or "")) == (fault == "saturation")
    assert "\n" not in (row.reason or "")


@pytest.mark.parametrize(
    ("kernels", "elsewhere", "fault"),
    [
        (29.0, {}, "kernels"),
        (45.0, {}, "saturation"),
        (29.0, {"runner": "openvino"}, "saturation"),
        (29.0, {"target": "atom-01"}, "saturation"),
    ],
)
def test_it_is_not_saturation_where_what_can_not_saturate_is_wrong_as_well(
    kernels: float, elsewhere: dict[str, Any], fault: str
) -> None:
    outputs, own = cell(31.0, 29.0)
    others, others_own = cell(31.0, kernels)
    cells = ran("int8", outputs, host=AVX2), ran("int8-avx2", others, host=AVX2, **elsewhere)
    found = replace(recording(*cells), own={"int8": own, "int8-avx2": others_own})
    row, _ = judge_all(found, ParityConfig(), {}).cells
    assert (row.verdict, row.fault) == ("fail", fault)
    assert "`parity --explain` names the layer" in (row.reason or "")


def test_reasons_tell_cells_of_one_variant_and_runner_apart() -> None:
    outputs, own = cell(31.0, 29.0)
    cells = [ran("int8", outputs, asked=name, precision=name) for name in ("f32", "bf16")]
    result = judged(*cells, int8=own)
    for shown in (terminal.parity(result), markdown.parity(result)):
        assert {"f32", "bf16"} <= {
            word.strip(":*") for line in shown.splitlines() if "kernels:" in line
            for word in line.split()[:4]
        }  # fmt: skip


def test_a_float_variant_is_judged_once() -> None:
    (row,) = judged(ran("fp32", {"logits": TORCH})).cells
    assert (row.verdict, row.file_sqnr_db, row.kernels_limit_db, row.fault) == (
        "pass", None, None, None,
    )  # fmt: skip


def test_every_document_and_table_has_both_figures() -> None:
    outputs, own = cell(31.0, 29.0)
    result = judged(ran("fp32", {"logits": TORCH}), ran("int8", outputs), int8=own)
    document = json.loads(json.dumps(result.to_json(), allow_nan=False))
    row = document["cells"][1]
    assert (row["file_sqnr_db"], row["kernels_sqnr_db"]) == pytest.approx((31, 29), abs=0.1)
    assert row["outputs"]["logits"]["kernels"]["cosine"] < 1
    assert CellVerdict(**row).fault == "kernels"
    table = terminal.parity(result)
    assert "31.0    29.0" in table
    assert max(map(len, table.splitlines()[:4])) <= 100
    assert "| 31.0 | 29.0 |" in markdown.parity(result)


def test_a_recording_is_judged_again_without_running(tmp_path: Path) -> None:
    outputs, own = cell(31.0, 29.0)
    made = recording(ran("int8", outputs, host=AVX2), int8=own)
    (tmp_path / "parity.npz").write_bytes(made.to_bytes())
    again = Recording.load(tmp_path / "parity.npz")
    assert judge_all(again, ParityConfig(), {}) == judge_all(made, ParityConfig(), {})
    assert again.cells[0].cell is None
    (tmp_path / "old.npz").write_bytes(replace(made, own={}).to_bytes())
    with pytest.raises(InputError, match="run `edgepipe parity` again"):
        Recording.load(tmp_path / "old.npz")


def test_a_recording_with_any_field_spoiled_is_refused(tmp_path: Path) -> None:
    outputs, own = cell(31.0, 29.0)
    arrays = dict(np.load(io.BytesIO(recording(ran("int8", outputs), int8=own).to_bytes())))
    about = json.loads(arrays.pop("about").tobytes())
    (row,) = about["cells"]
    spoiled: list[tuple[str, dict[str, object]]] = [
        *((name, {**about, name: [[]]}) for name in about),
        *((name, {**about, "cells": [{**row, name: [[]]}]}) for name in row),
        ("host", {**about, "cells": [{**row, "host": {"physical_cores": "two"}}]}),
    ]
    for name, document in spoiled:
        text = np.frombuffer(json.dumps(document).encode(), np.uint8)
        np.savez(tmp_path / "parity.npz", **arrays, about=text)
        with pytest.raises(InputError, match=r"parity\.npz: "):
            pytest.fail(f"{name}: {Recording.load(tmp_path / 'parity.npz')}")


@pytest.mark.parametrize(
    ("reference_db", "state"), [(np.inf, "equal"), (-np.inf, "broken"), (129.3, "measured")]
)
def test_no_distance_of_the_reference_breaks_a_file(
    reference_db: float, state: str, tmp_path: Path
) -> None:
    """A model whose float32 is its float64 (max pooling alone) passes where outputs are equal."""
    made = recording(ran("fp32", {"logits": TORCH}), reference_db=reference_db)
    (tmp_path / "parity.npz").write_bytes(made.to_bytes())
    assert Recording.load(tmp_path / "parity.npz").reference_sqnr_db == reference_db
    result = judge_all(made, ParityConfig(), {})
    assert result.cells[0].verdict == "pass"
    document = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert document["reference_state"] == state
    known = metrics.distance(document["reference_sqnr_db"], document["reference_state"])
    assert known == reference_db
    assert "inf" not in terminal.parity(result)


def test_a_random_model_fails_for_its_reference_and_not_by_a_limit_below_zero() -> None:
    far = {"logits": noisy(TORCH, 3.0)}
    (row,) = judged(ran("fp32", far), reference_db=3.0).cells
    assert row.verdict == "fail"
    why = row.reason or ""
    assert why.startswith("the reference's float32 is only 3.0 dB from its own float64")
    assert "SQNR" not in (row.reason or ""), "a limit means nothing here"
    assert row.gate["min_sqnr_db"] == 40
    (row,) = judged(ran("fp32", {"logits": TORCH}), reference_db=3.0).cells
    assert row.verdict == "fail", "equal by luck"
    outputs, own = cell(3.0, 1.0)
    (row,) = judged(ran("int8", outputs), int8=own, reference_db=3.0).cells
    assert (row.verdict, row.fault) == ("fail", None)
    wrong = ran("fp32", far, precision="bf16")
    (row,) = judged(wrong, reference_db=3.0).cells
    assert (row.reason or "").startswith("computed in bf16")


def test_a_limit_of_ones_own_for_the_kernels() -> None:
    outputs, own = cell(31.0, 29.0)
    lax = Config(gates={"int8": GateConfig(min_kernels_sqnr_db=25.0)})
    (row,) = judged(ran("int8", outputs), int8=own, config=lax).cells
    assert (row.verdict, row.kernels_limit_db, row.gate["min_kernels_sqnr_db"]) == ("pass", 25, 25)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[gates.fp32]\nmin-kernels-sqnr-db = 30.0", "int8 alone is judged by its kernels"),
        ("[gates.int8]\nmin-kernels-sqnr-db = inf", "gates.int8.min-kernels-sqnr-db"),
        ("[gates.int8]\nmin-sqnr-db = nan", "gates.int8.min-sqnr-db"),
    ],
)
def test_limits_that_can_not_be(
    text: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "edgepipe.toml").write_text(text)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=says):
        load({})


# What is packaged -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kernels_db", "host", "refused"),
    [
        (41.0, VNNI, None),
        (29.0, VNNI, "int8 fails on ort-cpu (local): the kernels: SQNR 29.0 dB"),
        (29.0, ARM, "int8 fails on ort-cpu (local): the kernels: SQNR 29.0 dB"),
        (29.0, AVX2, "no cell passed with int8.onnx; judge it on a CPU with VNNI"),
    ],
)
def test_kernels_that_fail_where_the_variant_fits_are_refused(
    kernels_db: float, host: dict[str, Any], refused: str | None
) -> None:
    outputs, own = cell(31.0, kernels_db)
    result = judged(ran("int8", outputs, host=host), int8=own)
    variants = {"int8": Variant({"onnx": ("int8.onnx",)}, "exact-int8")}
    problems = evidence.parity_problems(
        result,
        variants,
        {},
        lambda variant, runner, precision: gate_of(variant, runner, precision, 129.0, {}),
    )
    assert bool(problems) == bool(refused)
    assert refused is None or problems[0].startswith(refused)


def test_a_failure_on_a_cpu_that_int8_is_not_for_is_none_beside_one_that_passed() -> None:
    (bad, own), (good, _) = cell(31.0, 29.0), cell(31.0, 41.0)
    cells = (ran("int8", good), ran("int8", bad, host=AVX2, target="haswell"))
    result = judged(*cells, int8=own)
    assert [row.verdict for row in result.cells] == ["pass", "fail"]
    variants = {"int8": Variant({"onnx": ("int8.onnx",)}, "exact-int8")}

    def limits(variant: str, runner: str, precision: str) -> Gate:
        return gate_of(variant, runner, precision, 129.0, {})

    assert evidence.parity_problems(result, variants, {}, limits) == []


# The file -------------------------------------------------------------------------------------


def test_the_second_reference_is_read_as_it_was_written(tmp_path: Path) -> None:
    made = Arithmetic("a" * 64, "b" * 64, {"logits": TORCH})
    (tmp_path / "x.npz").write_bytes(made.to_bytes())
    found = Arithmetic.load(tmp_path / "x.npz")
    assert (found.model, found.goldens) == (made.model, made.goldens)
    assert np.array_equal(found.outputs["logits"], TORCH)
    assert made.to_bytes() == found.to_bytes()
    assert found.first(5)["logits"].shape == (5, 10)


@pytest.mark.parametrize("place", [0, 40, 200, 1000, -30])
def test_a_damaged_one_is_bad_input(place: int, tmp_path: Path) -> None:
    data = bytearray(Arithmetic("a" * 64, "b" * 64, {"logits": TORCH}).to_bytes())
    data[place : place + 25 or None] = bytes(len(data[place : place + 25 or None]))
    (tmp_path / "x.npz").write_bytes(data)
    with pytest.raises(InputError, match=r"x\.npz: no outputs of a file's own arithmetic"):
        Arithmetic.load(tmp_path / "x.npz")
