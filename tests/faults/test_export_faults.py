"""What an export does when the checkpoint, the simplifier, the network or the user gets in its way.

The rows of the project's fault table that these tests cover: 2, 3, 8, 20 to 24, 28 and 30.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from edgepipe.exporters.weights import sources
from edgepipe.pipeline.progress import Silent
from edgepipe.pipeline.settings import load as configuration
from edgepipe.pipeline.stages.chain import stages_for, told
from edgepipe.pipeline.stages.modelspec import settle
from edgepipe.pipeline.stages.native import Native
from edgepipe.pipeline.stages.stage import run_stages
from edgepipe.pipeline.storage.manifest import Manifest
from edgepipe.pipeline.storage.workspace import Transaction, Workspace
from edgepipe.runners.machine.files import cache_folder

from .conftest import Command, Small, eventually, refused, snapshot

if TYPE_CHECKING:
    pass

Run = Callable[..., subprocess.CompletedProcess[str]]
Start = Callable[..., Command]
MODEL = "mobilenet_v2"


# Published weights ----------------------------------------------------------------------------

Answer = Callable[[BaseHTTPRequestHandler], object]


@dataclass
class Publisher:
    """A server on this machine: where it is, and the paths that it was asked for."""

    url: str
    asked: list[str] = field(default_factory=list)


@contextmanager
def published(answer: Answer) -> Iterator[Publisher]:
    """Serve every GET with ``answer``."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            publisher.asked.append(self.path)
            self.close_connection = True
            answer(self)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        publisher = Publisher(f"http://127.0.0.1:{server.server_port}/models")
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
        try:
            yield publisher
        finally:
            server.shutdown()


def answering(body: bytes, length: int | None = None) -> Answer:
    """Answer with a body, whatever length was announced."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(body) if length is None else length))
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def broken_chunk(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    handler.wfile.write(b"3e8\r\ntoo short")


BAD_ANSWERS: dict[str, tuple[Answer, str]] = {
    "another file": (answering(b"not those weights" * 1000), "SHA-256"),
    "cut short": (answering(b"x" * 1000, length=100_000), ""),
    "cut within a chunk": (broken_chunk, ""),
    "nothing": (answering(b""), ""),
    "not found": (lambda handler: handler.send_error(404), "Not Found"),
    "not HTTP": (lambda handler: handler.wfile.write(b"220 FTP ready\r\n"), ""),
    "hung up": (lambda handler: handler.connection.close(), ""),
}


def imagenet(url: str) -> dict[str, str]:
    """The environment of a command that finds published weights at ``url``."""
    return {"EDGEPIPE_WEIGHTS_URL": url, "no_proxy": "127.0.0.1"}


@pytest.mark.parametrize("case", BAD_ANSWERS)
def test_bad_download_is_refused_and_not_kept(edgepipe: Run, tmp_path: Path, case: str) -> None:
    answer, words = BAD_ANSWERS[case]
    with published(answer) as publisher:
        done = edgepipe(
            "export", "--weights", "imagenet", "--variant", "fp32", env=imagenet(publisher.url)
        )
    refused(done, 3, publisher.url, words)
    assert publisher.asked == [f"/models/{sources.IMAGENET_FILES[MODEL]}"]
    assert snapshot(tmp_path / "cache") == {}
    assert snapshot(tmp_path / "artifacts") == {}


def test_absent_server_is_named_and_the_way_around_it(edgepipe: Run, tmp_path: Path) -> None:
    with published(answering(b"")) as publisher:
        pass
    done = edgepipe(
        "export", "--weights", "imagenet", "--variant", "fp32", env=imagenet(publisher.url)
    )
    cached = tmp_path / "cache" / "edgepipe" / sources.IMAGENET_FILES[MODEL]
    refused(done, 3, publisher.url, f"put the file at {cached}")


def test_weights_are_not_fetched_in_the_clear(edgepipe: Run) -> None:
    done = edgepipe(
        "export", "--weights", "imagenet", "--variant", "fp32", env=imagenet("http://192.0.2.1/")
    )
    refused(done, 3, "http://192.0.2.1/", "https")


def test_imagenet_weights_are_downloaded_once_and_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from edgepipe.exporters.zoo.mobilenet_v2 import MobileNetV2

    state = MobileNetV2(classes=1000).state_dict()
    torch.save(state, tmp_path / "weights.pth")
    content = (tmp_path / "weights.pth").read_bytes()
    name = f"mobilenet_v2-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    monkeypatch.setitem(sources.IMAGENET_FILES, MODEL, name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with published(answering(content)) as publisher:
        for variable, value in imagenet(publisher.url).items():
            monkeypatch.setenv(variable, value)
        first = sources.resolve(MODEL, "imagenet", cache=cache_folder())
        assert first == sources.resolve(MODEL, "imagenet", cache=cache_folder())
        assert publisher.asked == [f"/models/{name}"]
        loaded = sources.build(first).module.state_dict()
        assert all(torch.equal(value, loaded[key]) for key, value in state.items())
        # A damaged cache is no reason to give up while there is a network.
        cached = tmp_path / "cache" / "edgepipe" / name
        assert first.path == cached
        cached.write_bytes(content[:1000])
        assert first == sources.resolve(MODEL, "imagenet", cache=cache_folder())
        assert len(publisher.asked) == 2
    assert snapshot(tmp_path / "cache") == {f"edgepipe/{name}": content}
    assert (first.classes, first.trained) == (1000, True)


@pytest.mark.parametrize("variants", [(), ("--variant", "int8")], ids=["default", "int8"])
def test_int8_without_calibration_images_is_refused_before_the_download(
    edgepipe: Run, variants: tuple[str, ...]
) -> None:
    with published(answering(b"")) as publisher:
        done = edgepipe("export", "--weights", "imagenet", *variants, env=imagenet(publisher.url))
    refused(done, 2, "int8", "--variant fp32")
    assert publisher.asked == []


# The simplifier (FAULTS 8) --------------------------------------------------------------------


class Listener(Silent):
    """Keeps what a command says."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


