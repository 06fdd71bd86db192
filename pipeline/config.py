"""Configuration: flags > environment > ``edgepipe.toml`` > ``[tool.edgepipe]``, validated once.

Keys are written with hyphens in TOML and with underscores in Python. In the environment they
are ``EDGEPIPE_WORKSPACE``, ``EDGEPIPE_BENCH_THREADS`` and so on, lists separated by commas.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from ..exporters import registry as exporters
from ..exporters.sources import WEIGHTS
from ..runners import registry
from ..runners.images import PRESETS
from ..runners.launch import BUILT_IN_TARGETS, LOCAL, Target
from .arrays import ArrayInput
from .errors import InputError, UsageError
from .placement import required_share

DEFAULT_MODEL = "mobilenet_v2"
SYNTHETIC = "synthetic"
# Two at a time keep a worker busy with pictures of a camera, and bound what is in memory.
DECODERS = 2
CONFIG_FILE = "edgepipe.toml"
ENVIRONMENT_PREFIX = "EDGEPIPE_"
NOT_CONFIGURATION = frozenset({"EDGEPIPE_WEIGHTS_URL", "EDGEPIPE_DEBUG"})
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


def _kebab(name: str) -> str:
    return name.replace("_", "-")


class _Section(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, alias_generator=_kebab, populate_by_name=True
    )


class ExportConfig(_Section):
    """What ``edgepipe export`` makes. ``batch`` is a number or "dynamic".

    ``width`` is the width multiplier of the architectures that have one (1 by default), ``classes``
    how many random weights tell apart. ``exporter`` makes the ONNX file. ``formats`` are written
    beside it. ``checkpoint`` takes the place of ``weights``, ``labels`` is a text file with one a
    line. ``preprocessing`` is a preset; the fields after it change it, see
    ``runners.images.Preprocessing``. ``fold_preprocessing`` makes normalization a part of the
    model. ``calibration`` is a folder of images, or "synthetic". ``inputs`` describe those of a
    model of the user's own that takes no images, see ``arrays``.
    """

    architecture: str | None = None
    weights: str = "digits"
    width: Annotated[float, Field(ge=0.1, le=4)] | None = None
    classes: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    checkpoint: Path | None = None
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
    simplify: bool = True
    variants: tuple[str, ...] = ("fp32", "int8", "int8-avx2")
    formats: tuple[str, ...] = (exporters.ONNX,)


class CellsConfig(_Section):
    """Which cells a command judges. Empty tuples mean "all there are".

    ``require_ep`` are gates on placement ("CUDAExecutionProvider=95%"); ``allow_fallback`` lets
    the nodes that a provider doesn't take run on the CPU's. ``tuned``: where nothing else is asked
    for, cells run with the settings that ``edgepipe tune`` recommends.
    """

    runners: tuple[str, ...] = ()
    variants: tuple[str, ...] = ()
    targets: tuple[str, ...] = (LOCAL.name,)
    precisions: tuple[str, ...] = ("f32",)
    threads: Positive | None = None
    require_ep: tuple[Share, ...] = ()
    allow_fallback: bool = False
    tuned: bool = True


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
    """

    data: Path | None = None
    decoders: Positive = DECODERS
    max_drop: Annotated[float, Field(ge=0, le=100)] | None = None


class PredictConfig(_Section):
    """Which cell ``edgepipe predict`` asks, and how many classes of each image it tells."""

    variant: str = "fp32"
    runner: str = "ort-cpu"
    target: str = LOCAL.name
    precision: str = "f32"
    threads: Positive | None = None
    top: Positive = 5
    decoders: Positive = DECODERS


