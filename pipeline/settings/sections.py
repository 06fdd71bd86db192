"""The keys of ``edgepipe.toml``: a section for each command, and for what has a name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    field_validator,
    model_validator,
)

from ...exporters import registry as exporters
from ...runners.images import DECODERS
from ...runners.targets import LOCAL, Target
from ..storage.arrays import ArrayInput
from .placement import required_share

DEFAULT_MODEL = "mobilenet_v2"
SYNTHETIC = "synthetic"
VARIANTS = ("fp32", "int8", "int8-avx2", "fp16")
PRECISIONS = ("f32", "tf32", "bf16", "f16")
# A model's name is that of its folder: nothing that leads elsewhere, or hides it.
NAME = r"^[A-Za-z0-9_][A-Za-z0-9_.+-]*$"
_HOST = r"([\w.+][\w.+-]*@)?(\w[\w.-]*|\[[\da-fA-F:.]+\])"
SSH_HOST = re.compile(rf"{_HOST}|ssh://{_HOST}(:\d+)?")

Positive = Annotated[int, Field(ge=1)]


def _share(text: str) -> str:
    required_share(text)
    return text


def _input(text: str) -> str:
    ArrayInput.parse(text)
    return text


Share = Annotated[str, AfterValidator(_share)]
InputText = Annotated[str, AfterValidator(_input)]


def _percent(text: str) -> str:
    fraction(text)
    return text


Percent = Annotated[str, AfterValidator(_percent)]


def kebab(name: str) -> str:
    """How a key is written in TOML."""
    return name.replace("_", "-")


class Section(BaseModel):
    """A table of the configuration: only known keys, frozen."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, alias_generator=kebab, populate_by_name=True
    )


class ExportConfig(Section):
    """What ``edgepipe export`` makes. ``batch`` is a number or "dynamic".

    ``width`` is the width multiplier of the architectures that have one (1 by default), ``classes``
    how many random weights tell apart. ``exporter`` makes the ONNX file. ``formats`` are written
    beside it. ``checkpoint`` takes the place of ``weights``, ``checkpoint_key`` is which dictionary
    of it is taken, where several fit. ``labels`` is text with one a line, or JSON.
    ``preprocessing`` is a preset; the fields after it change it, see
    ``runners.images.Preprocessing``. ``fold_preprocessing`` makes normalization a part of the
    model. ``calibration`` is a folder of images, or "synthetic"; ``skip_unreadable`` takes others
    for those in it that can't be read. ``inputs`` describe those of a
    model of the user's own that takes no images, see ``arrays``.
    """

    architecture: str | None = None
    weights: str = "digits"
    width: Annotated[float, Field(ge=0.1, le=4)] | None = None
    classes: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    checkpoint: Path | None = None
    checkpoint_key: Annotated[str, Field(min_length=1)] | None = None
    labels: Path | None = None
    exporter: str = "onnx-dynamo"
    opset: Annotated[int, Field(ge=7, le=30)] = 20
    batch: Positive | Literal["dynamic"] = 1
    input_size: Annotated[int, Field(ge=32, le=2048)] | None = None
    preprocessing: str | None = None
    resize: Literal["shorter-side", "squash"] | None = None
    resize_to: Positive | None = None
    interpolation: Literal["bilinear", "bicubic"] | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    channels: Literal["rgb", "bgr"] | None = None
    fold_preprocessing: bool = False
    inputs: tuple[InputText, ...] = ()
    calibration: Path | None = None
    calibration_images: Positive = 128
    skip_unreadable: bool = False
    simplify: bool = True
    variants: tuple[str, ...] = ("fp32", "int8", "int8-avx2")
    formats: tuple[str, ...] = (exporters.ONNX,)


class CellsConfig(Section):
    """Which cells a command judges. Empty tuples mean "all there are".

    ``require_ep`` are gates on placement ("CUDAExecutionProvider=95%"); ``allow_fallback`` lets
    the nodes that a provider doesn't take run on the CPU's. ``tuned``: where nothing else is asked
    for, cells run with the settings that ``edgepipe tune`` recommends. ``trust_workspace``: also
    files that were not made here are read, when reading them can run code (see ``made_here``).
    """

    runners: tuple[str, ...] = ()
    variants: tuple[str, ...] = ()
    targets: tuple[str, ...] = (LOCAL.name,)
    precisions: tuple[str, ...] = ("f32",)
    threads: Positive | None = None
    require_ep: tuple[Share, ...] = ()
    allow_fallback: bool = False
    tuned: bool = True
    trust_workspace: bool = False


