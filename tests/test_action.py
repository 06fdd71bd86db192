"""action.yml: what it declares, and its scripts, run one by one as a runner's shell would."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
ACTION: dict[str, Any] = yaml.safe_load((ROOT / "action.yml").read_text())
STEPS: list[dict[str, Any]] = ACTION["runs"]["steps"]
INPUTS: dict[str, dict[str, Any]] = ACTION["inputs"]
EXPRESSION = re.compile(r"\$\{\{\s*(.+?)\s*\}\}")
# As GitHub calls a step whose shell is bash.
BASH = ("bash", "--noprofile", "--norc", "-e", "-o", "pipefail")

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="needs git")


@dataclass
class Job:
    """A runner with the workspace ``folder``: files for outputs and summary, and the outputs."""

    folder: Path
    temporary: Path
    inputs: Mapping[str, str] = field(default_factory=dict)
    outputs: dict[str, dict[str, str]] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        assert self.inputs.keys() <= INPUTS.keys()
        self.temporary.mkdir(exist_ok=True)
        self.summary.touch()

    @cached_property
    def summary(self) -> Path:
        return self.temporary / "summary.md"

    def value(self, text: str) -> str:
        """A text of action.yml with its expressions evaluated; of those it needs no others."""

        def one(found: re.Match[str]) -> str:
            kind, *path = found[1].split(".")
            if kind == "inputs":
                (name,) = path
                return self.inputs.get(name, str(INPUTS[name]["default"]))
            assert kind == "steps", found[0]
            assert path[1] == "outputs", found[0]
            return self.outputs.get(path[0], {}).get(path[2], "")

        return EXPRESSION.sub(one, text)

    def step(self, step: Mapping[str, Any]) -> subprocess.CompletedProcess[str]:
        """Run a step's script; its outputs are taken over."""
        script, written = self.temporary / "script.sh", self.temporary / "output"
        script.write_text(step["run"])
        written.write_text("")
        known = ("GITHUB_BASE_REF", "PYTEST_CURRENT_TEST")
        env = {name: value for name, value in os.environ.items() if name not in known}
        env |= {
            "GITHUB_ACTION_PATH": str(ROOT),
            "GITHUB_OUTPUT": str(written),
            "GITHUB_STEP_SUMMARY": str(self.summary),
            "GITHUB_WORKSPACE": str(self.folder),
            "RUNNER_TEMP": str(self.temporary),
            "XDG_CACHE_HOME": str(self.temporary / "cache"),
            "OMP_NUM_THREADS": "1",
            **self.env,
        }
        env |= {name: self.value(str(text)) for name, text in step.get("env", {}).items()}
        done = subprocess.run(
            [*BASH, str(script)],
            cwd=self.folder,
            env=env,
            capture_output=True,
            text=True,
            timeout=300,
        )
        lines = [line.split("=", 1) for line in written.read_text().splitlines()]
        self.outputs[step["id"]] = dict(lines)
        return done

    def run(self) -> tuple[int, str]:
        """Every step until one fails, with the tests' own edgepipe: exit code and log."""
        self.outputs["install"] = {"programs": str(Path(sys.executable).parent)}
        log = ""
        for step in STEPS[1:]:
            done = self.step(step)
            log += done.stdout + done.stderr
            if done.returncode:
                return done.returncode, log
        return 0, log

    def output(self, name: str) -> str:
        return self.value(ACTION["outputs"][name]["value"])


def named(name: str) -> dict[str, Any]:
    (step,) = (step for step in STEPS if step["id"] == name)
    return step


def referred(value: Any) -> Iterator[str]:
    """The expressions in a part of action.yml."""
    yield from EXPRESSION.findall(json.dumps(value))


def test_it_is_composite_and_uses_no_other_action() -> None:
    assert ACTION["runs"]["using"] == "composite"
    assert all("uses" not in step and step["shell"] == "bash" for step in STEPS)


