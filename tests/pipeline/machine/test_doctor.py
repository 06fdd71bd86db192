"""`edgepipe doctor`: each check on machines and packages that have what it looks for."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from edgepipe.pipeline import doctor as examine
from edgepipe.pipeline.machine import doctor, gpu
from edgepipe.pipeline.machine.finding import Finding
from edgepipe.runners.machine import cuda

Run = Callable[..., CompletedProcess[str]]
HOST: Mapping[str, Any] = {
    "cpu": "Some CPU",
    "machine": "x86_64",
    "cpu_flags": ["avx2", "avx512_vnni"],
    "physical_cores": 4,
    "logical_cpus": 8,
    "total_cpus": 8,
    "cpu_quota": None,
    "governor": "performance",
    "virtual_machine": False,
    "emulator": None,
}


def facts(load: float | None = 0.1, **host: Any) -> dict[str, Any]:
    return {"host": {**HOST, **host}, "load": load}


def findings(done: CompletedProcess[str]) -> dict[str, dict[str, Any]]:
    document = json.loads(done.stdout)
    assert document["schema_version"] == 1
    return {f"{row['where']}: {row['check']}": row for row in document["findings"]}


CUDA: Mapping[str, Any] = {
    "driver": "13.0",
    "devices": [{"name": "Some GPU", "capability": "9.0"}],
    "runtime": "13.0.96",
    "cudnn": "9.19.0",
    "cudnn_for": 13,
    "system_cudnn": None,
    "tensorrt": None,
    "tensorrt_wanted": "10",
    "wheel": "1.31.1",
    "built_for": "13.0",
    "torch": None,
}
OLD_GPU = [{"name": "Old GPU", "capability": "7.0"}]
FOR_12: Mapping[str, Any] = {"runtime": "12.9.79", "cudnn_for": 12, "built_for": "12.8"}


@pytest.mark.parametrize(
    ("seen", "status", "says"),
    [
        ({}, "ok", "Some GPU (9.0), a driver for CUDA 13.0; onnxruntime-gpu 1.31.1, CUDA 13.0.96"),
        ({"driver": None, "devices": [], "wheel": None}, "ok", "no NVIDIA driver"),
        ({"driver": None, "devices": []}, "warning", "there is no NVIDIA driver"),
        ({"devices": []}, "warning", "no GPU that this process may use"),
        ({"wheel": None}, "ok", "no onnxruntime-gpu here: edgepipe env create ort-cuda"),
        ({"runtime": None}, "warning", "no package here has CUDA's libraries"),
        ({"cudnn": None}, "warning", "no package here has cuDNN"),
        ({"cudnn": None, "system_cudnn": "9.19.0"}, "ok", "cuDNN 9.19.0 of the system"),
        ({"driver": "12.8"}, "problem", "is built for CUDA 13.0, which is too new for the driver"),
        ({"driver": "12.8", "built_for": None}, "problem", "too new for the driver"),
        ({"driver": "12.8", **FOR_12}, "ok", "CUDA 12.9.79"),
        (FOR_12, "ok", "CUDA 12.9.79"),
        (
            {"runtime": "12.9.79"},
            "problem",
            "CUDA's package is for CUDA 12, the wheel is built for",
        ),
        ({"cudnn_for": 12}, "problem", "cuDNN's package is for CUDA 12"),
        ({"devices": OLD_GPU}, "problem", "no code for Old GPU"),
        ({"devices": OLD_GPU, **FOR_12}, "ok", "Old GPU (7.0)"),
        ({"torch": "2.13.0+cpu"}, "ok", "CUDA 13.0.96"),
        ({"torch": "2.13.0+cu130"}, "ok", "CUDA 13.0.96"),
        (
            {"driver": "12.8", "torch": "2.13.0+cu130", **FOR_12},
            "warning",
            "torch 2.13.0+cu130 is built for CUDA 13: too new",
        ),
    ],
)
def test_what_a_gpus_driver_and_packages_are_to_each_other(
    seen: dict[str, Any], status: str, says: str
) -> None:
    finding = gpu.cuda({"cuda": {**CUDA, **seen}})
    assert (finding.check, finding.status) == ("CUDA", status)
    assert says in finding.what
    assert (finding.remedy is None) == (status == "ok")


@pytest.mark.parametrize(
    ("seen", "status", "says"),
    [
        ({}, "ok", "no package of it here; with it: edgepipe env create ort-tensorrt"),
        ({"devices": []}, "ok", "no package of it here"),
        ({"tensorrt": "10.16.1.11"}, "ok", "10.16.1.11"),
        ({"tensorrt": "11.4.0.106"}, "problem", "loads TensorRT 10"),
        ({"tensorrt": "11.4.0.106", "tensorrt_wanted": None}, "ok", "11.4.0.106"),
    ],
)
def test_tensorrt_has_to_be_the_one_that_is_loaded(
    seen: dict[str, Any], status: str, says: str
) -> None:
    finding = gpu.tensorrt({"cuda": {**CUDA, **seen}})
    assert (finding.check, finding.status) == ("TensorRT", status)
    assert says in finding.what
    if status == "problem":
        assert finding.remedy == 'pip install "tensorrt-cu13-libs<11"'


GPU: Mapping[str, Any] = {
    "name": "Some GPU",
    "processes": [],
    "busy_percent": 0,
    "clock_mhz": 1980,
    "max_clock_mhz": 1980,
    "slowed": [],
}
OTHER = {"pid": 7, "name": "train", "mib": 900}


def nvml(reason: str | None = None, **changes: Any) -> dict[str, Any]:
    gpus = [] if reason else [{**GPU, **changes}]
    return {"cuda": CUDA, "nvml": {"reason": reason, "driver": "580", "gpus": gpus}}


@pytest.mark.parametrize(
    ("check", "seen", "status", "says"),
    [
        (gpu.processes, nvml(), "ok", "nobody else is on the GPU"),
        (gpu.processes, nvml(busy_percent=None), "ok", "nobody else"),
        (gpu.processes, nvml(processes=[OTHER]), "warning", "there: train (7, 900 MiB)"),
        (gpu.processes, nvml(processes=[OTHER] * 5), "warning", "and 2 more"),
        (
            gpu.processes,
            nvml(processes=[{"pid": 7, "name": "", "mib": None}], busy_percent=80),
            "warning",
            "a process (7); Some GPU is 80 % busy",
        ),
        (gpu.processes, nvml(busy_percent=80), "warning", "by nobody seen from here"),
        (gpu.processes, nvml("nvidia-ml-py is not installed"), "warning", "not known: nvidia-ml"),
        (gpu.clocks, nvml(), "ok", "Some GPU: 1980 of 1980 MHz, held down by nothing"),
        (gpu.clocks, nvml(clock_mhz=None, slowed=None), "ok", "clocks are not told"),
        (gpu.clocks, nvml(clock_mhz=900, slowed=["heat"]), "warning", "900 of 1980 MHz, held down"),
        (gpu.clocks, nvml("NVML: no permission"), "warning", "not known: NVML: no permission"),
    ],
)
def test_who_else_is_on_a_gpu_and_what_holds_its_clocks_down(
    check: Callable[[Any], Finding], seen: dict[str, Any], status: str, says: str
) -> None:
    finding = check(seen)
    assert finding.status == status
    assert says in finding.what
    assert (finding.remedy is None) == (status == "ok")
    if not seen["nvml"]["gpus"]:
        nowhere = {"cuda": {**CUDA, "driver": None}, "nvml": seen["nvml"]}
        assert (check(nowhere).status, check(nowhere).what) == ("ok", "no NVIDIA driver")


@pytest.mark.skipif(bool(cuda.devices()), reason="there is a GPU")
def test_without_a_gpu_there_are_no_facts_about_one() -> None:
    found = cuda.facts()
    assert (found["devices"], set(found)) == ([], set(CUDA))


@pytest.mark.parametrize(
    ("check", "seen", "status", "says"),
    [
        (doctor.cores, facts(), "ok", "4 physical cores to use, 8 of 8"),
        (
            doctor.cores,
            facts(logical_cpus=2),
            "ok",
            "2 of 8 logical CPUs: this process is bound",
        ),
        (doctor.cores, facts(cpu_quota=1.5), "warning", "quota of 1.5 CPUs"),
        (doctor.cores, facts(cpu_quota=8.0), "ok", "8 of 8"),
        (doctor.int8_kernels, facts(), "ok", "use the variant int8"),
        (doctor.int8_kernels, facts(cpu_flags=["avx2", "avx_vnni"]), "ok", "VNNI"),
        (doctor.int8_kernels, facts(cpu_flags=["avx2", "amx_int8"]), "ok", "AMX"),
        (doctor.int8_kernels, facts(cpu_flags=["avx2"]), "warning", "no VNNI, no AMX"),
        (doctor.int8_kernels, facts(cpu_flags=[]), "warning", "not even AVX2"),
        (doctor.int8_kernels, facts(cpu_flags=[], machine="aarch64"), "ok", "aarch64"),
        (doctor.older_cpus, facts(cpu_flags=["avx2", "fma", "avx512f"]), "ok", "isa-avx2, isa-avx"),
        (doctor.older_cpus, facts(cpu_flags=[]), "ok", "none"),
        (doctor.governor, facts(), "ok", "performance"),
        (doctor.governor, facts(governor="powersave"), "warning", "powersave"),
        (doctor.governor, facts(governor=None), "ok", "does not set"),
        (doctor.virtual_machine, facts(), "ok", "no virtual machine"),
        (doctor.virtual_machine, facts(virtual_machine=True), "warning", "in a virtual machine"),
        (doctor.virtual_machine, facts(emulator="qemu-aarch64"), "warning", "timings are refused"),
        (doctor.busy, facts(load=3.9), "ok", "3.9 processes"),
        (doctor.busy, facts(load=4.1), "warning", "4.1 processes"),
        (doctor.busy, facts(load=None), "ok", "not known"),
    ],
)
def test_what_a_machine_is_like(
    check: Callable[[Any], Finding], seen: dict[str, Any], status: str, says: str
) -> None:
    finding = check(seen)
    assert finding.status == status
    assert says in finding.what
    assert (finding.remedy is None) == (status == "ok")


def test_this_environment_has_no_problem(edgepipe: Run) -> None:
    done = edgepipe("doctor", "--json")
    assert done.returncode == 0, done.stdout
    found = findings(done)
    checks = ("cores", "int8", "older CPUs", "governor", "machine", "load", "wheels", "files")
    checks += ("openvino", "CUDA", "TensorRT", "GPU load", "GPU clocks", "telemetry")
    checks += ("arm64", "leftovers", "oneDNN")
    assert set(found) == {f"local: {check}" for check in checks}
    wheels = found["local: wheels"]["what"]
    assert "onnxruntime 1." in wheels
    assert "openvino 20" in wheels
    text = edgepipe("doctor").stdout
    assert all(f"{row['status']:<8} {row['check']}" in text for row in found.values())


def test_from_python_it_can_be_asked_twice() -> None:
    assert examine().findings[0].check == examine().findings[0].check == "cores"


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in front of the import path of every edgepipe that a test starts."""
    folder = tmp_path / "packages"
    folder.mkdir()
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    monkeypatch.setenv("PYTHONPATH", path)
    return folder


