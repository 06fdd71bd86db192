"""Which dictionary of a checkpoint fits a module, and loading it strictly.

Trainers keep more than one in a file (the weights, their moving average) and put the name of what
they wrapped the module in before all the names. What fits is found by trying, never by guessing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..base import ModelError

if TYPE_CHECKING:
    import torch

# How deep dictionaries are looked for, and what the file's own top level is called.
MAX_DEPTH = 4
TOP = "."
# What torch.optim.swa_utils.AveragedModel counts beside the module that it wraps.
AVERAGED, WRAPPED = "n_averaged", "module."
MOST_LISTED = 10

State = Mapping[str, "torch.Tensor"]


@dataclass(frozen=True)
class Expected:
    """What a module takes: its type's name, and the shapes of its state dict.

    ``None`` in a shape is the number of classes, which the weights are to tell.
    """

    type_name: str
    shapes: Mapping[str, tuple[int | None, ...]]

    @classmethod
    def of(cls, module: torch.nn.Module) -> Expected:
        """Exactly what this module has."""
        shapes = {
            name: tuple(value.shape)
            for name, value in module.state_dict().items()
            if hasattr(value, "shape")  # get_extra_state() may give anything
        }
        return cls(type(module).__name__, shapes)

    @classmethod
    def with_any_classes(cls, architecture: Any) -> Expected:
        """What an architecture has, which is something that takes ``classes``."""
        import torch

        with torch.device("meta"):
            few, many = (cls.of(architecture(classes=classes)) for classes in (2, 3))
        shapes = {
            name: tuple(
                two if two == three else None
                for two, three in zip(shape, many.shapes[name], strict=True)
            )
            for name, shape in few.shapes.items()
        }
        return cls(few.type_name, shapes)

    def classes_of(self, state: State) -> int | None:
        """How many classes the weights are for; ``None`` if no layer of theirs tells."""
        for name, shape in self.shapes.items():
            if None in shape and name in state and state[name].ndim == len(shape):
                return int(state[name].shape[shape.index(None)])
        return None


@dataclass(frozen=True)
class Origin:
    """Where in a file weights were: under ``key``, all their names beginning with ``prefix``."""

    key: str
    prefix: str = ""

    def __str__(self) -> str:
        key = "the top level" if self.key == TOP else self.key
        return f"{key}, without the prefix {self.prefix}" if self.prefix else key

    @property
    def plain(self) -> bool:
        """Whether there was nothing to choose and nothing to take off."""
        return self.key == TOP and not self.prefix


@dataclass(frozen=True)
class Misfit:
    """How a state dict differs from what is expected."""

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    shapes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.missing) + len(self.unexpected) + len(self.shapes)

    def __str__(self) -> str:
        return "; ".join(
            f"{label}: {', '.join(found[:3])}"
            + (f" and {len(found) - 3} more" if found[3:] else "")
            for label, found in (
                ("missing", self.missing),
                ("unexpected", self.unexpected),
                ("wrong shape", self.shapes),
            )
            if found
        )


@dataclass(frozen=True)
class Chosen:
    """Weights that fit, and the number of classes if they tell it."""

    origin: Origin
    state: State
    classes: int | None


def dictionaries(content: Any) -> dict[str, State]:
    """Every dictionary of name -> tensor in what a file holds, by its dotted path.

    What else is in one of them is left out: epochs, settings, an optimizer's state.
    """
    import torch

    found: dict[str, State] = {}
    level: list[tuple[str, Any]] = [(TOP, content)]
    seen: set[int] = set()
    for _ in range(MAX_DEPTH + 1):
        below: list[tuple[str, Any]] = []
        for key, value in level:
            if not isinstance(value, dict):
                continue
            named = {name: item for name, item in value.items() if isinstance(name, str)}
            state = {name: item for name, item in named.items() if isinstance(item, torch.Tensor)}
            if state:
                found.setdefault(key, state)
            if id(value) in seen:  # a file can hold one twice, or within itself
                continue
            seen.add(id(value))
            before = "" if key == TOP else f"{key}."
            below += [(before + name, item) for name, item in named.items() if name not in state]
        level = below
    return found


def choose(
    states: Mapping[str, State], expected: Expected, path: Path, key: str | None = None
) -> Chosen:
    """The dictionary that fits strictly, after taking off a prefix that all its names share.

    ``key`` names the one to take. Raises ``ModelError`` if there is none of that name, if none
    fits (with what is wrong with the nearest one), or if several do that are not equal.
    """
    if key is not None:
        if key not in states:
            raise ModelError(f"{path}: no {key!r} to take; there is {_listed(states)}")
        states = {key: states[key]}
    tries = [
        (Origin(name, prefix), tried)
        for name, state in states.items()
        for prefix, tried in _without_prefixes(state)
    ]
    misfits = [compare(tried, expected) for _, tried in tries]
    fitting = [one for one, misfit in zip(tries, misfits, strict=True) if not misfit]
    if not fitting:
        nearest = min(range(len(tries)), key=lambda at: _distance(tries[at][1], misfits[at]))
        raise _refusal(path, tries[nearest][0], expected, misfits[nearest])
    (origin, state), *others = fitting
    if not all(_equal(state, other) for _, other in others):
        names = ", ".join(dict.fromkeys(one.key for one, _ in fitting))
        raise ModelError(
            f"{path}: several fit {expected.type_name} and are not equal: {names}; "
            "choose one with --checkpoint-key"
        )
    return Chosen(origin, state, expected.classes_of(state))


def compare(state: State, expected: Expected) -> Misfit:
    """What keeps weights from fitting; of length 0 if nothing does."""
    classes = expected.classes_of(state) or 2
    shapes = {
        name: tuple(classes if size is None else size for size in shape)
        for name, shape in expected.shapes.items()
    }
    return Misfit(
        # Checkpoints older than this counter lack it, and inference never reads it.
        tuple(n for n in shapes if n not in state and not n.endswith("num_batches_tracked")),
        tuple(name for name in state if name not in shapes),
        tuple(
            f"{name} is {tuple(state[name].shape)}, the model has {shape}"
            for name, shape in shapes.items()
            if name in state and tuple(state[name].shape) != shape
        ),
    )


def load_strictly(
    module: torch.nn.Module, state: State, path: Path, origin: Origin = Origin(TOP)
) -> None:
    """Load weights that fit the module exactly. Raises ``ModelError`` that lists what doesn't."""
    expected = Expected.of(module)
    if misfit := compare(state, expected):
        raise _refusal(path, origin, expected, misfit)
    module.load_state_dict({**module.state_dict(), **state})