def simplify_with(root: Path, small: Small, program: str, progress: Silent) -> Manifest:
    """Export again with a Python program in the place of onnxsim."""
    given = configuration.load({"export": {**small.options, "variants": ("fp32",)}})
    instead = Native((sys.executable, "-c", INSTEAD.format(program=program)))
    section, model = settle(given.export, given.model, named=False)
    place = Workspace(root, MODEL)
    with place.locked("edgepipe export", pytest.fail):
        before = place.verified()
        before = replace(
            before, stages=tuple(stage for stage in before.stages if stage.name != "simplify")
        )
        stages = stages_for(section, instead)
        with Transaction(place, before) as transaction, instead:
            run_stages(stages, place, before, transaction, progress)
            return transaction.commit(**told(transaction, model))


# Answers as the stage's own worker does.
INSTEAD = """
import sys
from edgepipe.runners.workers import worker

def onnxsim(fields, _feeds):
    sys.argv[1:] = fields["source"], fields["output"]
    exec({program!r}, {{}})
    return {{}}, {{}}

worker.main({{"hello": worker.hello, "onnxsim": onnxsim}})
"""
CHANGE = """
import sys
import numpy, onnx

model = onnx.load(sys.argv[1])
weight = max(model.graph.initializer, key=lambda tensor: numpy.prod(tensor.dims))
array = onnx.numpy_helper.to_array(weight).copy()
array.flat[0] = {value}
weight.CopyFrom(onnx.numpy_helper.from_array(array, weight.name))
onnx.save(model, sys.argv[2])
"""
SIMPLIFIERS = {
    "segfault": ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "SIGSEGV"),
    "abort": ("import os; os.abort()", "SIGABRT"),
    "real-time signal": ("import os; os.kill(os.getpid(), 40)", "40"),
    "exit": ("raise SystemExit('unknown operator')", "(unknown operator)"),
    "error": ("raise ValueError('unknown operator')", "onnxsim failed: ValueError: unknown"),
    "no output": ("", "onnxsim failed"),
    "no model": ("import sys; open(sys.argv[2], 'w').write('garbage')", "onnxsim"),
    "other weight": (CHANGE.format(value=1e3), "onnxsim changed the outputs"),
    "NaN": (CHANGE.format(value="numpy.nan"), "onnxsim"),
}


def no_constant(name: str) -> None:
    pytest.fail(f"{name} is not JSON")


