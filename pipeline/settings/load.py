"""Configuration: flags > environment > ``edgepipe.toml`` > ``[tool.edgepipe]``, validated once.

Keys are written with hyphens in TOML and with underscores in Python. In the environment they
are ``EDGEPIPE_WORKSPACE``, ``EDGEPIPE_BENCH_THREADS`` and so on, lists separated by commas.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError

from ...exporters import registry as exporters
from ...exporters.weights.sources import WEIGHTS
from ...runners import registry
from ...runners.bundles.formats import DATA_ONLY, can_run_code
from ...runners.images import PRESETS
from ...runners.targets import BUILT_IN_TARGETS
from ..errors import InputError, UsageError
from ..numerics.precision import FOREIGN, VARIANTS, kind_of
from ..storage.workspace import models_in
from .judging import PRECISIONS, EvaluateConfig, GateConfig, ParityConfig, PredictConfig
from .machine import Places, RunnerConfig, TargetConfig
from .making import (
    DEFAULT_MODEL,
    NAME,
    SEARCHED_NAMES,
    ExportConfig,
    ImportConfig,
    QuantizeConfig,
    TrainConfig,
)
from .nearest import nearest
from .options import Help, Section
from .refusal import CALLER, explained, kebab
from .shipping import (
    DeployConfig,
    HeartbeatConfig,
    PackageConfig,
    PullConfig,
    PushConfig,
    ReleaseConfig,
    RolloutConfig,
    VerifyConfig,
)
from .speed import BenchConfig, CompareConfig, TuneConfig

CONFIG_FILE = "edgepipe.toml"
ENVIRONMENT_PREFIX = "EDGEPIPE_"
NOT_CONFIGURATION = frozenset({"EDGEPIPE_WEIGHTS_URL", "EDGEPIPE_DEBUG"})
COMMANDS: dict[str, type[Section]] = {
    one.table: one
    for one in (
        ExportConfig,
        ImportConfig,
        QuantizeConfig,
        TrainConfig,
        BenchConfig,
        TuneConfig,
        CompareConfig,
        ParityConfig,
        EvaluateConfig,
        PredictConfig,
        PackageConfig,
        VerifyConfig,
        DeployConfig,
        PushConfig,
        PullConfig,
        ReleaseConfig,
        RolloutConfig,
        HeartbeatConfig,
    )
}
# Tables of tables, by a name of the user's.
NAMED: dict[str, type[Section]] = {
    "targets": TargetConfig,
    "runners": RunnerConfig,
    "gates": GateConfig,
}


class Config(Section):
    """All that is configured, frozen: each room is handed the section that it needs."""

    workspace: Annotated[Path, Help("Where artifacts live.")] = Path("artifacts")
    model: Annotated[
        Annotated[str, Field(pattern=NAME)], Help("The model that commands are about.")
    ] = DEFAULT_MODEL
    export: ExportConfig = ExportConfig()
    import_: Annotated[ImportConfig, Field(alias="import")] = ImportConfig()
    quantize: QuantizeConfig = QuantizeConfig()
    train: TrainConfig = TrainConfig()
    bench: BenchConfig = BenchConfig()
    tune: TuneConfig = TuneConfig()
    compare: CompareConfig = CompareConfig()
    parity: ParityConfig = ParityConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    predict: PredictConfig = PredictConfig()
    package: PackageConfig = PackageConfig()
    verify: VerifyConfig = VerifyConfig()
    deploy: DeployConfig = DeployConfig()
    push: PushConfig = PushConfig()
    pull: PullConfig = PullConfig()
    release: ReleaseConfig = ReleaseConfig()
    rollout: RolloutConfig = RolloutConfig()
    heartbeat: HeartbeatConfig = HeartbeatConfig()
    gates: dict[str, GateConfig] = {}
    targets: dict[str, TargetConfig] = {}
    runners: dict[str, RunnerConfig] = {}

    @property
    def places(self) -> Places:
        """Where runners run."""
        return Places(self.targets, self.runners)


def load(flags: Mapping[str, Any] | None = None, folder: Path = Path()) -> Config:
    """Merge the layers and validate the result.

    ``flags`` is nested like the file (``{"bench": {"threads": 2}}``); ``None`` values are left
    out. Raises ``UsageError`` that names the key, where it stands, and the nearest valid one.
    """
    layers = [
        ("pyproject.toml [tool.edgepipe]", _pyproject(folder)),
        (CONFIG_FILE, _toml(folder / CONFIG_FILE)),
        ("environment", _environment()),
        (CALLER.get(), _underscores(_without_none(flags or {}))),
    ]
    merged: dict[str, Any] = {}
    for _, layer in layers:
        merged = _merge(merged, layer)
    try:
        config = Config.model_validate(merged)
    except ValidationError as error:
        raise UsageError(explained(error, layers, {"": Config, **COMMANDS, **NAMED})) from error
    _check_names(config)
    _check_gates(config)
    _check_signing(config.package)
    return config


def load_exported(flags: Mapping[str, Any] | None = None) -> Config:
    """As ``load``, for commands about a model that was exported.

    Where none is named, and the workspace holds a single one, it is that.
    """
    config = load(flags)
    there = models_in(config.workspace)
    if "model" in config.model_fields_set or len(there) != 1:
        return config
    return config.model_copy(update={"model": there[0]})


def _check_names(config: Config) -> None:
    for name in config.package.formats:
        if can_run_code(name):
            raise UsageError(
                f"package.formats: no {name!r} in a bundle, since reading one can run code; "
                f"known: {', '.join(DATA_ONLY)}"
            )
    targets = sorted({*BUILT_IN_TARGETS, *config.targets})
    runners = registry.names()
    for key, names, known in (
        ("export.weights", [config.export.weights], WEIGHTS),
        ("export.preprocessing", [config.export.preprocessing or "none"], PRESETS),
        ("export.exporter", [config.export.exporter], exporters.names()),
        ("export.formats", config.export.formats, [exporters.ONNX, *exporters.names()]),
        ("export.variants", config.export.variants, VARIANTS),
        ("import.preprocessing", [config.import_.preprocessing or "none"], PRESETS),
        ("import.variants", config.import_.variants, VARIANTS),
        ("package.variants", config.package.variants, VARIANTS),
        ("verify.runner", filter(None, [config.verify.runner]), runners),
        ("pull.runner", filter(None, [config.pull.runner]), runners),
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
        ("bench.reference", [config.bench.reference], VARIANTS),
        ("predict.variant", filter(None, [config.predict.variant]), VARIANTS),
        ("predict.runner", [config.predict.runner], runners),
        ("predict.target", [config.predict.target], targets),
        ("predict.precision", [config.predict.precision], PRECISIONS),
        ("gates", [name.partition("/")[0] for name in config.gates], VARIANTS),
        ("gates", [name.split("/", 1)[1] for name in config.gates if "/" in name], runners),
    ):
        for name in names:
            # What a search found has names of its own, which the workspace knows.
            there = known is VARIANTS and key not in ("export.variants", "import.variants")
            if there and (name in FOREIGN or SEARCHED_NAMES.fullmatch(name)):
                continue
            if name not in known:
                raise UsageError(f"{key}: no {name!r}; {nearest(name, known)}")


def _check_signing(section: PackageConfig) -> None:
    for given, needed in (
        ("sign_certificate", "sign_key"),
        ("sign_chain", "sign_key"),
        ("sign_chain", "sign_certificate"),
    ):
        if getattr(section, given) and not getattr(section, needed):
            raise UsageError(
                f"package.{kebab(given)}: signs nothing without package.{kebab(needed)}"
            )


def _check_gates(config: Config) -> None:
    for name, gate in config.gates.items():
        if gate.min_kernels_sqnr_db is not None and kind_of(name.partition("/")[0], "") != "int8":
            raise UsageError(
                f'gates."{name}".min-kernels-sqnr-db: int8 alone is judged by its kernels'
            )


def _pyproject(folder: Path) -> dict[str, Any]:
    path = folder / "pyproject.toml"
    section: Any = read_toml(path) if path.is_file() else {}
    for name in ("tool", "edgepipe"):
        section = section.get(name, {})
        if not isinstance(section, dict):
            raise UsageError(f"{path}: {name} is to be a table, got {section!r}")
    return _underscores(section)


def _toml(path: Path) -> dict[str, Any]:
    return _underscores(read_toml(path)) if path.is_file() else {}


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a file. Raises ``UsageError`` where it is no TOML, ``InputError`` unread."""
    try:
        return tomllib.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: not valid TOML ({error})") from error
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error


def _environment() -> dict[str, Any]:
    """The variables that are settings, or nearly: those of somebody else's are let be."""
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
        elif key in Config.model_fields or _looks_like_a_setting(key):
            layer[key] = text
    return layer


def _looks_like_a_setting(key: str) -> bool:
    known = [*Config.model_fields]
    for command, section in COMMANDS.items():
        known += [f"{command}_{field}" for field in section.model_fields]
    return bool(difflib.get_close_matches(key, known, n=1, cutoff=0.8))


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
        named = depth == 0 and key in NAMED
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