@pytest.mark.parametrize("name", INPUTS)
def test_an_input_is_documented_has_a_default_and_is_used(name: str) -> None:
    assert INPUTS[name].keys() == {"description", "default"}
    assert re.search(r"\w{3}.*\.$", INPUTS[name]["description"])
    assert isinstance(INPUTS[name]["default"], str)
    assert f"inputs.{name}" in set(referred(STEPS))


def test_nothing_is_used_that_is_not_there() -> None:
    outputs = {
        f"steps.{step['id']}.outputs.{name}"
        for step in STEPS
        for name in re.findall(r'echo "(\w+)=[^"]*" >>"\$GITHUB_OUTPUT"', _calm(step["run"]))
    }
    known = {f"inputs.{name}" for name in INPUTS} | outputs
    assert set(referred(ACTION)) <= known
    assert outputs <= set(referred(ACTION))


def _calm(script: str) -> str:
    """A script in which commands inside a string have no strings of their own."""
    return re.sub(r'\$\([^()"]*"[^"]*"\)', "", script)


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step["id"])
def test_a_script_is_strict_and_no_input_is_part_of_its_text(step: dict[str, Any]) -> None:
    assert step["run"].startswith("set -euo pipefail\n")
    assert "${{" not in step["run"]
    for name in step.get("env", {}):
        assert re.search(rf"\$\{{?{name}\b", step["run"]), name
    for name in re.findall(r"\$\{?(INPUT_\w+)", step["run"]):
        assert name in step["env"]


@pytest.mark.parametrize(
    ("parity", "bench", "missing", "strict", "code", "says"),
    [
        (0, 0, "", "false", 0, []),
        (1, 0, "", "false", 1, ["::error title=edgepipe::parity: a gate failed"]),
        (0, 1, "", "false", 1, ["::error title=edgepipe::bench: a gate failed"]),
        (0, 6, "", "false", 0, ["::warning title=edgepipe::bench: inconclusive"]),
        (0, 6, "", "true", 6, ["::error title=edgepipe::bench: inconclusive"]),
        (6, 0, "", "true", 6, ["::error title=edgepipe::parity: inconclusive"]),
        (6, 1, "", "true", 1, ["parity: inconclusive", "bench: a gate failed"]),
        (5, 1, "", "false", 1, ["parity ended with exit code 5", "bench: a gate failed"]),
        (70, 0, "", "false", 70, ["parity ended with exit code 70"]),
        (0, 0, "3", "false", 0, ["::warning title=edgepipe::not compared: the base can't be"]),
        (0, 0, "3", "true", 6, ["::error title=edgepipe::not compared: the base can't be"]),
    ],
)
def test_the_verdict(
    tmp_path: Path,
    parity: int,
    bench: int,
    missing: str,
    strict: str,
    code: int,
    says: list[str],
) -> None:
    job = Job(tmp_path, tmp_path / "runner", {"fail-on-inconclusive": strict})
    job.outputs = {
        "parity": {"code": str(parity)},
        "bench": {"code": str(bench)},
        "base": {"missing": missing},
    }
    done = job.step(named("verdict"))
    assert (done.returncode, job.output("exit-code")) == (code, str(code)), done.stderr
    assert len(done.stdout.splitlines()) == len(says)
    for line, said in zip(done.stdout.splitlines(), says, strict=True):
        assert said in line
        assert "* " + line.rpartition("::")[2] in job.summary.read_text().splitlines()


def test_arguments_reach_edgepipe_as_they_stand(tmp_path: Path) -> None:
    made = ["--name=$(touch broken)", '--checkpoint=it\'s "the best" model; *.pt']
    inputs = {
        "model": "-nets:small",
        "export-arguments": "\n".join([made[0], "", f"  {made[1]}  ", ""]),
        "runners": "ort-cpu, openvino\ntorch",
        "variants": "*",
    }
    job = Job(tmp_path, tmp_path / 'runner\'s "temporary" $HOME', inputs)
    done = job.step(named("arguments"))
    assert done.returncode == 0, done.stderr
    folder = Path(job.outputs["arguments"]["folder"])
    making = (folder / "making").read_text().split("\0")
    assert making == [*made, "--variant=*", "--", "-nets:small", ""]
    runners = ["--runner=ort-cpu", "--runner=openvino", "--runner=torch"]
    assert (folder / "cells").read_text().split("\0") == [
        *runners,
        "--variant=*",
        "--threads=1",
        "",
    ]
    assert not (tmp_path / "broken").exists()