class PackageConfig(_Section):
    """What ``edgepipe package`` writes. Empty ``variants``: all that have one of the formats.

    ``sign_key`` is an elliptic-curve private key (PEM); with ``sign_certificate`` and the
    certificates above it, ``sign_chain``, a box only has to know the root. With ``layout`` it is
    a folder for that server instead of a bundle, which carries no proof.
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

    @model_validator(mode="after")
    def _signs_with_a_key(self) -> Self:
        if (self.sign_certificate or self.sign_chain) and not self.sign_key:
            raise ValueError("a certificate signs nothing without its key")
        return self


class VerifyConfig(_Section):
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


class DeployConfig(_Section):
    """How ``edgepipe deploy`` brings a bundle onto a box. Paths are the box's own.

    ``folder`` holds the releases, ``key`` is the public key that the box requires a signature
    by, ``restart`` the systemd service that serves ``folder/current``.
    """

    folder: str = "~/edgepipe"
    key: str | None = None
    restart: str | None = None


class CompareConfig(CellsConfig):
    """What ``edgepipe compare`` measures, and for how long.

    ``rounds`` and ``seconds`` as in ``[bench]``. ``input_size`` is that of the zoo's models, and
    ``training`` says whether a training step is timed, too.
    """

    rounds: Positive = 5
    seconds: Annotated[float, Field(gt=0, le=3600)] = 0.3
    input_size: Annotated[int, Field(ge=32, le=2048)] | None = None
    training: bool = True


class TrainConfig(_Section):
    """What ``edgepipe train`` learns, and from which weights: ``init`` (a file) or ``weights``.

    ``held_out`` is the part of each class that is judged by, ``patience`` how many epochs it may
    get no better for. ``learning_rate`` is the schedule's peak, by default one that goes with
    where the weights come from. ``augment`` says what the images show.
    """

    data: Path | None = None
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


COMMANDS: dict[str, type[_Section]] = {
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


class TargetConfig(_Section):
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


class RunnerConfig(_Section):
    """``[runners.NAME]``: the interpreter of the environment that holds it, and its device."""

    python: str | None = None
    device: str | None = None


class GateConfig(_Section):
    """``[gates."VARIANT"]`` or ``[gates."VARIANT/RUNNER"]``: limits other than the defaults."""

    min_sqnr_db: float | None = None
    min_cosine: Annotated[float, Field(ge=-1, le=1)] | None = None
    min_top1: Annotated[float, Field(ge=0, le=1)] | None = None


class Config(_Section):
    """Everything a command needs to know, frozen."""

    workspace: Path = Path("artifacts")
    model: Annotated[str, Field(pattern=NAME)] = DEFAULT_MODEL
    export: ExportConfig = ExportConfig()
    bench: BenchConfig = BenchConfig()
    tune: TuneConfig = TuneConfig()
    parity: ParityConfig = ParityConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    predict: PredictConfig = PredictConfig()
    package: PackageConfig = PackageConfig()
    verify: VerifyConfig = VerifyConfig()
    deploy: DeployConfig = DeployConfig()
    compare: CompareConfig = CompareConfig()
    train: TrainConfig = TrainConfig()
    gates: dict[str, GateConfig] = {}
    targets: dict[str, TargetConfig] = {}
    runners: dict[str, RunnerConfig] = {}

    def target(self, name: str) -> Target:
        """A target by name, defined in the configuration or built in.

        Raises ``UsageError`` for an unknown one.
        """
        if name in self.targets:
            return self.targets[name].target(name)
        if name not in BUILT_IN_TARGETS:
            known = (*BUILT_IN_TARGETS, *self.targets)
            raise UsageError(f"targets: no {name!r}; {nearest(name, known)}")
        return BUILT_IN_TARGETS[name]

    def python_of(self, runner: str) -> str | None:
        """The interpreter that a runner is to use, if it has one of its own."""
        return self.runners[runner].python if runner in self.runners else None

    def device_of(self, runner: str) -> str:
        """The device that a runner is to run on: the configured one, or its own default."""
        configured = self.runners[runner].device if runner in self.runners else None
        return configured or registry.device(runner)


def load(flags: Mapping[str, Any] | None = None, folder: Path = Path()) -> Config:
    """Merge the layers and validate the result.

    ``flags`` is nested like the file (``{"bench": {"threads": 2}}``); ``None`` values are left
    out. Raises ``UsageError`` that names the key, where it stands, and the nearest valid one.
    """
    layers = [
        ("pyproject.toml [tool.edgepipe]", _pyproject(folder)),
        (CONFIG_FILE, _toml(folder / CONFIG_FILE)),
        ("environment", _environment()),
        ("command line", _underscores(_without_none(flags or {}))),
    ]
    merged: dict[str, Any] = {}
    for _, layer in layers:
        merged = _merge(merged, layer)
    try:
        config = Config.model_validate(merged)
    except ValidationError as error:
        raise UsageError(_explain(error, layers)) from error
    _check_names(config)
    return config


def fraction(text: str) -> float:
    """ "5%" as 0.05. Raises ``ValueError`` for anything else."""
    try:
        value = float(text.removesuffix("%")) / 100
    except ValueError:
        value = -1.0
    if not text.endswith("%") or not 0 <= value < float("inf"):
        raise ValueError('not a percentage such as "5%"')
    return value


def nearest(name: str, known: Iterable[str]) -> str:
    """The hint that ends an "unknown name" message."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"


