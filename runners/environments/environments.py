"""Environments of their own, for runners whose libraries can't share this one.

onnxruntime, onnxruntime-gpu and onnxruntime-openvino overwrite one another. ``create`` makes a
virtual environment for one runner, with edgepipe's base install and that runner's libraries, in
the user's cache; ``bench`` and ``parity`` then start the runner's workers in it. One more,
``arm64``, is for the targets that emulate such a CPU, and has an interpreter for it.

A virtual environment can't be renamed once it is made. So each build has a folder of its own,
``RUNNER@xxxxxxxx``, and a marker beside it, ``RUNNER.json``, names the one that is used. The
marker is replaced last, in one step: until then the environment before goes on being used, and
what a killed build left is a folder that no marker names.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from importlib.metadata import distribution, distributions, version
from pathlib import Path
from typing import Any

from .. import documents, registry
from ..backends import probe
from ..base import RunnerError, RunnerOptionError, RunnerUnavailable, Settings
from ..machine.files import cache_folder, is_file_name, write_synced
from ..machine.installed import is_damaged
from ..machine.locks import hold
from ..targets import ARM64, LOCAL
from ..workers.launch import Worker
from . import arm64, gpu, own_wheel
from .installing import Lock, install, virtual_environment

SCHEMA_VERSION = 1
_held: dict[Path, int] = {}
SCRATCH = "scratch"
# Locked as long as a command runs workers with it.
IN_USE = ".in-use"


@dataclass(frozen=True)
class Environment:
    """A finished environment, as its marker tells.

    ``runner`` is its name, ``directory`` that of its folder, ``base`` the interpreter that it was
    made with (of ``arm64``: the system), ``code`` the digest of the runners in it. ``packages`` is
    the lock: name -> version and SHA-256 of the archive it came from.
    """

    runner: str
    directory: str
    base: str
    edgepipe: str
    code: str
    packages: Mapping[str, Mapping[str, str]]

    @property
    def folder(self) -> Path:
        """Where it is."""
        return root() / self.directory

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.folder / "bin" / "python"

    def problem(self) -> str:
        """Why it can't be used by this edgepipe, at a glance; empty if it can."""
        if not self.folder.is_dir():
            return "its folder is gone"
        if not self.python.exists():
            return f"its interpreter ({self.base}) is gone"
        if (self.edgepipe, self.code) != (version("edgepipe"), own_wheel.runners_digest()):
            return "it holds another edgepipe than this one"
        return arm64.missing(self.base) if self.runner == ARM64 else ""

    def damage(self) -> str:
        """The first file that pip put there and that is missing or of another size, or ""."""
        for installed in distributions(path=[str(path) for path in self._site_packages()]):
            for file in installed.files or ():
                if is_damaged(file):
                    return f"{file.name} of {installed.name} is missing or cut"
        return ""

    def _site_packages(self) -> list[Path]:
        return sorted(self.folder.glob("lib/python*/site-packages"))


def root() -> Path:
    """The folder of all environments."""
    return cache_folder() / "envs"


def marker_of(runner: str) -> Path:
    """The file that names a runner's environment."""
    return root() / f"{runner}.json"


def known() -> list[str]:
    """What ``create`` has a recipe for: runners that can run the probe, an ONNX file; ``arm64``."""
    able = (name for name, entry in registry.BUILT_IN.items() if "onnx" in (entry.formats or ()))
    return [*able, ARM64]


def find(runner: str) -> Environment | None:
    """A runner's environment, if there is a finished one."""
    from pydantic import TypeAdapter

    try:
        document = documents.parse(marker_of(runner).read_bytes())
        if document.pop("schema_version") != SCHEMA_VERSION:
            return None
        found = TypeAdapter(Environment).validate_python(document)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return found if is_file_name(found.directory) else None


def python_of(runner: str) -> str | None:
    """The interpreter of a runner's environment, or ``None`` if none was made.

    It is not deleted before this process ends. Raises ``RunnerUnavailable`` for an environment
    that was made and can't be used any more.
    """
    environment = find(runner)
    if environment is None:
        return None
    _hold(environment.folder)
    if problem := environment.problem():
        raise RunnerUnavailable(
            f"environment {environment.folder}: {problem}; edgepipe env create {runner}"
        )
    return str(environment.python)


