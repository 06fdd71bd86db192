"""Files that somebody else wrote, with what no writer of ours puts there: one line, no traceback.

Each was found by ``nox -s fuzz``.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgepipe.pipeline import package
from edgepipe.pipeline.cells.arithmetic import Arithmetic
from edgepipe.pipeline.errors import InputError, IntegrityError, UsageError, WorkspaceError
from edgepipe.pipeline.judging.recording import Recording
from edgepipe.pipeline.report.results import read, read_samples
from edgepipe.pipeline.settings.load import read_toml
from edgepipe.pipeline.speed.baseline import Baseline
from edgepipe.pipeline.speed.bench_result import BenchResult
from edgepipe.pipeline.storage.goldens import Goldens
from edgepipe.pipeline.storage.manifest import Manifest, digest
from edgepipe.pipeline.storage.workspace import Workspace
from edgepipe.runners import documents
from edgepipe.runners.bundles import npz
from edgepipe.runners.environments.environments import find, marker_of

from ..fuzz.mutating import bomb
from ..made import NAME, Made

DEEP = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"a": NaN}', "NaN"),
        ('{"a": -Infinity}', "Infinity"),
        ('{"a": 1e999}', "too large"),
        ('{"a": ' + "9" * 5000 + "}", "too large"),
        ('{"a": 1' + "0" * 20 + "}", "too large"),
        ('{"a": 1, "a": 2}', "twice"),
        ('{"a": "\\ud800"}', "surrogates"),
        (DEEP, "deep"),
        ('{"a": ' * 100_000, "deep"),
        ("", "Expecting value"),
    ],
)
def test_json_that_no_writer_writes(text: str, why: str) -> None:
    for form in (text, text.encode()):
        with pytest.raises(ValueError, match=why):
            documents.parse(form)


@pytest.mark.parametrize("text", ["{", DEEP, '{"cells": NaN}', "5", "[]", "\ud800"])
def test_every_reader_of_results_refuses(text: str, tmp_path: Path) -> None:
    path = tmp_path / BenchResult.FILE
    path.write_text(text, errors="surrogatepass")
    for reading in (
        lambda: BenchResult.load(path),
        lambda: Baseline.load(path),
        lambda: read(tmp_path, BenchResult, Manifest()),
    ):
        with pytest.raises(InputError, match=r"bench\.json"):
            reading()


def archive(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def claiming(shape: str) -> bytes:
    """An archive with an array whose header says that it has another shape."""
    member = io.BytesIO()
    np.save(member, np.zeros((2, 3), np.float32))
    found = member.getvalue()
    spoiled = found.replace(b"(2, 3), }", f"{shape}, }}".encode(), 1)
    spoiled = spoiled[: spoiled.index(b"}") + 1].ljust(127) + b"\n" + found[128:]
    buffer = io.BytesIO()
    with npz.zipfile.ZipFile(buffer, "w") as made:
        made.writestr("fp32.a.npy", spoiled)
    return buffer.getvalue()


def cut_inside() -> bytes:
    data = bytearray(archive(labels=np.random.default_rng(0).integers(0, 1 << 60, 4000)))
    data[500:600] = bytes(100)
    return bytes(data)


NPZ: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "no zip": lambda: b"PK\3\4" + bytes(100),
    "zlib": cut_inside,
    "negative": lambda: claiming("(-2, 3)"),
    "huge": lambda: claiming("(9999999999, 3)"),
    "bomb": lambda: bomb("labels.npy"),
    "objects": lambda: archive(labels=np.array([None, 1], object)),
    "times": lambda: archive(labels=np.array([1, 2], "M8[s]")),
    "no dimension": lambda: archive(**{"labels": 1, "fp32.a": 2, "fp64.a": 2, "own.a": 2}),
    "text": lambda: archive(**{"labels": ["a"], "fp32.a": ["b"], "own.a": ["c"]}),
}


# The samples belong to a bench, here to one of nothing.
BENCH = BenchResult(
    artifacts={},
    model={},
    host={},
    hosts={},
    scenario="single-stream",
    quick=False,
    baseline=None,
    reference="fp32",
    cells=(),
    pairs=(),
    meters={},
    problems=(),
)


@pytest.mark.parametrize("kind", NPZ)
def test_every_reader_of_arrays_refuses(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "bench.npz"
    path.write_bytes(NPZ[kind]())
    for reading in (
        lambda: Goldens.load(path),
        lambda: Arithmetic.load(path),
        lambda: Recording.load(path),
        lambda: read_samples(tmp_path, BENCH),
    ):
        with pytest.raises(InputError, match=r"bench\.npz"):
            reading()


def recording(schema: int, **arrays: Any) -> bytes:
    about = {"schema_version": schema, "model": {}, "artifacts": {}, "cells": []}
    about |= {"reference_sqnr_db": 140.0, "reference_state": "measured"}
    return archive(about=np.frombuffer(json.dumps(about).encode(), np.uint8), **arrays)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (recording(2), "schema 2, this reads 1; run `edgepipe parity` again"),
        (recording(1), "no samples"),
        (recording(1, **{"reference/a": np.zeros((0, 3))}), "no samples"),
    ],
)
def test_recordings_of_another_edgepipe_or_of_nothing(
    data: bytes, why: str, tmp_path: Path
) -> None:
    (tmp_path / "parity.npz").write_bytes(data)
    with pytest.raises(InputError, match=why):
        Recording.load(tmp_path / "parity.npz")


def test_older_results_name_the_command_that_renews_them(tmp_path: Path) -> None:
    made = Made(tmp_path)
    for name in ("parity.json", "bench.json"):
        (made.folder / name).write_text('{"schema_version": 0, "cells": []}')
    with pytest.raises(InputError, match="schema 0, this reads 1; run `edgepipe parity`"):
        package(workspace=tmp_path, output=tmp_path / "bundles")
    with pytest.raises(InputError, match="schema 0, this reads 2; measure the baseline"):
        Baseline.load(made.folder / "bench.json")


def without(*names: str) -> dict[str, Any]:
    good = {
        "images": np.zeros((2, 4, 4, 3), np.uint8),
        "labels": np.array([0, 1]),
        "fp32.a": np.zeros((2, 3), np.float32),
        "fp64.a": np.zeros((2, 3)),
    }
    return {name: array for name, array in good.items() if name not in names}


@pytest.mark.parametrize(
    "arrays",
    [
        without("labels"),
        without("images"),
        without("fp32.a"),
        without("fp32.a", "fp64.a"),
        {**without(), "fp64.a": np.zeros((2, 4))},
        {**without(), "fp32.a": np.zeros((3, 3))},
        {**without(), "images": np.zeros((2, 4, 4, 3))},
        {**without(), "images": np.zeros((3, 4, 4, 3), np.uint8)},
        {**without(), "labels": np.zeros((2, 2), int)},
    ],
)
def test_goldens_that_do_not_fit_together(arrays: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "goldens.npz").write_bytes(archive(**arrays))
    with pytest.raises(InputError, match="no goldens"):
        Goldens.load(tmp_path / "goldens.npz")


def edit_manifest(folder: Path, *keys: Any, value: Any) -> Path:
    """Put another value into a manifest, or take it out (``...``), and let it agree with itself."""
    path = folder / "manifest.json"
    body = json.loads(path.read_text())
    body.pop("digest")
    holder = body
    for key in keys[:-1]:
        holder = holder[key]
    if value is ...:
        del holder[keys[-1]]
    else:
        holder[keys[-1]] = value
    path.write_text(json.dumps({**body, "digest": digest(body)}))
    return path


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (("model",), []),
        (("model", "classes"), "ten"),
        (("model", "inputs"), {"": {}}),
        (("labels",), [{}]),
        (("labels",), 3),
        (("tools", "torch"), 2.5),
        (("preprocessing", "size"), 10**12),
        (("preprocessing", "std"), ["a", "b", "c"]),
        (("variants", "fp32"), "fp32.onnx"),
        (("variants", "fp32", "onnx"), "../fp32.onnx"),
        (("variants", "fp32", "onnx"), "other.onnx"),
        (("artifacts", "../../escaped"), {"sha256": "ab", "size": 1}),
        (("artifacts", ".."), {"sha256": "ab", "size": 1}),
        (("artifacts", "fp32.onnx", "size"), None),
        (("stages", 0, "artifacts"), ["../nothing"]),
        (("recommended",), [{"variant": "none"}]),
    ],
)
def test_manifests_that_make_no_sense(keys: Any, value: Any, tmp_path: Path) -> None:
    made = Made(tmp_path)
    path = edit_manifest(made.folder, *keys, value=value)
    with pytest.raises(IntegrityError, match="not a manifest"):
        Manifest.from_json(path.read_text(), path)


def test_a_manifest_that_lacks_a_fact_says_which(tmp_path: Path) -> None:
    folder = Made(tmp_path).folder
    edit_manifest(folder, "model", "classes", value=...)
    path = edit_manifest(folder, "model", "opset", value=...)
    manifest = Manifest.from_json(path.read_text(), path)
    with pytest.raises(WorkspaceError, match="does not say the classes: make everything again"):
        manifest.model["classes"]
    with pytest.raises(WorkspaceError, match="does not say the opset: make everything again"):
        manifest.model["opset"]


@pytest.mark.parametrize("text", ["{", "{}", DEEP, '{"artifacts": {"..": 1}}'])
def test_a_damaged_commit_of_a_killed_run(text: str, tmp_path: Path) -> None:
    made = Made(tmp_path)
    (made.folder / ".commit").mkdir()
    (made.folder / ".commit" / "manifest.json").write_text(text)
    before = sorted(made.folder.glob("*.onnx"))
    with (
        pytest.raises(IntegrityError, match="what a killed run left is damaged"),
        Workspace(tmp_path, NAME).exported("test", print),
    ):
        pass
    assert sorted(made.folder.glob("*.onnx")) == before


@pytest.mark.parametrize(
    ("key", "value"),
    [("directory", 5), ("directory", "../.."), ("packages", 1.5), ("packages", {"a": 1})],
)
def test_a_marker_of_no_environment(
    key: str, value: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    names = ("runner", "directory", "base", "edgepipe", "code")
    about = {"schema_version": 1, **dict.fromkeys(names, "x"), "packages": {}}
    marker = marker_of("ort-openvino")
    marker.parent.mkdir(parents=True)
    marker.write_text(json.dumps(about))
    assert find("ort-openvino")
    marker.write_text(json.dumps({**about, key: value}))
    assert find("ort-openvino") is None


@pytest.mark.parametrize("text", ["a = " + "9" * 5000, "a = " + DEEP, "a = 1\na = 2"])
def test_a_configuration_that_is_no_toml(text: str, tmp_path: Path) -> None:
    (tmp_path / "edgepipe.toml").write_text(text)
    with pytest.raises(UsageError, match="not valid TOML"):
        read_toml(tmp_path / "edgepipe.toml")
