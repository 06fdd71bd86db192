"""How many threads torch computes with, for as long as it matters."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """Let torch compute on ``count`` threads, ``None`` for as many as it does anyway.

    On one thread sums have one order: the last bits don't depend on the number of cores.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
