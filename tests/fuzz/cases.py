"""The cases: which file is spoiled, inside what, and the command that is to read it."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from edgepipe.pipeline.storage.manifest import digest
from edgepipe.runners.bundles import archive

from .mutating import changed, spoil, spoil_bytes
from .world import FORMATS, MODEL, World

ORT = ("--runner", "ort-cpu")
VERIFY = (("verify", *ORT, "b.tar.gz"), ("verify", *ORT, "--variant", "int8", "b.tar.gz"))
# Read without a session.
REPORT = ("report", "--model", MODEL)
MARKDOWN = (*REPORT, "--format", "markdown")
SELDOM = (*(MARKDOWN,) * 4, REPORT)  # a page of plots takes seconds
PACKAGE = ("package", "--model", MODEL, "--allow-failed-parity", *FORMATS)
JUDGE = ("parity", "--model", MODEL, "--from", "artifacts/tiny/parity.npz")
STATIC = ("compare", "--workspace", "artifacts", "--static")
ENVIRONMENTS = ("env", "list")
# Read by a command that starts one.
PREDICT = ("predict", "--model", MODEL, "photos/a/0.png")
PREDICT_INT8 = (*PREDICT, "--variant", "int8")
PREDICT_IR = (*PREDICT, "--runner", "openvino")
PARITY = ("parity", "--model", MODEL, *ORT, "--samples", "4")
BENCH = ("bench", "--model", MODEL, *ORT, "--quick", "--variant", "fp32")
BASELINE = (*BENCH, "--baseline", "artifacts/tiny/bench.json")
EVALUATE = ("evaluate", "--model", MODEL, *ORT, "--variant", "fp32", "--data", "photos")
OWN = ("predict", "--model", MODEL, "--runner", "ort-openvino", "photos/a/0.png")
# Ends before anything is exported: the weights fit no squeezenet.
CHECKPOINT = ("export", "squeezenet", "--name", "other", "--checkpoint")


@dataclass(frozen=True)
class Case:
    """One command in a folder that was made for it."""

    number: int
    file: str
    command: tuple[str, ...]

    def __str__(self) -> str:
        return f"case {self.number}, {self.file}: edgepipe {' '.join(self.command)}"


Maker = Callable[[Random, World, Path], tuple[str, tuple[str, ...]]]


def make(number: int, seed: int, world: World, folder: Path) -> Case:
    """Fill an empty folder with what a case is about."""
    random = Random(f"{seed}/{number}")
    makers, weights = zip(*MAKERS, strict=True)
    (maker,) = random.choices(makers, weights)
    return Case(number, *maker(random, world, folder))


def _copy(world: World, folder: Path, *names: str) -> None:
    for name in names:
        source, aim = world.folder / name, folder / name
        if source.is_dir():
            shutil.copytree(source, aim)
        else:
            aim.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, aim)


def _workspace(world: World, folder: Path) -> Path:
    place = folder / "artifacts" / MODEL
    skipped = shutil.ignore_patterns("report.*", "explain.svg")
    shutil.copytree(world.workspace, place, ignore=skipped)
    _copy(world, folder, "photos/a/0.png", "artifacts/compare.json")
    return place


def result(random: Random, world: World, folder: Path) -> tuple[str, tuple[str, ...]]:
    """What a command left in the workspace, which no manifest vouches for."""
    place = _workspace(world, folder)
    read: dict[str, tuple[tuple[str, ...], ...]] = {
        "bench.json": (*SELDOM, PACKAGE, PACKAGE),
        "bench.npz": SELDOM,
        "parity.json": (MARKDOWN, PACKAGE, PACKAGE),
        "parity.npz": (JUDGE,),
        "evaluation.json": SELDOM,
        "explain.json": SELDOM,
        "tune.json": SELDOM,
        "profile.json": SELDOM,
        "../compare.json": SELDOM,
    }
    name = random.choice(list(read))
    path = place / name
    path.write_bytes(spoil(random, name, path.read_bytes()))
    return name, random.choice(read[name])


def manifest(random: Random, world: World, folder: Path) -> tuple[str, tuple[str, ...]]:
    """A manifest that agrees with itself, or one that a killed run left half in place."""
    path = _workspace(world, folder) / "manifest.json"
    body = json.loads(path.read_text())
    if random.random() < 0.15:
        path = path.parent / ".commit" / "manifest.json"
        path.parent.mkdir()
        path.write_bytes(spoil(random, path.name, json.dumps(body).encode()))
        return ".commit/manifest.json", MARKDOWN
    body.pop("digest")
    body = changed(random, body)
    if isinstance(body, dict):
        with suppress(ValueError):  # NaN and infinities: readers refuse those before any digest
            body["digest"] = digest(body)
    path.write_text(json.dumps(body))
    commands = (MARKDOWN, REPORT, PACKAGE, PACKAGE, JUDGE, STATIC, EVALUATE, PREDICT)
    return "manifest.json", random.choices(commands, (4, 1, 4, 4, 4, 1, 1, 2))[0]


def artifact(random: Random, world: World, folder: Path) -> tuple[str, tuple[str, ...]]:
    """A file that the manifest vouches for, with its hash made right again."""
    place = _workspace(world, folder)
    read: dict[str, tuple[tuple[str, ...], ...]] = {
        "goldens.npz": (PACKAGE, PACKAGE, PACKAGE, MARKDOWN, PARITY),
        "int8.goldens.npz": (PACKAGE, PARITY),
        "calibration.npz": (MARKDOWN, PACKAGE),
        "fp32.onnx": (PACKAGE, STATIC, PREDICT, MARKDOWN),
        "int8.onnx": (PACKAGE, MARKDOWN, PREDICT_INT8),
        "fp32.xml": (PACKAGE, PREDICT_IR),
        "fp32.bin": (PACKAGE, PREDICT_IR),
    }
    name = random.choice([*read, "goldens.npz"])
    path = place / name
    data = spoil(random, name, path.read_bytes())
    path.write_bytes(data)
    about = json.loads((place / "manifest.json").read_text())
    about.pop("digest")
    about["artifacts"][name] = _member(data)
    about["digest"] = digest(about)
    (place / "manifest.json").write_text(json.dumps(about))
    return name, random.choice(read[name])


def member(random: Random, world: World, folder: Path) -> tuple[str, tuple[str, ...]]:
    """A member of a bundle, its size and hash in the index made right again."""
    members = dict(world.members)
    names = [name for name in members if name != INDEX]
    likely = [name for name in names if name.endswith((".json", ".npz", ".onnx"))]
    name = random.choice([*names, *likely, *likely])
    members[name] = spoil(random, name, members[name])
    _bundle(folder, members, json.loads(members[INDEX]))
    runner = ORT if not name.endswith((".xml", ".bin")) else ("--runner", "openvino")
    variant = ("--variant", "int8") if name.startswith("int8") else ()
    return f"bundle/{name}", ("verify", *runner, *variant, "b.tar.gz")


def index(random: Random, world: World, folder: Path) -> tuple[str, tuple[str, ...]]:
    """A bundle whose index says something else, or whose container is spoiled."""
    members = dict(world.members)
    if random.random() < 0.2:
        _bundle(folder, members, json.loads(members[INDEX]))
        path = folder / "b.tar.gz"
        path.write_bytes(spoil_bytes(random, path.read_bytes()))
        return "bundle", random.choice(VERIFY)
    members[INDEX] = spoil(random, INDEX, members[INDEX])
    blocks = [b"".join(archive._blocks(members))]
    if random.random() < 0.3:
        blocks = [spoil_bytes(random, b"".join(archive._blocks(world.members)))]
    with (folder / "b.tar.gz").open("w+b") as file:
        archive.pack(file, blocks)
    return f"bundle/{INDEX}", random.choice(VERIFY)


def configuration(random: Random, world: World, folder: Path) -> tuple[str, tuple[str, ...]]:
    """A user's edgepipe.toml."""
    _workspace(world, folder)
    text = (world.folder / "edgepipe.toml.txt").read_bytes()
    (folder / "edgepipe.toml").write_bytes(spoil(random, "edgepipe.toml", text))
    return "edgepipe.toml", random.choice((MARKDOWN, PACKAGE, JUDGE, ENVIRONMENTS))


