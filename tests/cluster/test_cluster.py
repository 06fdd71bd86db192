"""20,000 images on workers of this machine and of others: the same bits, whatever is lost."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from edgepipe.pipeline.cells.cluster.spread import shard_size

from .conftest import IMAGES, SHARE, command, members, run, same

EVALUATE = ("evaluate", "--data", "photos", *SHARE)
MODEL = Path("artifacts", "net")
WORKER = "distributed.cli.dask_worker"


@contextmanager
def started(folder: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    told: dict[str, Any] = {"cwd": folder, "start_new_session": True, "text": True, **pipes}
    with subprocess.Popen(command(*arguments), **told) as process:
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def worker(
    scheduler: str, folder: Path, python: str = sys.executable, before: str = ""
) -> Iterator[None]:
    """A worker as ``dask worker`` starts it. ``before`` is what a shell does first."""
    told = f"{scheduler} --nworkers 1 --nthreads 2 --no-dashboard --host 127.0.0.1"
    line = f"{before}exec {python} -m {WORKER} {told} --local-directory {folder / 'dask'}"
    prefix = ["unshare", "-m"] if before else []
    process = subprocess.Popen([*prefix, "sh", "-c", line], stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        for one in [*psutil.Process(process.pid).children(recursive=True), process]:
            one.kill()
        process.wait()


def shards(folder: Path) -> list[Path]:
    return sorted((folder / MODEL / "shards").rglob("*.npz"))


def wait_for_shards(folder: Path, count: int, process: subprocess.Popen[str]) -> None:
    while len(shards(folder)) < count:
        assert process.poll() is None
        time.sleep(0.05)


def result(process: subprocess.Popen[str]) -> Any:
    out, errors = process.communicate(timeout=900)
    assert process.returncode == 0, errors
    return json.loads(out)


def test_two_workers_say_what_one_process_says(world: Path, alone: Any) -> None:
    found = run(world, *EVALUATE, "--cluster", "local:2")
    same(found, alone)
    assert found["cluster"]["workers"] == 2
    assert found["cluster"]["retried"] == 0
    assert not (world / MODEL / "shards").exists()


def test_a_killed_worker_costs_nothing_but_time(world: Path, alone: Any) -> None:
    with started(world, *EVALUATE, "--cluster", "local:2") as process:
        wait_for_shards(world, 14, process)  # in the midst of the images
        members(process.pid)[0].kill()
        found = result(process)
    same(found, alone)
    assert found["cluster"]["workers"] == 3
    assert found["cluster"]["retried"] >= 1


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_ended_goes_on_with_what_it_had(
    world: Path, alone: Any, how: signal.Signals
) -> None:
    with started(world, *EVALUATE, "--cluster", "local:2") as process:
        wait_for_shards(world, 14, process)
        below = members(process.pid)
        process.send_signal(how)
        process.wait(30)
        _, left = psutil.wait_procs(below, 10)
        assert not left
    before = len(shards(world))
    found = run(world, *EVALUATE, "--cluster", "local:2")
    same(found, alone)
    about = found["cluster"]
    assert about["resumed"] == before
    # A look at fp32, the goldens in 4 parts for each int8, and the images: none is done twice.
    assert about["shards"] == 1 + 2 * 4 + math.ceil(IMAGES / shard_size(IMAGES, 32))
    assert not (world / MODEL / "shards").exists()


def test_images_that_changed_meanwhile_are_looked_at_again(world: Path, alone: Any) -> None:
    with started(world, *EVALUATE, "--cluster", "local:2") as process:
        wait_for_shards(world, 20, process)
        process.kill()
    before = len(shards(world))
    for photo in (world / "photos").rglob("*.png"):
        os.utime(photo)
    found = run(world, *EVALUATE, "--cluster", "local:2")
    same(found, alone)
    assert 0 < found["cluster"]["resumed"] < before


def test_parity_is_the_same_and_an_emulated_cpu_is_spread(world: Path) -> None:
    targets = (
        "--target",
        "local",
        *(("--target", "haswell") if shutil.which("qemu-x86_64") else ()),
    )
    asked = ("parity", "--variant", "int8-avx2", *targets, *SHARE)
    first = run(world, *asked, "--threads", "1", code=0)
    found = run(world, *asked, "--cluster", "local:2")
    same(found, first)
    assert found["cluster"]["shards"] == 4 * (len(targets) // 2)


def test_a_search_finds_the_same(world: Path, tmp_path: Path) -> None:
    folders = [Path(shutil.copytree(world / "artifacts", tmp_path / name)) for name in "ab"]
    env = os.environ | {"EDGEPIPE_BENCH_RUNNERS": "ort-cpu"}
    asked = ("quantize", "--search", "--budget", "10m", "--json", "--workspace")
    first = run(world, *asked, str(folders[0]), env=env)
    found = run(world, *asked, str(folders[1]), "--cluster", "local:2", env=env)
    assert first["ended"] == found["ended"] == "nothing nearer was found"

    def kept(some: Any, *names: str) -> Any:
        return [[one[name] for name in names] for one in some]

    trial = ("candidate", "sqnr_db", "agreement")
    assert kept(found["trials"], *trial) == kept(first["trials"], *trial)
    variant = ("variant", "candidate", "sqnr_db", "searched_db")
    assert kept(found["found"], *variant) == kept(first["found"], *variant)
    for row in found["found"]:
        file = f"{row['variant']}.onnx"
        one, other = ((folder / "net" / file).read_bytes() for folder in folders)
        assert one == other


def test_workers_that_somebody_else_started_do_it_too(
    world: Path, alone: Any, scheduler: str, tmp_path: Path
) -> None:
    with worker(scheduler, tmp_path):
        found = run(world, *EVALUATE, "--cluster", scheduler)
    same(found, alone)
    assert found["cluster"]["address"] == scheduler


@pytest.mark.skipif(
    subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode != 0,
    reason="needs the right to mount (unshare -m)",
)
def test_a_worker_that_has_no_file_of_it_is_sent_all(
    world: Path, alone: Any, scheduler: str, tmp_path: Path
) -> None:
    """As on another machine: neither the images nor the workspace are there."""
    hidden = "".join(
        f"mount -t tmpfs none '{world / name}' && " for name in ("artifacts", "photos")
    )
    with worker(scheduler, tmp_path, before=hidden):
        found = run(world, *EVALUATE, "--cluster", scheduler)
    same(found, alone)


def test_a_worker_with_another_pillow_is_refused(
    world: Path, scheduler: str, tmp_path: Path
) -> None:
    python = tmp_path / "other" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "other"], check=True)
    (site,) = (tmp_path / "other" / "lib").glob("python*/site-packages")
    # All that there is here, behind what it has itself.
    here = "".join(
        f"import site; site.addsitedir({path!r})\n" for path in sys.path if "-packages" in path
    )
    (site / "here.pth").write_text(here)
    install = (str(python), "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site))
    subprocess.run([*install, "pillow==12.0.0"], check=True)
    with worker(scheduler, tmp_path, str(python)):
        done = run(world, *EVALUATE[:3], "--runner", "ort-cpu", "--cluster", scheduler, code=5)
    assert "pillow 12.0.0, here " in done.stderr
    assert done.stderr.splitlines()[-1].startswith("edgepipe: worker tcp://127.0.0.1:")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("address", ["127.0.0.1:9", "tcp://nohost.invalid:8786"])
def test_a_scheduler_that_is_not_there_is_said_within_ten_seconds(
    world: Path, address: str
) -> None:
    began = time.monotonic()
    done = run(world, *EVALUATE[:3], "--cluster", address, code=5)
    assert time.monotonic() - began < 20  # with what it takes to look at 20,000 images
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"edgepipe: --cluster {address}: no Dask scheduler answers there")
