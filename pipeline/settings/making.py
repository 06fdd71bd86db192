"""The keys of what makes models: ``[export]`` and ``[train]``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from ...exporters import registry as exporters
from ...runners.images import MOST_CHANNELS
from .options import (
    ArgumentText,
    Cluster,
    Duration,
    Help,
    InputSize,
    InputText,
    InWorkspace,
    OfModel,
    Pair,
    Positive,
    Request,
    Section,
    Side,
    SkipUnreadable,
    Variants,
    Width,
)

DEFAULT_MODEL = "mobilenet_v2"
# Samples that are no file's: noise, and the images that come with edgepipe.
SYNTHETIC, DIGITS = "synthetic", "digits"
# The names of what `quantize --search` finds: "int8-avx2-percentile-float2".
SEARCHED_NAMES = re.compile(r"int8(-avx2)?(-[a-z]+)*(-float\d+|-[a-z]{4,})")
# A model's name is that of its folder: nothing that leads elsewhere, or hides it.
NAME = r"^[A-Za-z0-9_][A-Za-z0-9_.+-]*$"

Recipe = Annotated[
    Annotated[str, Field(min_length=1)],
    Help("How int8 is made: accurate, minmax, or steps with commas between.", metavar="NAME"),
]


class WeightsConfig(Section):
    """Which module is exported, and whose weights it has."""

    architecture: Annotated[
        str | None,
        Help(
            "An architecture, package.module:attribute for your own, or a TorchScript archive.",
            flag="",
        ),
    ] = None
    weights: Annotated[str, Help("digits, imagenet or random.")] = "digits"
    width: Width = None
    classes: Annotated[
        Annotated[int, Field(ge=1, le=1_000_000)] | None,
        Help("Classes of random weights.", unset="the 10 digits"),
    ] = None
    checkpoint: Annotated[
        Path | None, Help("Weights: a state dict (.safetensors, .pt, .pth).", metavar="FILE")
    ] = None
    checkpoint_key: Annotated[
        Annotated[str, Field(min_length=1)] | None,
        Help(
            "Which dictionary of it: model_ema, state.ema …",
            metavar="KEY",
            unset="the one that fits",
        ),
    ] = None
    labels: Annotated[
        Path | None, Help("The checkpoint's labels: text, one a line, or JSON.", metavar="FILE")
    ] = None
    args: Annotated[
        tuple[ArgumentText, ...],
        Help(
            "An argument for what makes your own model.",
            flag="--arg",
            metavar="NAME=VALUE",
        ),
    ] = ()
    trust: Annotated[bool, Help("Run the code of a TorchScript archive.")] = False


class FileConfig(Section):
    """Which ONNX file is imported, and what is said of it that it doesn't say itself."""

    reference: Annotated[
        Path | None,
        Help("The float model behind a quantized file.", metavar="FILE", unset="the file itself"),
    ] = None
    labels: Annotated[
        Path | None, Help("The classes: text, one a line, or JSON.", metavar="FILE")
    ] = None
    dims: Annotated[
        tuple[Pair, ...],
        Help("Settle a size that the file leaves open.", flag="--dim", metavar="NAME=N"),
    ] = ()
    values: Annotated[
        tuple[Pair, ...],
        Help("Settle an input for good.", flag="--value", metavar="NAME=JSON"),
    ] = ()


class InputsConfig(Section):
    """What a model is fed, and which samples make int8 of it: of ``export`` and ``import``."""

    preprocessing: Annotated[
        str | None, Help("imagenet, inception or none.", unset="the weights' own, or imagenet")
    ] = None
    resize: Annotated[
        Literal["shorter-side", "squash"] | None,
        Help("How an image comes to its size, if not as the preset has it.", flag=""),
    ] = None
    resize_to: Annotated[
        Positive | None, Help("The side it is resized to before it is cropped.", flag="")
    ] = None
    interpolation: Annotated[
        Literal["bilinear", "bicubic"] | None, Help("How it is resized.", flag="")
    ] = None
    mean: Annotated[
        tuple[float, ...] | None, Help("Subtracted from each channel, of 0 to 1.", flag="")
    ] = None
    std: Annotated[tuple[float, ...] | None, Help("What each channel is divided by.", flag="")] = (
        None
    )
    channels: Annotated[
        Literal["rgb", "bgr", "grey"] | Annotated[int, Field(ge=1, le=MOST_CHANNELS)] | None,
        Help(
            "Of images: rgb, bgr, grey, or how many there are in arrays (.npy).",
            metavar="NAME|N",
            unset="the weights' own, or rgb",
        ),
    ] = None
    inputs: Annotated[
        tuple[InputText, ...],
        Help(
            "An input of a model that takes no images.",
            flag="--input",
            metavar="NAME:SHAPE:DTYPE",
        ),
    ] = ()
    data: Annotated[
        Path | None,
        Help("Its inputs as arrays by name, .npz: for goldens and to calibrate.", metavar="FILE"),
    ] = None
    calibration: Annotated[
        Path | None, Help("Images to calibrate int8 with; or: synthetic, digits.", metavar="DIR")
    ] = None
    calibration_images: Annotated[Positive, Help("How many of them.", metavar="N")] = 128
    skip_unreadable: SkipUnreadable = False
    recipe: Recipe = "accurate"
    simplify: Annotated[
        bool, Help("Simplify the graph with onnxsim.", flag="--simplify/--no-simplify")
    ] = True


