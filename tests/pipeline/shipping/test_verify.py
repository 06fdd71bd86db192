"""verify: what it checks on the box, what it picks, and how each failure ends."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import numpy as np
import pytest

from edgepipe.pipeline import verify
from edgepipe.pipeline.cells.arithmetic import Arithmetic
from edgepipe.pipeline.shipping.verify import fit, tail
from edgepipe.pipeline.shipping.verify_result import Check, Verification
from edgepipe.pipeline.storage.goldens import Goldens
from edgepipe.runners.base import BundleError, SessionError, Settings
from edgepipe.runners.bundles.index import INDEX
from edgepipe.runners.bundles.selection import choose

from ... import bundles

Run = Callable[..., CompletedProcess[str]]
VNNI = {"machine": "x86_64", "cpu_flags": ["avx2", "avx512_vnni"], "physical_cores": 4}
AVX2 = {"machine": "x86_64", "cpu_flags": ["avx2", "fma"], "physical_cores": 4}
ARM = {"machine": "aarch64", "cpu_flags": [], "physical_cores": 4}
ORT = {"ort-cpu": ("onnx",)}


def members(path: Path) -> dict[str, bytes]:
    """The files of a bundle, in their order."""
    listed = subprocess.run(["tar", "tzf", str(path)], capture_output=True, text=True, check=True)
    return {
        name: subprocess.run(["tar", "xzOf", str(path), name], capture_output=True).stdout
        for name in listed.stdout.split()
    }


def rewritten(bundle: Path, path: Path, **replaced: bytes) -> Path:
    """The bundle with other files in it, and an index that agrees with them."""
    found = members(bundle)
    given = {name.replace("__", ".").replace("_", "-"): data for name, data in replaced.items()}
    for name, data in given.items():
        found[name] = data

    def change(document: dict[str, Any]) -> None:
        for name, data in given.items():
            member = bundles.member(data)
            document["members"][name] = {"sha256": member.sha256, "size": member.size}

    found[INDEX] = bundles.edited(found[INDEX], change)
    return bundles.write(path, found)


# The whole command ----------------------------------------------------------------------------


def test_a_bundle_holds_where_it_was_made(bundle: Path, edgepipe: Run) -> None:
    done = edgepipe("verify", bundle, "--runner", "ort-cpu", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    document = json.loads(done.stdout)
    verdicts = {check["name"]: check["verdict"] for check in document["checks"]}
    assert verdicts == {
        "integrity": "pass",
        "signature": "not checked",
        "evidence": "pass",
        "fits": "pass",
        "answers": "pass",
        "p99": "not checked",
    }
    assert (document["verdict"], document["runner"]) == ("pass", "ort-cpu")
    exact = {"avx512_vnni", "avx_vnni", "amx_int8"} & set(document["host"]["cpu_flags"])
    assert document["variant"] == ("int8" if exact else "int8-avx2")
    assert document["samples"] == 64
    assert document["sqnr_db"] > document["gate"]["min_sqnr_db"]
    assert document["p50_ms"] > 0
    assert document["recorded_p50_ms"] > 0


def test_the_terminal_says_what_was_checked(bundle: Path, edgepipe: Run) -> None:
    done = edgepipe("verify", bundle, "--runner", "ort-cpu", "--variant", "fp32", "--quiet")
    assert done.returncode == 0
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[:5]] == ["pass", "not", "pass", "pass", "pass"]
    assert "fp32 (fp32.onnx) on ort-cpu" in done.stdout
    assert lines[-1].startswith("pass: ")


@pytest.mark.long
@pytest.mark.skipif(shutil.which("qemu-x86_64") is None, reason="needs qemu-user")
def test_a_cpu_without_vnni_gets_int8_avx2_and_refuses_int8(bundle: Path, edgepipe: Run) -> None:
    flags = ("--target", "haswell", "--runner", "ort-cpu", "--json")
    done = edgepipe("verify", bundle, *flags, "--samples", "16")
    assert done.returncode == 0, done.stdout + done.stderr
    document = json.loads(done.stdout)
    assert (document["variant"], document["verdict"]) == ("int8-avx2", "pass")
    assert set(document["host"]["cpu_flags"]) == {"avx2", "fma"}
    assert "no VNNI" in document["passed_over"]["int8"]
    assert document["p50_ms"] is None, "timings of an emulated CPU mean nothing"
    done = edgepipe("verify", bundle, *flags, "--variant", "int8", "--samples", "1")
    assert done.returncode == 1, done.stdout + done.stderr
    failed = [check for check in json.loads(done.stdout)["checks"] if check["verdict"] == "fail"]
    assert [check["name"] for check in failed] == ["fits"]


def test_an_unfit_variant_that_is_allowed_is_waived_and_shows() -> None:
    choice = choose(bundles.index(bundles.files()), AVX2, ORT, variant="int8")
    assert fit(choice, allowed=False).verdict == "fail"
    check = fit(choice, allowed=True)
    assert check.verdict == "waived"
    assert "no VNNI" in check.text


@pytest.mark.parametrize(
    ("p99_ms", "samples", "limit_ms", "refused", "verdict", "says"),
    [
        (9.0, 700, 10.0, None, "pass", "9 ms of 700 runs, limit 10"),
        (10.0, 700, 10.0, None, "pass", "limit 10"),
        (10.1, 700, 10.0, None, "fail", "10.1 ms"),
        (None, 600, 10.0, None, "inconclusive", "600 runs in 60 s, 662 needed"),
        (None, 0, 10.0, "an emulated CPU has no times", "not checked", "emulated"),
        (None, 0, None, "an emulated CPU has no times", "not checked", "no limit is certified"),
        (None, 50, None, None, "not checked", "no limit is certified"),
    ],
)
def test_a_p99_is_held_to_its_limit(
    p99_ms: float | None,
    samples: int,
    limit_ms: float | None,
    refused: str | None,
    verdict: str,
    says: str,
) -> None:
    check = tail(p99_ms, samples, limit_ms, refused)
    assert check.verdict == verdict
    assert says in check.text


@pytest.mark.long
def test_a_box_is_held_to_a_p99_of_its_own(bundle: Path) -> None:
    checks = {"runner": "ort-cpu", "variant": "fp32", "samples": 16}
    slow = verify(bundle, **checks, max_p99=60_000)
    assert slow.verdict == "pass"
    assert slow.p99_ms is not None
    assert slow.p50_ms is not None
    assert slow.p50_ms <= slow.p99_ms
    fast = verify(bundle, **checks, max_p99=0.001)
    assert [check.name for check in fast.checks if check.verdict == "fail"] == ["p99"]
    assert fast.exit_code == 1


def test_answers_that_are_not_the_models_fail(bundle: Path, tmp_path: Path, edgepipe: Run) -> None:
    """An fp32 file whose weights are another model's: whole, but not what the goldens say."""
    from onnx import ModelProto, numpy_helper

    model = ModelProto.FromString(members(bundle)["fp32.onnx"])
    last = [one for one in model.graph.initializer if list(one.dims) == [10, 1280]]
    assert last, [list(one.dims) for one in model.graph.initializer][-5:]
    last[0].CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(last[0]), last[0].name))
    other = rewritten(bundle, tmp_path / "other.tar.gz", fp32__onnx=model.SerializeToString())
    flags = ("--runner", "ort-cpu", "--variant", "fp32", "--json")
    done = edgepipe("verify", other, *flags)
    assert done.returncode == 1, done.stdout + done.stderr
    failed = {
        check["name"]: check["text"]
        for check in json.loads(done.stdout)["checks"]
        if check["verdict"] == "fail"
    }
    assert set(failed) == {"answers", "evidence"}
    assert "is not about this fp32.onnx" in failed["evidence"]