class BenchConfig(CellsConfig):
    """What ``edgepipe bench`` measures, and for how long.

    ``rounds`` are the most that are made; ``seconds`` is the least time that each one measures a
    cell. ``batch`` is a number or "sweep", for a dynamic batch. ``concurrency`` is how many runs
    are computed side by side (offline, server), ``rate`` how many arrive in a second (server).
    ``max_slowdown`` is what a baseline allows.
    """

    rounds: Positive = 10
    seconds: Annotated[float, Field(gt=0, le=3600)] = 0.5
    scenario: Literal["single-stream", "offline", "server"] = "single-stream"
    batch: Positive | Literal["sweep"] | None = None
    concurrency: Positive | None = None
    rate: Annotated[float, Field(gt=0)] | None = None
    max_slowdown: Percent = "5%"


class TuneConfig(CellsConfig):
    """What ``edgepipe tune`` searches for, and for how many seconds altogether at most."""

    scenario: Literal["single-stream", "offline"] = "single-stream"
    budget: Annotated[float, Field(gt=0)] = 900.0
    seconds: Annotated[float, Field(gt=0, le=3600)] = 0.3


class ParityConfig(CellsConfig):
    """What ``edgepipe parity`` compares. ``samples`` is how many goldens, all by default."""

    samples: Positive | None = None


class EvaluateConfig(CellsConfig):
    """What ``edgepipe evaluate`` judges. ``data`` holds class folders, ``None``: the digits.

    ``max_drop`` is the loss of top-1 against fp32 that is allowed, in percentage points; without
    it accuracy is measured and not judged. ``decoders`` images are decoded at the same time.
    ``skip_unreadable`` leaves out those that can't be, which decodes all of them twice.
    """

    data: Path | None = None
    skip_unreadable: bool = False
    decoders: Positive = DECODERS
    max_drop: Annotated[float, Field(ge=0, le=100)] | None = None


class PredictConfig(Section):
    """Which cell ``edgepipe predict`` asks, and how many classes of each image it tells."""

    variant: str = "fp32"
    runner: str = "ort-cpu"
    target: str = LOCAL.name
    precision: str = "f32"
    threads: Positive | None = None
    trust_workspace: bool = False
    top: Positive = 5
    decoders: Positive = DECODERS


class PackageConfig(Section):
    """What ``edgepipe package`` writes. Empty ``variants``: all that have one of the formats.

    ``sign_key`` is an elliptic-curve private key (PEM); with ``sign_certificate`` and the
    certificates above it, ``sign_chain``, a box only has to know the root. With ``layout`` it is
    a folder for that server instead of a bundle, which carries no proof. ``release`` is a number
    that counts up: a box refuses an older bundle than the one that it serves.
    """

    output: Path = Path("bundles")
    variants: tuple[str, ...] = ()
    formats: tuple[str, ...] = (exporters.ONNX,)
    layout: Literal["ovms", "triton", "kserve"] | None = None
    sign_key: Path | None = None
    sign_certificate: Path | None = None
    sign_chain: tuple[Path, ...] = ()
    allow_untrained: bool = False
    allow_failed_parity: bool = False
    release: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _signs_with_a_key(self) -> Self:
        if (self.sign_certificate or self.sign_chain) and not self.sign_key:
            raise ValueError("a certificate signs nothing without its key")
        return self


class VerifyConfig(Section):
    """How ``edgepipe verify`` checks a bundle: whose signature is required, what is run.

    ``key`` is a public key (PEM), ``roots`` are certificates; either makes a signature required.
    ``samples`` is how many goldens, all by default.
    """

    key: Path | None = None
    roots: tuple[Path, ...] = ()
    runner: str | None = None
    variant: str | None = None
    samples: Positive | None = None
    allow_unfit: bool = False


class DeployConfig(Section):
    """How ``edgepipe deploy`` brings a bundle onto a box. Paths are the box's own.

    ``folder`` holds the releases, ``key`` is the public key that the box requires a signature
    by, ``restart`` the systemd service that serves ``folder/current``, which then has to stay up
    for ``settle`` seconds. ``allow_downgrade`` lets an older release take the place of a newer one.
    """

    folder: str = "~/edgepipe"
    key: str | None = None
    restart: str | None = None
    settle: Annotated[float, Field(ge=0, le=3600)] = 10.0
    allow_downgrade: bool = False


