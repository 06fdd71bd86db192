"""package: what a bundle holds, that it is the same every time, and what is not packaged."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from edgepipe.pipeline import package
from edgepipe.pipeline.errors import Refused
from edgepipe.pipeline.report.tables.formatting import ms
from edgepipe.pipeline.storage.manifest import Manifest, Recommendation
from edgepipe.runners.bundles.bundle import unpacked

Run = Callable[..., CompletedProcess[str]]


@pytest.fixture
def ready(measured: Path, tmp_path: Path) -> Path:
    """A measured workspace that a test may break."""
    copied = tmp_path / "artifacts"
    subprocess.run(["cp", "-r", str(measured), str(copied)], check=True)
    return copied


def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def edit_manifest(workspace: Path, **changes: Any) -> Manifest:
    path = workspace / "mobilenet_v2" / "manifest.json"
    manifest = replace(Manifest.from_json(path.read_text(), path), **changes)
    path.write_text(manifest.to_json())
    return manifest


def test_two_packages_of_a_workspace_are_equal(
    measured: Path, bundle: Path, tmp_path: Path, edgepipe: Run
) -> None:
    """Also from another process with other hashes of strings."""
    flags = ("--workspace", measured, "--output", tmp_path / "again")
    done = edgepipe("package", *flags, env={"PYTHONHASHSEED": "7"}, cwd=Path.cwd())
    assert done.returncode == 0, done.stderr
    (again,) = (tmp_path / "again").iterdir()
    assert again.name == bundle.name
    assert again.read_bytes() == bundle.read_bytes()


def test_the_name_ends_in_the_digest_of_the_index(bundle: Path) -> None:
    with unpacked(bundle) as found:
        digest = hashlib.sha256((found.folder / "bundle.json").read_bytes()).hexdigest()
        assert (found.digest, bundle.name) == (digest, f"mobilenet_v2-{digest[:16]}.tar.gz")


def test_tar_unpacks_it_to_the_files_that_the_index_names(bundle: Path, tmp_path: Path) -> None:
    subprocess.run(["tar", "xzf", str(bundle)], cwd=tmp_path, check=True)
    document = json.loads((tmp_path / "bundle.json").read_text())
    found = {
        str(path.relative_to(tmp_path)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in tmp_path.rglob("*")
        if path.is_file()
    }
    del found["bundle.json"]
    assert found == {name: member["sha256"] for name, member in document["members"].items()}
    assert {"fp32.onnx", "int8.onnx", "int8-avx2.onnx", "goldens.npz", "MODEL_CARD.md"} <= set(
        found
    )
    assert "fp32.pt2" not in found


def test_what_is_in_it_is_what_the_workspace_says(bundle: Path, measured: Path) -> None:
    folder = measured / "mobilenet_v2"
    manifest = json.loads((folder / "manifest.json").read_text())
    with unpacked(bundle) as found:
        index = found.index
        assert index.labels == tuple(manifest["labels"])
        assert index.preprocessing.to_json() == manifest["preprocessing"]
        assert index.provenance["weights_sha256"] == manifest["model"]["weights_sha256"]
        assert index.provenance["tools"] == manifest["tools"]
        calibration = manifest["artifacts"]["calibration.npz"]["sha256"]
        assert index.provenance["calibration_sha256"] == calibration
        assert {name: one.needs for name, one in index.variants.items()} == {
            "fp32": None,
            "int8": "exact-int8",
            "int8-avx2": None,
        }
        assert found.evidence("parity") == json.loads((folder / "parity.json").read_text())
        assert found.evidence("bench") == json.loads((folder / "bench.json").read_text())
        for cell in json.loads((folder / "parity.json").read_text())["cells"]:
            gate = index.gate(cell["variant"], "ort-cpu", "f32")
            assert gate
            assert gate.min_sqnr_db == cell["gate"]["min_sqnr_db"]


def test_the_card_the_bill_and_the_requirements_say_what_was_measured(bundle: Path) -> None:
    with unpacked(bundle) as found:
        card = (found.folder / "MODEL_CARD.md").read_text()
        parity = found.evidence("parity")
        assert parity
        for cell in parity["cells"]:
            assert f"| {cell['verdict']} | {cell['sqnr_db']:.1f} |" in card
        bench = found.evidence("bench")
        assert bench
        for cell in bench["cells"]:
            if cell["latency_ms"] and cell["latency_ms"]["ci95"]:
                low, high = map(ms, cell["latency_ms"]["ci95"])
                p50 = ms(cell["latency_ms"]["p50"])
                assert f"| {p50} | {low}–{high} | {cell['verdict']} |" in card
        pins = dict(
            line.split("==")
            for line in (found.folder / "requirements/cpu.txt").read_text().splitlines()
            if "==" in line
        )
        assert {"edgepipe", "numpy", "onnxruntime"} <= set(pins)
        assert not {"torch", "onnx", "openvino"} & set(pins)
        document = json.loads((found.folder / "bom.cdx.json").read_text())
        assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.6")
        hashes = {
            part["name"]: part["hashes"][0]["content"]
            for part in document["components"]
            if part["type"] == "file"
        }
        assert hashes["int8.onnx"] == found.index.members["int8.onnx"].sha256
        urls = {part["purl"] for part in document["components"] if "purl" in part}
        assert f"pkg:pypi/numpy@{pins['numpy']}" in urls


def test_the_bill_of_materials_is_valid_cyclonedx(bundle: Path) -> None:
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    pytest.importorskip("jsonschema", reason="needs jsonschema to validate against the schema")
    with unpacked(bundle) as found:
        text = (found.folder / "bom.cdx.json").read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None


# What is chosen -------------------------------------------------------------------------------


def test_only_the_variants_that_were_asked_for_are_in_it(measured: Path, tmp_path: Path) -> None:
    made = package(workspace=measured, output=tmp_path, variants=("int8-avx2",))
    assert set(made.bundle.variants) == {"int8-avx2"}
    assert not {"fp32.onnx", "int8.onnx"} & set(made.bundle.members)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--format", "openvino-ir"), "run `edgepipe export --format openvino-ir`"),
        (("--variant", "fp16"), "run `edgepipe export --variant fp16`"),
        (("--sign-certificate", "c"), "sign-certificate: signs nothing without package.sign-key"),
        (("--sign-chain", "c"), "package.sign-chain: signs nothing without package.sign-key"),
        (("--sign-chain", "c", "--sign-key", "k"), "without package.sign-certificate"),
    ],
)
def test_what_is_not_there_is_a_usage_error(
    measured: Path, edgepipe: Run, flags: tuple[str, ...], says: str
) -> None:
    done = edgepipe("package", "--workspace", measured, *flags)
    assert done.returncode == 2
    assert says in done.stderr


def test_recommended_settings_travel_along(ready: Path, tmp_path: Path) -> None:
    found = Recommendation(
        "int8", "ort-cpu", "local", "CPU", "f32", {"threads": 1}, {"p50_ms": 2.0}
    )
    other = Recommendation("fp16", "openvino", "local", "CPU", "f32", {"threads": 1}, {})
    edit_manifest(ready, recommended=(found, other))
    made = package(workspace=ready, output=tmp_path)
    (one,) = made.bundle.recommended
    assert (one.variant, one.settings) == ("int8", {"threads": 1})


def test_a_changed_gate_goes_into_the_bundle_once_parity_has_used_it(
    ready: Path, edgepipe: Run, tmp_path: Path
) -> None:
    gates = '[gates."int8-avx2/ort-cpu"]\nmin-sqnr-db = 16.0\nmin-kernels-sqnr-db = 25.0\n'
    (tmp_path / "edgepipe.toml").write_text(gates)
    flags = ("--variant", "int8-avx2", "--workspace", ready, "--json")
    done = edgepipe("package", *flags)
    assert done.returncode == 1
    assert "int8-avx2 passed on ort-cpu under other gates than today's" in done.stderr
    assert edgepipe("parity", "--runner", "ort-cpu", *flags).returncode == 0
    done = edgepipe("package", *flags)
    assert done.returncode == 0, done.stderr
    bundled = {
        gate["runner"]: (gate["min_sqnr_db"], gate["min_kernels_sqnr_db"])
        for gate in json.loads(done.stdout)["bundle"]["gates"]
    }
    assert bundled == {None: (15.0, None), "ort-cpu": (16.0, 25.0)}


# What is refused ------------------------------------------------------------------------------


def fail_int8(document: dict[str, Any]) -> None:
    cell = next(cell for cell in document["cells"] if cell["variant"] == "int8")
    cell.update(verdict="fail", reason="SQNR 3.0 dB, at least 15.0 needed")
    document["hosts"]["local"]["cpu_flags"] = ["avx2", "avx512_vnni"]


def doubt_int8(document: dict[str, Any]) -> None:
    for cell in document["cells"]:
        if cell["variant"] == "int8":
            cell["verdict"] = "inconclusive"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (fail_int8, "int8 fails on ort-cpu (local): SQNR 3.0 dB"),
        (doubt_int8, "no cell passed with int8.onnx"),
        (lambda document: document["artifacts"].update({"int8.onnx": "0" * 64}), "this int8.onnx"),
        (lambda document: document["artifacts"].pop("goldens.npz"), "about this goldens.npz"),
        (lambda document: document["cells"].clear(), "no cell passed with fp32.onnx"),
    ],
)
def test_what_has_not_passed_parity_is_refused_unless_allowed_by_name(
    ready: Path, edgepipe: Run, change: Callable[[dict[str, Any]], None], says: str
) -> None:
    edit(ready / "mobilenet_v2" / "parity.json", change)
    done = edgepipe("package", "--workspace", ready)
    assert done.returncode == 1
    assert says in done.stderr
    assert "--allow-failed-parity" in done.stderr
    done = edgepipe("package", "--workspace", ready, "--allow-failed-parity", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["bundle"]["waived"] == ["failed-parity"]
    with unpacked(ready.parent / document["path"]) as found:
        assert "Parity did not pass" in (found.folder / "MODEL_CARD.md").read_text()


def test_a_failure_on_a_cpu_that_int8_is_not_for_is_none(ready: Path, tmp_path: Path) -> None:
    def change(document: dict[str, Any]) -> None:
        cell = next(cell for cell in document["cells"] if cell["variant"] == "int8")
        document["cells"].append({**cell, "target": "haswell", "verdict": "fail"})
        document["hosts"]["haswell"] = {"machine": "x86_64", "cpu_flags": ["avx2"]}

    edit(ready / "mobilenet_v2" / "parity.json", change)
    assert package(workspace=ready, output=tmp_path).bundle.waived == ()


def test_what_passed_on_a_cpu_that_computes_as_another_one_is_no_proof(
    ready: Path, edgepipe: Run
) -> None:
    edit(ready / "mobilenet_v2" / "parity.json", lambda it: it["hosts"]["local"].update(isa="AVX2"))
    done = edgepipe("package", "--workspace", ready)
    assert done.returncode == 1
    assert "no cell passed with fp32.onnx" in done.stderr


def test_the_card_has_no_times_of_a_cpu_that_another_one_computed_as(
    ready: Path, tmp_path: Path
) -> None:
    def there(document: dict[str, Any]) -> None:
        found = [{**cell, "target": "isa-avx2", "isa": "Intel AVX2"} for cell in document["cells"]]
        for cell in found:
            if cell.get("latency_ms"):
                cell["latency_ms"] = {**cell["latency_ms"], "p50": 123456.0}
        document["cells"] += found
        document["hosts"]["isa-avx2"] = {**document["hosts"]["local"], "isa": "AVX2"}

    for name in ("parity.json", "bench.json"):
        edit(ready / "mobilenet_v2" / name, there)
    with unpacked(package(workspace=ready, output=tmp_path).path) as found:
        card = (found.folder / "MODEL_CARD.md").read_text()
    assert "123456" not in card
    assert "On isa-avx2, an estimate: this CPU computing as AVX2." in card


def test_an_untrained_model_is_refused_unless_allowed_by_name(ready: Path, edgepipe: Run) -> None:
    path = ready / "mobilenet_v2" / "manifest.json"
    model = Manifest.from_json(path.read_text(), path).model
    edit_manifest(ready, model={**model, "trained": False, "weights": "random"})
    done = edgepipe("package", "--workspace", ready)
    assert done.returncode == 1
    assert "untrained weights (random)" in done.stderr
    done = edgepipe("package", "--workspace", ready, "--allow-untrained", "--json")
    assert json.loads(done.stdout)["bundle"]["waived"] == ["untrained"]


def test_an_altered_workspace_is_not_packaged(ready: Path, edgepipe: Run) -> None:
    (ready / "mobilenet_v2" / "int8.onnx").write_bytes(b"other")
    done = edgepipe("package", "--workspace", ready)
    assert done.returncode == 4
    assert "int8.onnx" in done.stderr


def test_without_parity_nothing_is_packaged(ready: Path, edgepipe: Run) -> None:
    (ready / "mobilenet_v2" / "parity.json").unlink()
    done = edgepipe("package", "--workspace", ready)
    assert done.returncode == 1
    assert "there is no parity.json" in done.stderr
    assert not (ready.parent / "bundles").exists()


def test_a_bench_of_other_files_is_left_out_and_that_is_said(ready: Path, tmp_path: Path) -> None:
    edit(
        ready / "mobilenet_v2" / "bench.json",
        lambda document: document["artifacts"].update({"int8.onnx": "0" * 64}),
    )
    made = package(workspace=ready, output=tmp_path)
    assert set(made.bundle.evidence) == {"parity", "calibration"}
    assert any("bench.json is about other files" in note for note in made.notes)


def test_a_p99_is_certified_only_as_bench_has_measured_it(ready: Path, tmp_path: Path) -> None:
    def certify(limit: float) -> Path:
        return package(workspace=ready, output=tmp_path / "out", max_p99=limit).path

    def measure(p99: float | None) -> None:
        def change(document: dict[str, Any]) -> None:
            for cell in document["cells"]:
                cell["latency_ms"]["p99"] = p99

        edit(ready / "mobilenet_v2" / "bench.json", change)

    measure(None)
    with pytest.raises(Refused, match=r"bench\.json has no p99 of fp32; run `edgepipe bench`"):
        certify(10.0)
    measure(9.0)
    with pytest.raises(Refused, match="the p99 of fp32 is 9 ms"):
        certify(8.0)
    with unpacked(certify(9.0)) as found:
        assert found.index.max_p99_ms == 9.0
        card = (found.folder / "MODEL_CARD.md").read_text()
        assert "Certified: 99 % of the runs take at most 9 ms." in card
    (ready / "mobilenet_v2" / "bench.json").unlink()
    with pytest.raises(Refused, match="no p99 of fp32"):
        certify(10.0)
