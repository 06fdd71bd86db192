"""What goes into a module: tensors in an order, for arguments of forward's that have names."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from inspect import Parameter
from typing import TYPE_CHECKING, Any

from ..base import ModelError

if TYPE_CHECKING:
    import torch

BY_PLACE = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
BY_NAME = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)


def bound(module: torch.nn.Module, names: Sequence[str]) -> torch.nn.Module:
    """A module that takes tensors in the order of ``names``, each for the argument it is for.

    Names that are all arguments of forward's go to these, ``batch.mask`` into the dict ``batch``
    under ``mask``; others go in forward's order. What no input is for keeps its default. Raises
    ``ModelError`` where it can't be told which argument an input is for.
    """
    arguments = _arguments(module)
    heads = list(dict.fromkeys(name.partition(".")[0] for name in names))
    in_order = [name for name, kind in arguments.items() if kind in BY_PLACE]
    plain = len(heads) == len(names) and not any("." in name for name in names)
    known = [head for head in heads if arguments.get(head) in BY_NAME]
    at_home = all(in_order[place : place + 1] == [head] for place, head in _places(heads, known))
    if plain and at_home:
        return module
    if len(known) == len(heads) and not _twice(names):
        return _by_name(module, names)
    taken = ", ".join(arguments) or "nothing by name"
    raise ModelError(
        f"inputs {', '.join(names)}: forward takes {taken}; name all inputs after its arguments "
        "(batch.mask for mask in the dict batch), or none"
    )


def inside(module: torch.nn.Module) -> torch.nn.Module:
    """The module itself, also of one that ``bound`` made."""
    return getattr(module, "bound_by_name", module)


def _arguments(module: torch.nn.Module) -> dict[str, Any]:
    """The kinds of forward's arguments, by name; none of a forward that doesn't tell."""
    try:
        parameters = inspect.signature(module.forward).parameters
    except (TypeError, ValueError):
        return {}
    return {name: one.kind for name, one in parameters.items()}


def _places(heads: Sequence[str], known: Sequence[str]) -> list[tuple[int, str]]:
    return [(place, head) for place, head in enumerate(heads) if head in known]


def _twice(names: Sequence[str]) -> bool:
    """Whether one of the names is a tensor and a dict at once."""
    return any(other.startswith(f"{name}.") for name in names for other in names)


def _by_name(module: torch.nn.Module, names: Sequence[str]) -> torch.nn.Module:
    import torch

    class ByName(torch.nn.Module):
        """Exporters and runners number inputs."""

        def __init__(self) -> None:
            super().__init__()
            self.bound_by_name = module

        def forward(self, *inputs: torch.Tensor) -> Any:
            return self.bound_by_name(**_nested(dict(zip(names, inputs, strict=True))))

    return ByName().eval()


def _nested(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """ "batch.mask" as "mask" in "batch"."""
    found: dict[str, Any] = {}
    for name, tensor in tensors.items():
        *way, last = name.split(".")
        place = found
        for key in way:
            place = place.setdefault(key, {})
        place[last] = tensor
    return found
