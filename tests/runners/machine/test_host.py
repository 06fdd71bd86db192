"""Facts about the machine, each read in a process of its own so that it can be put in a corner."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgepipe.runners.machine import host

MIB = 1 << 20
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="Linux only")


def child(*lines: str) -> Any:
    """Run ``lines`` in a new interpreter; the last one is an expression, its value comes back."""
    *statements, result = lines
    code = ["import json, os, resource", "from edgepipe.runners.machine import host", *statements]
    code.append(f"print(json.dumps({result}))")
    command = [sys.executable, "-W", "error", "-c", "\n".join(code)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_facts_say_what_a_reader_of_a_result_needs() -> None:
    facts = host.facts()
    kinds = {name: type(value) for name, value in facts.items()}
    assert kinds.pop("cpu_quota") in (float, type(None))
    assert kinds.pop("governor") in (str, type(None))
    assert kinds.pop("no_energy") in (str, type(None))
    assert kinds.pop("emulator") is type(None)
    assert kinds == {
        "name": str,
        "cpu": str,
        "machine": str,
        "cpu_flags": list,
        "physical_cores": int,
        "logical_cpus": int,
        "total_cpus": int,
        "virtual_machine": bool,
        "memory_mib": int,
        "os": str,
        "python": str,
    }
    assert facts["cpu"].strip()
    assert facts["machine"] == platform.machine()
    assert facts["memory_mib"] > 0
    assert facts["python"] == platform.python_version()
    assert set(facts["cpu_flags"]) <= set(host.RELEVANT_FLAGS)
    assert json.loads(json.dumps(facts)) == facts


@LINUX
def test_cpu_flags_are_whole_words_of_cpuinfo() -> None:
    with open("/proc/cpuinfo") as file:
        words = file.read().split()
    assert host.facts()["cpu_flags"] == [flag for flag in host.RELEVANT_FLAGS if flag in words]


def test_cores_are_at_most_the_logical_cpus() -> None:
    assert 1 <= host.physical_cores() <= host.facts()["logical_cpus"]


@LINUX
def test_a_process_bound_to_one_cpu_has_one_core() -> None:
    cpu = max(os.sched_getaffinity(0))
    facts = child(f"os.sched_setaffinity(0, [{cpu}])", "host.facts()")
    assert (facts["physical_cores"], facts["logical_cpus"]) == (1, 1)


@LINUX
def test_every_cpu_of_the_affinity_counts() -> None:
    assert child("host.facts()['logical_cpus']") == len(os.sched_getaffinity(0))


@LINUX
def test_peak_memory_is_this_process_own_and_not_its_parents() -> None:
    code = "from edgepipe.runners.machine import host; print(host.peak_rss_mib())"
    grandchild = f"[sys.executable, '-c', {code!r}]"
    parent, own = child(
        "import subprocess, sys",
        f"ballast = b'x' * (400 * {MIB})",
        f"own = float(subprocess.run({grandchild}, capture_output=True, check=True).stdout)",
        "[host.peak_rss_mib(), own]",
    )
    assert parent > 400
    assert 0 < own < 200


def test_peak_memory_stays_when_memory_is_freed() -> None:
    before, after = child(
        "before = host.peak_rss_mib()",
        f"ballast = b'x' * (100 * {MIB})",
        "del ballast",
        "[before, host.peak_rss_mib()]",
    )
    assert 95 < after - before < 150


@LINUX
def test_an_allocation_over_the_limit_fails_and_the_process_goes_on() -> None:
    outcome, small = child(
        "import numpy as np",
        "free = host.facts()['memory_mib'] << 20",
        "np.empty(free // 4, np.uint8)",  # address space only: without a limit it is to be had
        "host.limit_memory(0.05)",
        "try:",
        "    np.empty(free // 4, np.uint8)",
        "    outcome = 'allocated'",
        "except MemoryError:",
        "    outcome = 'refused'",
        "[outcome, len(bytearray(1 << 20))]",
    )
    assert (outcome, small) == ("refused", MIB)


@LINUX
def test_the_limit_is_a_share_of_the_memory_that_is_free() -> None:
    total, limit = child(
        "host.limit_memory()",
        "[host.facts()['memory_mib'], resource.getrlimit(resource.RLIMIT_DATA)[0]]",
    )
    assert 0 < limit <= 0.9 * total * MIB


@LINUX
@pytest.mark.parametrize("hard", ["bound", "resource.getrlimit(resource.RLIMIT_DATA)[1]"])
def test_a_limit_that_the_user_set_is_not_raised(hard: str) -> None:
    soft = child(
        f"bound = 64 * {MIB}",
        f"resource.setrlimit(resource.RLIMIT_DATA, (bound, {hard}))",
        "host.limit_memory()",
        "resource.getrlimit(resource.RLIMIT_DATA)[0]",
    )
    assert soft == 64 * MIB


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({"memory.max": "1073741824\n", "memory.current": "4096\n"}, (1 << 30, 4096)),
        (
            {"memory.max": "8192", "memory.current": "4096", "memory.stat": "inactive_file 4000\n"},
            (8192, 96),
        ),
        ({"memory.max": "max\n", "memory.current": "4096\n"}, (host.UNLIMITED, 0)),
        (
            {"memory/memory.limit_in_bytes": "2048\n", "memory/memory.usage_in_bytes": "1024\n"},
            (2048, 1024),
        ),
        ({}, (host.UNLIMITED, 0)),
    ],
    ids=["v2", "v2 with a cache", "v2 without a limit", "v1", "no cgroups"],
)
def test_a_containers_memory_is_what_it_may_have(
    files: dict[str, str], limit: tuple[int, int], tmp_path: Path
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert host.memory_limit(tmp_path) == limit