@pytest.mark.parametrize("value", ["", "yes", "True"])
def test_a_word_that_is_neither_true_nor_false_is_refused(tmp_path: Path, value: str) -> None:
    job = Job(tmp_path, tmp_path / "runner", {"fail-on-inconclusive": value})
    done = job.step(named("arguments"))
    assert done.returncode == 2
    assert "fail-on-inconclusive is true or false" in done.stdout


def test_what_is_installed_is_this_checkout(tmp_path: Path) -> None:
    """In an environment of its own, where the action's path is written as GitHub writes ``./``."""
    source = tmp_path / "an action"  # setuptools leaves its build folder where it works
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "pipeline", "exporters", "runners"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    (tmp_path / "its requirements.txt").write_text("# none\n")
    inputs = {"extra-index-url": "", "requirements": "its requirements.txt"}
    # Without its dependencies, which are the same as everywhere.
    env = {"GITHUB_ACTION_PATH": f"{source}/./", "PIP_NO_DEPS": "1"}
    job = Job(tmp_path, tmp_path / "runner", inputs, env=env)
    done = job.step(named("install"))
    assert done.returncode == 0, done.stdout + done.stderr
    programs = Path(job.outputs["install"]["programs"])
    assert (programs / "edgepipe").is_file()
    (wrote,) = programs.parent.glob("lib/python*/site-packages/edgepipe-*/direct_url.json")
    assert json.loads(wrote.read_text())["url"].rstrip("/") == source.as_uri()


def test_another_python_is_looked_for_in_the_tool_cache(tmp_path: Path) -> None:
    env = {"RUNNER_TOOL_CACHE": str(tmp_path)}
    job = Job(tmp_path, tmp_path / "runner", {"python-version": "3.99"}, env=env)
    done = job.step(named("install"))
    assert done.returncode == 2
    assert "no Python 3.99: use actions/setup-python before" in done.stdout
    python = tmp_path / "Python" / "3.99.1" / "x64" / "bin" / "python3"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\necho called with $*\nexit 77\n")
    python.chmod(0o755)
    done = job.step(named("install"))
    assert (done.returncode, done.stdout.split()[-1]) == (
        77,
        str(tmp_path / "runner" / "edgepipe-python3.99"),
    )


PAGE = (ROOT / "docs" / "ci.md").read_text()
WORKFLOWS = [
    found
    for text in re.findall(r"^```yaml\n(.*?)^```", PAGE, re.M | re.S)
    if "jobs" in (found := yaml.safe_load(text))
]


def steps_of(workflow: Mapping[str, Any]) -> list[dict[str, Any]]:
    (job,) = workflow["jobs"].values()
    return job["steps"]


def test_the_page_shows_what_there_is_of_the_action() -> None:
    rows = re.findall(r"^\| `([a-z-]+)` \|", PAGE, re.M)
    assert rows == [*INPUTS, *ACTION["outputs"]]
    used = [
        step
        for workflow in WORKFLOWS
        for step in steps_of(workflow)
        if "/edgepipe@" in step.get("uses", "")
    ]
    assert used
    for step in used:
        assert step["with"].keys() <= INPUTS.keys()
    outputs = re.findall(r"steps\.edgepipe\.outputs\.([\w-]+)", PAGE)
    assert outputs
    assert set(outputs) <= ACTION["outputs"].keys()