@pytest.mark.parametrize("case", SIMPLIFIERS)
def test_broken_simplifier_costs_the_simplification_and_nothing_else(
    small: Small, small_workspace: Path, case: str
) -> None:
    program, reason = SIMPLIFIERS[case]
    progress = Listener()
    manifest = simplify_with(small_workspace, small, program, progress)
    folder = small_workspace / MODEL
    assert (folder / "fp32.onnx").read_bytes() == (folder / "exported.onnx").read_bytes()
    assert (folder / "fp32.onnx").read_bytes() != small.files["fp32.onnx"]
    assert manifest.model["simplified"] is False
    assert reason in manifest.model["not_simplified_because"]
    assert any(line.startswith("warning: ") and reason in line for line in progress.said)
    json.loads((folder / "manifest.json").read_text(), parse_constant=no_constant)
    Workspace(small_workspace, MODEL).verified()


@pytest.mark.parametrize(("case", "kept"), [("segfault", False), ("error", True)])
def test_a_simplifier_that_died_is_tried_again_and_one_that_refused_is_not(
    edgepipe: Run, small: Small, small_workspace: Path, case: str, kept: bool
) -> None:
    simplify_with(small_workspace, small, SIMPLIFIERS[case][0], Listener())
    again = ("export", *small.settings, "--variant", "fp32", "--workspace", small_workspace)
    done = edgepipe(*again)
    assert bool(re.search("^simplify +up to date$", done.stderr, re.MULTILINE)) is kept
    manifest = Workspace(small_workspace, MODEL).verified()
    assert manifest.model["simplified"] is not kept
    assert re.search("^simplify +up to date$", edgepipe(*again).stderr, re.MULTILINE)


# Full and read-only disks (FAULTS 20, 21) -----------------------------------------------------


