"""A small export, and the means to break one of its files without the manifest noticing."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest

from edgepipe.pipeline import export
from edgepipe.pipeline.cells.arithmetic import compute
from edgepipe.pipeline.storage.goldens import preprocessing_of
from edgepipe.pipeline.storage.manifest import Artifact, Manifest
from edgepipe.runners.images import Preprocessing
from edgepipe.runners.machine.files import sha256_file

Edit = Callable[[Any], None]
MODEL = "mobilenet_v2"


@pytest.fixture(scope="session")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with fp32 and int8 at 64 pixels. Don't write to it."""
    root = tmp_path_factory.mktemp("healthy") / "artifacts"
    export(workspace=root, input_size=64, variants=("fp32", "int8"))
    return root


@pytest.fixture
def broken(healthy: Path, tmp_path: Path) -> Callable[..., Path]:
    """``broken(edit, "exported.onnx", "fp32.onnx")``: a workspace with those files edited."""

    def make(edit: Edit, *files: str) -> Path:
        root = Path(shutil.copytree(healthy, tmp_path / "artifacts"))
        for file in files:
            path = root / MODEL / file
            model = onnx.load(path)
            edit(model.graph)
            path.write_bytes(model.SerializeToString())
            if file == "int8.onnx":  # the stage that broke it records what the file says
                own = compute(path, root / MODEL / "goldens.npz", preprocessing(root / MODEL))
                (root / MODEL / "int8.goldens.npz").write_bytes(own.to_bytes())
        rehash(root / MODEL)
        return root

    return make


def preprocessing(folder: Path) -> Preprocessing | None:
    path = folder / "manifest.json"
    return preprocessing_of(Manifest.from_json(path.read_text(), path))


def rehash(folder: Path) -> None:
    """Make the manifest agree with the files: what broke them looks like a stage's own doing."""
    path = folder / "manifest.json"
    manifest = Manifest.from_json(path.read_text(), path)
    artifacts = {
        name: Artifact(sha256_file(folder / name), (folder / name).stat().st_size)
        for name in manifest.artifacts
    }
    path.write_text(replace(manifest, artifacts=artifacts).to_json())