def lay(folder: Path, name: str, version: str, files: Mapping[str, bytes]) -> None:
    """Install a wheel as pip does: unpack over what is there, and record what was unpacked."""
    about = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    record = ""
    for file, data in files.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(data)
        record += f"{file},sha256=unchecked,{len(data)}\n"
    (about / "RECORD").write_text(record)


def test_two_wheels_in_one_folder_are_a_problem(edgepipe: Run, packages: Path) -> None:
    lay(packages, "onnxruntime", "1.31.1", {"onnxruntime/__init__.py": b"# CPU"})
    lay(packages, "onnxruntime-gpu", "1.31.0", {"onnxruntime/__init__.py": b"# CPU and GPU"})
    done = edgepipe("doctor", "--json")
    assert done.returncode == 1
    found = findings(done)
    assert found["local: wheels"]["status"] == "problem"
    assert "onnxruntime and onnxruntime-gpu own the same folder" in found["local: wheels"]["what"]
    assert "pip uninstall onnxruntime onnxruntime-gpu" in found["local: wheels"]["remedy"]
    assert found["local: files"]["status"] == "problem"


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"shorter")])
def test_a_file_that_is_not_the_wheels_is_a_problem(
    edgepipe: Run, packages: Path, damage: Callable[[Path], Any]
) -> None:
    files = {"openvino/__init__.py": b"", "openvino/libs/libopenvino.so.2641": bytes(100)}
    lay(packages, "openvino", "2026.4.1", files)
    assert findings(edgepipe("doctor", "--json"))["local: files"]["status"] == "ok"
    damage(packages / "openvino/libs/libopenvino.so.2641")
    done = edgepipe("doctor", "--json")
    assert done.returncode == 1
    found = findings(done)["local: files"]
    assert "openvino/libs/libopenvino.so.2641" in found["what"]
    assert found["remedy"] == "pip install --force-reinstall --no-deps openvino==2026.4.1"