NETS = """
from torch import nn

print("a model that talks")


def small():
    layers = [nn.Conv2d(3, WIDTH, 3, 2), nn.ReLU(), nn.Conv2d(WIDTH, 32, 3, 2), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 5))
"""
CONFIGURATION = "[bench]\ngenerations = 3\nseconds = 0.05\n"
INSIDE = 'models/it\'s "the" one'
INPUTS_OF_ALL = {
    "model": "nets:small",
    "export-arguments": "--name=small-one\n--input-size=32\n--preprocessing=none\n"
    "--calibration=synthetic\n",
    "workspace": 'my "work" $HOME',
    "working-directory": INSIDE,
    "runners": "ort-cpu",
    "variants": "fp32",
    "max-slowdown": "400%",
    "report": "out/the report.md",
    "junit": "out/parity.xml",
}


def git(folder: Path, *words: str) -> str:
    who = ("-c", "user.name=A", "-c", "user.email=a@example.com", "-c", "commit.gpgsign=false")
    done = subprocess.run(["git", *who, *words], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What actions/checkout leaves: the last commit alone, its base being on the origin only."""
    folder = tmp_path_factory.mktemp("action")
    origin, nets = folder / "origin", folder / "origin" / INSIDE / "nets.py"
    git(folder, "init", "--quiet", "--initial-branch=empty", str(origin))
    nets.parent.mkdir(parents=True)
    (nets.parent / "edgepipe.toml").write_text(CONFIGURATION)
    git(origin, "add", ".")
    git(origin, "commit", "--quiet", "--message=no model")
    for branch, width in (("main", "16"), ("change", "24")):
        nets.write_text(NETS.replace("WIDTH", width))
        git(origin, "checkout", "--quiet", "-b", branch)
        git(origin, "add", ".")
        git(origin, "commit", "--quiet", f"--message={width} channels")
    place = folder / "check out"
    git(folder, "clone", "--quiet", "--depth=1", "--branch=change", origin.as_uri(), str(place))
    return place


@pytest.mark.long
def test_a_pull_request_is_judged_against_its_base(checkout: Path, tmp_path: Path) -> None:
    job = Job(checkout, tmp_path / "a runner", INPUTS_OF_ALL, env={"GITHUB_BASE_REF": "main"})
    code, log = job.run()
    assert code == 0, log
    place = checkout / INSIDE
    workspace = place / 'my "work" $HOME' / "small-one"
    bench = json.loads((workspace / "bench.json").read_text())
    (cell,) = bench["cells"]
    assert (cell["variant"], cell["runner"], cell["threads"]) == ("fp32", "ort-cpu", 1)
    assert cell["comparison"]["max_slowdown"] == 4
    assert cell["comparison"]["verdict"] in ("pass", "inconclusive")

    # The base is its own code: 16 channels, not 24.
    (old,) = (tmp_path / "a runner").glob("edgepipe.*/base-workspace/small-one/manifest.json")
    parameters = [
        json.loads(path.read_text())["model"]["parameters"]
        for path in (old, workspace / "manifest.json")
    ]
    assert parameters == [(3 * 9 + 1) * width + (width * 9 + 1) * 32 + 33 * 5 for width in (16, 24)]
    assert job.output("base") == git(checkout, "rev-parse", "FETCH_HEAD")
    assert len(git(checkout, "worktree", "list").splitlines()) == 1

    codes = [job.output(f"{name}exit-code") for name in ("", "parity-", "bench-")]
    assert codes[:2] == ["0", "0"]
    assert codes[2] in ("0", "6")
    report = (place / "out" / "the report.md").read_text()
    assert job.output("report") == str(place / "out" / "the report.md")
    assert "### Against the baseline" in report
    assert job.summary.read_text().startswith(report)
    assert f"**{job.output('recommendation')}**" in report.splitlines()
    assert "fp32 on ort-cpu" in job.output("recommendation")
    assert job.output("junit") == str(place / "out" / "parity.xml")
    assert [one.tag for one in ET.parse(job.output("junit")).iter("testcase")] == ["testcase"]


@pytest.mark.long
def test_what_fails_has_its_report_all_the_same(checkout: Path, tmp_path: Path) -> None:
    """Parity fails; the base has no model yet, which is a warning unless it is to fail."""
    folder = Path(shutil.copytree(checkout, tmp_path / "copy"))
    gate = '[gates."fp32"]\nmin-sqnr-db = 999\n'
    configuration = folder / INSIDE / "edgepipe.toml"
    configuration.write_text(CONFIGURATION + gate)
    inputs = {**INPUTS_OF_ALL, "base-ref": "empty", "samples": "60"}
    job = Job(folder, tmp_path / "runner", inputs)
    code, log = job.run()
    assert (code, job.output("parity-exit-code"), job.output("exit-code")) == (1, "1", "1"), log
    assert "::error title=edgepipe::parity: a gate failed" in log
    assert "::warning title=edgepipe::not compared: the base can't be exported" in log
    summary = job.summary.read_text()
    assert "SQNR" in summary
    assert "999" in summary
    assert "* parity: a gate failed" in summary.splitlines()
    assert job.output("recommendation").startswith("No recommendation")
    assert job.output("base") == ""
    assert list(ET.parse(job.output("junit")).iter("failure"))

    # A workspace that is there already is compared with as it is.
    configuration.write_text(CONFIGURATION)
    shutil.copytree(configuration.parent / INPUTS_OF_ALL["workspace"], tmp_path / "a base")
    job.inputs = {**INPUTS_OF_ALL, "base-workspace": str(tmp_path / "a base")}
    code, log = job.run()
    assert (code, job.output("base")) == (0, ""), log
    assert "::warning title=edgepipe::not compared" not in log
    assert "### Against the baseline" in Path(job.output("report")).read_text()


@pytest.mark.long
def test_the_workflow_of_plain_commands(checkout: Path, tmp_path: Path) -> None:
    """Of a small model, for a short time: that is what the variables are for."""
    (plain,) = (one for one in WORKFLOWS if "/edgepipe@" not in str(one))
    programs = tmp_path / "programs"  # what it would install, and what needs root, is there
    programs.mkdir()
    for name in ("pip", "sudo"):
        (programs / name).symlink_to("/bin/true")
    folder = tmp_path / "checkout"
    git(tmp_path, "clone", "--quiet", "--branch=change", f"{checkout.parent}/origin", str(folder))
    small = {"WEIGHTS": "random", "WIDTH": "0.25", "INPUT_SIZE": "32", "VARIANTS": "fp32"}
    env = {
        "PATH": os.pathsep.join((str(programs), str(Path(sys.executable).parent), os.defpath)),
        "GITHUB_BASE_REF": "main",
        "EDGEPIPE_BENCH_GENERATIONS": "3",
        "EDGEPIPE_BENCH_SECONDS": "0.05",
        "EDGEPIPE_BENCH_MAX_SLOWDOWN": "400%",
        **{f"EDGEPIPE_EXPORT_{name}": value for name, value in small.items()},
    }
    job = Job(folder, tmp_path / "runner", env=env)
    for number, step in enumerate(steps_of(plain)):
        if "run" not in step or "--target" in step["run"]:  # an emulator is slow, and tested apart
            continue
        done = job.step({**step, "id": str(number)})
        assert done.returncode == 0, done.stdout + done.stderr
    assert "### Against the baseline" in job.summary.read_text()
    assert (folder / "parity.xml").is_file()


def test_a_base_that_is_nowhere_is_refused(checkout: Path, tmp_path: Path) -> None:
    for ref, says in (("gone", "neither this checkout nor its origin"), ("--all", "is no branch")):
        job = Job(checkout, tmp_path / "runner", {"base-ref": ref})
        job.outputs = {
            "install": {"programs": "/nowhere"},
            "arguments": {"folder": str(tmp_path)},
            "export": {"name": "small-one"},
        }
        done = job.step(named("base"))
        assert done.returncode == 2, done.stderr
        assert says in done.stdout


def test_an_export_that_fails_ends_it_with_its_code(tmp_path: Path) -> None:
    job = Job(tmp_path, tmp_path / "runner", {"model": "nets:small"})
    code, log = job.run()
    assert code in (2, 3), log
    assert "edgepipe: nets:small" in log
    assert job.summary.read_text() == f"* edgepipe export ended with exit code {code}\n"
