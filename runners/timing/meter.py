"""The meter: a fixed piece of work that takes turns with what is measured.

How long a machine takes for it says how fast the machine is just then, so that times of two days
can be compared in it. One run is, on each thread, 64 products of float32 matrices of 64 by 64
(33.6 million floating-point operations) and a copy of 8 MiB.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from ..base import Placement, TensorSpec

# So small that no BLAS divides a product among threads of its own.
SIDE, PRODUCTS = 64, 64
SWEPT_BYTES = 8 << 20
WORK = f"{PRODUCTS} float32 products {SIDE}x{SIDE}x{SIDE} and a copy of {SWEPT_BYTES >> 20} MiB"


def description(threads: int) -> dict[str, Any]:
    """What makes two meters the same: the work and what does it."""
    return {"work": WORK, "threads": threads, "numpy": np.__version__}


class Meter:
    """The work as a session without inputs and outputs."""

    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()

    def __init__(self, threads: int) -> None:
        self.placement = Placement("CPU", "f32", threads)
        self._pool = ThreadPoolExecutor(threads)
        noise = np.random.default_rng(0)
        left = noise.standard_normal((PRODUCTS, SIDE, SIDE), np.float32)
        self._parts = [
            (left, left.copy(), np.empty_like(left), *np.zeros((2, SWEPT_BYTES), np.uint8))
            for _ in range(threads)
        ]

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Do the work on every thread; there is nothing to return."""
        if len(self._parts) == 1:
            _work(*self._parts[0])
        else:
            list(self._pool.map(lambda part: _work(*part), self._parts))
        return {}

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()


def _work(left: Any, right: Any, product: Any, source: Any, copy: Any) -> None:
    np.matmul(left, right, out=product)
    np.copyto(copy, source)
