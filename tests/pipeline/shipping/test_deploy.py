"""deploy: verified on the box before it is served, with a way back, wherever it is cut.

Most tests deploy to this machine, through the same far end that SSH starts; tests at the end go
through a real sshd. The cuts are made by ``cutter.py``, between the two.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from edgepipe.pipeline import package
from edgepipe.runners.bundles.bundle import unpacked
from edgepipe.runners.bundles.index import Variant

from ... import bundles
from .test_ssh import SSHD, Box, box, server  # noqa: F401

Run = Callable[..., CompletedProcess[str]]
CUTTER = Path(__file__).with_name("cutter.py")
STEPS = ("hello", "open", "put", "put", "verify", "switch", "verify", "tidy")
SWITCH = STEPS.index("switch")
QUICK = ("--runner", "ort-cpu", "--samples", "16", "--json", "--quiet")


@pytest.fixture(scope="session")
def releases(measured: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two bundles of different contents."""
    folder = tmp_path_factory.mktemp("releases")
    old, new = (
        package(workspace=measured, output=folder, variants=(variant,)).path
        for variant in ("int8-avx2", "fp32")
    )
    return old, new


@pytest.fixture
def far(tmp_path: Path) -> Path:
    return tmp_path / "far"


def deploy(edgepipe: Run, bundle: Path, far: Path, *flags: str | Path) -> CompletedProcess[str]:
    target = () if "--target" in flags else ("--target", "local")
    return edgepipe("deploy", bundle, "--folder", far, *target, *QUICK, *flags)


def served(far: Path) -> Path | None:
    current = far / "current"
    return current.resolve(strict=True) if current.is_symlink() else None


def result(done: CompletedProcess[str]) -> dict[str, Any]:
    return json.loads(done.stdout)


def test_a_bundle_is_served_and_the_one_before_is_kept(
    releases: tuple[Path, Path], far: Path, edgepipe: Run
) -> None:
    old, new = releases
    first = deploy(edgepipe, old, far)
    assert first.returncode == 0, first.stdout + first.stderr
    assert (result(first)["outcome"], result(first)["before"]) == ("deployed", None)
    assert served(far) == far / "releases" / old.name
    second = result(deploy(edgepipe, new, far))
    assert (second["outcome"], second["before"], second["current"]) == (
        "deployed",
        old.name,
        new.name,
    )
    assert second["verification"]["verdict"] == "pass"
    assert (far / "current").read_bytes() == new.read_bytes()
    assert (far / "previous").read_bytes() == old.read_bytes()
    again = result(deploy(edgepipe, new, far))
    assert (again["outcome"], again["bytes_sent"]) == ("unchanged", 0)
    assert (far / "previous").read_bytes() == old.read_bytes()


def test_a_dry_run_says_what_would_happen_and_touches_nothing(
    releases: tuple[Path, Path], far: Path, edgepipe: Run
) -> None:
    done = deploy(edgepipe, releases[0], far, "--dry-run")
    assert done.returncode == 0
    assert result(done)["outcome"] == "would deploy"
    assert result(done)["bytes_sent"] == releases[0].stat().st_size
    assert not far.exists()


def test_a_bundle_that_fails_there_changes_nothing(
    releases: tuple[Path, Path], far: Path, edgepipe: Run, tmp_path: Path
) -> None:
    """It is whole, so it is sent; its model is none, so it does not verify."""
    deploy(edgepipe, releases[0], far)
    float_only = {"fp32": Variant({"onnx": ("fp32.onnx",)})}
    broken = bundles.write(tmp_path / "broken.tar.gz", bundles.contents(variants=float_only))
    done = deploy(edgepipe, broken, far)
    assert done.returncode == 5, done.stdout + done.stderr
    assert result(done)["outcome"] == "refused"
    assert result(done)["reason"]
    assert served(far) == far / "releases" / releases[0].name
    assert [path.name for path in (far / "releases").iterdir()] == [releases[0].name]


