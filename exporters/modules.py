"""A user's own ``nn.Module``, named as "package.module:attribute" and imported from the folder.

This is the one place where edgepipe runs somebody else's code, because it was told to. The
weights go by a digest of their own, since nobody can say which files they came from.
"""

from __future__ import annotations

import difflib
import hashlib
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .base import ModelError
from .own import fake_quantization, torchscript
from .own.arguments import misfit, shown

if TYPE_CHECKING:
    import torch

SEED = 0


def is_reference(model: str) -> bool:
    """Whether a model is named as "package.module:attribute"."""
    module, _, attribute = model.partition(":")
    names = (*module.split("."), *attribute.split("."))
    return all(name.isidentifier() for name in names)


def build(reference: str, arguments: Mapping[str, Any] | None = None) -> torch.nn.Module:
    """The module in eval mode, float32, on the CPU. Its forward takes and gives tensors only.

    ``reference`` leads to an ``nn.Module`` or to something that returns one when it is called
    with ``arguments``, by their names; that is done with torch's generator seeded. Raises
    ``ModelError`` that says what is missing, or what the code raised.
    """
    import torch

    name, _, path = reference.partition(":")
    with _current_folder(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        found = _attribute(_running(reference, lambda: import_module(name)), path, reference)
        if not isinstance(found, torch.nn.Module) and callable(found):
            found = _called(reference, found, arguments or {})
        elif arguments:
            raise ModelError(
                f"{reference}: is {type(found).__name__}, which is not called: --arg is for what is"
            )
    if not isinstance(found, torch.nn.Module):
        raise ModelError(f"{reference}: gives {type(found).__name__}, not an nn.Module")
    found = _unwrapped(found)
    if problem := _not_exportable(found):
        raise ModelError(f"{reference}: {problem}")
    return _running(reference, lambda: _in_eval(found.cpu().float()))


def _called(reference: str, found: Any, arguments: Mapping[str, Any]) -> Any:
    if problem := misfit(found, arguments):
        raise ModelError(f"{reference}: {problem}")
    given = f"{reference}({', '.join(shown(arguments))})" if arguments else reference
    return _running(given, partial(found, **arguments))


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


def _in_eval(module: torch.nn.Module) -> torch.nn.Module:
    try:
        return module.eval()
    except NotImplementedError:  # programs of torch.export have no modes: they are what they are
        return module


def _not_exportable(module: torch.nn.Module) -> str | None:
    """What a module is that no exporter takes, and what to do; ``None`` for any other."""
    import torch

    if fake_quantization.only_observes(module):
        return (
            "collects ranges (torch.ao.quantization.prepare) and quantizes nothing: export the "
            "float module, edgepipe quantizes it"
        )
    values = [value for value in module.state_dict().values() if isinstance(value, torch.Tensor)]
    packed = any(name.startswith("torch.ao.nn.quantized") for name in _origins(module))
    if packed or any(value.is_quantized for value in values):
        return (
            "is quantized by PyTorch already (convert, quantize_dynamic), in a form that ONNX "
            "has no operators for: export the module from before that"
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
    if isinstance(module, torch.jit.ScriptModule):
        hasher.update(torchscript.digest(module).encode())
    if isinstance(module, torch.fx.GraphModule):
        hasher.update(module.code.encode())
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
    """Imports from where the command runs, as ``python -m`` does.

    What the code prints is no result, so that it goes where progress does.
    """
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        with redirect_stdout(sys.stderr):
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