def _hold(folder: Path) -> None:
    """Keep others from deleting it until this process ends."""
    if folder not in _held:
        # It is gone or going, which ``problem`` tells; or it can't be written to.
        with suppress(OSError):
            _held[folder] = hold(folder / IN_USE, shared=True)


def create(
    runner: str,
    python: str | None = None,
    say: Callable[[str], None] = lambda _text: None,
    sysroot: Path | None = None,
) -> Environment:
    """Make a runner's environment, or leave it alone if it is there and intact.

    ``python`` is the interpreter to make it with, this one by default; for ``arm64`` it is the
    system in the folder ``sysroot``, Debian's packages by default. What was damaged is made
    anew from the versions it was locked to; ``remove`` it first to have newer ones. Raises
    ``RunnerOptionError`` for a runner without a recipe, ``RunnerUnavailable`` if the environment
    can't be made (nothing is left of it then) or does not run a model. That one stays if there was
    none that does.
    """
    check_known(runner)
    base, chosen = _base(runner, python, sysroot)
    try:
        root().mkdir(parents=True, exist_ok=True)
        with _locked(runner, say):
            before = find(runner)
            _sweep(runner, say, before)
            unfit = _unfit(before) if before else "there is none"
            if before and not unfit and (not chosen or base == before.base):
                return before
            if before:
                say(f"{runner}: {unfit or f'it was made with {before.base}'}; making it anew")
            made = _make(runner, base, before, say)
            failure = _failure(made)
            kept = made if unfit or not failure else before
            if kept == made:
                _switch(made)
            _sweep(runner, say, kept)
    except OSError as error:
        raise RunnerUnavailable(f"{root()}: {error.strerror or error}") from error
    if failure:
        end = "" if kept == made else "; the one before stays"
        raise RunnerUnavailable(f"{made.folder} is complete, but {failure}{end}")
    return made


def listing() -> list[dict[str, Any]]:
    """The environments that are there, as JSON values: ``state`` is "ready" or what is wrong."""
    found = []
    for runner in known():
        environment, folders = find(runner), _folders(runner)
        if not environment and not folders:
            continue
        state = environment.problem() or environment.damage() if environment else "unfinished"
        found.append(
            {
                "runner": runner,
                "state": state or "ready",
                "folder": str(environment.folder if environment else folders[0]),
                "base": environment.base if environment else None,
                "packages": environment.packages if environment else {},
            }
        )
    return found


def remove(runner: str, say: Callable[[str], None] = lambda _text: None) -> list[Path]:
    """Delete a runner's environment, and unfinished ones. Returns the folders that are gone."""
    check_known(runner)
    if not root().is_dir():
        return []
    try:
        with _locked(runner, say):
            marker_of(runner).unlink(missing_ok=True)
            return _sweep(runner, say)
    except OSError as error:
        raise RunnerUnavailable(f"{root()}: {error.strerror or error}") from error


def check_known(runner: str) -> None:
    """Raise ``RunnerOptionError`` for a runner that no environment can be made for."""
    if runner not in known():
        raise RunnerOptionError(
            f"no environment can be made for {runner!r}; known: {', '.join(known())}"
        )


@contextmanager
def _locked(runner: str, say: Callable[[str], None]) -> Iterator[None]:
    """One maker at a time; a second one waits, and then finds the work done."""
    waiting = f"{runner}: another process is at work on it; waiting"
    lock = hold(root() / f"{runner}.lock", waiting=lambda: say(waiting))
    try:
        yield
    finally:
        os.close(lock)


def _folders(runner: str) -> list[Path]:
    """The folders of all builds of a runner, finished or not."""
    return sorted(path for path in root().glob(f"{runner}@*") if path.is_dir())


def _sweep(runner: str, say: Callable[[str], None], kept: Environment | None = None) -> list[Path]:
    """Delete all builds but one, and those in use. Only for who holds the lock.

    No other is being built then.
    """
    swept = []
    for folder in _folders(runner):
        if kept is not None and folder == kept.folder:
            continue
        if _delete(folder):
            swept.append(folder)
        else:
            say(f"{folder}: in use by another command; the next edgepipe env deletes it")
    return swept


