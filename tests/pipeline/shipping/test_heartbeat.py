"""heartbeat: what a replay comes to, what lasts from run to run, and the units for a timer."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import numpy as np
import pytest

from edgepipe.pipeline import HeartbeatResult, heartbeat, package, parity
from edgepipe.pipeline.errors import UsageError, WorkspaceError, exit_code
from edgepipe.pipeline.report.text import shipping
from edgepipe.pipeline.shipping.watching import heartbeat as module
from edgepipe.runners.base import BundleError, BundleUnreadable, RunnerUnavailable, WorkerCrashed
from edgepipe.runners.bundles.monitoring.state import Live, State, Store
from edgepipe.runners.workers.scripted import Script, scripted

from ...made import Made, changed

Run = Callable[..., CompletedProcess[str]]
RUNNER = "ort-cpu"


def packaged(made: Made, folder: Path, **flags: Any) -> Path:
    with scripted(made.scripts(RUNNER)):
        parity(workspace=made.root, runners=(RUNNER,))
    return package(workspace=made.root, output=folder, **flags).path


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Made:
    monkeypatch.chdir(tmp_path)
    return Made(tmp_path / "artifacts", variants=("fp32",))


@pytest.fixture
def made_bundle(made: Made, tmp_path: Path) -> Path:
    """One that a test may break."""
    return packaged(made, tmp_path / "bundles")


def beat(bundle: Path, script: Script, folder: str = "state", **flags: Any) -> HeartbeatResult:
    with scripted({RUNNER: script}):
        return heartbeat(bundle, folder=Path(folder), **flags)


def times(made: Made, factor: float) -> Script:
    def scaled(found: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: array * np.float32(factor) for name, array in found.items()}

    return made.script(answer=changed(made.answer(), scaled))


def metrics(folder: str = "state") -> str:
    return Path(folder, "heartbeat.prom").read_text()


def test_the_first_replay_is_the_baseline_of_those_after_it(made: Made, made_bundle: Path) -> None:
    first, second = (beat(made_bundle, made.script()) for _ in range(2))
    assert first.beat
    assert second.beat
    assert (first.beat.first, second.beat.first) == (True, False)
    assert (second.beat.verdict, second.exit_code, second.beats) == ("pass", 0, {"pass": 2})
    assert second.since == first.beat.at
    assert "pass: baseline of" in shipping.heartbeat(second)


def test_other_bits_are_no_pass_and_a_gate_that_is_missed_fails(
    made: Made, made_bundle: Path
) -> None:
    beat(made_bundle, made.script())
    other = beat(made_bundle, times(made, 1 + 2**-22))
    assert other.beat
    assert (other.beat.verdict, other.exit_code) == ("changed", 6)
    far = beat(made_bundle, times(made, 1.1))
    assert far.beat
    assert (far.beat.verdict, far.exit_code) == ("fail", 1)
    assert far.beat.sqnr_db == pytest.approx(20, abs=0.1)
    assert far.limit_db is not None
    assert "edgepipe_heartbeat_ok 0.0" in metrics()
    assert beat(made_bundle, made.script()).exit_code == 0


def test_a_first_replay_below_the_gate_sets_no_baseline(made: Made, made_bundle: Path) -> None:
    assert beat(made_bundle, times(made, 1.1)).since is None
    good = beat(made_bundle, made.script())
    assert good.beat
    assert (good.beat.first, good.beats) == (True, {"fail": 1, "pass": 1})


def test_what_gives_no_answer_is_counted_before_it_ends_the_command(
    made: Made, made_bundle: Path
) -> None:
    beat(made_bundle, made.script())
    with pytest.raises(WorkerCrashed):
        beat(made_bundle, made.script().failing(run=WorkerCrashed("SIGSEGV")))
    with pytest.raises(RunnerUnavailable):
        beat(made_bundle, made.script(reason="no library"))
    made_bundle.write_bytes(made_bundle.read_bytes()[:-9])
    with pytest.raises(BundleError) as caught:
        beat(made_bundle, made.script())
    assert exit_code(caught.value) == 4
    state = json.loads(Path("state/heartbeat.json").read_text())
    assert state["beats"] == {"pass": 1, "error": 3}
    assert "changed or cut" in state["last"]["reason"]
    assert 'edgepipe_heartbeat_beats_total{verdict="error"} 3.0' in metrics()


def test_another_bundle_is_a_new_baseline_and_it_is_said(
    made: Made, made_bundle: Path, tmp_path: Path
) -> None:
    beat(made_bundle, made.script())
    beat(made_bundle, made.script())
    newer = packaged(made, tmp_path / "newer", release=2)
    found = beat(newer, made.script())
    assert found.beat
    assert (found.beat.first, found.beats) == (True, {"pass": 1})
    assert (found.said or "").startswith("a new baseline: digest was ")
    assert (found.said or "") in shipping.heartbeat(found)


def test_a_state_that_cannot_be_used_is_left_as_it_is(made: Made, made_bundle: Path) -> None:
    Path("state").mkdir()
    Path("state/heartbeat.json").write_text("{}")
    with pytest.raises(BundleUnreadable, match="move it away to begin anew"):
        beat(made_bundle, made.script())
    assert Path("state/heartbeat.json").read_text() == "{}"
    Path("file").touch()
    with pytest.raises(WorkspaceError, match="can't write"):
        beat(made_bundle, made.script(), "file")
    store = Store(Path("taken"), "heartbeat")
    with pytest.raises(WorkspaceError, match="in use by another process"):
        beat(made_bundle, made.script(), "taken")
    store.close()


def test_what_an_application_counted_is_shown(made: Made, made_bundle: Path) -> None:
    first = beat(made_bundle, made.script())
    assert first.live is None
    store = Store(Path("state"), "live")
    live = Live(1200, {"input": 7})
    store.write(State(place=first.place, live=live), "")
    found = beat(made_bundle, made.script())
    assert found.live
    assert (found.live.images, found.live.outside, found.live.drift) == (1200, {"input": 7}, None)
    shown = shipping.heartbeat(found)
    assert "live: 1,200 images, 7 with input outside of the calibrated range" in shown
    assert "first classes of the calibration are not packaged" in shown
    store.close()


def test_a_signature_that_verify_requires_is_required(made: Made, made_bundle: Path) -> None:
    Path("edgepipe.toml").write_text('[verify]\nkey = "release.pub"\n')
    with pytest.raises(BundleError, match="not signed"):
        beat(made_bundle, made.script())


def test_a_variant_that_is_not_there_is_named(made: Made, made_bundle: Path) -> None:
    with pytest.raises(UsageError, match="no variant int9"):
        beat(made_bundle, made.script(), variant="int9")


def test_it_goes_on_over_what_fails_until_it_is_ended(
    made: Made, made_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    naps: list[float] = []

    def sleep(seconds: float) -> None:
        naps.append(seconds)
        made_bundle.rename(made_bundle.with_suffix(".gone"))
        if len(naps) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(module.time, "sleep", sleep)
    with pytest.raises((KeyboardInterrupt, FileNotFoundError)):
        beat(made_bundle, made.script(), every="10m")
    assert 590 < naps[0] <= 600
    state = json.loads(Path("state/heartbeat.json").read_text())
    assert state["beats"] == {"pass": 1, "error": 1}


def test_units_are_what_systemd_takes(
    made: Made, made_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "a % folder"
    here.mkdir()
    monkeypatch.chdir(here)
    flags = {"folder": Path('of "the" $box'), "every": "10m", "samples": 8}
    found = heartbeat(made_bundle, units=Path("units"), **flags)
    service, timer = map(Path, found.units)
    text = service.read_text()
    assert f"WorkingDirectory={tmp_path}/a %% folder\n" in text
    assert f'"--folder" "{tmp_path}/a %% folder/of \\"the\\" $$box"' in text
    assert f'ReadWritePaths="{tmp_path}/a %% folder/of \\"the\\" $box"' in text
    assert '"--samples" "8"' in text
    assert "OnUnitActiveSec=600" in timer.read_text()
    assert f"systemctl enable --now {timer.name}" in shipping.heartbeat(found)
    with pytest.raises(UsageError, match="can't stand in a unit"):
        heartbeat(made_bundle, units=Path("units"), folder=Path("two\nlines"))
    with pytest.raises(BundleUnreadable):
        heartbeat(Path("nowhere.tar.gz"), units=Path("others"), folder=Path("state"))
    assert not Path("others").exists()
    if (analyze := shutil.which("systemd-analyze")) is None:
        pytest.skip("needs systemd-analyze")
    done = subprocess.run([analyze, "verify", service, timer], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.long
def test_two_runs_of_a_timer_agree_on_the_bits(bundle: Path, edgepipe: Run, tmp_path: Path) -> None:
    for count in (1, 2):
        done = edgepipe("heartbeat", bundle, "--folder", "s t", "--runner", RUNNER, "--json")
        assert done.returncode == 0, done.stderr
        document = json.loads(done.stdout)
        assert document["beats"] == {"pass": count}
    assert document["place"]["goldens"] == 64
    assert (tmp_path / "s t" / "heartbeat.prom").read_text().startswith("# HELP")
