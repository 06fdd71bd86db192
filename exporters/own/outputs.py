"""What comes out of a module: tensors by name, from whatever its forward gives them in."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from ..base import ModelError

if TYPE_CHECKING:
    import torch

OUTPUT = "output"  # what is not called anything


class _Found(NamedTuple):
    name: str
    path: str
    tensor: torch.Tensor


def flatten(outputs: Any) -> dict[str, torch.Tensor]:
    """The tensors in what a forward returned, by name: a key, a field, or a place in a list.

    Those that don't have their key for themselves are called by the way to them, ``p3_scores``.
    ``None``, a head that is off, is left out. Raises ``ModelError`` for anything else in it, for
    no tensor at all, and for two of one name.
    """
    every = list(_tensors(outputs, OUTPUT, ""))
    if not every:
        raise ModelError("the model gives no tensor")
    shared = Counter(one.name for one in every)
    found: dict[str, torch.Tensor] = {}
    for one in every:
        name = one.name if shared[one.name] == 1 else one.path
        if name in found:
            raise ModelError(f"two outputs are called {name}")
        found[name] = one.tensor
    return found


def _tensors(value: Any, name: str, path: str) -> Iterator[_Found]:
    """Each with its own name, and with the way to it."""
    import torch

    if isinstance(value, torch.Tensor):
        yield _Found(name, path or name, value)
    elif isinstance(value, tuple | list) and not hasattr(value, "_fields"):
        for place, one in enumerate(value):
            yield from _tensors(one, f"{name}{place}", f"{path or name}{place}")
    elif (parts := _named(value)) is not None:
        for key, one in parts.items():
            yield from _tensors(one, key, f"{path}_{key}" if path else key)
    elif value is not None:
        raise ModelError(f"the model gives {type(value).__name__} for {name}, not a tensor")


def _named(value: Any) -> dict[str, Any] | None:
    """The parts of what names them; ``None`` for anything else."""
    if isinstance(value, Mapping):
        return {str(key): one for key, one in value.items()}
    if isinstance(value, tuple):
        return dict(zip(getattr(value, "_fields", ()), value, strict=True))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return None


def flat(module: torch.nn.Module) -> torch.nn.Module:
    """The module with its outputs as one tuple, in the order of ``flatten``."""
    import torch

    class Flat(torch.nn.Module):
        """Exporters number outputs: nothing but a flat tuple has an order that all agree on."""

        def __init__(self) -> None:
            super().__init__()
            self.module = module

        def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return tuple(flatten(self.module(*inputs)).values())

    return Flat().eval()