@contextmanager
def of_size(folder: Path, size: str) -> Iterator[Path]:
    """A disk of its own for temporary files."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("not root, or one that can't mount a tmpfs")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


# What onnxsim writes, and what ONNX Runtime writes without a word.
@pytest.mark.parametrize(("missing", "size"), [("fp32.onnx", "1m"), ("int8.onnx", "10m")])
def test_full_temporary_folder_is_said_and_leaves_what_was_there(
    edgepipe: Run, small: Small, small_workspace: Path, tmp_path: Path, missing: str, size: str
) -> None:
    (small_workspace / MODEL / missing).unlink()
    before = snapshot(small_workspace / MODEL)
    with of_size(tmp_path / "full", size) as full:
        done = edgepipe(
            *("export", *small.settings, "--workspace", small_workspace, "--quiet"),
            env={"TMPDIR": str(full)},
        )
    refused(done, 3, f"can't write temporary files in {full}: No space left", "set TMPDIR")
    assert snapshot(small_workspace / MODEL) == before


def no_big_files() -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))


@pytest.mark.parametrize("missing", ["exported.onnx", "int8.onnx"])
def test_full_disk_leaves_what_was_there(
    edgepipe: Run, small: Small, small_workspace: Path, missing: str
) -> None:
    (small_workspace / MODEL / missing).unlink()
    before = snapshot(small_workspace / MODEL)
    done = edgepipe(
        "export",
        *small.settings,
        "--workspace",
        small_workspace,
        "--quiet",
        preexec_fn=no_big_files,
    )
    refused(done, 3, "can't write")
    assert snapshot(small_workspace / MODEL) == before


WITHOUT = "-dac_override,-dac_read_search"
BOUND = ["setpriv", f"--bounding-set={WITHOUT}", f"--inh-caps={WITHOUT}"]


@pytest.mark.parametrize("command", ["export", "bench", "parity"])
def test_read_only_workspace_is_refused_before_work_starts(
    small_workspace: Path, command: str
) -> None:
    prefix = BOUND if os.geteuid() == 0 else []
    if prefix and (not shutil.which("setpriv") or subprocess.run([*prefix, "true"]).returncode):
        pytest.skip("running as root, and setpriv can't drop its privileges")
    folder = small_workspace / MODEL
    folder.chmod(0o555)
    done = subprocess.run(
        [*prefix, sys.executable, "-m", "edgepipe.pipeline.cli", command],
        cwd=small_workspace.parent,
        capture_output=True,
        text=True,
    )
    folder.chmod(0o755)
    refused(done, 3, f"can't write artifacts/{MODEL}: Permission denied", "--workspace")


@pytest.mark.parametrize("command", ["export", "bench", "parity"])
def test_workspace_that_can_not_be_a_folder_is_refused(edgepipe: Run, command: str) -> None:
    refused(edgepipe(command, "--workspace", "/dev/null"), 3, "/dev/null/mobilenet_v2")


# Two commands at a time (FAULTS 22) -----------------------------------------------------------


def test_second_export_waits_for_the_first(
    small: Small, small_workspace: Path, start: Start
) -> None:
    folder = small_workspace / MODEL
    (folder / "int8.onnx").unlink()
    export = ("export", *small.settings, "--workspace", small_workspace)
    first = start(*export)
    first.until(lambda: (folder / ".staging").exists())
    second = start(*export)
    for command in (first, second):
        assert command.process.wait() == 0, command.said
    holder = f"process {first.process.pid} (edgepipe export)"
    assert f"waiting for {folder}: in use by {holder}" in second.said
    assert "waiting" not in first.said
    assert re.findall("^int8 +up to date$", second.said, re.MULTILINE)
    assert snapshot(folder) == small.files


# Signals (FAULTS 23) --------------------------------------------------------------------------

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
both_signals = pytest.mark.parametrize("number", CODES, ids=lambda number: number.name)


def interrupt(command: Command, number: signal.Signals) -> None:
    """Ctrl-C reaches the whole process group, ``kill`` the one process; both clear up behind."""
    if number == signal.SIGINT:
        os.killpg(command.process.pid, number)
    else:
        command.process.send_signal(number)
    ended = command.process.wait(120)
    # What a shell sees. Interrupted inside exec("..."), as libraries use it, CPython ends itself
    # with SIGINT although the interrupt was handled (run_eval_code_obj in pythonrun.c).
    code = 128 - ended if ended < 0 else ended
    assert code == CODES[number], command.said[-2000:]
    assert "Traceback" not in command.said
    assert eventually(lambda: not command.relatives(), seconds=30), command.relatives()
    assert list(command.temporary.iterdir()) == []


def tidy(root: Path) -> bool:
    """Whether a model's folder holds nothing hidden but a lock that is free."""
    hidden = {path.name for path in (root / MODEL).glob(".*")}
    with Workspace(root, MODEL).locked("edgepipe bench", pytest.fail):
        return hidden <= {".lock"}


def busy(process: psutil.Process | None, seconds: float) -> bool:
    return process is not None and process.cpu_times().user > seconds


NATIVE, WORKER = "edgepipe.pipeline.stages.native", "edgepipe.runners.workers.worker"
# A moment of an export: what is missing from the workspace, so that the stage has to run, and
# how to see that it has come.
EXPORT_MOMENTS: dict[str, tuple[str, Callable[[Command], object]]] = {
    "loading torch": ("exported.onnx", lambda command: command.maps("libtorch_cpu")),
    "exporting": ("exported.onnx", lambda command: command.cpu_seconds() > 4),
    "simplifying": ("fp32.onnx", lambda command: command.child(NATIVE)),
    "comparing": ("fp32.onnx", lambda command: busy(command.child(WORKER), 0.1)),
    "quantizing": ("int8.onnx", lambda command: command.child(NATIVE)),
}
BENCH_MOMENTS: dict[str, Callable[[Command], object]] = {
    "starting a worker": lambda command: command.child(WORKER),
    "timing": lambda command: busy(command.child(WORKER), 2),
}


@both_signals
@pytest.mark.parametrize("moment", EXPORT_MOMENTS)
def test_interrupted_export_clears_up(
    small: Small, small_workspace: Path, start: Start, moment: str, number: signal.Signals
) -> None:
    missing, reached = EXPORT_MOMENTS[moment]
    (small_workspace / MODEL / missing).unlink()
    before = snapshot(small_workspace / MODEL)
    command = start("export", *small.settings, "--workspace", small_workspace)
    command.until(lambda: reached(command))
    interrupt(command, number)
    assert snapshot(small_workspace / MODEL) == before
    assert tidy(small_workspace)


