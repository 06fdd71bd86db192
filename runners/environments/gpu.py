"""Which packages a runner on an NVIDIA GPU gets: those for the CUDA that its driver can do.

onnxruntime-gpu comes from the package index for one CUDA at a time: up to 1.26 for CUDA 12, from
1.27 on for CUDA 13 (by what the extras of these releases require: nvidia-cuda-runtime-cu12~=12.0 in
1.26.0, nvidia-cuda-runtime~=13.0 in 1.28.0). CUDA 12 needs a Linux driver of release 525 or newer,
CUDA 13 one of 580 or newer, and a GPU since Turing (NVIDIA, "CUDA Compatibility" and the release
notes of CUDA 13).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from .. import registry
from ..base import RunnerUnavailable
from ..machine import cuda

OLDEST, NEWEST = 12, 13
TURING = (7, 5)
# The extras of pyproject.toml by runner and major version of CUDA.
EXTRAS: Mapping[str, Mapping[int, str]] = {
    "ort-cuda": {13: "cuda", 12: "cuda12"},
    "ort-tensorrt": {13: "tensorrt", 12: "tensorrt12"},
}
# The first release of onnxruntime-gpu that is for the newest one.
SINCE = {13: (1, 27)}


def extra_of(runner: str, say: Callable[[str], None] = lambda _text: None) -> str:
    """The extra that installs a runner here, for one on an NVIDIA GPU by its driver.

    Without a driver it is the one for the newest CUDA. Raises ``RunnerUnavailable`` for a driver
    that is too old for any.
    """
    if runner not in EXTRAS:
        return registry.BUILT_IN[runner].extra
    major = major_of(runner, say)
    return EXTRAS[runner][major]


def major_of(runner: str, say: Callable[[str], None] = lambda _text: None) -> int:
    """The major version of CUDA that a runner's packages are to be for. Raises as ``extra_of``."""
    driver = cuda.driver_version()
    if driver is None:
        say(f"{runner}: no NVIDIA driver here; taking packages for CUDA {NEWEST}")
        return NEWEST
    known = int(driver.partition(".")[0])
    if known < OLDEST:
        raise RunnerUnavailable(
            f"{runner}: the driver is for CUDA {driver}, and onnxruntime-gpu is for CUDA {OLDEST} "
            f"or {NEWEST}: install an NVIDIA driver of release 525 or newer, 580 for CUDA {NEWEST}"
        )
    old = [one for one in cuda.devices() if tuple(map(int, one["capability"].split("."))) < TURING]
    if known >= NEWEST and not old:
        return NEWEST
    why = f"{old[0]['name']} is older than Turing" if old else f"the driver is for CUDA {driver}"
    say(f"{runner}: {why}: taking onnxruntime-gpu before 1.27, which is for CUDA {OLDEST}")
    return OLDEST


def still_fits(extra: str, locked: Mapping[str, Mapping[str, str]]) -> bool:
    """Whether versions that were locked once are for the CUDA that an extra is for now."""
    version = locked.get(cuda.GPU_WHEEL, {}).get("version")
    if version is None:
        return True
    release = tuple(int(part) for part in version.split(".")[:2])
    return (release >= SINCE[NEWEST]) != extra.endswith(str(OLDEST))