def image(random: Random, world: World, folder: Path) -> tuple[str, tuple[str, ...]]:
    """Pictures to predict, ten in a run, or to evaluate with."""
    _workspace(world, folder)
    pictures = sorted((world.folder / "pictures").iterdir())
    evaluated = random.random() < 0.3
    for number in range(10):
        picture = random.choice(pictures)
        path = folder / "photos" / "abc"[number % 3] / f"{number}{picture.suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(spoil_bytes(random, picture.read_bytes()))
    return "images", EVALUATE if evaluated else (*PREDICT[:-1], "photos")


def checkpoint(random: Random, world: World, folder: Path) -> tuple[str, tuple[str, ...]]:
    """Weights, what they say of themselves, and their labels."""
    name = random.choice(("w.safetensors", "about.safetensors", "w.pt", "labels.txt"))
    _copy(world, folder, name, "w.safetensors")
    (folder / name).write_bytes(spoil(random, name, (folder / name).read_bytes()))
    if name == "labels.txt":
        return name, (*CHECKPOINT, "w.safetensors", "--labels", name)
    return name, (*CHECKPOINT, name)


def environment(random: Random, world: World, folder: Path) -> tuple[str, tuple[str, ...]]:
    """What says where a runner's own environment is."""
    _workspace(world, folder)
    place = folder / "homes" / "cache" / "edgepipe" / "envs"
    (place / "ort-openvino@0123abcd" / "bin").mkdir(parents=True)
    (place / "ort-openvino@0123abcd" / "bin" / "python").touch()
    packages = {"numpy": {"version": "2.0", "sha256": "ab" * 32}}
    about: dict[str, Any] = {"schema_version": 1, "runner": "ort-openvino", "code": "ab" * 32}
    about |= {"directory": "ort-openvino@0123abcd", "base": "/usr/bin/python3", "edgepipe": "0.1.0"}
    text = json.dumps({**about, "packages": packages}).encode()
    (place / "ort-openvino.json").write_bytes(spoil(random, "x.json", text))
    return "environment", random.choice((ENVIRONMENTS, OWN))


def session(random: Random, world: World, folder: Path) -> tuple[str, tuple[str, ...]]:
    """What only a run with sessions of its own reads."""
    place = _workspace(world, folder)
    path = place / "bench.json"
    path.write_bytes(spoil(random, path.name, path.read_bytes()))
    return "bench.json", BASELINE


def _bundle(folder: Path, members: dict[str, bytes], about: dict[str, Any]) -> None:
    listed = {name: data for name, data in members.items() if name != INDEX}
    about["members"] = {name: _member(data) for name, data in listed.items()}
    with (folder / "b.tar.gz").open("w+b") as file:
        archive.write(file, {INDEX: json.dumps(about).encode(), **listed})


def _member(data: bytes) -> dict[str, Any]:
    return {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}


INDEX = "bundle.json"
MAKERS: tuple[tuple[Maker, float], ...] = (
    (result, 30),
    (manifest, 18),
    (artifact, 12),
    (member, 6),
    (index, 10),
    (configuration, 7),
    (image, 2),
    (checkpoint, 6),
    (environment, 2),
    (session, 1),
)
