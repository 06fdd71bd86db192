"""Runners in environments of their own, made for real: `nox -s openvino_ep` runs this."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import onnx
import pytest

from edgepipe.pipeline.storage.manifest import Artifact, Manifest
from edgepipe.runners.environments import own_wheel
from edgepipe.runners.machine import host
from edgepipe.runners.machine.files import sha256_file

Run = Callable[..., CompletedProcess[str]]
RUNNER = "ort-openvino"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user cache that holds the environment. Don't break it for good."""
    folder = tmp_path_factory.mktemp("cache")
    done = command(folder, "env", "create", RUNNER)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()) == environment(folder)
    return folder


def environment(cache: Path) -> Path:
    """The folder of the only build there is."""
    (folder,) = (cache / "edgepipe" / "envs").glob(f"{RUNNER}@*")
    return folder


def command(cache: Path, *arguments: str | Path, **env: str) -> CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "edgepipe.pipeline.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cache,
        env=os.environ | {"XDG_CACHE_HOME": str(cache), **env},
    )


def test_every_variant_passes_and_runs_where_it_says(cache: Path, workspace: Path) -> None:
    done = command(cache, "parity", "--runner", RUNNER, "--json", "--workspace", workspace)
    saturates = host.saturates(host.facts())  # then int8 fails, rightly
    assert done.returncode == (1 if saturates else 0), done.stdout + done.stderr
    cells = json.loads(done.stdout)["cells"]
    assert [cell["variant"] for cell in cells] == ["fp32", "int8", "int8-avx2"]
    for cell in cells:
        verdict = "fail" if saturates and cell["variant"] == "int8" else "pass"
        assert cell["verdict"] == verdict, cell["reason"]
        assert cell["placement"] == {"OpenVINOExecutionProvider": 100}
        assert (cell["precision"], cell["precision_from"]) == ("f32", "probed")
        assert cell["runner_version"].startswith("1.24")


@pytest.mark.skipif("avx2" not in host.facts()["cpu_flags"], reason="needs AVX2")
def test_it_computes_as_an_older_cpu_and_proves_it(cache: Path, workspace: Path) -> None:
    flags = ("--runner", RUNNER, "--target", "isa-avx2", "--json", "--workspace", workspace)
    done = command(cache, "parity", *flags)
    assert done.returncode == 1, done.stdout + done.stderr
    cells = {cell["variant"]: cell for cell in json.loads(done.stdout)["cells"]}
    assert {cell["isa"] for cell in cells.values()} == {"Intel AVX2"}
    assert (cells["int8"]["verdict"], cells["int8"]["fault"]) == ("fail", "saturation")
    assert cells["int8-avx2"]["verdict"] == "pass"


def test_bench_of_all_four_runners(cache: Path, workspace: Path) -> None:
    """No GPU here: three runners have numbers, the fourth has a reason and costs exit code 5."""
    if Path("/dev/nvidia0").exists():
        pytest.skip("this machine has an NVIDIA GPU")
    runners = ("ort-cpu", "openvino", RUNNER, "ort-cuda")
    flags = [part for name in runners for part in ("--runner", name)]
    bench = ("bench", "--variant", "fp32", "--json", "--workspace", workspace)
    done = command(cache, *bench, *flags, "--generations", "2", "--seconds", "0.2")
    assert done.returncode == 5, done.stderr
    cells = {cell["runner"]: cell for cell in json.loads(done.stdout)["cells"]}
    for name in runners[:3]:
        assert cells[name]["status"] == "ok", cells[name]["reason"]
        assert list(cells[name]["placement"].values()) == [100]
        assert cells[name]["latency_ms"]["p50"] > 0
    assert cells["ort-cuda"]["status"] == "unavailable"
    assert "no NVIDIA GPU found" in cells["ort-cuda"]["reason"]
    assert cells["ort-cuda"]["latency_ms"] is None
    assert command(cache, *bench, "--quick").returncode == 0, "nobody asked for ort-cuda by name"


def test_a_required_share_gates(cache: Path, workspace: Path) -> None:
    flags = ("--runner", RUNNER, "--variant", "fp32", "--samples", "16", "--workspace", workspace)
    assert command(cache, "parity", *flags, "--require-ep", "OpenVINO=100%").returncode == 0
    done = command(cache, "parity", *flags, "--require-ep", "CUDA=95%")
    assert done.returncode == 1
    assert "no cell ran on it" in done.stdout


@pytest.fixture
def detour(workspace: Path) -> Path:
    """A workspace whose fp32 leads its answer through a sequence, which OpenVINO doesn't take."""
    folder = workspace / "mobilenet_v2"
    model = onnx.load(folder / "fp32.onnx")
    (last,) = [node for node in model.graph.node if "logits" in node.output]
    last.output[:] = ["answer"]
    model.graph.node.extend(
        [
            onnx.helper.make_node("SequenceConstruct", ["answer"], ["sequence"], "construct"),
            onnx.helper.make_node("SequenceAt", ["sequence", "first"], ["logits"], "at"),
        ]
    )
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(0), "first"))
    onnx.save(model, folder / "fp32.onnx")
    path = folder / "manifest.json"
    manifest = Manifest.from_json(path.read_text(), path)
    size = (folder / "fp32.onnx").stat().st_size
    edited = {"fp32.onnx": Artifact(sha256_file(folder / "fp32.onnx"), size)}
    path.write_text(replace(manifest, artifacts={**manifest.artifacts, **edited}).to_json())
    return workspace