def _refusal(path: Path, origin: Origin, expected: Expected, misfit: Misfit) -> ModelError:
    what = f"{path}" if origin.plain else f"{path}: {origin}{',' if origin.prefix else ''}"
    return ModelError(f"{what} does not fit {expected.type_name}; {misfit}")


def _without_prefixes(state: State) -> list[tuple[str, State]]:
    """The state as it is, then without one more component that all names begin with, each time."""
    if AVERAGED in state and all(name.startswith(WRAPPED) for name in state if name != AVERAGED):
        state = {name: tensor for name, tensor in state.items() if name != AVERAGED}
    found: list[tuple[str, State]] = [("", state)]
    parts = [name.split(".") for name in state]
    for count in range(1, min(map(len, parts), default=0)):
        if len({tuple(names[:count]) for names in parts}) > 1:
            break
        prefix = ".".join(parts[0][:count]) + "."
        found.append((prefix, {name[len(prefix) :]: tensor for name, tensor in state.items()}))
    return found


def _distance(state: State, misfit: Misfit) -> tuple[int, int]:
    """Orders what doesn't fit: most that matches first, then the fewest problems.

    Of what matches nowhere the largest is meant: a few numbers beside it have fewer problems.
    """
    matching = len(state) - len(misfit.unexpected) - len(misfit.shapes)
    return -matching, len(misfit) if matching else -len(state)


def _equal(one: State, other: State) -> bool:
    import torch

    return one.keys() == other.keys() and all(
        tensor.dtype == other[name].dtype and torch.equal(tensor, other[name])
        for name, tensor in one.items()
    )


def _listed(states: Mapping[str, State]) -> str:
    """The largest dictionaries by their names, which the file chose: none can move a cursor."""
    largest = sorted(states, key=lambda key: -len(states[key]))
    named = [key if key.isprintable() else repr(key) for key in largest[:MOST_LISTED]]
    more = len(largest) - MOST_LISTED
    return ", ".join(named) + (f" and {more} more" if more > 0 else "")
