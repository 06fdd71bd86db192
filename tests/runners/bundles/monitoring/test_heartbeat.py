"""Heartbeats beside an application's requests: what they see, and that they are not in the way."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgepipe.runners import Heartbeat, load_bundle
from edgepipe.runners.base import BundleError, Placement, SessionError, TensorSpec
from edgepipe.runners.bundles.bundle import unpacked
from edgepipe.runners.bundles.monitoring import calibration
from edgepipe.runners.bundles.monitoring.calibration import Calibration
from edgepipe.runners.bundles.monitoring.heartbeat import WINDOW, Monitor, Watched
from edgepipe.runners.bundles.monitoring.replay import Recorded
from edgepipe.runners.bundles.monitoring.state import Place
from edgepipe.runners.images import Preprocessing

SIDE, CLASSES = 4, 10
PREPROCESSING = Preprocessing(SIDE, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
PLACE = Place('a "b"\n\\', "ab" * 32, "int8", "ort-cpu", "1.0", 2, "A CPU", 4)
IMAGES = np.arange(4 * SIDE * SIDE * 3, dtype=np.uint8).reshape(4, SIDE, SIDE, 3)
KNOWN = Calibration(1, 400, {"input": (-0.9, 0.9)}, (40,) * CLASSES)


class Sums:
    """A session whose scores are sums of its input, and whatever a test makes of them."""

    inputs = (TensorSpec("input", "float32", (1, 3, SIDE, SIDE)),)
    outputs = (TensorSpec("logits", "float32", (1, CLASSES)),)
    placement = Placement("CPU", "f32", 1)

    def __init__(self) -> None:
        self.change: Callable[[np.ndarray], np.ndarray] = lambda scores: scores
        self.seconds = 0.0

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        time.sleep(self.seconds)
        total = np.float32(feeds["input"].sum())
        return {"logits": self.change(total + np.arange(CLASSES, dtype=np.float32)[None])}

    def close(self) -> None: ...


def watched(**changes: Any) -> Watched:
    session = Sums()
    plain = Recorded(IMAGES, {})
    outputs = plain.outputs(session.run, session.inputs[0], PREPROCESSING)
    fp32 = {"logits": outputs["logits"] * np.float32(1.01)}  # 40 dB
    return replace(Watched(PLACE, PREPROCESSING, Recorded(IMAGES, fp32), 30.0, KNOWN), **changes)


def monitor(folder: Path, session: Sums | None = None, **changes: Any) -> Monitor:
    return Monitor(Heartbeat(folder, every_s=3600), watched(**changes), session or Sums()).start()


def written(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "live.json").read_text())


def tensor(value: float) -> np.ndarray:
    return np.full((3, SIDE, SIDE), value, np.float32)


def test_the_same_bits_pass_and_others_are_told_by_how_far_they_are(tmp_path: Path) -> None:
    session = Sums()
    found = monitor(tmp_path, session)
    first = found.beat()
    assert (first.verdict, first.first) == ("pass", False)
    session.change = lambda scores: scores * np.float32(1.001)
    assert found.beat().verdict == "changed"
    session.change = lambda scores: scores * np.float32(1.5)
    far = found.beat()
    assert far.verdict == "fail"
    assert far.reason == "SQNR 6.3 dB, at least 30.0 is required"
    session.change = lambda scores: scores * np.float32("nan")
    assert found.beat().verdict == "fail"
    session.change = lambda scores: scores[:, :3]
    assert found.beat().reason == "logits is [4, 3], not [4, 10]"

    def broken(_scores: np.ndarray) -> np.ndarray:
        raise SessionError("out of memory")

    session.change = broken
    assert found.beat().reason == "out of memory"
    found.close()
    assert written(tmp_path)["beats"] == {"pass": 2, "changed": 1, "fail": 3, "error": 1}


def test_counts_and_the_baseline_last_across_processes(tmp_path: Path) -> None:
    found = monitor(tmp_path)
    for value in (0.5, 0.95, -2.0, float("nan")):
        found.count(tensor(value), 3)
    found.close()
    session = Sums()
    session.change = lambda scores: scores * np.float32(1.001)
    again = monitor(tmp_path, session)
    assert again.state.last
    assert again.state.last.verdict == "changed", "held to the first process's bits"
    again.count(tensor(0.0), 3)
    again.close()
    live = written(tmp_path)["live"]
    assert (live["images"], live["outside"], live["top1"][3]) == (5, {"input": 3}, 5)


def test_another_bundle_or_runner_sets_a_new_baseline_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monitor(tmp_path).close()
    with caplog.at_level(logging.WARNING, "edgepipe"):
        newer = monitor(tmp_path, place=replace(PLACE, runner_version="2.0"))
    assert newer.state.last
    assert newer.state.last.first
    newer.close()
    said = "a new baseline: runner_version was 1.0, is 2.0"
    assert said in caplog.text
    assert written(tmp_path)["said"] == said
    assert written(tmp_path)["beats"] == {"pass": 1}


def test_a_folder_that_cannot_be_written_is_counted_and_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    with caplog.at_level(logging.WARNING, "edgepipe"):
        found = monitor(tmp_path / "file" / "below")
        for _ in range(3):
            assert found.beat().verdict == "pass"
        found.run({"input": tensor(0)[None]})
        found.close()
    assert found.unwritten >= 4
    assert caplog.text.count("can't be written") == 1


def test_a_full_disk_costs_the_files_and_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgepipe.runners.bundles.monitoring import state

    found = monitor(tmp_path)
    before = (tmp_path / "live.json").read_text()

    def full(path: Path, _data: bytes) -> None:
        path.write_bytes(b"{")
        raise OSError(28, "No space left on device", str(path))

    with monkeypatch.context() as disk, caplog.at_level(logging.WARNING, "edgepipe"):
        disk.setattr(state, "write_synced", full)
        assert found.beat().verdict == "pass"
    assert (tmp_path / "live.json").read_text() == before
    assert {path.name for path in tmp_path.iterdir()} == {"live.json", "live.prom", ".live.lock"}
    assert "No space left" in caplog.text
    found.close()
    assert written(tmp_path)["beats"] == {"pass": 2}, "there was room again"
    assert "write_failures_total 1.0" in (tmp_path / "live.prom").read_text()


def test_two_processes_do_not_share_the_files(tmp_path: Path) -> None:
    one = monitor(tmp_path)
    other = monitor(tmp_path)
    assert (one.unwritten, other.unwritten > 0) == (0, True)
    one.close()
    other.beat()
    other.close()
    assert written(tmp_path)["beats"] == {"pass": 3}, "what was counted before is not lost"


def test_a_damaged_state_is_kept_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "live.json").write_text('{"schema_version": 1, "beats": "many"}')
    found = monitor(tmp_path)
    found.close()
    assert found.unwritten
    assert written(tmp_path)["beats"] == "many"


class Held(Sums):
    """Its runs in a thread of that name wait until each is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.entered, self.let_go = threading.Semaphore(0), threading.Semaphore(0)

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        if threading.current_thread().name == "replay":
            self.entered.release()
            assert self.let_go.acquire(timeout=60)
        return super().run(feeds)


