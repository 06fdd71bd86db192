"""Environments of their own, for runners whose libraries can't share this one.

onnxruntime, onnxruntime-gpu and onnxruntime-openvino overwrite one another. ``create`` makes a
virtual environment for one runner, with edgepipe's base install and that runner's libraries, in
the user's cache; ``bench`` and ``parity`` then start the runner's workers in it. A virtual
environment can't be renamed once it is made, so a marker is written into it last: without one
it is unfinished, is never used, and is made anew.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import distribution, distributions, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import filelock

from ..runners import probe, registry
from ..runners.base import RunnerError, RunnerUnavailable, Settings
from ..runners.launch import LOCAL, Worker
from .errors import UsageError
from .workspace import write_synced

SCHEMA_VERSION = 1
MARKER = "edgepipe-environment.json"
PACKAGES = ("pipeline", "exporters", "runners")
PIP = ("-I", "-m", "pip", "--no-input", "--disable-pip-version-check")


@dataclass(frozen=True)
class Environment:
    """A finished environment, as its marker tells.

    ``base`` is the interpreter it was made with, ``code`` the digest of the runners in it.
    ``packages`` is the lock: name -> version and SHA-256 of the archive it came from.
    """

    runner: str
    base: str
    edgepipe: str
    code: str
    packages: Mapping[str, Mapping[str, str]]

    @property
    def folder(self) -> Path:
        """Where it is."""
        return folder_of(self.runner)

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.folder / "bin" / "python"

    def problem(self) -> str:
        """Why it can't be used by this edgepipe, at a glance; empty if it can."""
        if not self.python.exists():
            return f"its interpreter ({self.base}) is gone"
        if (self.edgepipe, self.code) != (version("edgepipe"), code_digest()):
            return "it holds another edgepipe than this one"
        return ""

    def damage(self) -> str:
        """The first file that pip put there and that is missing or of another size, or ""."""
        for installed in distributions(path=[str(path) for path in self._site_packages()]):
            for file in installed.files or ():
                path = Path(str(file.locate()))
                if file.suffix == ".pyc" or file.size is None:
                    continue
                if not path.is_file() or path.stat().st_size != file.size:
                    return f"{path.name} of {installed.name} is missing or cut"
        return ""

    def _site_packages(self) -> list[Path]:
        return sorted(self.folder.glob("lib/python*/site-packages"))


def root() -> Path:
    """The folder of all environments."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache).absolute() / "edgepipe" / "envs"


def folder_of(runner: str) -> Path:
    """Where a runner's environment is, or would be."""
    return root() / runner


def known() -> list[str]:
    """The runners that ``create`` has a recipe for: those that can run the probe, an ONNX file."""
    return [name for name, entry in registry.BUILT_IN.items() if "onnx" in (entry.formats or ())]


def find(runner: str) -> Environment | None:
    """A runner's environment, if there is a finished one."""
    try:
        document = json.loads((folder_of(runner) / MARKER).read_text())
        if document.pop("schema_version") != SCHEMA_VERSION:
            return None
        return Environment(**document)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def python_of(runner: str) -> str | None:
    """The interpreter to run a runner with, or ``None`` for the one that runs this.

    Raises ``RunnerUnavailable`` for an environment that was made and can't be used any more.
    """
    environment = find(runner)
    if environment is None:
        return None
    if problem := environment.problem():
        raise RunnerUnavailable(
            f"environment {environment.folder}: {problem}; edgepipe env create {runner}"
        )
    return str(environment.python)


def create(
    runner: str, python: str | None = None, say: Callable[[str], None] = lambda _text: None
) -> Environment:
    """Make a runner's environment, or leave it alone if it is there and intact.

    ``python`` is the interpreter to make it with, this one by default. What was damaged is made
    anew from the versions it was locked to; ``remove`` it first to have newer ones. Raises
    ``UsageError`` for a runner without a recipe, ``RunnerUnavailable`` if the environment can't
    be made (nothing is left of it then) or does not run a model (it is left).
    """
    check_known(runner)
    folder = folder_of(runner)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _locked(runner, say):
            before = find(runner)
            if before and _reusable(before, python, say):
                environment = before
            else:
                environment = _make(runner, python, before, say)
    except OSError as error:
        raise RunnerUnavailable(f"{folder}: {error.strerror or error}") from error
    _try_out(environment)
    return environment


