"""The second reference: what a quantized file itself says, before any runner changes a thing.

A file's own arithmetic is its graph computed node by node, QuantizeLinear and DequantizeLinear
included, in float32: ONNX Runtime's CPU provider with every optimization off. A quantized cell
is held against torch for what the file costs, and against this for what the runner's kernels do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...runners.bundles import npz
from ...runners.images import Preprocessing
from ...runners.machine.files import sha256_file
from ...runners.targets import LOCAL
from ..errors import InputError, WorkspaceError
from ..numerics.precision import kind_of
from ..storage.goldens import FILE, Goldens, packed
from ..storage.manifest import Manifest
from .session import Cell, open_cell, run_goldens

EXECUTOR = "ort-cpu"
MODEL, GOLDENS, PREFIX = "model_sha256", "goldens_sha256", "own."


def file_of(variant: str) -> str:
    """Which artifact holds the second reference of a variant."""
    return f"{variant}.{FILE}"


@dataclass(frozen=True)
class Arithmetic:
    """``outputs`` by name, ``[N, ...]``, of the goldens in order.

    ``model`` and ``goldens`` are the SHA-256 of the files that they are of.
    """

    model: str
    goldens: str
    outputs: Mapping[str, np.ndarray]

    def to_bytes(self) -> bytes:
        """As a compressed ``.npz``; equal arithmetic gives equal bytes."""
        about = {MODEL: np.array(self.model), GOLDENS: np.array(self.goldens)}
        return packed(about | {f"{PREFIX}{name}": array for name, array in self.outputs.items()})

    @classmethod
    def load(cls, path: Path) -> Arithmetic:
        """Read what ``to_bytes`` wrote. Raises ``InputError`` for anything else."""
        try:
            arrays = npz.read(path)
            outputs = {
                name.removeprefix(PREFIX): array
                for name, array in arrays.items()
                if name.startswith(PREFIX)
            }
            npz.outputs(outputs)
            return cls(str(arrays[MODEL]), str(arrays[GOLDENS]), outputs)
        except OSError as error:
            raise InputError(f"{path}: {error.strerror or error}") from error
        except (ValueError, KeyError) as error:
            raise InputError(f"{path}: no outputs of a file's own arithmetic ({error})") from error

    def first(self, count: int) -> dict[str, np.ndarray]:
        """The outputs of the first ``count`` goldens."""
        return {name: array[:count] for name, array in self.outputs.items()}


def executor(file: str) -> Cell:
    """The cell that computes a file as it is written: one thread, nothing optimized."""
    return Cell("", EXECUTOR, LOCAL, "f32", file, threads=1, optimize=False)


def compute(model: Path, goldens: Path, preprocessing: Preprocessing | None) -> Arithmetic:
    """Run all goldens through a quantized file as it is written, in a worker.

    Raises ``RunnerError`` if ONNX Runtime can't.
    """
    with open_cell(executor(model.name), model) as opened:
        outputs = run_goldens(opened, Goldens.load(goldens), preprocessing)
    return Arithmetic(sha256_file(model), sha256_file(goldens), outputs)


def of_workspace(folder: Path, manifest: Manifest, variant: str) -> Arithmetic | None:
    """The second reference of a variant; ``None`` for one that isn't quantized.

    Raises ``WorkspaceError`` if it is missing, or is of another file.
    """
    if kind_of(variant, "") != "int8":
        return None
    name = file_of(variant)
    path, again = folder / name, f"run `{manifest.made_by}`"
    if name not in manifest.artifacts:
        raise WorkspaceError(f"{path}: missing; an older edgepipe exported this: {again}")
    found = Arithmetic.load(path)
    about = (found.model, found.goldens)
    expected = (manifest.variants[variant]["onnx"], FILE)
    if about != tuple(manifest.artifacts[file].sha256 for file in expected):
        raise WorkspaceError(f"{path}: not of this {' and '.join(expected)}: {again}")
    return found