def test_a_request_waits_for_one_golden_and_is_told_so(tmp_path: Path) -> None:
    session = Held()
    found = monitor(tmp_path, session)
    waited: list[float] = []

    def request() -> None:
        waited.append(found.run({"input": tensor(0)[None]})[1])

    replay = threading.Thread(target=found.beat, name="replay")
    replay.start()
    assert session.entered.acquire(timeout=60)
    asking = threading.Thread(target=request)
    asking.start()
    while not found._waiting:  # pyright: ignore[reportPrivateUsage]
        time.sleep(0.001)
    session.let_go.release()  # the first of four goldens
    asking.join(timeout=60)
    assert not asking.is_alive()
    assert replay.is_alive(), "the others are still to come"
    assert waited[0] > 0
    session.let_go.release(3)
    replay.join(timeout=60)
    assert found.run({"input": tensor(0)[None]})[1] == 0
    found.close()


def test_drift_is_told_of_the_last_two_windows(tmp_path: Path) -> None:
    found = monitor(tmp_path)
    assert found.drift
    assert found.drift.verdict == "too few to tell"
    for number in range(3 * WINDOW):
        found.count(tensor(0), 0 if number < WINDOW else number % CLASSES)
    assert found.drift.verdict == "stable", "what was long ago is out of the window"
    assert found.drift.images == WINDOW
    for _ in range(WINDOW):
        found.count(tensor(0), 7)
    assert found.drift.verdict == "drifted"
    found.close()
    plain = monitor(tmp_path, calibration=None)
    plain.count(tensor(0), 2)
    assert plain.drift is None
    plain.close()