def test_a_box_that_requires_a_signature_refuses_an_unsigned_bundle(
    releases: tuple[Path, Path], far: Path, edgepipe: Run
) -> None:
    """Also where only the box's own configuration says so."""
    done = deploy(edgepipe, releases[0], far, "--key", "release.pub")
    assert done.returncode == 4
    assert "not signed" in result(done)["reason"]
    (far / "edgepipe.toml").write_text('[verify]\nkey = "release.pub"\n')
    done = deploy(edgepipe, releases[0], far)
    assert done.returncode == 4
    assert served(far) is None


def test_a_damaged_bundle_is_not_even_sent(
    releases: tuple[Path, Path], far: Path, edgepipe: Run, tmp_path: Path
) -> None:
    damaged = tmp_path / "damaged.tar.gz"
    damaged.write_bytes(releases[0].read_bytes()[:-1])
    assert deploy(edgepipe, damaged, far).returncode == 4
    assert not far.exists()


@pytest.mark.parametrize("earlier", [True, pytest.param(False, marks=pytest.mark.long)])
def test_a_service_that_does_not_come_up_is_rolled_back(
    releases: tuple[Path, Path], far: Path, edgepipe: Run, tmp_path: Path, earlier: bool
) -> None:
    """A systemctl whose service lives with the old bundle only."""
    old, new = releases
    if earlier:
        deploy(edgepipe, old, far)
    tools = tmp_path / "tools"
    tools.mkdir()
    script = f'#!/bin/sh\necho "$@" >> {tools}/log\ncase $(readlink {far}/current) in\n'
    script += f"*{new.name}) echo failed; exit 3;; esac\n"
    (tools / "systemctl").write_text(script)
    (tools / "systemctl").chmod(0o755)
    path = {"PATH": f"{tools}:{os.environ['PATH']}"}
    flags = ("--folder", far, "--target", "local", "--restart", "kiosk", *QUICK)
    done = edgepipe("deploy", new, *flags, env=path)
    assert done.returncode == 5, done.stdout + done.stderr
    assert result(done)["outcome"] == "rolled back"
    assert "kiosk did not come up" in result(done)["reason"]
    assert served(far) == (far / "releases" / old.name if earlier else None)
    assert "restart -- kiosk" in (tools / "log").read_text()


def test_two_deployments_at_once_are_not_mixed(
    releases: tuple[Path, Path], far: Path, edgepipe: Run
) -> None:
    import filelock

    far.mkdir()
    (far / "releases").mkdir()
    with filelock.FileLock(far / ".lock"):
        done = deploy(edgepipe, releases[0], far)
    assert done.returncode == 5
    assert "another deployment" in done.stderr


@pytest.mark.long
def test_a_box_goes_back_from_a_bundle_as_often_as_it_is_asked(
    releases: tuple[Path, Path], before: Path, edgepipe: Run
) -> None:
    old, new = releases
    deploy(edgepipe, new, before)
    for outcome in ("rolled back", "unchanged"):
        done = deploy(edgepipe, new, before, "--rollback")
        assert done.returncode == 0, done.stdout + done.stderr
        assert (result(done)["outcome"], result(done)["current"]) == (outcome, old.name)
        assert result(done)["verification"]["verdict"] == "pass"
        assert served(before) == before / "releases" / old.name
    done = deploy(edgepipe, new, before, "--rollback", "--dry-run")
    assert done.returncode == 2


@pytest.mark.parametrize("name", ["../x.tar.gz", "/x.tar.gz", ".x.tar.gz", "x"])
def test_the_far_end_takes_no_path_for_a_name(name: str, far: Path) -> None:
    from edgepipe.pipeline.shipping.receiver import Receiver
    from edgepipe.runners.base import SessionError

    receiver = Receiver()
    receiver.open({"folder": str(far)}, {})
    for operation in (receiver.put, receiver.verify, receiver.switch):
        with pytest.raises(SessionError, match="no name for a bundle"):
            operation({"name": name, "sha256": "", "arguments": []}, {})


def test_the_far_end_serves_nothing_that_it_has_not_verified(
    releases: tuple[Path, Path], far: Path
) -> None:
    from edgepipe.pipeline.shipping.receiver import Receiver
    from edgepipe.runners.base import SessionError

    receiver = Receiver()
    receiver.open({"folder": str(far)}, {})
    shutil.copy(releases[0], far / "releases")
    with pytest.raises(SessionError, match="was not verified"):
        receiver.switch({"name": releases[0].name, "downgrade": False}, {})