def _check_names(config: Config) -> None:
    targets = {*BUILT_IN_TARGETS, *config.targets}
    runners = registry.names()
    for key, names, known in (
        ("export.weights", [config.export.weights], WEIGHTS),
        ("export.preprocessing", [config.export.preprocessing or "none"], PRESETS),
        ("export.exporter", [config.export.exporter], exporters.names()),
        ("export.formats", config.export.formats, [exporters.ONNX, *exporters.names()]),
        ("export.variants", config.export.variants, VARIANTS),
        ("package.variants", config.package.variants, VARIANTS),
        ("package.formats", config.package.formats, [exporters.ONNX, *exporters.names()]),
        ("verify.runner", filter(None, [config.verify.runner]), runners),
        ("runners", config.runners, runners),
        *(
            check
            for command, section in (
                ("bench", config.bench),
                ("tune", config.tune),
                ("parity", config.parity),
                ("evaluate", config.evaluate),
                ("compare", config.compare),
            )
            for check in (
                (f"{command}.variants", section.variants, VARIANTS),
                (f"{command}.runners", section.runners, runners),
                (f"{command}.targets", section.targets, targets),
                (f"{command}.precisions", section.precisions, PRECISIONS),
            )
        ),
        ("predict.variant", [config.predict.variant], VARIANTS),
        ("predict.runner", [config.predict.runner], runners),
        ("predict.target", [config.predict.target], targets),
        ("predict.precision", [config.predict.precision], PRECISIONS),
        ("gates", [name.partition("/")[0] for name in config.gates], VARIANTS),
        ("gates", [name.split("/", 1)[1] for name in config.gates if "/" in name], runners),
    ):
        for name in names:
            if name not in known:
                raise UsageError(f"{key}: no {name!r}; {nearest(name, known)}")


def _explain(error: ValidationError, layers: list[tuple[str, dict[str, Any]]]) -> str:
    # A misspelled key is reported as unknown and as missing; the former says more.
    found = error.errors()
    first = next((one for one in found if one["type"] == "extra_forbidden"), found[0])
    path = [str(part).replace("-", "_") for part in first["loc"]]
    absent = [path.pop()] if first["type"] == "missing" else []
    # A union adds the name of the alternative that was tried; that is no key of the user's.
    while len(path) > 1 and not any(_has(layer, path) for _, layer in layers):
        path.pop()
    key = ".".join(_kebab(part) for part in (*path, *absent))
    origin = next((name for name, layer in reversed(layers) if _has(layer, path)), "")
    place = f"{key} ({origin})" if origin else key
    if first["type"] != "extra_forbidden":
        message = first["msg"].removeprefix("Value error, ")
        return f"{place}: {message}, got {first['input']!r}"
    section: Any = Config
    for part in path[:-1]:
        section = {
            **COMMANDS,
            "targets": TargetConfig,
            "runners": RunnerConfig,
            "gates": GateConfig,
        }.get(part, section)
    known = [_kebab(name) for name in section.model_fields]
    return f"unknown key {place}; {nearest(_kebab(path[-1]), known)}"


def _has(layer: Any, path: list[str]) -> bool:
    for part in path:
        if not isinstance(layer, dict) or part not in layer:
            return False
        layer = layer[part]
    return True


def _pyproject(folder: Path) -> dict[str, Any]:
    path = folder / "pyproject.toml"
    section: Any = _read_toml(path) if path.is_file() else {}
    for name in ("tool", "edgepipe"):
        section = section.get(name, {})
        if not isinstance(section, dict):
            raise UsageError(f"{path}: {name} is to be a table, got {section!r}")
    return _underscores(section)


def _toml(path: Path) -> dict[str, Any]:
    return _underscores(_read_toml(path)) if path.is_file() else {}


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not valid TOML ({error})") from error
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error


def _environment() -> dict[str, Any]:
    layer: dict[str, Any] = {}
    for name, text in os.environ.items():
        if not name.startswith(ENVIRONMENT_PREFIX) or name in NOT_CONFIGURATION:
            continue
        key = name.removeprefix(ENVIRONMENT_PREFIX).lower()
        section, _, rest = key.partition("_")
        if section in COMMANDS and rest:
            field = COMMANDS[section].model_fields.get(rest)
            is_list = field is not None and str(field.annotation).startswith("tuple")
            value = tuple(part.strip() for part in text.split(",")) if is_list else text
            fields = layer.setdefault(section, {})
            if isinstance(fields, dict):
                fields[rest] = value
        else:
            layer[key] = text
    return layer


def _merge(below: dict[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        if isinstance(value, dict) and isinstance(merged.get(key), dict):
            value = _merge(merged[key], value)
        merged[key] = value
    return merged


def _underscores(layer: Mapping[str, Any], depth: int = 0) -> dict[str, Any]:
    """Keys as Python spells them; the names of targets, runners and gates stay as they are."""
    result = {}
    for key, value in layer.items():
        named = depth == 0 and key in ("targets", "runners", "gates")
        if isinstance(value, dict) and named:
            value = {
                name: _underscores(section, depth + 2) if isinstance(section, dict) else section
                for name, section in value.items()
            }
        elif isinstance(value, dict):
            value = _underscores(value, depth + 1)
        result[key.replace("-", "_")] = value
    return result


def _without_none(flags: Mapping[str, Any]) -> dict[str, Any]:
    """What was given: a section with nothing in it must not hide what a file says of it."""
    given = {
        key: _without_none(value) if isinstance(value, Mapping) else value
        for key, value in flags.items()
    }
    return {key: value for key, value in given.items() if value is not None and value != {}}