def test_killed_export_takes_its_simplifier_along(
    small: Small, small_workspace: Path, start: Start
) -> None:
    (small_workspace / MODEL / "fp32.onnx").unlink()
    command = start("export", *small.settings, "--workspace", small_workspace)
    # Stopped, it is as good as hanging in native code; by then it has its watchdog.
    command.until(lambda: (child := command.child(NATIVE)) and child.children())
    simplifier = command.child(NATIVE)
    assert simplifier
    simplifier.suspend()
    command.process.kill()
    assert eventually(lambda: not command.relatives())


@both_signals
@pytest.mark.parametrize("moment", BENCH_MOMENTS)
def test_interrupted_bench_clears_up(
    small: Small, small_workspace: Path, start: Start, moment: str, number: signal.Signals
) -> None:
    cell = ("--runner", "ort-cpu", "--variant", "fp32", "--seconds", "60")
    command = start("bench", *cell, "--workspace", small_workspace)
    command.until(lambda: BENCH_MOMENTS[moment](command))
    interrupt(command, number)
    assert snapshot(small_workspace / MODEL) == small.files
    assert tidy(small_workspace)


@both_signals
def test_interrupted_while_waiting_for_the_lock(
    small: Small, small_workspace: Path, start: Start, number: signal.Signals
) -> None:
    with Workspace(small_workspace, MODEL).locked("edgepipe export", pytest.fail):
        command = start("bench", "--workspace", small_workspace)
        command.until(lambda: "waiting for" in command.said)
        interrupt(command, number)
        assert (small_workspace / MODEL / ".holder").exists()
    assert snapshot(small_workspace / MODEL) == small.files


@both_signals
def test_interrupted_download_leaves_nothing(
    start: Start, tmp_path: Path, number: signal.Signals
) -> None:
    enough = threading.Event()

    def stall(handler: BaseHTTPRequestHandler) -> None:
        answering(bytes(2 << 20), length=4 << 20)(handler)
        enough.wait()

    cache = tmp_path / "cache"
    with published(stall) as publisher:
        environment = {**imagenet(publisher.url), "XDG_CACHE_HOME": str(cache)}
        weights = ("--weights", "imagenet", "--variant", "fp32")
        command = start("export", *weights, "--workspace", tmp_path / "artifacts", **environment)
        command.until(lambda: any(snapshot(cache).values()))
        interrupt(command, number)
        enough.set()
    assert snapshot(cache) == {}
    assert tidy(tmp_path / "artifacts")


# torch does this: its own exception handlers fail when an import in them was interrupted.
MISUNDERSTOOD = """
import signal
from edgepipe.exporters.onnx import OnnxDynamo
from edgepipe.pipeline import cli

def export_program(self, program, options):
    try:
        signal.raise_signal({number})
    except BaseException as error:
        raise RuntimeError("failed to export the model") from error

OnnxDynamo.export_program = export_program
cli.main()
"""


@both_signals
def test_interrupt_that_a_library_takes_for_an_error(
    small: Small, tmp_path: Path, number: signal.Signals
) -> None:
    program = MISUNDERSTOOD.format(number=int(number))
    done = subprocess.run(
        [sys.executable, "-c", program, "export", *small.settings],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == CODES[number]
    assert "Traceback" not in done.stderr
    assert tidy(tmp_path / "artifacts")


# Telemetry ------------------------------------------------------------------------------------


@pytest.mark.long
def test_nothing_is_collected_behind_the_users_back(
    edgepipe: Run, small: Small, small_workspace: Path, tmp_path: Path
) -> None:
    """ONNX Runtime keeps a device identifier, and reports models, unless it is told not to.

    So does OpenVINO, of every import and every conversion.
    """
    folders = {
        "HOME": tmp_path / "home",
        "XDG_CACHE_HOME": tmp_path / "home",
        "TMPDIR": tmp_path / "tmp",
    }
    for folder in folders.values():
        folder.mkdir(exist_ok=True)
    # In continuous integration it keeps still by itself.
    user = {
        **{name: str(folder) for name, folder in folders.items()},
        "CI": "",
        "GITHUB_ACTIONS": "",
    }
    (small_workspace / MODEL / "int8.onnx").unlink()
    runners = ("--runner", "ort-cpu", "--runner", "openvino")
    further = ("--format", "openvino-ir")
    for command in (("export", *small.settings, *further), ("bench", "--quick", *runners)):
        done = edgepipe(*command, "--workspace", small_workspace, env=user)
        assert done.returncode == 0, done.stderr
    assert [path for folder in folders.values() for path in folder.iterdir()] == []


# Integrity (FAULTS 24) ------------------------------------------------------------------------


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def edit_manifest(path: Path) -> None:
    path.write_text(path.read_text().replace('"trained": false', '"trained": true'))


TAMPERINGS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "edited model": ("int8.onnx", flip_a_bit),
    "edited program": ("fp32.pt2", flip_a_bit),
    "edited goldens": ("goldens.npz", flip_a_bit),
    "edited calibration": ("calibration.npz", flip_a_bit),
    "extra file": ("fp16.onnx", Path.touch),
    "edited manifest": ("manifest.json", edit_manifest),
    "garbage manifest": ("manifest.json", lambda path: path.write_text("[]")),
}


