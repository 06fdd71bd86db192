"""pip and other commands that fill an environment: run to their end, with one line if they fail."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..base import RunnerUnavailable
from ..workers import command as commands

PIP = ("-I", "-m", "pip", "--no-input", "--disable-pip-version-check")
# Name -> version and SHA-256 of the archive that it came from.
Lock = dict[str, dict[str, str]]


def run(
    command: Sequence[str], scratch: Path, failure: str, environment: Mapping[str, str] = {}
) -> str:
    """Run a command with its temporary files in ``scratch``; returns what it printed.

    Raises ``RunnerUnavailable``, which says ``failure`` and the first thing that went wrong.
    """
    done = commands.run(command, {"TMPDIR": str(scratch), **environment})
    if not done.returncode:
        return done.stdout
    lines = [line for line in done.stdout.splitlines() if line.strip()]
    telling = [line for line in lines if not line.startswith("WARNING:")]
    errors = [line for line in telling if line.startswith(("ERROR:", "Error:", "error:", "E:"))]
    reason = (errors or telling or lines or [f"exit status {done.returncode}"])[0]
    # pip names the package that it could not build below that.
    package = next(
        (line.split()[-1] for line in lines[::-1] if line.lstrip().startswith("╰─>")), ""
    )
    reason = f"{reason} of {package}" if package and package not in reason else reason
    offline = any("Retrying (" in line for line in lines)
    hint = "; the package index can't be reached" if offline else ""
    said = reason.removeprefix("ERROR: ").removeprefix("error: ").removeprefix("E: ")
    raise RunnerUnavailable(f"{failure}: {said}{hint}")


def virtual_environment(base: str, folder: Path, scratch: Path) -> Path:
    """Make one with the interpreter ``base``; returns its own. Raises ``RunnerUnavailable``."""
    command = [base, "-I", "-m", "venv", str(folder)]
    run(command, scratch, f"{base} can't make an environment")
    return folder / "bin" / "python"


def install(
    python: Path,
    requirements: Sequence[str],
    scratch: Path,
    failure: str,
    locked: Mapping[str, Mapping[str, str]],
    options: Sequence[str] = (),
) -> Lock:
    """Install with an environment's pip, in the versions of ``locked``; returns what was.

    Raises ``RunnerUnavailable`` as ``run`` does.
    """
    report, constraints = scratch / "report.json", scratch / "constraints.txt"
    lines = [f"{name}=={about['version']}" for name, about in locked.items() if name != "edgepipe"]
    constraints.write_text("\n".join(lines))
    command = [str(python), *PIP, "install", "--quiet", "--report", str(report)]
    run([*command, "--constraint", str(constraints), *options, *requirements], scratch, failure)
    lock = {}
    for item in json.loads(report.read_text())["install"]:
        archive = item["download_info"].get("archive_info", {})
        about, sha256 = item["metadata"], archive.get("hashes", {}).get("sha256", "")
        lock[about["name"]] = {"version": about["version"], "sha256": sha256}
    return dict(sorted(lock.items()))
