"""What a box needs to verify a bundle: bare environments, their size, and what gets imported.

    python benchmarks/box.py bundles/mobilenet_v2-….tar.gz [--json]

For each runtime extra it makes a virtual environment with edgepipe's wheel and that extra alone,
verifies the bundle there, and prints the size on disk, the time from the cold start to the
verdict, and every package that the command and its workers imported.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
EXTRAS = ("cpu", "openvino")
ABSENT = ("torch", "onnx", "onnxsim", "onnxscript")
# A worker is ended by SIGKILL: what it imported has to be on the disk before.
RECORD = """
import os, sys
_file = os.open(os.environ["IMPORTS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
def _note(event, arguments):
    if event == "import":
        os.write(_file, (arguments[0].partition(".")[0] + "\\n").encode())
sys.addaudithook(_note)
"""
DISTRIBUTIONS = """
import json
from importlib.metadata import packages_distributions, distributions
owners = {name: found[0] for name, found in packages_distributions().items()}
print(json.dumps({"owners": owners, "installed": {d.name: d.version for d in distributions()}}))
"""


def measure(bundle: Path, wheel: str, extra: str, folder: Path) -> dict[str, Any]:
    """Install, verify, and say what that took. Sizes in MiB, times in s."""
    environment = folder / extra
    python = environment / "bin" / "python"
    run(sys.executable, "-m", "venv", "--without-pip", str(environment))
    command = ("-m", "pip", "--python", str(python), "--disable-pip-version-check")
    run(sys.executable, *command, "install", "--quiet", "--no-compile", f"{wheel}[{extra}]")
    size = sum(path.lstat().st_size for path in environment.rglob("*")) / (1 << 20)
    found = json.loads(run(str(python), "-c", DISTRIBUTIONS))
    first, document = verify(python, bundle, extra, folder)
    second, _ = verify(python, bundle, extra, folder)
    names = set((folder / f"imports-{extra}").read_text().split())
    imported = sorted({found["owners"][name] for name in names if name in found["owners"]})
    missing = [name for name in ABSENT if name not in found["owners"]]
    return {
        "extra": extra,
        "install_mib": round(size, 1),
        "installed": found["installed"],
        "imported": imported,
        "absent": missing,
        "first_start_s": round(first, 2),
        "cold_start_s": round(second, 2),
        "verdict": document["verdict"],
        "runner": document["runner"],
        "variant": document["variant"],
    }


def verify(python: Path, bundle: Path, extra: str, folder: Path) -> tuple[float, dict[str, Any]]:
    """Run ``edgepipe verify`` with every import noted; the runner is the extra's own."""
    hook = folder / "hook"
    hook.mkdir(exist_ok=True)
    (hook / "sitecustomize.py").write_text(RECORD)
    imports = str(folder / f"imports-{extra}")
    environment = {**os.environ, "PYTHONPATH": str(hook), "IMPORTS": imports}
    runner = {"cpu": "ort-cpu"}.get(extra, extra)
    arguments = ("-m", "edgepipe.pipeline.cli", "verify", str(bundle), "--json", "--quiet")
    started = time.perf_counter()
    done = subprocess.run(
        [str(python), *arguments, "--runner", runner],
        capture_output=True,
        text=True,
        env=environment,
        cwd=folder,
    )
    seconds = time.perf_counter() - started
    if not done.stdout:
        raise SystemExit(done.stderr)
    return seconds, json.loads(done.stdout)


def run(*command: str) -> str:
    """The output of a command that has to succeed."""
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.stdout}{done.stderr}")
    return done.stdout


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--wheel", help="edgepipe's wheel [default: built from this checkout]")
    parser.add_argument("--extra", action="append", choices=EXTRAS)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="edgepipe-box-") as name:
        folder = Path(name)
        wheel = arguments.wheel
        if not wheel:
            command = ("-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", name, str(ROOT))
            run(sys.executable, *command)
            wheel = str(next(folder.glob("edgepipe-*.whl")))
        rows = [
            measure(arguments.bundle.resolve(), wheel, extra, folder)
            for extra in arguments.extra or EXTRAS
        ]
    if arguments.json:
        print(json.dumps(rows, indent=2))
        return
    for row in rows:
        print(
            f"edgepipe[{row['extra']}]: {row['install_mib']} MiB, {len(row['installed'])} packages"
        )
        print(f"  not installed: {', '.join(row['absent'])}")
        print(f"  imported: {', '.join(row['imported'])}")
        print(f"  {row['variant']} on {row['runner']}: {row['verdict']}")
        print(f"  from start to verdict: {row['first_start_s']} s, again {row['cold_start_s']} s")


if __name__ == "__main__":
    main()
