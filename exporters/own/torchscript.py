"""TorchScript: modules that are code of their own, and archives of them.

An archive is code that runs when it is loaded and called. No program of ``torch.export`` can be
made of it, so that it goes to ONNX through torch's older exporter alone.
"""

from __future__ import annotations

import hashlib
import io
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..base import ModelError
from ..onnx import quiet

if TYPE_CHECKING:
    import torch

# Made unique by a number that is the process's.
NUMBERED = re.compile(rb"[./]?___torch_mangle_\d+")
SUFFIXES = (".pt", ".pth", ".ts", ".jit", ".torchscript")
NO_PROGRAM = "torch.export makes no program of TorchScript"
# How torch begins what failed inside; what it was comes last.
FAILED_INSIDE = "The following operation failed in the TorchScript interpreter"


def is_archive(model: str) -> bool:
    """Whether a model is named as a file, and not as an architecture or as code."""
    return ":" not in model and model.lower().endswith(SUFFIXES)


def holds(module: torch.nn.Module) -> bool:
    """Whether a module is TorchScript, or a part of it."""
    import torch

    return any(isinstance(part, torch.jit.ScriptModule) for part in module.modules())


def check(path: Path) -> None:
    """Raise ``ModelError`` for a file that is no archive. Runs nothing of it."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror or error}") from error
    except zipfile.BadZipFile as error:
        raise ModelError(f"{path}: not a TorchScript archive, or a truncated one") from error
    if not any("/code/" in name for name in names):
        raise ModelError(
            f"{path}: not a TorchScript archive; weights go with their architecture: "
            "edgepipe export ARCHITECTURE --checkpoint FILE"
        )


def load(path: Path) -> torch.nn.Module:
    """The module of an archive in eval mode, float32, on the CPU. Runs its code.

    Raises ``ModelError`` for one that can't be loaded.
    """
    import torch

    try:
        with quiet():  # torch calls TorchScript deprecated, which its archives are not to blame for
            return torch.jit.load(path, map_location="cpu").float().eval()
    except Exception as error:  # torch raises RuntimeError, and what the archive's code raises
        raise ModelError(f"{path}: can't be loaded as TorchScript: {reason(error)}") from error


def digest(module: torch.nn.Module) -> str:
    """SHA-256 of a TorchScript module: its code, constants and weights.

    Not of where in which files the code stood, nor of how many classes of a name the process has
    made so far, which an archive notes as well.
    """
    import torch

    buffer = io.BytesIO()
    with quiet():
        torch.jit.save(module, buffer)
    with zipfile.ZipFile(buffer) as archive:
        parts = sorted(
            NUMBERED.sub(b"", name.encode() + archive.read(name))
            for name in archive.namelist()
            if not name.endswith((".debug_pkl", "/serialization_id"))
        )
    return hashlib.sha256(b"".join(parts)).hexdigest()


def whole(module: torch.nn.Module, example: Sequence[torch.Tensor]) -> torch.nn.Module:
    """All of it as TorchScript, also what is around a part that is: exporters take no mixture."""
    import torch

    if isinstance(module, torch.jit.ScriptModule):
        return module
    with quiet():
        traced: Any = torch.jit.trace(module, tuple(example), check_trace=False)
    return traced


def reason(error: BaseException) -> str:
    """What an error is, in one line: of one inside of TorchScript what it was there."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    inside = lines[0].startswith(FAILED_INSIDE)
    return lines[-1] if inside else f"{type(error).__name__}: {lines[0]}"