def test_nodes_that_the_provider_refuses_fail_the_cell(cache: Path, detour: Path) -> None:
    flags = ("--runner", RUNNER, "--variant", "fp32", "--workspace", detour)
    for judge in (("parity", "--samples", "16"), ("bench", "--quick")):
        done = command(cache, *judge, *flags)
        assert done.returncode == 1, done.stdout + done.stderr
        assert re.search("not (SequenceAt, )?SequenceConstruct", " ".join(done.stdout.split()))
        assert "--allow-fallback" in done.stdout


def test_a_fallback_that_is_allowed_shows(cache: Path, detour: Path) -> None:
    flags = ("--runner", RUNNER, "--variant", "fp32", "--allow-fallback", "--workspace", detour)
    parity = command(cache, "parity", "--samples", "16", *flags)
    assert parity.returncode == 0, parity.stdout + parity.stderr
    assert re.search("fallback: [0-9.]+ % of the nodes on OpenVINOExecutionProvider", parity.stdout)
    bench = command(cache, "bench", "--quick", "--json", *flags)
    assert bench.returncode == 0, bench.stdout + bench.stderr
    (cell,) = json.loads(bench.stdout)["cells"]
    assert cell["latency_ms"]["p50"] > 0
    assert set(cell["placement"]) == {"OpenVINOExecutionProvider", "CPUExecutionProvider"}
    assert any(note.startswith("fallback: ") for note in cell["notes"])
    gated = command(cache, "bench", "--quick", *flags, "--require-ep", "OpenVINO=100%")
    assert gated.returncode == 1, gated.stdout + gated.stderr
    assert "--require-ep OpenVINO=100% is missed" in " ".join(gated.stdout.split())


def test_bf16_is_proven_or_refused(cache: Path, workspace: Path) -> None:
    flags = ("--runner", RUNNER, "--variant", "fp32", "--precision", "bf16", "--json")
    done = command(cache, "parity", *flags, "--workspace", workspace)
    (cell,) = json.loads(done.stdout)["cells"]
    if cell["status"] == "ok":
        assert cell["precision"] == "bf16"
    else:
        assert "not in bf16" in cell["reason"]
        assert done.returncode == 5


def test_without_the_providers_library_there_are_no_numbers(cache: Path, workspace: Path) -> None:
    (library,) = environment(cache).glob(
        "lib/python*/site-packages/onnxruntime/capi/*providers_openvino.so"
    )
    hidden = library.rename(library.with_suffix(".hidden"))
    try:
        flags = (
            "--runner",
            RUNNER,
            "--runner",
            "ort-cpu",
            "--variant",
            "fp32",
            "--quick",
            "--json",
        )
        done = command(cache, "bench", *flags, "--workspace", workspace)
        assert done.returncode == 5
        cell, other = json.loads(done.stdout)["cells"]
        assert other["status"] == "ok"
        assert cell["status"] in ("unavailable", "failed")
        assert cell["latency_ms"] is None
        assert "openvino" in cell["reason"].lower()
        listed = command(cache, "env", "list", "--json")
        (found,) = json.loads(listed.stdout)["environments"]
        assert "missing or cut" in found["state"]
    finally:
        hidden.rename(library)


def test_it_is_reused(cache: Path) -> None:
    marker = cache / "edgepipe" / "envs" / f"{RUNNER}.json"
    before = marker.stat().st_mtime_ns
    done = command(cache, "env", "create", RUNNER)
    assert done.returncode == 0
    assert marker.stat().st_mtime_ns == before
    packages = json.loads(marker.read_text())["packages"]
    assert packages["onnxruntime-openvino"]["version"] == "1.24.1"
    assert not {"torch", "onnx", "openvino"} & packages.keys()


def test_the_gpu_wheel_without_a_gpu_gives_a_reason_and_no_numbers(
    tmp_path: Path, workspace: Path, edgepipe: Run
) -> None:
    """The real onnxruntime-gpu, whose CPU provider would gladly answer instead."""
    if Path("/dev/nvidia0").exists():
        pytest.skip("this machine has an NVIDIA GPU")
    python = tmp_path / "gpu" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "gpu")], check=True)
    pip = [str(python), "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, str(own_wheel.pack(tmp_path)), "onnxruntime-gpu"], check=True)
    (tmp_path / "edgepipe.toml").write_text(f'[runners.ort-cuda]\npython = "{python}"\n')
    for command_ in (("bench", "--quick"), ("parity", "--samples", "16")):
        flags = ("--runner", "ort-cuda", "--variant", "fp32", "--json", "--workspace", workspace)
        done = edgepipe(*command_, *flags)
        assert done.returncode == 5, done.stderr
        (cell,) = json.loads(done.stdout)["cells"]
        assert cell["status"] == "unavailable"
        assert "no NVIDIA GPU found" in cell["reason"]
        assert "CUDAExecutionProvider does not work" in cell["reason"]
        assert not cell["placement"]