def test_the_text_file_is_what_prometheus_reads(tmp_path: Path) -> None:
    parser = pytest.importorskip("prometheus_client.parser")
    found = monitor(tmp_path)
    for number in range(200):
        found.count(tensor(2.0), number % CLASSES)
    found.close()
    text = (tmp_path / "live.prom").read_text()
    families = {one.name: one for one in parser.text_string_to_metric_families(text)}
    (info,) = families["edgepipe_bundle_info"].samples
    assert info.labels["bundle"] == PLACE.bundle
    outside = families["edgepipe_live_outside"]
    assert (outside.type, outside.samples[0].value) == ("counter", 200)
    assert outside.samples[0].labels == {"input": "input"}
    assert families["edgepipe_heartbeat_ok"].samples[0].value == 1
    assert families["edgepipe_live_top1_psi"].samples[0].value == pytest.approx(0, abs=1e-9)
    assert all(one.documentation for one in families.values())


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"every_s": 0.5}, "at least a second"), ({"goldens": 0}, "one"), ({"name": "a/b"}, "file")],
)
def test_what_makes_no_heartbeat_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Heartbeat("folder", **changes)


# With a real bundle ---------------------------------------------------------------------------


def test_a_bundle_brings_what_its_calibration_saw(bundle: Path, measured: Path) -> None:
    with unpacked(bundle) as found:
        known = calibration.of_bundle(found)
    assert known
    assert known.inputs == {"input": (-1.0, 1.0)}
    assert known.top1
    assert sum(known.top1) == known.images > 0
    assert len(known.top1) == 10


def test_a_calibration_that_is_none_is_refused() -> None:
    whole = KNOWN.to_json()
    for change in (
        {"images": 0},
        {"top1": [400]},
        {"top1": [39] + [40] * 9},
        {"schema_version": 2},
    ):
        with pytest.raises(ValueError, match=r"."):
            Calibration.from_json({**whole, **change})
    assert Calibration.from_json(whole) == KNOWN


def test_an_application_is_watched_between_its_predictions(bundle: Path, tmp_path: Path) -> None:
    options = Heartbeat(tmp_path / "a folder", every_s=1, goldens=2)
    with unpacked(bundle) as found:
        images = np.load(found.folder / "goldens.npz")["images"]
    with load_bundle(bundle, runner="ort-cpu", threads=1, heartbeat=options) as model:
        assert model.heartbeat
        ended = time.monotonic() + 10
        while model.heartbeat.state.beats.get("pass", 0) < 2 and time.monotonic() < ended:
            model.predict(images[0])
        counted = model.heartbeat.state.live.images
        assert model.heartbeat.state.beats.keys() == {"pass"}
    assert written(tmp_path / "a folder")["live"]["images"] == counted > 0
    assert not [one for one in threading.enumerate() if one.name == "edgepipe-heartbeat"]


def test_an_application_with_a_heartbeat_imports_no_model_maker(
    bundle: Path, tmp_path: Path
) -> None:
    code = """
import sys
import numpy as np
from edgepipe.runners import Heartbeat, load_bundle
with load_bundle(sys.argv[1], runner="ort-cpu", heartbeat=Heartbeat(sys.argv[2])) as model:
    model.predict(np.zeros((224, 224, 3), np.uint8))
makers = ("torch", "onnx", "typer", "scipy", "edgepipe.pipeline")
print([name for name in makers if name in sys.modules])
"""
    command = [sys.executable, "-c", code, str(bundle), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")


def test_a_bundle_with_damaged_goldens_is_refused(bundle: Path, tmp_path: Path) -> None:
    with unpacked(bundle) as found:
        (found.folder / "goldens.npz").write_bytes(b"PK")
        with pytest.raises(BundleError, match=r"no goldens in goldens\.npz"):
            Recorded.of(found, 4)