@pytest.mark.parametrize("library", ["libopenvino.so.2541", "libopenvino.so.2025.4.1"])
def test_two_releases_of_openvino_are_a_warning(
    edgepipe: Run, packages: Path, library: str
) -> None:
    files = {"onnxruntime/__init__.py": b"", f"onnxruntime/capi/{library}": b"a"}
    lay(packages, "onnxruntime-openvino", "1.24.1", files)
    lay(packages, "openvino", "2026.4.1", {"openvino/__init__.py": b""})
    done = edgepipe("doctor", "--json")
    assert done.returncode == 0
    found = findings(done)["local: openvino"]
    assert found["status"] == "warning"
    assert "onnxruntime-openvino 1.24.1 has 2025.4.1" in found["what"]
    assert "openvino 2026.4.1 has 2026.4.1" in found["what"]


def test_telemetry_that_is_switched_on_is_a_warning(edgepipe: Run) -> None:
    assert findings(edgepipe("doctor", "--json"))["local: telemetry"]["status"] == "ok"
    done = edgepipe("doctor", "--json", env={"ORT_DISABLE_TELEMETRY": "0"})
    assert findings(done)["local: telemetry"]["status"] == "warning"


def test_what_killed_runs_left_is_a_warning(edgepipe: Run, tmp_path: Path) -> None:
    temporary = tmp_path / "tmp"
    for name in ("edgepipe-old", "edgepipe-new", "others-old"):
        (temporary / name).mkdir(parents=True)
    for name in ("edgepipe-old", "others-old"):
        os.utime(temporary / name, (0, time.time() - 2 * 24 * 3600))
    done = edgepipe("doctor", "--json", env={"TMPDIR": str(temporary)})
    found = findings(done)["local: leftovers"]
    assert found["status"] == "warning"
    assert found["what"].startswith("1 temporary folders")
    assert "edgepipe-old" in found["what"]
    assert done.returncode == 0