@pytest.mark.parametrize("command", ["export", "bench", "parity"])
@pytest.mark.parametrize("tampering", TAMPERINGS)
def test_tampered_workspace_is_refused_and_the_file_named(
    edgepipe: Run, small: Small, small_workspace: Path, command: str, tampering: str
) -> None:
    name, tamper = TAMPERINGS[tampering]
    tamper(small_workspace / MODEL / name)
    before = snapshot(small_workspace / MODEL)
    settings = small.settings if command == "export" else ()
    done = edgepipe(command, *settings, "--workspace", small_workspace)
    refused(done, 4, str(small_workspace / MODEL / name))
    assert snapshot(small_workspace / MODEL) == before


@pytest.mark.parametrize("command", ["bench", "parity"])
@pytest.mark.parametrize("name", ["fp32.onnx", "goldens.npz"])
def test_missing_artifact_is_named(
    edgepipe: Run, small_workspace: Path, command: str, name: str
) -> None:
    (small_workspace / MODEL / name).unlink()
    done = edgepipe(command, "--workspace", small_workspace)
    refused(done, 4, f"{small_workspace / MODEL / name}: missing", "edgepipe export")


def test_export_makes_what_is_missing_just_as_it_was(
    edgepipe: Run, small: Small, small_workspace: Path
) -> None:
    (small_workspace / MODEL / "int8.onnx").unlink()
    done = edgepipe("export", *small.settings, "--workspace", small_workspace)
    assert done.returncode == 0, done.stderr
    assert snapshot(small_workspace / MODEL) == small.files


# Configuration (FAULTS 28) --------------------------------------------------------------------


@dataclass(frozen=True)
class Wrong:
    """A configuration that makes no sense, and the words that a message about it must hold."""

    words: tuple[str, ...]
    toml: str = ""
    arguments: tuple[str, ...] = ("bench",)
    environment: dict[str, str] = field(default_factory=dict)
    file: str = "edgepipe.toml"