class CompareConfig(CellsConfig):
    """What ``edgepipe compare`` measures, and for how long.

    ``rounds`` and ``seconds`` as in ``[bench]``. ``input_size`` is that of the zoo's models, and
    ``training`` says whether a training step is timed, too.
    """

    rounds: Positive = 5
    seconds: Annotated[float, Field(gt=0, le=3600)] = 0.3
    input_size: Annotated[int, Field(ge=32, le=2048)] | None = None
    training: bool = True


class TrainConfig(Section):
    """What ``edgepipe train`` learns, and from which weights: ``init`` (a file) or ``weights``.

    ``held_out`` is the part of each class that is judged by, ``patience`` how many epochs it may
    get no better for. ``learning_rate`` is the schedule's peak, by default one that goes with
    where the weights come from. ``augment`` says what the images show. ``skip_unreadable`` leaves
    out images that can't be read.
    """

    data: Path | None = None
    skip_unreadable: bool = False
    weights: Literal["random", "imagenet"] = "random"
    init: Path | None = None
    width: Annotated[float, Field(ge=0.1, le=4)] | None = None
    input_size: Annotated[int, Field(ge=32, le=2048)] | None = None
    epochs: Annotated[int, Field(ge=1, le=10_000)] = 20
    batch: Annotated[int, Field(ge=2, le=4096)] = 32
    learning_rate: Annotated[float, Field(gt=0, le=1)] | None = None
    held_out: Annotated[float, Field(gt=0, lt=1)] = 0.2
    patience: Positive = 5
    augment: Literal["photos", "shapes", "none"] = "photos"
    seed: Annotated[int, Field(ge=0, lt=1 << 32)] = 0
    threads: Positive | None = None


COMMANDS: dict[str, type[Section]] = {
    "export": ExportConfig,
    "bench": BenchConfig,
    "tune": TuneConfig,
    "parity": ParityConfig,
    "evaluate": EvaluateConfig,
    "predict": PredictConfig,
    "package": PackageConfig,
    "verify": VerifyConfig,
    "deploy": DeployConfig,
    "compare": CompareConfig,
    "train": TrainConfig,
}


class TargetConfig(Section):
    """``[targets.NAME]``: the command that starts a Python there, or a machine for ssh.

    ``ssh`` is "host", "user@host" or "ssh://user@host:port", ``python`` the interpreter on it,
    ``options`` more of ssh's own ("-p", "2222").
    """

    command: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    ssh: str | None = None
    python: str | None = None
    options: tuple[str, ...] = ()
    emulated: bool = False

    @field_validator("ssh")
    @classmethod
    def _names_a_host(cls, ssh: str) -> str:
        # ssh would take "-oProxyCommand=..." for an option, and hands %-escapes to commands.
        if not SSH_HOST.fullmatch(ssh):
            raise ValueError("not a host, user@host or ssh://user@host:port")
        return ssh

    @model_validator(mode="after")
    def _starts_one_thing(self) -> Self:
        if (self.command is None) == (self.ssh is None):
            raise ValueError("give it either a command or ssh and python")
        if (self.ssh is None) != (self.python is None) or (self.options and not self.ssh):
            raise ValueError("ssh and python belong together, options only go with ssh")
        return self

    def target(self, name: str) -> Target:
        """The target that this section describes."""
        if self.command is not None:
            return Target(name, self.command, self.emulated)
        assert self.ssh
        assert self.python
        return Target.over_ssh(name, self.ssh, self.python, self.options)


class RunnerConfig(Section):
    """``[runners.NAME]``: the interpreter of the environment that holds it, and its device."""

    python: str | None = None
    device: str | None = None


class GateConfig(Section):
    """``[gates."VARIANT"]`` or ``[gates."VARIANT/RUNNER"]``: limits other than the defaults.

    ``min_kernels_sqnr_db`` is for int8: how near the kernels come to the file's own arithmetic.
    """

    min_sqnr_db: FiniteFloat | None = None
    min_kernels_sqnr_db: FiniteFloat | None = None
    min_cosine: Annotated[float, Field(ge=-1, le=1)] | None = None
    min_top1: Annotated[float, Field(ge=0, le=1)] | None = None


def fraction(text: str) -> float:
    """ "5%" as 0.05. Raises ``ValueError`` for anything else."""
    try:
        value = float(text.removesuffix("%")) / 100
    except ValueError:
        value = -1.0
    if not text.endswith("%") or not 0 <= value < float("inf"):
        raise ValueError('not a percentage such as "5%"')
    return value