def test_a_waived_condition_shows(measured: Path, tmp_path: Path, edgepipe: Run) -> None:
    folder = Path(shutil.copytree(measured, tmp_path / "artifacts"))
    (folder / "mobilenet_v2" / "parity.json").unlink()
    flags = ("--workspace", folder, "--allow-failed-parity", "--variant", "fp32", "--json")
    path = json.loads(edgepipe("package", *flags).stdout)["path"]
    done = edgepipe("verify", path, "--runner", "ort-cpu", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    checks = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    assert checks["evidence"]["verdict"] == "waived"
    assert "failed-parity" in checks["evidence"]["text"]


@pytest.mark.parametrize(
    ("flags", "code", "says"),
    [
        (("--runner", "ort-cuda"), 5, "ort-cuda"),
        (("--runner", "torch"), 5, "torch: takes pt2, the bundle has onnx"),
        (("--runner", "ort-cup"), 2, "did you mean ort-cpu?"),
        (("--target", "nowhere"), 2, "targets: no 'nowhere'"),
        (("--variant", "fp16"), 2, "known: fp32, int8, int8-avx2"),
        (("--key", "missing.pem"), 4, "not signed"),
    ],
)
def test_what_can_not_be_verified_says_why(
    bundle: Path, edgepipe: Run, flags: tuple[str, ...], code: int, says: str
) -> None:
    done = edgepipe("verify", bundle, *flags, "--quiet")
    assert done.returncode == code, done.stdout + done.stderr
    (line,) = done.stderr.splitlines()
    assert says in line


@pytest.mark.parametrize(
    "images",
    [np.zeros((0, 8, 8, 3), np.uint8), np.zeros((4, 9, 8, 3), np.uint8), np.zeros((4, 8, 8, 3))],
    ids=["none", "other-size", "floats"],
)
def test_goldens_that_are_none_are_an_integrity_error(images: np.ndarray, tmp_path: Path) -> None:
    import io

    buffer = io.BytesIO()
    logits = np.zeros((4, 10))
    arrays: dict[str, Any] = {"fp32.logits": logits}
    np.savez(buffer, images=images, labels=np.arange(4), **arrays)
    found = bundles.files() | {"goldens.npz": buffer.getvalue()}
    text = bundles.index(found).to_bytes()
    path = bundles.write(tmp_path / "tiny.tar.gz", {INDEX: text, **found})
    with pytest.raises(BundleError, match=r"no goldens in goldens\.npz"):
        verify(path)


def test_what_a_box_loses_is_taken_apart(bundle: Path, edgepipe: Run) -> None:
    flags = ("--runner", "ort-cpu", "--variant", "int8-avx2")
    done = edgepipe("verify", bundle, *flags, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    document = json.loads(done.stdout)
    assert document["kernels_sqnr_db"] > document["kernels_limit_db"]
    assert document["file_sqnr_db"] >= document["kernels_limit_db"]
    assert document["fault"] is None
    done = edgepipe("verify", bundle, *flags, "--quiet")
    assert "the file itself 3" in done.stdout
    assert "dB from the reference; the kernels " in done.stdout


def test_kernels_that_cost_more_than_the_file_fail_on_the_box(
    bundle: Path, tmp_path: Path, edgepipe: Run
) -> None:
    """The file claims to be nearly as good as torch: what is lost, the kernels lose."""
    for name in ("goldens.npz", "int8-avx2.goldens.npz"):
        (tmp_path / name).write_bytes(members(bundle)[name])
    exact = Goldens.load(tmp_path / "goldens.npz").fp32["logits"]
    own = Arithmetic.load(tmp_path / "int8-avx2.goldens.npz")
    own = replace(own, outputs={"logits": exact * np.float32(1.001)})
    path = rewritten(bundle, tmp_path / "o.tar.gz", int8_avx2__goldens__npz=own.to_bytes())
    done = edgepipe("verify", path, "--runner", "ort-cpu", "--variant", "int8-avx2", "--json")
    assert done.returncode == 1, done.stdout + done.stderr
    document = json.loads(done.stdout)
    assert document["file_sqnr_db"] == pytest.approx(60, abs=0.1)
    assert document["kernels_limit_db"] == 35 > document["kernels_sqnr_db"]
    assert document["fault"] == "kernels"
    assert document["sqnr_db"] > document["gate"]["min_sqnr_db"]
    failed = {c["name"]: c["text"] for c in document["checks"] if c["verdict"] == "fail"}
    assert set(failed) == {"evidence", "answers"}
    assert failed["answers"].startswith("the kernels: SQNR ")


@pytest.mark.parametrize("kind", ["damaged", "of another model", "gone"])
def test_a_second_reference_that_is_none_is_an_integrity_error(
    kind: str, bundle: Path, tmp_path: Path, edgepipe: Run
) -> None:
    name = "int8-avx2.goldens.npz"
    (tmp_path / "own.npz").write_bytes(members(bundle)[name])
    other = replace(Arithmetic.load(tmp_path / "own.npz"), model="0" * 64).to_bytes()
    data = b"PK nothing" if kind == "damaged" else other
    path = rewritten(bundle, tmp_path / "other.tar.gz", int8_avx2__goldens__npz=data)
    if kind == "gone":
        found = members(path)

        def change(document: dict[str, Any]) -> None:
            document["variants"]["int8-avx2"]["goldens"] = None
            del document["members"][name]

        found[INDEX] = bundles.edited(found[INDEX], change)
        del found[name]
        bundles.write(path, found)
    done = edgepipe("verify", path, "--runner", "ort-cpu")
    assert done.returncode == 4, done.stdout + done.stderr
    assert "int8-avx2" in done.stderr
    assert "Traceback" not in done.stderr


# What is picked -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("facts", "variant"), [(VNNI, "int8"), (AVX2, "int8-avx2"), (ARM, "int8")], ids=str
)
def test_the_best_variant_that_fits_the_cpu_is_picked(
    facts: Mapping[str, Any], variant: str
) -> None:
    found = bundles.files() | {"int8-avx2.onnx": b"x"}
    variants = {
        name: bundles.Variant({"onnx": (f"{name}.onnx",)}, "exact-int8" if name == "int8" else None)
        for name in ("fp32", "int8", "int8-avx2")
    }
    choice = choose(bundles.index(found, variants=variants), facts, ORT)
    assert (choice.variant, choice.misfit) == (variant, None)
    assert ("int8" in choice.passed_over) == (variant != "int8")
    assert choice.settings == Settings(4)


@pytest.mark.parametrize("need", ["dotprod", "i8mm"])
@pytest.mark.parametrize(
    ("facts", "variant"),
    [
        (ARM, "fp32"),
        ({**ARM, "cpu_flags": ["fp16"]}, "fp32"),
        ({**ARM, "cpu_flags": ["dotprod", "i8mm"]}, "int8"),
        (VNNI, "fp32"),
        ({**VNNI, "cpu_flags": ["dotprod", "i8mm"]}, "fp32"),
    ],
    ids=["none", "fp16", "both", "x86", "x86 that says so"],
)
def test_what_needs_an_extension_of_arm_is_for_cpus_that_have_it(
    facts: Mapping[str, Any], variant: str, need: str
) -> None:
    needs = {"fp32": None, "int8": need}
    variants = {name: bundles.Variant({"onnx": (f"{name}.onnx",)}, needs[name]) for name in needs}
    choice = choose(bundles.index(bundles.files(), variants=variants), facts, ORT)
    assert choice.variant == variant
    assert variant == "int8" or need in choice.passed_over["int8"]


def test_a_variant_asked_for_by_name_is_taken_and_its_misfit_is_known() -> None:
    choice = choose(bundles.index(bundles.files()), AVX2, ORT, variant="int8")
    assert choice.variant == "int8"
    assert choice.misfit
    assert choose(bundles.index(bundles.files()), AVX2, ORT).variant == "fp32"


def test_recommended_settings_decide_the_runner_and_are_kept_within_the_machine() -> None:
    both = {"ort-cpu": ("onnx",), "openvino": ("openvino-ir", "onnx")}
    settings = (
        bundles.recommended("int8", "openvino", "atom-01", threads=2),
        bundles.recommended("int8", "openvino", threads=64),
    )
    index = bundles.index(bundles.files(), recommended=settings)
    choice = choose(index, VNNI, both)
    assert (choice.runner, choice.recommended, choice.settings.threads) == ("openvino", True, 4)
    assert choose(index, VNNI, both, target="atom-01").settings.threads == 2
    assert choose(index, VNNI, ORT).recommended is False


def test_settings_that_do_not_exist_are_named() -> None:
    settings = (bundles.recommended("int8", "ort-cpu", warp=9),)
    with pytest.raises(BundleError, match=r"int8/ort-cpu.*warp"):
        choose(bundles.index(bundles.files(), recommended=settings), VNNI, ORT)


def test_a_format_that_no_runner_takes_is_named() -> None:
    with pytest.raises(SessionError, match=r"int8: no runner here \(openvino\) takes its files"):
        choose(bundles.index(bundles.files()), VNNI, {"openvino": ("openvino-ir",)})


@pytest.mark.parametrize(
    ("verdicts", "verdict", "code"),
    [
        (("pass", "not checked", "waived"), "pass", 0),
        (("pass", "inconclusive"), "inconclusive", 6),
        (("inconclusive", "fail", "pass"), "fail", 1),
    ],
)
def test_one_verdict_of_all_checks(verdicts: tuple[str, ...], verdict: str, code: int) -> None:
    fields: dict[str, Any] = dict.fromkeys(one.name for one in dataclasses.fields(Verification))
    fields["checks"] = tuple(Check("x", found, "") for found in verdicts)
    found = Verification(**fields)
    assert (found.verdict, found.exit_code) == (verdict, code)