WRONG = {
    "unknown key": Wrong(("bench.threds", "edgepipe.toml", "threads"), "[bench]\nthreds = 2"),
    "unknown section": Wrong(("benhc", "bench"), "[benhc]\nthreads = 2"),
    "unknown key of a target": Wrong(
        ("targets.box.comand", "command"), '[targets.box]\ncomand = ["x"]'
    ),
    "unknown key of a runner": Wrong(
        ("runners.torch.pyhton", "python"), '[runners.torch]\npyhton = "x"'
    ),
    "unknown key in pyproject.toml": Wrong(
        ("export.inputsize", "pyproject.toml", "input-size"),
        "[tool.edgepipe.export]\ninputsize = 64",
        file="pyproject.toml",
    ),
    "unknown variable": Wrong(
        ("bench.thread", "environment", "threads"), environment={"EDGEPIPE_BENCH_THREAD": "2"}
    ),
    "wrong type": Wrong(("bench.threads", "edgepipe.toml", "many"), '[bench]\nthreads = "many"'),
    "wrong type in a list": Wrong(("bench.runners", "7"), "[bench]\nrunners = [7]"),
    "wrong type of a union": Wrong(("export.batch", "some"), '[export]\nbatch = "some"'),
    "out of range": Wrong(("export.opset", "99"), "[export]\nopset = 99"),
    "no section": Wrong(("bench", "edgepipe.toml"), "bench = 3"),
    "no target": Wrong(("targets.box", "edgepipe.toml"), "[targets]\nbox = 3"),
    "missing key": Wrong(
        ("targets.box", "edgepipe.toml", "a command"), "[targets.box]\nemulated = true"
    ),
    "no command": Wrong(("targets.box.command", "edgepipe.toml"), "[targets.box]\ncommand = []"),
    "no table": Wrong(
        ("edgepipe", "pyproject.toml"), "[tool]\nedgepipe = 3", file="pyproject.toml"
    ),
    "no tool table": Wrong(("pyproject.toml",), "tool = 3", file="pyproject.toml"),
    "no TOML": Wrong(("edgepipe.toml", "not valid TOML"), "[bench"),
    "wrong variable": Wrong(
        ("bench.generations", "environment", "lots"),
        environment={"EDGEPIPE_BENCH_GENERATIONS": "lots"},
    ),
    "section as a variable": Wrong(
        ("bench", "environment"),
        environment={"EDGEPIPE_BENCH": "3", "EDGEPIPE_BENCH_THREADS": "2"},
    ),
    "undefined runner": Wrong(
        ("bench.runners", "ort-gpu", "ort-cpu"), arguments=("bench", "--runner", "ort-gpu")
    ),
    "undefined target": Wrong(
        ("bench.targets", "atom-1", "atom-01"),
        '[targets.atom-01]\ncommand = ["ssh", "--", "atom-01", "python"]',
        arguments=("bench", "--target", "atom-1"),
    ),
    "undefined variant": Wrong(
        ("export.variants", "int9", "int8"), arguments=("export", "--variant", "int9")
    ),
    "undefined variant to measure": Wrong(
        ("bench.variants", "fp23", "fp32"), '[bench]\nvariants = ["fp23"]'
    ),
    "undefined precision": Wrong(
        ("bench.precisions", "bf61", "bf16"), arguments=("bench", "--precision", "bf61")
    ),
    "undefined model": Wrong(
        ("model", "mobilenet_v3", "mobilenet_v2"), arguments=("export", "mobilenet_v3")
    ),
    "undefined weights": Wrong(
        ("export.weights", "imagenett", "imagenet"),
        environment={"EDGEPIPE_EXPORT_WEIGHTS": "imagenett"},
    ),
    "undefined exporter": Wrong(
        ("export.exporter", "onnx-dinamo", "onnx-dynamo"), '[export]\nexporter = "onnx-dinamo"'
    ),
    "section of an undefined runner": Wrong(
        ("runners", "openvno", "openvino"), '[runners.openvno]\npython = "python3"'
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_configuration_is_named_with_the_nearest_right_one(
    edgepipe: Run, tmp_path: Path, case: str
) -> None:
    wrong = WRONG[case]
    (tmp_path / wrong.file).write_text(wrong.toml)
    done = edgepipe(*wrong.arguments, env=wrong.environment)
    refused(done, 2, *wrong.words)
    assert not (tmp_path / "artifacts").exists()


def test_variant_that_was_not_exported_says_how_to_get_it(
    edgepipe: Run, small: Small, tmp_path: Path
) -> None:
    shutil.copytree(small.root, tmp_path / "artifacts")
    done = edgepipe("export", *small.settings, "--variant", "fp32")
    assert done.returncode == 0, done.stderr
    refused(edgepipe("bench", "--variant", "int8"), 2, "edgepipe export --variant int8")


# The same bytes everywhere (FAULTS 30) --------------------------------------------------------


@pytest.mark.long
def test_export_elsewhere_with_other_hashes_gives_the_same_bytes(
    edgepipe: Run, small: Small, tmp_path: Path
) -> None:
    root = tmp_path / "some" / "other folder"
    done = edgepipe("export", *small.settings, "--workspace", root, env={"PYTHONHASHSEED": "2"})
    assert done.returncode == 0, done.stderr
    files = snapshot(root / MODEL)
    assert files.keys() == small.files.keys()
    assert [name for name in files if files[name] != small.files[name]] == []
