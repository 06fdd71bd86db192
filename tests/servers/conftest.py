"""The real Triton Inference Server, from the wheel ``nvidia-pytriton``; `nox -s servers` has it."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

STARTS_IN_S = 120.0
Serve = Callable[..., AbstractContextManager[Any]]


@pytest.fixture(scope="session")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Serve:
    """Start Triton and get tritonclient's client for it: ``with serve("--flag=…") as client``."""
    found = importlib.util.find_spec("pytriton")
    if found is None or found.origin is None:
        pytest.skip("needs tritonserver, which is in the wheel nvidia-pytriton: nox -s servers")
    http = pytest.importorskip("tritonclient.http", reason="needs tritonclient: nox -s servers")
    triton = Path(found.origin).parent / "tritonserver"
    backends = _backends(triton, tmp_path_factory.mktemp("backends"))
    libraries = (triton.parents[1] / "nvidia_pytriton.libs", sysconfig.get_config_var("LIBDIR"))
    env = os.environ | {
        # Its Python backend starts the `python3` that it finds first.
        "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])),
        "LD_LIBRARY_PATH": os.pathsep.join(map(str, libraries)),
    }

    @contextlib.contextmanager
    def start(*flags: str) -> Iterator[Any]:
        port = _free_port()
        command = [
            str(triton / "bin" / "tritonserver"),
            f"--backend-directory={backends}",
            "--disable-auto-complete-config",  # what the repository doesn't say is an error
            "--allow-grpc=false",
            "--allow-metrics=false",
            "--http-address=127.0.0.1",
            f"--http-port={port}",
            *flags,
        ]
        log = tmp_path_factory.mktemp("triton") / "log"
        with log.open("w") as file:
            server = subprocess.Popen(
                command, env=env, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
            )
        try:
            client = http.InferenceServerClient(f"127.0.0.1:{port}")
            with contextlib.closing(client):
                _await(client, server, log)
                yield client
        finally:
            server.terminate()
            try:
                server.wait(STARTS_IN_S)
            finally:  # its backends are processes, too, and outlive a server that crashed
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(server.pid, signal.SIGKILL)

    return start


def _backends(triton: Path, folder: Path) -> Path:
    """Triton's Python backend for this Python, and the stand-in for ONNX Runtime's."""
    shutil.copytree(triton / "backends" / "python", folder / "python")
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    shutil.copy(
        triton / "python_backend_stubs" / version / "triton_python_backend_stub", folder / "python"
    )
    (folder / "onnxruntime").mkdir()
    stand_in = Path(__file__).with_name("onnxruntime_backend.py")
    shutil.copy(stand_in, folder / "onnxruntime" / "model.py")
    return folder


def _await(client: Any, server: subprocess.Popen[bytes], log: Path) -> None:
    """Until the server and every model of its repositories are ready, or fail with its log."""
    end = time.monotonic() + STARTS_IN_S
    while time.monotonic() < end and server.poll() is None:
        with contextlib.suppress(OSError):
            if client.is_server_ready():
                return
        time.sleep(0.2)
    pytest.fail(f"tritonserver did not come up:\n{log.read_text()}")


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]