class ExportConfig(InputsConfig, WeightsConfig):
    """What ``edgepipe export`` makes."""

    table: ClassVar[str] = "export"
    fold_preprocessing: Annotated[
        bool,
        Help(
            "Normalize in the model, which then takes uint8 NHWC.",
            flag="--fold-preprocessing/--no-fold-preprocessing",
        ),
    ] = False
    variants: Variants = ("fp32", "int8", "int8-avx2")
    exporter: Annotated[str, Help("What makes the ONNX file.", metavar="NAME")] = "onnx-dynamo"
    formats: Annotated[
        tuple[str, ...], Help("onnx, and openvino-ir beside it.", flag="--format", metavar="NAME")
    ] = (exporters.ONNX,)
    opset: Annotated[Annotated[int, Field(ge=7, le=30)], Help("ONNX operator set.")] = 20
    batch: Annotated[
        Positive | Literal["dynamic"], Help("Images per run.", metavar="N|dynamic")
    ] = 1
    input_size: InputSize = None


class ExportRequest(ExportConfig, InWorkspace):
    """``edgepipe export``: export MODEL to ONNX, simplify it, and quantize it to int8."""

    model: Annotated[
        str | None,
        Help(
            "An architecture, package.module:attribute for your own, or a TorchScript archive.",
            argument=True,
            unset=DEFAULT_MODEL,
        ),
    ] = Field(default=None, kw_only=False)
    name: Annotated[str | None, Help("What to call it in the workspace.", unset="MODEL")] = None
    force: Annotated[bool, Help("Make everything again.")] = False


class ImportConfig(InputsConfig, FileConfig):
    """What ``edgepipe import`` makes of an ONNX file."""

    table: ClassVar[str] = "import"
    variants: Annotated[
        tuple[str, ...],
        Help(
            "fp32, int8, int8-avx2, fp16.",
            flag="--variant",
            short="-v",
            metavar="NAME",
            unset="all that the samples allow",
        ),
    ] = ()
    repair: Annotated[bool, Help("Rewrite what makes a quantized file slow, and prove it.")] = False


class ImportRequest(ImportConfig, InWorkspace):
    """``edgepipe import``: take in an ONNX file; simplify and quantize it as export does."""

    file: Annotated[Path, Help("An ONNX file.", argument=True)] = Field(kw_only=False)
    name: Annotated[
        str | None, Help("What to call it in the workspace.", unset="the file's name")
    ] = None
    force: Annotated[bool, Help("Make everything again.")] = False


class QuantizeConfig(Section):
    """How ``edgepipe quantize`` makes int8 of an exported model, and what a search may take."""

    table: ClassVar[str] = "quantize"
    recipe: Recipe = "accurate"
    calibration: Annotated[
        Path | None,
        Help("The images that the export was calibrated with.", metavar="DIR", unset="the digits"),
    ] = None
    budget: Annotated[Duration, Help("Time for a search: 90s, 10m, 1h.", metavar="TIME")] = "10m"
    resume: Annotated[
        bool,
        Help("Use what an earlier search of the same model tried.", flag="--resume/--no-resume"),
    ] = True
    max_drop: Annotated[
        Annotated[float, Field(ge=0, le=100)] | None,
        Help("Recommend the fastest that loses this much top-1 at most.", metavar="POINTS"),
    ] = None
    data: Annotated[
        Path | None,
        Help("A folder of images for each label, for --max-drop.", metavar="DIR", unset="digits"),
    ] = None
    cluster: Cluster = None


class QuantizeRequest(QuantizeConfig, OfModel):
    """``edgepipe quantize``: make int8 anew by another recipe, or search for the best one."""

    search: Annotated[bool, Help("Make and measure candidates until the budget is spent.")] = False


class TrainConfig(Section):
    """What ``edgepipe train`` learns, and from which weights: ``init`` (a file) or ``weights``."""

    table: ClassVar[str] = "train"
    data: Annotated[Path | None, Help("Images, in a folder for each class.", metavar="DIR")] = None
    skip_unreadable: SkipUnreadable = False
    init: Annotated[
        Path | None, Help("Start from these weights; classes may be others.", metavar="FILE")
    ] = None
    weights: Annotated[Literal["random", "imagenet"], Help("Start from: random or imagenet.")] = (
        "random"
    )
    width: Width = None
    input_size: Annotated[
        Side | None, Help("Side of the input in pixels.", unset="the weights' own")
    ] = None
    epochs: Annotated[Annotated[int, Field(ge=1, le=10_000)], Help("At most.")] = 20
    batch: Annotated[Annotated[int, Field(ge=2, le=4096)], Help("Images per step.")] = 32
    learning_rate: Annotated[
        Annotated[float, Field(gt=0, le=1)] | None,
        Help("Peak of the schedule.", unset="0.003 from random weights, else 0.0005"),
    ] = None
    held_out: Annotated[
        Annotated[float, Field(gt=0, lt=1)], Help("Part of each class to judge by.")
    ] = 0.2
    patience: Annotated[Positive, Help("Epochs without a better one before it ends.")] = 5
    augment: Annotated[
        Literal["photos", "shapes", "none"], Help("photos, shapes (never mirrored) or none.")
    ] = "photos"
    seed: Annotated[
        Annotated[int, Field(ge=0, lt=1 << 32)], Help("Of split, weights and order.")
    ] = 0
    threads: Annotated[Positive | None, Help("Threads.", unset="torch's own")] = None


class TrainRequest(TrainConfig, Request):
    """``edgepipe train``: fine-tune MODEL on class folders, for export --checkpoint."""

    model: Annotated[str | None, Help("", argument=True, unset=DEFAULT_MODEL)] = Field(
        default=None, kw_only=False
    )
    output: Annotated[
        Path | None, Help("The weights.", metavar="FILE", unset="MODEL-DIR.safetensors")
    ] = None
    restart: Annotated[bool, Help("Start over, whatever a killed run has left.")] = False
