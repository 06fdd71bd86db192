"""A fleet of 20 sshds: waves, a release that saturates on some CPUs, a box that dies, a controller
that is killed in every wave. In the end every box serves a release that was verified there.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgepipe.pipeline import package
from edgepipe.pipeline.shipping.delivery import Release
from edgepipe.runners.bundles.index import INDEX
from edgepipe.runners.machine import host

from .. import bundles
from ..pipeline.shipping.test_ssh import SSHD
from ..pipeline.shipping.test_verify import members
from .machines import Machines, machines

COUNT, OLD = 20, (2, 9)
WAVES = "1,20%,50%,100%"
EDGEPIPE = (sys.executable, "-m", "edgepipe.pipeline.cli")
Events = list[dict[str, Any]]

pytestmark = [
    pytest.mark.skipif(SSHD is None or shutil.which("ssh") is None, reason="needs openssh-server"),
    pytest.mark.skipif(shutil.which("qemu-x86_64") is None, reason="needs qemu-user"),
    pytest.mark.skipif(host.saturates(host.facts()), reason="needs a CPU with VNNI"),
]


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """ "old" in float, "new" for every CPU, and "bad": int8 that claims to be for every CPU."""
    folder = tmp_path_factory.mktemp("releases")
    for command in (
        ("export", "--input-size", "64"),
        ("parity", "--runner", "ort-cpu"),
    ):
        subprocess.run([*EDGEPIPE, *command, "--quiet"], cwd=folder, check=True, timeout=600)
    made = {
        name: package(
            workspace=folder / "artifacts", output=folder / "bundles", variants=(variant,)
        ).path
        for name, variant in (("old", "fp32"), ("new", "int8-avx2"), ("bad", "int8"))
    }

    def claim(document: dict[str, Any]) -> None:
        document["variants"]["int8"]["needs"] = None

    found = members(made["bad"])
    found[INDEX] = bundles.edited(found[INDEX], claim)
    return {**made, "bad": bundles.write(folder / "bad.tar.gz", found)}


@pytest.fixture(scope="module")
def fleet(base_environment: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    with machines(tmp_path_factory.mktemp("fleet"), base_environment, COUNT, OLD) as found:
        yield found


class Controller:
    """`edgepipe rollout` of a bundle, in a process that can be killed."""

    def __init__(self, folder: Path, fleet: Machines, bundle: Path) -> None:
        self.folder, self.journal = folder, folder / "rollout.jsonl"
        flags = ("--waves", WAVES, "--soak", "1s", "--wait", "120s", "--parallel", "4")
        toml = fleet.fleet(folder / "fleet.toml")
        self._command = [*EDGEPIPE, "rollout", str(toml), str(bundle), *flags, "--json"]

    def events(self) -> Events:
        data = self.journal.read_bytes() if self.journal.exists() else b""
        return [json.loads(line) for line in data[: data.rfind(b"\n") + 1].splitlines()]

    def run(
        self,
        *flags: str,
        until: Callable[[Events], bool] | None = None,
        then: Callable[[], None] | None = None,
    ) -> tuple[int, dict[str, Any]]:
        """To its end; or ``until`` the journal says something: then kill it, or do something."""
        log = (self.folder / "log").open("ab")
        with (
            log,
            subprocess.Popen(
                [*self._command, *flags], cwd=self.folder, stdout=subprocess.PIPE, stderr=log
            ) as process,
        ):
            assert process.stdout
            try:
                if until is not None:
                    self._await(process, until)
                    if then is None:
                        process.kill()
                        return -9, {}
                    then()
                out = process.communicate(timeout=1500)[0]
            finally:
                process.kill()
        return process.returncode, json.loads(out) if out else {}

    def _await(self, process: subprocess.Popen[bytes], until: Callable[[Events], bool]) -> None:
        deadline = time.monotonic() + 900
        while not until(self.events()):
            assert process.poll() is None, (self.folder / "log").read_text()[-2000:]
            assert time.monotonic() < deadline
            time.sleep(0.02)


def begun(wave: int, more: str) -> Callable[[Events], bool]:
    """Whether a wave has begun, and since then something else has happened."""

    def told(events: Events) -> bool:
        place = next(
            (
                n
                for n, one in enumerate(events)
                if (one["event"], one.get("wave")) == ("wave", wave)
            ),
            len(events),
        )
        return any(one["event"] == more for one in events[place:])

    return told


def verified(events: Events, box: str) -> list[str]:
    """What the journal says that verified on a box and was served there."""
    return [one["current"] for one in events if one.get("box") == box and one.get("good")]


def test_a_release_reaches_every_box_whatever_is_killed(
    fleet: Machines, releases: dict[str, Path], tmp_path: Path
) -> None:
    for box in fleet.boxes:
        box.serve(releases["old"])
    old, new = (Release.of(releases[name]).name for name in ("old", "new"))
    controller = Controller(tmp_path, fleet, releases["new"])
    moments = ((1, "opened"), (1, "soak"), (2, "box"), (3, "opened"), (4, "box"))
    for number, (wave, what) in enumerate(moments):
        controller.run(*(["--resume"] if number else []), until=begun(wave, what))
        assert set(fleet.served().values()) <= {old, new}, "every box serves a whole release"
    dying = fleet.boxes[-1]
    back = threading.Timer(20, dying.switch_on)

    def die() -> None:
        dying.switch_off()
        back.start()

    def opened(events: Events) -> bool:
        return any((one["event"], one.get("box")) == ("opened", dying.name) for one in events)

    code, result = controller.run("--resume", until=opened, then=die)
    back.join()
    assert (code, result["outcome"]) == (0, "done"), result
    assert set(fleet.served().values()) == {new}
    assert {box["state"] for box in result["boxes"]} == {"deployed"}
    assert {box["before"] for box in result["boxes"]} == {old}
    assert [len(wave["boxes"]) for wave in result["waves"]] == [1, 3, 6, 10]
    events = controller.events()
    for box in fleet.boxes:
        assert verified(events, box.name)[-1] == new
    limits = {box["name"]: box["p99_ms"] for box in result["boxes"] if box["max_p99_ms"]}
    assert len(limits) == COUNT - len(OLD)
    assert all(limits.values())


def test_a_release_that_saturates_on_some_cpus_stops_in_its_wave(
    fleet: Machines, releases: dict[str, Path], tmp_path: Path
) -> None:
    for box in fleet.boxes:
        box.serve(releases["new"])
    new, bad = (Release.of(releases[name]).name for name in ("new", "bad"))
    controller = Controller(tmp_path, fleet, releases["bad"])
    controller.run(until=begun(2, "box"))
    controller.run("--resume", until=begun(2, "gate"))
    code, result = controller.run("--resume")
    assert (code, result["outcome"]) == (1, "stopped"), result
    assert "wave 2: 2 of 3 boxes hold, 95% needed (box-02: answers: " in result["reason"]
    states = {box["name"]: box["state"] for box in result["boxes"]}
    assert states["box-02"] == "refused"
    assert [states[f"box-0{number}"] for number in (0, 1, 3)] == [
        "deployed",
        "rolled back",
        "rolled back",
    ]
    assert {states[f"box-{number:02}"] for number in range(4, COUNT)} == {"not reached"}
    served = fleet.served()
    assert served.pop("box-00") == bad, "its CPU has VNNI, and it was verified there"
    assert set(served.values()) == {new}
    assert verified(controller.events(), "box-00")[-1] == bad
    done = subprocess.run(
        [*EDGEPIPE, "status", str(controller.journal), "--page", str(tmp_path / "fleet.html")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "answers: " in done.stdout
    assert "refused" in (tmp_path / "fleet.html").read_text()