def listing() -> list[dict[str, Any]]:
    """The environments that are there, as JSON values: ``state`` is "ready" or what is wrong."""
    found = []
    for runner in known():
        if not folder_of(runner).is_dir():
            continue
        environment = find(runner)
        state = environment.problem() or environment.damage() if environment else "unfinished"
        found.append(
            {
                "runner": runner,
                "state": state or "ready",
                "folder": str(folder_of(runner)),
                "base": environment.base if environment else None,
                "packages": environment.packages if environment else {},
            }
        )
    return found


def remove(runner: str) -> bool:
    """Delete a runner's environment, finished or not. Returns whether there was one."""
    check_known(runner)
    folder = folder_of(runner)
    if not folder.is_dir():
        return False
    try:
        with _locked(runner, lambda _text: None):
            _delete(folder)
    except OSError as error:
        raise RunnerUnavailable(f"{folder}: {error.strerror or error}") from error
    return True


def check_known(runner: str) -> None:
    """Raise ``UsageError`` for a runner that no environment can be made for."""
    if runner not in known():
        raise UsageError(f"no environment can be made for {runner!r}; known: {', '.join(known())}")


def code_digest() -> str:
    """SHA-256 over the runners' sources: what a worker in the environment executes."""
    digest = hashlib.sha256()
    package = _package("runners")
    for path in sorted(package.rglob("*.py")):
        digest.update(str(path.relative_to(package)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


@contextmanager
def _locked(runner: str, say: Callable[[str], None]) -> Iterator[None]:
    """One maker at a time; a second one waits, and then finds the work done."""
    lock = filelock.FileLock(f"{folder_of(runner)}.lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        say(f"{runner}: another process is making it; waiting")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _reusable(environment: Environment, python: str | None, say: Callable[[str], None]) -> bool:
    reason = environment.problem() or environment.damage() or _failure(environment)
    if not reason and python and _interpreter(python) != environment.base:
        reason = f"it was made with {environment.base}"
    if reason:
        say(f"{environment.runner}: {reason}; making it anew")
    return not reason


def _make(
    runner: str, python: str | None, before: Environment | None, say: Callable[[str], None]
) -> Environment:
    """Make it in place, the marker last; whatever goes wrong, nothing half-made is left."""
    folder = folder_of(runner)
    base = _interpreter(python or sys.executable)
    _delete(folder)
    try:
        say(f"{runner}: making {folder} with {base}")
        _run([base, "-I", "-m", "venv", str(folder)], f"{base} can't make an environment")
        with tempfile.TemporaryDirectory(prefix="edgepipe-") as scratch:
            packages = _install(runner, folder / "bin" / "python", Path(scratch), before)
        environment = Environment(runner, base, version("edgepipe"), code_digest(), packages)
        document = {"schema_version": SCHEMA_VERSION, **asdict(environment)}
        write_synced(folder / MARKER, (json.dumps(document, indent=2) + "\n").encode())
    except BaseException:
        _delete(folder)
        raise
    return environment


def _install(
    runner: str, python: Path, scratch: Path, before: Environment | None
) -> dict[str, dict[str, str]]:
    """Install this edgepipe with the runner's extra; returns the lock, as pip resolved it."""
    report, constraints = scratch / "report.json", scratch / "constraints.txt"
    lines = [
        f"{name}=={about['version']}"
        for name, about in (before.packages if before else {}).items()
        if name != "edgepipe"
    ]
    constraints.write_text("\n".join(lines))
    extra = registry.BUILT_IN[runner].extra
    # pip only warns of an extra that isn't there, and installs nothing for it.
    if extra not in (distribution("edgepipe").metadata.get_all("Provides-Extra") or ()):
        raise RunnerUnavailable(
            f"the installed edgepipe has no extra {extra}, its metadata are older than its code: "
            "install it again"
        )
    requirement = f"edgepipe[{extra}] @ {wheel(scratch).as_uri()}"
    command = [str(python), *PIP, "install", "--quiet", "--report", str(report)]
    _run([*command, "--constraint", str(constraints), requirement], f"pip can't install {runner}")
    lock = {}
    for item in json.loads(report.read_text())["install"]:
        archive = item["download_info"].get("archive_info", {})
        hashes = archive.get("hashes", {})
        about, sha256 = item["metadata"], hashes.get("sha256", "")
        lock[about["name"]] = {"version": about["version"], "sha256": sha256}
    return dict(sorted(lock.items()))


def wheel(folder: Path) -> Path:
    """Pack this edgepipe as a wheel in ``folder``, from the files that are running.

    Not from where it was installed from, which may be gone, offline, or changed since; and not
    by a path to this environment, which would take its libraries along. The same three packages
    and the same metadata are there whether it is a wheel, editable, or a source tree, and they
    are pure Python: what runs here runs on every Python that the metadata allows.
    """
    here = distribution("edgepipe")
    info = f"edgepipe-{here.version}.dist-info"
    files = {
        f"edgepipe/{name}/{path.relative_to(_package(name)).as_posix()}": path.read_bytes()
        for name in PACKAGES
        for path in sorted(_package(name).rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }
    files[f"{info}/METADATA"] = (here.read_text("METADATA") or "").encode()
    files[f"{info}/entry_points.txt"] = (here.read_text("entry_points.txt") or "").encode()
    files[f"{info}/WHEEL"] = b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    record = [f"{name},sha256={_record_hash(data)},{len(data)}" for name, data in files.items()]
    files[f"{info}/RECORD"] = "\n".join([*record, f"{info}/RECORD,,", ""]).encode()
    path = folder / f"edgepipe-{here.version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def _record_hash(data: bytes) -> str:
    """A hash as RECORD has them: URL-safe base64 without padding (PyPA, binary distributions)."""
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


def _try_out(environment: Environment) -> None:
    """Raise ``RunnerUnavailable`` unless a model runs in it."""
    if reason := _failure(environment):
        raise RunnerUnavailable(f"{environment.folder} is complete, but {reason}")


def _failure(environment: Environment) -> str:
    """Load the probe in it, in a worker like any other: why that fails, or an empty string."""
    settings = Settings(threads=1, device=registry.device(environment.runner))
    try:
        with Worker(LOCAL.argv(str(environment.python))) as worker:
            worker.load(environment.runner, {"probe.onnx": probe.model()}, settings)
    except RunnerError as error:
        return f"{environment.runner} does not run in it: {error}"
    return ""


def _run(command: list[str], failure: str) -> None:
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    except OSError as error:
        raise RunnerUnavailable(f"{failure}: {error.strerror}") from error
    if done.returncode:
        lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith(("ERROR:", "Error:"))]
        reason = (errors or lines or [f"exit status {done.returncode}"])[0]
        offline = any("Retrying (" in line for line in lines)
        hint = "; the package index can't be reached" if offline else ""
        raise RunnerUnavailable(f"{failure}: {reason.removeprefix('ERROR: ')}{hint}")


def _interpreter(python: str) -> str:
    """The interpreter below ``python``: an environment made from another outlives it."""
    code = "import sys; print(getattr(sys, '_base_executable', sys.executable))"
    try:
        done = subprocess.run([python, "-I", "-c", code], capture_output=True, text=True)
    except OSError as error:
        raise UsageError(f"--python {python}: {error.strerror}") from error
    if done.returncode or not done.stdout.strip():
        raise UsageError(f"--python {python}: is no Python interpreter")
    return done.stdout.strip()


def _package(name: str) -> Path:
    spec = find_spec(f"edgepipe.{name}")
    assert spec
    assert spec.origin
    return Path(spec.origin).parent


def _delete(folder: Path) -> None:
    """The marker first: what is half deleted must not look finished."""
    (folder / MARKER).unlink(missing_ok=True)
    if folder.exists():
        shutil.rmtree(folder)
