"""Targets over SSH, against a real sshd on this machine: whole commands, and broken ends.

At the other end is the base install with onnxruntime; what it leaves behind shows, because
sshd gives its processes a folder for temporary files of their own.
"""

from __future__ import annotations

import getpass
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import numpy as np
import psutil
import pytest

from edgepipe.pipeline.settings.load import load
from edgepipe.runners.base import Settings, WorkerCrashed, WorkerTimeout
from edgepipe.runners.machine import host
from edgepipe.runners.targets import Target
from edgepipe.runners.timing.plan import Plan
from edgepipe.runners.workers.launch import Timeouts, Worker

Run = Callable[..., CompletedProcess[str]]
SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
pytestmark = pytest.mark.skipif(
    SSHD is None or shutil.which("ssh") is None, reason="needs sshd (Debian: openssh-server)"
)

FEEDS = {"input": np.zeros((1, 3, 224, 224), np.float32)}
IMPATIENT = Timeouts(start=60.0, load=60.0, run=2.0)
SERVER = """
ListenAddress 127.0.0.1
Port {port}
HostKey {folder}/host
AuthorizedKeysFile {folder}/authorized
PidFile none
StrictModes no
UsePAM no
PermitRootLogin yes
PasswordAuthentication yes
SetEnv TMPDIR={folder}/far
"""
# One server, and a name for each way in which it may be known to a client.
CLIENT = """
Host closed
  Port {closed}
Host stranger
  UserKnownHostsFile {folder}/nobody
Host locked
  IdentityFile {folder}/unknown
Host chatty
  IdentityFile {folder}/chatty
Host box closed stranger
  IdentityFile {folder}/key
Host *
  HostName 127.0.0.1
  Port {port}
  User {user}
  IdentitiesOnly yes
  IdentityAgent none
  UserKnownHostsFile {folder}/known
  GlobalKnownHostsFile /dev/null
"""
CHATTY = 'command="echo Welcome to the box; exec sh -c \\"$SSH_ORIGINAL_COMMAND\\"" '


@dataclass(frozen=True)
class Box:
    """The far end: an sshd, and a Python with edgepipe behind it."""

    folder: Path
    python: Path

    @property
    def options(self) -> tuple[str, ...]:
        return ("-F", str(self.folder / "client"))

    def target(self, host: str = "box", python: Path | None = None) -> Target:
        return Target.over_ssh("box", host, str(python or self.python), self.options)

    def toml(self, host: str = "box", python: str | None = None) -> str:
        values = {"ssh": host, "python": python or str(self.python), "options": self.options}
        return "[targets.box]\n" + "".join(f"{k} = {json.dumps(v)}\n" for k, v in values.items())

    def processes(self) -> list[psutil.Process]:
        """Everything that logins started: it has the far end's folder for temporary files."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("TMPDIR", "").startswith(str(self.far)):
                    found.append(process)
            except psutil.Error:  # ended, a zombie, or another user's
                continue
        return found

    @property
    def far(self) -> Path:
        return self.folder / "far"

    def is_clean(self) -> bool:
        return not self.processes() and not list(self.far.iterdir())


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def soon(condition: Callable[[], bool], seconds: float = 15.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def answers(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="session")
def server(
    base_environment: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Box, psutil.Process]]:
    """An sshd as the current user, with keys and a configuration of its own."""
    assert SSHD
    folder = tmp_path_factory.mktemp("sshd")
    box = Box(folder, base_environment)
    box.far.mkdir()
    for name in ("host", "key", "chatty", "unknown"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run(command, check=True)
    port, user = free_port(), getpass.getuser()
    public = {name: (folder / f"{name}.pub").read_text() for name in ("host", "key", "chatty")}
    (folder / "authorized").write_text(public["key"] + CHATTY + public["chatty"])
    (folder / "known").write_text(f"[127.0.0.1]:{port} {public['host']}")
    (folder / "server").write_text(SERVER.format(port=port, folder=folder))
    values = {"port": port, "folder": folder, "user": user, "closed": free_port()}
    (folder / "client").write_text(CLIENT.format(**values))
    if os.geteuid() == 0:  # sshd's own folder, which its service would make
        Path("/run/sshd").mkdir(exist_ok=True)
    with (folder / "log").open("wb") as log:
        process = psutil.Popen([SSHD, "-D", "-e", "-f", str(folder / "server")], stderr=log)
    try:
        assert soon(lambda: answers(port)), (folder / "log").read_text()
        yield box, process
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def box(server: tuple[Box, psutil.Process]) -> Iterator[Box]:
    """The far end, which every test leaves as it was: no process, no temporary file."""
    found, _ = server
    yield found
    left = [] if soon(found.is_clean) else [*found.processes(), *found.far.iterdir()]
    for process in found.processes():
        process.kill()
    assert left == []


@pytest.fixture
def model(exported: Path) -> bytes:
    return (exported / "mobilenet_v2" / "fp32.onnx").read_bytes()


# Whole commands -------------------------------------------------------------------------------


def test_the_far_end_has_the_base_install_and_one_runtime(box: Box) -> None:
    code = """
