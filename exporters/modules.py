"""A user's own ``nn.Module``, named as "package.module:attribute" and imported from the folder.

This is the one place where edgepipe runs somebody else's code, because it was told to. The
weights go by a digest of their own, since nobody can say which files they came from.
"""

from __future__ import annotations

import difflib
import hashlib
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .base import ModelError

if TYPE_CHECKING:
    import torch

SEED = 0


def is_reference(model: str) -> bool:
    """Whether a model is named as "package.module:attribute"."""
    module, _, attribute = model.partition(":")
    names = (*module.split("."), *attribute.split("."))
    return all(name.isidentifier() for name in names)


def build(reference: str) -> torch.nn.Module:
    """The module in eval mode, float32, on the CPU. Its forward takes and gives tensors only.

    ``reference`` leads to an ``nn.Module`` or to something that returns one when it is called
    without arguments; that is done with torch's generator seeded. Raises ``ModelError`` that
    says what is missing, or what the code raised.
    """
    import torch

    name, _, path = reference.partition(":")
    with _current_folder(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        found = _attribute(_running(reference, lambda: import_module(name)), path, reference)
        if not isinstance(found, torch.nn.Module) and callable(found):
            found = _running(reference, found)
    if not isinstance(found, torch.nn.Module):
        raise ModelError(f"{reference}: gives {type(found).__name__}, not an nn.Module")
    found = _unwrapped(found)
    if problem := _not_exportable(found):
        raise ModelError(f"{reference}: {problem}")
    return found.cpu().float().eval()


def _unwrapped(module: torch.nn.Module) -> torch.nn.Module:
    """What ``torch.compile`` and data parallelism wrapped."""
    import torch

    while True:
        if isinstance(inner := getattr(module, "_orig_mod", None), torch.nn.Module):
            module = inner
        elif isinstance(module, (torch.nn.DataParallel, torch.nn.parallel.DistributedDataParallel)):
            module = module.module
        else:
            return module


def _not_exportable(module: torch.nn.Module) -> str | None:
    """What a module is that no exporter takes, and what to do; ``None`` for any other."""
    import torch

    if isinstance(module, torch.jit.ScriptModule):
        return "is TorchScript: export the nn.Module that it was made of"
    kinds = {type(part).__name__ for part in module.modules()}
    if {"FakeQuantize", "FusedMovingAvgObsFakeQuantize", "FakeQuantizeBase"} & kinds:
        return (
            "holds the fake quantization of a quantization-aware training: export the float "
            "module with its trained weights, edgepipe quantizes it"
        )
    values = [value for value in module.state_dict().values() if isinstance(value, torch.Tensor)]
    packed = any(name.startswith("torch.ao.nn.quantized") for name in _origins(module))
    if packed or any(value.is_quantized for value in values):
        return (
            "is quantized by PyTorch already: export the float module that it was made of, "
            "edgepipe quantizes it"
        )
    if any(value.is_meta for value in values):
        return "has parameters on the meta device: load weights into it first"
    return None


def _origins(module: torch.nn.Module) -> set[str]:
    return {type(part).__module__ for part in module.modules()}


def digest(module: torch.nn.Module) -> str:
    """SHA-256 of its weights, and of the Python files of this folder that are loaded by now."""
    import torch

    hasher = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        flat = tensor.detach().contiguous().flatten()
        hasher.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        hasher.update(flat.view(torch.uint8).numpy().tobytes())
    for file in sorted(_own_files()):
        hasher.update(f"{file}\n".encode() + file.read_bytes())
    return hasher.hexdigest()


def other_channels(module: torch.nn.Module, given: int) -> str:
    """What to do about a module whose first convolution doesn't take so many channels."""
    import torch

    first = next((part for part in module.modules() if isinstance(part, torch.nn.Conv2d)), None)
    if first is None or first.in_channels == given:
        return ""
    taken = first.in_channels
    plural = "" if taken == 1 else "s"
    return (
        f"; images come with {given} here, its first convolution takes {taken} channel{plural}: "
        f"--channels {taken}, or convert them in forward"
    )


def flatten(outputs: Any, name: str = "output") -> dict[str, torch.Tensor]:
    """The tensors in what a forward returned, by name: keys, or places in a tuple.

    Raises ``ModelError`` for anything else in it.
    """
    import torch

    if isinstance(outputs, torch.Tensor):
        return {name: outputs}
    if isinstance(outputs, Mapping):
        parts = {str(key): value for key, value in outputs.items()}
    elif isinstance(outputs, tuple | list):
        fields = getattr(outputs, "_fields", range(len(outputs)))
        parts = {
            key if isinstance(key, str) else f"{name}{key}": value
            for key, value in zip(fields, outputs, strict=True)
        }
    else:
        raise ModelError(f"the model gives {type(outputs).__name__} for {name}, not a tensor")
    found: dict[str, torch.Tensor] = {}
    for key, value in parts.items():
        inside = flatten(value, key)
        if twice := set(found) & set(inside):
            raise ModelError(f"two outputs are called {', '.join(sorted(twice))}")
        found |= inside
    return found


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


def _attribute(module: Any, path: str, reference: str) -> Any:
    found = module
    for name in path.split("."):
        if not hasattr(found, name):
            near = difflib.get_close_matches(name, dir(found), n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ModelError(f"{reference}: there is no {name}{hint}")
        found = getattr(found, name)
    return found


def _running(reference: str, call: Any) -> Any:
    """Run somebody else's code: whatever it raises is one line that says whose it is."""
    try:
        return call()
    except (Exception, SystemExit) as error:
        text = f"{type(error).__name__}: {error}".rstrip(": ")
        raise ModelError(f"{reference}, run in {Path.cwd()}, raised {text}") from error


@contextmanager
def _current_folder() -> Iterator[None]:
    """Imports from where the command runs, as ``python -m`` does."""
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)


def _own_files() -> Iterator[Path]:
    """The loaded Python files below this folder that belong to no installation, relative to it."""
    folder, installed = Path.cwd(), Path(sys.prefix)
    for module in list(sys.modules.values()):
        file = Path(getattr(module, "__file__", None) or "/")
        below = file.is_relative_to(folder) and not file.is_relative_to(installed)
        if below and "site-packages" not in file.parts and file.is_file():
            yield file.relative_to(folder)