def _delete(folder: Path) -> bool:
    """Delete an environment, unless a command that is still running works with it."""
    try:
        file = hold(folder / IN_USE)
    except BlockingIOError:
        return False
    try:
        shutil.rmtree(folder)
    finally:
        os.close(file)
    return True


def _unfit(environment: Environment) -> str:
    """Why it has to be made anew, or an empty string."""
    return environment.problem() or environment.damage() or _failure(environment)


def _base(runner: str, python: str | None, sysroot: Path | None) -> tuple[str, bool]:
    """What an environment is to be made with, and whether that was asked for."""
    if runner == ARM64:
        if python is not None:
            raise RunnerOptionError(f"--python: {ARM64} has its system's Python; see --sysroot")
        return arm64.system_of(sysroot), sysroot is not None
    if sysroot is not None:
        raise RunnerOptionError(f"--sysroot: is for {ARM64} alone")
    return _interpreter(python or sys.executable), python is not None


def _make(
    runner: str, base: str, before: Environment | None, say: Callable[[str], None]
) -> Environment:
    """Build an environment that no marker names yet; if that fails, nothing is left of it."""
    extra = "" if runner == ARM64 else gpu.extra_of(runner, say)
    folder = Path(tempfile.mkdtemp(prefix=f"{runner}@", dir=root()))
    scratch = folder / SCRATCH  # inside: it goes with the folder if this process is killed
    locked = before.packages if before else {}
    try:
        say(f"{runner}: making {folder} with {base}")
        scratch.mkdir()
        if runner == ARM64:
            own = _interpreter(sys.executable)
            packages = arm64.make(folder, scratch, base, own, locked, say)
        else:
            made = virtual_environment(base, folder, scratch)
            packages = _install(runner, extra, made, scratch, locked)
        shutil.rmtree(scratch)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    code = own_wheel.runners_digest()
    return Environment(runner, folder.name, base, version("edgepipe"), code, packages)


def _switch(environment: Environment) -> None:
    """Let the marker name it, in one step."""
    marker = marker_of(environment.runner)
    document = {"schema_version": SCHEMA_VERSION, **asdict(environment)}
    written = marker.with_suffix(".tmp")
    write_synced(written, documents.text(document).encode())
    written.replace(marker)


def _install(
    runner: str, extra: str, python: Path, scratch: Path, locked: Mapping[str, Mapping[str, str]]
) -> Lock:
    """Install this edgepipe with the runner's extra; returns the lock, as pip resolved it."""
    # pip only warns of an extra that isn't there, and installs nothing for it.
    if extra not in (distribution("edgepipe").metadata.get_all("Provides-Extra") or ()):
        raise RunnerUnavailable(
            f"the installed edgepipe has no extra {extra}, its metadata are older than its code: "
            "install it again"
        )
    requirement = f"edgepipe[{extra}] @ {own_wheel.pack(scratch).as_uri()}"
    locked = locked if gpu.still_fits(extra, locked) else {}
    return install(python, [requirement], scratch, f"pip can't install {runner}", locked)


def _failure(environment: Environment) -> str:
    """Load the probe in it, in a worker like any other: why that fails, or an empty string."""
    if environment.runner == ARM64:
        return arm64.failure(environment.python)
    settings = Settings(threads=1, device=registry.device(environment.runner))
    try:
        with Worker(LOCAL.argv(str(environment.python))) as worker:
            worker.load(environment.runner, {"probe.onnx": probe.model()}, settings)
    except RunnerError as error:
        return f"{environment.runner} does not run in it: {error}"
    return ""


def _interpreter(python: str) -> str:
    """The interpreter below ``python``: an environment made from another outlives it."""
    code = "import sys; print(getattr(sys, '_base_executable', sys.executable))"
    try:
        done = subprocess.run([python, "-I", "-c", code], capture_output=True, text=True)
    except OSError as error:
        raise RunnerOptionError(f"--python {python}: {error.strerror}") from error
    if done.returncode or not done.stdout.strip():
        raise RunnerOptionError(f"--python {python}: is no Python interpreter")
    return done.stdout.strip()