import importlib.util as u
print(*(name for name in ("torch", "onnx", "openvino", "onnxruntime") if u.find_spec(name)))
"""
    done = subprocess.run([box.python, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["onnxruntime"]


def test_parity_and_bench_on_a_far_machine(
    box: Box, workspace: Path, edgepipe: Run, tmp_path: Path
) -> None:
    (tmp_path / "edgepipe.toml").write_text(box.toml())
    done = edgepipe("parity", "--target", "box", "--workspace", workspace, "--json")
    saturates = host.saturates(host.facts())  # then int8 fails, rightly
    assert done.returncode == (1 if saturates else 0), done.stdout
    document = json.loads(done.stdout)
    judged = [cell for cell in document["cells"] if cell["status"] == "ok"]
    assert [cell["variant"] for cell in judged] == ["fp32", "int8", "int8-avx2"]
    for cell in judged:
        verdict = "fail" if saturates and cell["variant"] == "int8" else "pass"
        assert (cell["runner"], cell["target"], cell["verdict"]) == ("ort-cpu", "box", verdict)
        assert cell["samples"] == 64
    missing = {cell["runner"]: cell for cell in document["cells"] if cell["status"] != "ok"}
    assert set(missing) == {"openvino", "torch", "ort-openvino", "ort-cuda", "ort-tensorrt"}
    assert "No module named 'openvino'" in missing["openvino"]["reason"]
    assert document["hosts"]["box"]["name"] == os.uname().nodename

    flags = ("--quick", "--variant", "int8", "--runner", "ort-cpu", "--target", "box")
    done = edgepipe("bench", *flags, "--target", "local", "--workspace", workspace, "--json")
    assert done.returncode == 0, done.stdout
    document = json.loads(done.stdout)
    assert [cell["target"] for cell in document["cells"]] == ["box", "local"]
    assert all(cell["status"] == "ok" and cell["latency_ms"] for cell in document["cells"])
    assert set(document["hosts"]) == {"box", "local"}
    assert document["host"] == document["hosts"]["box"]
    assert json.loads((workspace / "mobilenet_v2/bench.json").read_text()) == document


def test_runners_and_doctor_ask_the_far_machine(box: Box, edgepipe: Run, tmp_path: Path) -> None:
    (tmp_path / "edgepipe.toml").write_text(box.toml())
    done = edgepipe("runners", "--target", "box", "--json")
    status = {row["name"]: row["status"] for row in json.loads(done.stdout)["runners"]}
    assert (status["ort-cpu"], status["torch"]) == ("ok", "unavailable")
    done = edgepipe("doctor", "--target", "box", "--json")
    (wheels,) = (row for row in json.loads(done.stdout)["findings"] if row["check"] == "wheels")
    assert wheels["what"].startswith("onnxruntime 1.")
    assert "openvino" not in wheels["what"]


# Ends that are broken -------------------------------------------------------------------------


def parity(edgepipe: Run, workspace: Path) -> CompletedProcess[str]:
    flags = ("--samples", "16", "--variant", "fp32", "--runner", "ort-cpu", "--target", "box")
    return edgepipe("parity", *flags, "--workspace", workspace, timeout=60)


def reason(done: CompletedProcess[str]) -> str:
    """The one line that says why there is no result; exit code 5, no traceback."""
    assert done.returncode == 5, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    (line,) = (line for line in done.stdout.splitlines() if "fp32/ort-cpu/box" in line)
    return line


@pytest.mark.parametrize(
    ("host", "says"),
    [
        ("closed", "Connection refused"),
        ("stranger", "Host key verification failed.); accept its key by connecting once by hand"),
        ("locked", "); it takes a key without a passphrase"),
        ("chatty", "'Welcome to the box'"),
    ],
)
def test_a_host_that_lets_no_worker_start_says_why(
    box: Box, exported: Path, edgepipe: Run, tmp_path: Path, host: str, says: str
) -> None:
    workspace = Path(shutil.copytree(exported, tmp_path / "artifacts"))
    (tmp_path / "edgepipe.toml").write_text(box.toml(host))
    assert says in reason(parity(edgepipe, workspace))


def test_a_python_that_is_not_there_is_named(
    box: Box, workspace: Path, edgepipe: Run, tmp_path: Path
) -> None:
    (tmp_path / "edgepipe.toml").write_text(box.toml(python="/no such/python; touch pwned"))
    said = reason(parity(edgepipe, workspace))
    assert "exit status 127" in said
    assert "/no such/python; touch pwned" in said


def wrapper(folder: Path, python: Path, environment: str = "") -> Path:
    """A "python" in a folder, which starts the real one."""
    folder.mkdir(parents=True)
    script = folder / "python"
    script.write_text(f'#!/bin/sh\n{environment} exec {shlex.quote(str(python))} "$@"\n')
    script.chmod(0o755)
    return script


def test_another_edgepipe_says_both_versions(
    box: Box, workspace: Path, edgepipe: Run, tmp_path: Path
) -> None:
    other = tmp_path / "other" / "edgepipe-0.0.1.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: edgepipe\nVersion: 0.0.1\n")
    python = wrapper(tmp_path / "bin", box.python, f"PYTHONPATH={tmp_path / 'other'}")
    (tmp_path / "edgepipe.toml").write_text(box.toml(python=str(python)))
    assert "the worker has edgepipe 0.0.1, here it is" in reason(parity(edgepipe, workspace))


def test_a_target_that_is_gone_is_tried_once(
    box: Box, workspace: Path, edgepipe: Run, tmp_path: Path
) -> None:
    script = f'echo >> {tmp_path}/tried; exec ssh -F {box.folder}/client closed "$@"'
    command = json.dumps(["sh", "-c", script, "sh", "{python}"])
    (tmp_path / "edgepipe.toml").write_text(f"[targets.box]\ncommand = {command}\n")
    done = edgepipe("parity", "--target", "box", "--workspace", workspace)
    assert done.returncode == 5
    assert done.stdout.count("Connection refused") == 16, "every cell"
    assert (tmp_path / "tried").read_text() == "\n"


@pytest.mark.parametrize(
    "name", ["a b", "a;touch pwned", "$(touch pwned)", "`touch pwned`", "it's", '"', "&& false"]
)
def test_a_path_is_taken_literally(box: Box, tmp_path: Path, name: str) -> None:
    python = wrapper(tmp_path / name, box.python, f"cd {shlex.quote(str(tmp_path))};")
    with Worker(box.target(python=python).argv()) as worker:
        assert worker.hello["host"]["name"]
    home = Path.home()
    assert not any((folder / "pwned").exists() for folder in (tmp_path, home, Path()))


def test_a_path_may_start_at_the_far_home(box: Box) -> None:
    home = os.path.relpath(box.python, Path.home())
    with Worker(Target.over_ssh("box", "box", f"~/{home}", box.options).argv()) as worker:
        assert worker.hello["host"]["name"]


def test_a_box_computes_as_an_older_cpu(box: Box, edgepipe: Run, tmp_path: Path) -> None:
    (tmp_path / "edgepipe.toml").write_text(box.toml() + 'isa = "avx2"\n')
    done = edgepipe("runners", "--target", "box", "--json", env={"ONEDNN_MAX_CPU_ISA": "SSE41"})
    rows = {row["name"]: row for row in json.loads(done.stdout)["runners"]}
    assert "can't compute as AVX2" in rows["ort-cpu"]["reason"]
    assert "No module named 'openvino'" in rows["openvino"]["reason"], "it isn't on the box"
    with Worker(replace(box.target(), isa="avx2").argv()) as worker:
        assert worker.hello["host"]["isa"] == "AVX2"


def test_an_option_in_place_of_a_host_is_refused(box: Box, edgepipe: Run, tmp_path: Path) -> None:
    (tmp_path / "edgepipe.toml").write_text(box.toml(host="-oProxyCommand=touch pwned"))
    done = edgepipe("runners", "--target", "box")
    assert done.returncode == 2
    assert "-oProxyCommand=touch pwned" in done.stderr
    assert not (tmp_path / "pwned").exists()


def test_nobody_is_asked_for_a_password(box: Box, edgepipe: Run, tmp_path: Path) -> None:
    """Also where the user's own command forgot BatchMode, and a dialog could open."""
    asked = tmp_path / "asked"
    dialog = tmp_path / "dialog"
    dialog.write_text(f"#!/bin/sh\ntouch {asked}\nsleep 1000\n")
    dialog.chmod(0o755)
    command = json.dumps(["ssh", *box.options, "locked", str(box.python)])
    (tmp_path / "edgepipe.toml").write_text(f"[targets.box]\ncommand = {command}\n")
    desktop = {"DISPLAY": ":0", "SSH_ASKPASS": str(dialog)}
    done = edgepipe("runners", "--target", "box", env=desktop, timeout=30)
    assert done.returncode == 0
    assert "Permission denied" in done.stdout
    assert not asked.exists()


