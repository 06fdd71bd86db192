"""A real registry on loopback: Debian's docker-registry 2.8, whose storage a test may spoil."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

STARTS_IN_S = 30.0
CONFIG = """\
version: 0.1
log: {{level: error, accesslog: {{disabled: true}}}}
storage:
  filesystem: {{rootdirectory: {storage}}}
  delete: {{enabled: true}}
http:
  addr: 127.0.0.1:{port}
  secret: of-a-test
{more}"""


@dataclass(frozen=True)
class Registry:
    """A running registry: its host and port, and the folder that its blobs lie in."""

    host: str
    storage: Path

    def blob(self, digest: str) -> Path:
        """Where it keeps a blob, whatever its own API says."""
        hexes = digest.removeprefix("sha256:")
        blobs = self.storage / "docker/registry/v2/blobs/sha256"
        return blobs / hexes[:2] / hexes / "data"

    def tag(self, name: str, tag: str) -> Path:
        """The file that says which manifest a tag stands for."""
        tags = self.storage / "docker/registry/v2/repositories" / name / "_manifests/tags"
        return tags / tag / "current/link"


Start = Callable[..., Registry]


@pytest.fixture(scope="session")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Start a registry: ``start(more="auth: …")``; all of them end with the session."""
    program = shutil.which("docker-registry")
    if program is None:
        pytest.skip("needs docker-registry (Debian's package of that name)")
    running: list[subprocess.Popen[bytes]] = []

    def started(more: str = "") -> Registry:
        folder = tmp_path_factory.mktemp("registry")
        port = _free_port()
        config = folder / "config.yml"
        config.write_text(CONFIG.format(storage=folder / "storage", port=port, more=more))
        with (folder / "log").open("wb") as log:
            server = subprocess.Popen([program, "serve", str(config)], stdout=log, stderr=log)
        running.append(server)
        _await(server, port, folder / "log")
        return Registry(f"127.0.0.1:{port}", folder / "storage")

    yield started
    for server in running:
        server.terminate()
        server.wait(STARTS_IN_S)


@pytest.fixture(scope="session")
def registry(start: Start) -> Registry:
    """One without accounts."""
    return start()


def _await(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    until = time.monotonic() + STARTS_IN_S
    while time.monotonic() < until:
        assert server.poll() is None, log.read_text()
        with socket.socket() as tried:
            if tried.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError(f"no registry after {STARTS_IN_S} s: {log.read_text()}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
