"""The most that a runner makes of this machine: its own matrix products, measured now.

No data sheet knows the clock of a virtual machine, nor what a library makes of a unit. So a
product that is large enough runs through the same runner, with the same threads, precision and
options, and the best of its runs is the peak that layers are held against (the roof of a roofline:
Williams, Waterman, Patterson, "Roofline", CACM 2009; memory has none here).
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

from ...runners.base import RunnerError
from ...runners.timing.plan import Plan
from ..cells.session import Cell, open_cell
from . import gemm
from .profile_result import INT8, Peak

PLAN = Plan(seconds=0.4, min_samples=8, max_seconds=30.0, window_seconds=0.1, warm_up_seconds=0.2)
# Parts of kernels' names -> the unit that they compute with, the most telling one first.
KERNELS = {
    "amx": "AMX",
    "vnni": "VNNI",
    "avx512": "AVX-512",
    "avx2": "AVX2",
    "avx": "AVX",
    "sse": "SSE",
    "sve": "SVE",
    "neon": "NEON",
}
# What a CPU has for each precision, by the flags in ``host.facts``, the fastest first.
CPU_UNITS: Mapping[str, Mapping[str, str]] = {
    INT8: {
        "amx_int8": "AMX",
        "avx512_vnni": "AVX-512 VNNI",
        "avx_vnni": "AVX-VNNI",
        "avx512f": "AVX-512",
        "avx2": "AVX2",
    },
    "bf16": {"amx_bf16": "AMX", "avx512_bf16": "AVX-512 BF16", "avx512f": "AVX-512"},
    "": {"avx512f": "AVX-512", "avx2": "AVX2"},
}


def peak(
    cell: Cell, precision: str, threads: int, flags: Collection[str], *, quick: bool = False
) -> Peak:
    """What ``cell``'s runner makes of a matrix product: "int8", or the cell's float precision.

    The fastest run of ``gemm.gemms`` counts. Raises ``RunnerError`` if none of them runs.
    """
    found: list[Peak] = []
    errors: list[RunnerError] = []
    for product in gemm.gemms(threads, int8=precision == INT8, quick=quick):
        try:
            found.append(_measured(cell, precision, product, flags))
        except RunnerError as error:
            errors.append(error)
    if not found:
        raise errors[0]
    best = max(found, key=lambda one: one.gmacs_per_s)
    return replace(best, runs=sum(one.runs for one in found))


def _measured(cell: Cell, precision: str, product: gemm.Gemm, flags: Collection[str]) -> Peak:
    own = replace(cell, file=gemm.FILE, beside=(), batch=None)
    with tempfile.TemporaryDirectory(prefix="edgepipe-") as folder:
        path = Path(folder) / gemm.FILE
        path.write_bytes(product.model)
        with open_cell(own, path, profiled=True) as opened:
            samples, times = opened.worker.profile(product.feeds, PLAN)
    main = max(times.nodes, key=lambda node: node.us)
    # What stands around the product (a layout that changes) is no part of it.
    us = min(float(samples.min()) / 1e3, main.us or float("inf"))
    return Peak(
        precision=precision,
        gmacs_per_s=product.macs / us / 1e3,
        kernel_unit=kernel_unit(main.kernel),
        cpu_unit=cpu_unit(precision, flags),
        kernel=main.kernel or main.operator,
        shape=product.shape,
        runs=len(samples),
    )


def kernel_unit(kernel: str) -> str | None:
    """The unit that a kernel's name tells, ``None`` where it doesn't."""
    return next((unit for part, unit in KERNELS.items() if part in kernel.lower()), None)


def cpu_unit(precision: str, flags: Collection[str]) -> str | None:
    """The fastest unit that a CPU with these flags has for a precision."""
    units = CPU_UNITS.get(precision, CPU_UNITS[""])
    return next((unit for flag, unit in units.items() if flag in flags), None)