# Ends that break while they work --------------------------------------------------------------


def test_a_closed_worker_leaves_nothing(box: Box, model: bytes) -> None:
    with Worker(box.target().argv()) as worker:
        worker.load("ort-cpu", {"fp32.onnx": model}, Settings(1))
        worker.run(FEEDS)
        assert not box.is_clean()
    assert soon(box.is_clean)


def test_a_stopped_worker_is_a_time_out_and_goes(box: Box, model: bytes) -> None:
    with Worker(box.target().argv(), IMPATIENT) as worker:
        worker.load("ort-cpu", {"fp32.onnx": model}, Settings(1))
        os.kill(worker.hello["pid"], signal.SIGSTOP)
        with pytest.raises(WorkerTimeout, match="'run' within 2 s"):
            worker.run(FEEDS)
    assert soon(box.is_clean)


@pytest.mark.parametrize("moment", ["idle", "measuring"])
def test_a_dropped_connection_ends_both_sides(
    server: tuple[Box, psutil.Process], box: Box, model: bytes, moment: str
) -> None:
    _, sshd = server
    with Worker(box.target().argv()) as worker:
        worker.load("ort-cpu", {"fp32.onnx": model}, Settings(1))
        connections = sshd.children(recursive=True)
        far = [process.pid for process in box.processes()]
        drop = [process for process in connections if process.pid not in far]
        assert drop
        if moment == "measuring":
            request = Worker.measure
            hangup = subprocess.Popen(["sh", "-c", f"sleep 1; kill -9 {drop[0].pid}"])
            arguments: tuple[Any, ...] = (FEEDS, Plan(1000.0, 1, 1000.0, 0.1, 1.0))
        else:
            request, hangup, arguments = Worker.run, None, (FEEDS,)
            for process in drop:
                process.kill()
        with pytest.raises(WorkerCrashed, match="exit status 255") as caught:
            request(worker, *arguments)
        if hangup:
            hangup.wait()
    assert "\n" not in str(caught.value)
    assert soon(box.is_clean)