# Cut at every step ----------------------------------------------------------------------------


CUTS = [(3, "half"), (4, "after"), (SWITCH, "after"), (SWITCH, "reply"), (6, "after")]
ALL_CUTS = [(step, phase) for step in range(len(STEPS)) for phase in ("half", "after", "reply")]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if metafunc.function is test_a_cut_at_any_step_leaves_the_old_or_the_new_bundle_verified:
        cuts = ALL_CUTS if metafunc.config.getoption("--all-cuts") else CUTS
        names = [f"{number}-{STEPS[number]}-{phase}" for number, phase in cuts]
        metafunc.parametrize(("step", "phase"), cuts, ids=names)


@pytest.fixture
def before(releases: tuple[Path, Path], far: Path) -> Path:
    """A box that serves the old bundle, as a deployment leaves it."""
    (far / "releases").mkdir(parents=True)
    shutil.copy(releases[0], far / "releases")
    (far / "current").symlink_to(Path("releases") / releases[0].name)
    return far


def cut_target(step: int, phase: str, *command: str) -> str:
    argv = [sys.executable, str(CUTTER), str(step), phase, *command, "{python}"]
    return f"[targets.box]\ncommand = {json.dumps(argv)}\n"


@pytest.mark.long
def test_a_cut_at_any_step_leaves_the_old_or_the_new_bundle_verified(
    releases: tuple[Path, Path],
    before: Path,
    edgepipe: Run,
    tmp_path: Path,
    step: int,
    phase: str,
) -> None:
    old, new = releases
    (tmp_path / "edgepipe.toml").write_text(cut_target(step, phase))
    done = deploy(edgepipe, new, before, "--target", "box")
    assert done.returncode == 5, done.stdout + done.stderr
    assert "the worker ended during" in done.stderr
    now = served(before)
    assert now
    possible = {old.name} if step < SWITCH else {old.name, new.name}
    assert now.name in ({new.name} if step > SWITCH else possible)
    assert now.read_bytes() == (old if now.name == old.name else new).read_bytes()
    with unpacked(before / "current"):
        pass
    if (step, phase) in ((3, "half"), (SWITCH, "reply")):
        done = deploy(edgepipe, new, before)
        assert done.returncode == 0, done.stdout + done.stderr
        assert served(before) == before / "releases" / new.name
        left = {path.name for path in (before / "releases").iterdir()}
        assert left == {old.name, new.name}


# Over SSH -------------------------------------------------------------------------------------

over_ssh = pytest.mark.skipif(
    SSHD is None or shutil.which("ssh") is None, reason="needs sshd (Debian: openssh-server)"
)


@over_ssh
def test_a_box_over_ssh_serves_the_bundle(
    releases: tuple[Path, Path],
    box: Box,  # noqa: F811
    far: Path,
    edgepipe: Run,
    tmp_path: Path,
) -> None:
    """The far end has the base install and onnxruntime only."""
    (tmp_path / "edgepipe.toml").write_text(box.toml())
    done = deploy(edgepipe, releases[0], far, "--target", "box")
    assert done.returncode == 0, done.stdout + done.stderr
    assert result(done)["verification"]["runner"] == "ort-cpu"
    assert served(far) == far / "releases" / releases[0].name


@over_ssh
@pytest.mark.parametrize(("step", "phase"), [(3, "half"), (SWITCH, "after")], ids=str)
def test_a_cut_ssh_connection_is_no_worse(
    releases: tuple[Path, Path],
    before: Path,
    box: Box,  # noqa: F811
    edgepipe: Run,
    tmp_path: Path,
    step: int,
    phase: str,
) -> None:
    ssh = box.target().command[:-1]
    argv = [sys.executable, str(CUTTER), str(step), phase, *ssh, str(box.python)]
    (tmp_path / "edgepipe.toml").write_text(f"[targets.box]\ncommand = {json.dumps(argv)}\n")
    done = deploy(edgepipe, releases[1], before, "--target", "box")
    assert done.returncode == 5, done.stdout + done.stderr
    now = served(before)
    assert now
    with unpacked(now):
        pass
    assert now.name in {releases[0].name} if step < SWITCH else {path.name for path in releases}
