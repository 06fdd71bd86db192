"""Where there is no memory left: told from other failures, whoever of them finds none."""

from __future__ import annotations

import shutil
import sys

import numpy as np
import pytest

from edgepipe.runners.base import OutOfMemory, RunnerError, SessionError, Settings, session_error
from edgepipe.runners.targets import LOCAL
from edgepipe.runners.testing import onnx_cases
from edgepipe.runners.workers.launch import Worker

LIMIT = 400 << 20
PIXELS = 3 * 4 * 4 * 4  # bytes of an image


@pytest.mark.parametrize(
    "said",
    [
        "CUDA failure 2: out of memory ; GPU=0",
        "CUDA out of memory. Tried to allocate 2.00 GiB",
        "bfc_arena.cc:360 Failed to allocate memory for requested buffer of size 75497472",
        "Available memory of 10 is smaller than requested bytes of 100",
        "CUDNN_STATUS_ALLOC_FAILED",
        "std::bad_alloc",
        "cpu_memory.cpp:257: Failed to allocate 283115520 bytes of memory",
        "DefaultCPUAllocator: can't allocate memory: you tried to allocate 226492416 bytes",
    ],
)
def test_what_libraries_say_of_an_allocation_that_failed(said: str) -> None:
    assert isinstance(session_error(RuntimeError(said)), OutOfMemory)


def test_another_failure_is_none() -> None:
    assert not isinstance(session_error(RuntimeError("no kernel image")), OutOfMemory)
    assert isinstance(session_error(MemoryError()), OutOfMemory)


@pytest.mark.skipif(
    sys.platform != "linux" or not shutil.which("prlimit"), reason="needs prlimit, of util-linux"
)
@pytest.mark.parametrize(
    ("share", "what"), [(2.0, "no memory for what it was sent"), (0.5, "Failed to allocate memory")]
)
def test_a_batch_that_does_not_fit_ends_in_one_line(share: float, what: str) -> None:
    """One that can't even be received, and one for whose inner tensors there is no room."""
    (case,) = onnx_cases((1,))
    images = int(share * LIMIT / PIXELS)
    feeds = {"input": np.zeros((images, 3, 4, 4), np.float32)}
    with Worker(["prlimit", f"--data={LIMIT}", *LOCAL.argv()]) as worker:
        worker.load("ort-cpu", case.files, Settings(threads=1))
        with pytest.raises(OutOfMemory, match=what) as caught:
            worker.run(feeds)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, SessionError | RunnerError)