PARENT = """
import sys
from pathlib import Path
import numpy as np
from edgepipe.pipeline.settings.load import load
from edgepipe.runners.base import Settings
from edgepipe.runners.workers.launch import Worker
from edgepipe.runners.timing.plan import Plan

with Worker(load().places.target("box").argv()) as worker:
    worker.load("ort-cpu", {"fp32.onnx": Path(sys.argv[1]).read_bytes()}, Settings(1))
    print(worker.hello["pid"], flush=True)
    feeds = {"input": np.zeros((1, 3, 224, 224), np.float32)}
    worker.measure(feeds, Plan(1000.0, 1, 1000.0, 0.1, 1.0))
"""


@pytest.mark.parametrize("stopped", [False, True])
def test_the_far_worker_ends_with_its_parent(
    box: Box, exported: Path, tmp_path: Path, stopped: bool
) -> None:
    (tmp_path / "edgepipe.toml").write_text(box.toml())
    assert load(folder=tmp_path).places.target("box") == box.target()
    command = [sys.executable, "-c", PARENT, str(exported / "mobilenet_v2/fp32.onnx")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=tmp_path) as parent:
        assert parent.stdout
        pid = int(parent.stdout.readline())
        time.sleep(0.5)  # into the measuring
        if stopped:  # as if a library held it: only somebody else can end it
            os.kill(pid, signal.SIGSTOP)
        parent.kill()
    assert soon(box.is_clean)