def test_environments_of_runners_are_looked_at_too(edgepipe: Run, tmp_path: Path) -> None:
    (tmp_path / "edgepipe.toml").write_text(
        f'[runners.torch]\npython = "/no/such/python"\n'
        f"[runners.openvino]\npython = {json.dumps(sys.executable)}\n"
    )
    done = edgepipe("doctor", "--json")
    assert done.returncode == 1
    found = findings(done)
    assert found["torch (/no/such/python): worker"]["status"] == "problem"
    assert found[f"openvino ({sys.executable}): wheels"]["status"] == "ok"


@pytest.mark.parametrize(
    ("target", "says"), [("haswell", "emulated"), ("isa-avx2", "computes as another CPU")]
)
def test_a_target_that_is_no_machine_is_refused(edgepipe: Run, target: str, says: str) -> None:
    done = edgepipe("doctor", "--target", target)
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr


def test_a_cap_in_the_environment_is_told(edgepipe: Run) -> None:
    done = edgepipe("doctor", "--json", env={"ONEDNN_MAX_CPU_ISA": "AVX2"})
    found = findings(done)["local: oneDNN"]
    assert found["status"] == "warning"
    assert found["what"].startswith("ONEDNN_MAX_CPU_ISA=AVX2 is set")
    assert "--target isa-avx2" in found["remedy"]
