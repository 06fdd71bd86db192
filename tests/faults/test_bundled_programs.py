"""FAULTS 34 and 35: a bundle that holds a program, a pickle or a way out of itself runs nothing.

Tried on every entrance, signed and not, with torch installed, whose loader would run it.
"""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from edgepipe.pipeline import verify
from edgepipe.pipeline.errors import ExitCode, exit_code
from edgepipe.runners import load_bundle
from edgepipe.runners.base import BundleError
from edgepipe.runners.bundles.index import GOLDENS, INDEX, SIGNATURE, Variant

from .. import bundles

Run = Callable[..., CompletedProcess[str]]


class Marker:
    """Leaves a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch {self.path}",)


def program(marker: Path) -> bytes:
    """An archive as ``torch.export.save`` and ``torch.save`` write it, with a pickle in it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in ("archive/data.pkl", "archive/version", "data/sample_inputs/model.pt"):
            archive.writestr(name, pickle.dumps(Marker(marker)))
    return buffer.getvalue()


def external(name: str) -> bytes:
    """An ONNX file whose one tensor lies in another file."""
    from onnx import TensorProto, helper

    tensor = TensorProto(name="w", dims=[1], data_type=TensorProto.FLOAT)
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=name)
    graph = helper.make_graph([], "g", [], [], [tensor])
    return helper.make_model(graph).SerializeToString()


IR = b'<?xml version="1.0"?><net name="m" version="11"><layers/></net>'
# What the variant says it holds, and the files of it.
HOSTILE: dict[str, Callable[[Path], tuple[str, dict[str, bytes]]]] = {
    "program": lambda marker: ("pt2", {"fp32.pt2": program(marker)}),
    "torchscript": lambda marker: ("torchscript", {"fp32.pt": program(marker)}),
    "pickle": lambda marker: ("pickle", {"fp32.pkl": pickle.dumps(Marker(marker))}),
    "a plug-in's format": lambda marker: ("beads", {"fp32.beads": program(marker)}),
    "program called ONNX": lambda marker: ("onnx", {"fp32.onnx": program(marker)}),
    "pickle called ONNX": lambda marker: ("onnx", {"fp32.onnx": pickle.dumps(Marker(marker))}),
    "program as ONNX": lambda marker: ("onnx", {"fp32.pt2": program(marker)}),
    "program called IR": lambda marker: ("openvino-ir", {"fp32.xml": program(marker)}),
    "program beside ONNX": lambda marker: (
        "onnx",
        {"fp32.onnx": bundles.onnx("fp32"), "fp32.pt2": program(marker)},
    ),
    "IR with weights of another name": lambda _: (
        "openvino-ir",
        {"fp32.xml": IR, "other.bin": b"x"},
    ),
    "IR with entities": lambda _: (
        "openvino-ir",
        {"fp32.xml": b'<?xml version="1.0"?><!DOCTYPE net [<!ENTITY a "b">]><net/>'},
    ),
    "tensors beside it": lambda _: ("onnx", {"fp32.onnx": external("goldens.npz")}),
    "tensors above it": lambda _: ("onnx", {"fp32.onnx": external("../../secret")}),
    "tensors behind a group": lambda _: (
        "onnx",
        {"fp32.onnx": b"\xa3\x06\xa4\x06" + external("goldens.npz")},
    ),
    "an empty file": lambda _: ("onnx", {"fp32.onnx": b""}),
}


def hostile(name: str, folder: Path, signed: bool) -> tuple[Path, Path]:
    """A bundle whose hashes are right, and the file that its program would leave."""
    marker = folder / "MARKER"
    kind, files = HOSTILE[name](marker)
    members = {**files, GOLDENS: bundles.goldens()}
    variants = {"fp32": Variant({kind: tuple(files)})}
    index = bundles.index(members, variants=variants).to_bytes()
    signature = {SIGNATURE: b"{}"} if signed else {}
    path = bundles.write(
        folder / "hostile.tar.gz", {INDEX: index, **dict(sorted(members.items())), **signature}
    )
    return path, marker


@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
@pytest.mark.parametrize("entrance", [verify, load_bundle], ids=["verify", "load_bundle"])
@pytest.mark.parametrize("name", HOSTILE)
def test_nothing_of_it_is_run(
    name: str, entrance: Callable[[Path], object], signed: bool, tmp_path: Path
) -> None:
    path, marker = hostile(name, tmp_path, signed)
    with pytest.raises(BundleError) as caught:
        entrance(path)
    assert exit_code(caught.value) == ExitCode.INTEGRITY
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    assert not marker.exists()


@pytest.mark.parametrize("name", ["program", "program called ONNX", "tensors beside it"])
def test_it_is_not_deployed(name: str, tmp_path: Path, edgepipe: Run) -> None:
    path, marker = hostile(name, tmp_path, signed=False)
    (tmp_path / "edgepipe.toml").write_text(f'[deploy]\nfolder = "{tmp_path}/box"\n')
    done = edgepipe("deploy", path, "--target", "local")
    assert done.returncode == 4, done.stderr
    assert not marker.exists()
    assert not (tmp_path / "box").exists()


def test_a_bundle_can_not_be_made_of_one(measured: Path, edgepipe: Run) -> None:
    done = edgepipe("package", "--workspace", measured, "--format", "pt2")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "pt2" in line
    assert "can run code" in line
