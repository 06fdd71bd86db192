"""The manifest: what a workspace holds, how it was made, and what tune recommends for it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, Self

from typing_extensions import TypedDict

from ...runners import documents
from ...runners.images import Preprocessing
from ...runners.machine.files import is_file_name
from ..errors import IntegrityError, WorkspaceError
from ..numerics.precision import FOREIGN, GIVEN, REPAIRED, VARIANTS

SCHEMA_VERSION = 2
EXPORT, IMPORT = "edgepipe export", "edgepipe import"
RESTORE = (
    "restore it, or make everything again with `edgepipe export --force`, or "
    "`edgepipe import --force` if it was imported"
)


class Facts(dict[str, Any]):
    """What a manifest says of its model or a stage; what it lacks an older edgepipe left out."""

    def __missing__(self, key: str) -> Any:
        raise WorkspaceError(
            f"the manifest does not say the {key}: make everything again with "
            "`edgepipe export --force`"
        )


class _Tensor(TypedDict):
    name: str
    dtype: str
    shape: list[int | str | None]


class _Data(TypedDict, total=False):
    count: int


class _Model(TypedDict, total=False):
    """The types of a model's facts, as far as commands rely on them."""

    name: str
    architecture: str
    width: float | None
    weights: str
    weights_sha256: str | None
    trained: bool
    parameters: int
    classes: int | None
    inputs: list[_Tensor]
    outputs: list[_Tensor]
    batch: int | str
    input_size: int | list[int] | None
    goldens: _Data | None
    calibration: _Data | None
    simplified: bool
    not_simplified_because: str | None
    arguments: dict[str, Any]
    no_program_because: str | None
    quantized: str | None


@dataclass(frozen=True)
class Artifact:
    """A file of the workspace: SHA-256 as hex digits, size in bytes."""

    sha256: str
    size: int


@dataclass(frozen=True)
class StageRecord:
    """What the manifest remembers of a stage: what it depended on, and what it made.

    ``key`` is the digest of ``depends``, which nothing else reads. ``result`` is what the stage
    has to say about it.
    """

    name: str
    key: str
    depends: Mapping[str, Any]
    artifacts: tuple[str, ...]
    result: Mapping[str, Any]


class CellKey(NamedTuple):
    """What settings are recommended for: a cell in a scenario, by everything that it depends on."""

    variant: str
    runner: str
    target: str
    device: str
    precision: str
    scenario: str


@dataclass(frozen=True)
class Recommendation:
    """The settings that tune found fastest for a variant on a runner of a target.

    ``settings`` are keyword arguments of ``runners.base.Settings``; ``evidence`` is what was
    measured, on which file (its SHA-256 as ``sha256``), when and where.
    """

    variant: str
    runner: str
    target: str
    device: str
    precision: str
    settings: Mapping[str, Any]
    evidence: Mapping[str, Any]
    scenario: str = "single-stream"

    @property
    def key(self) -> CellKey:
        """There is one recommendation for each."""
        return CellKey(
            self.variant, self.runner, self.target, self.device, self.precision, self.scenario
        )


@dataclass(frozen=True)
class Manifest:
    """The contents of ``manifest.json``.

    Two equal exports make two equal manifests; ``recommended`` alone comes from measuring.
    """

    model: Mapping[str, Any] = field(default_factory=dict)
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    labels: tuple[str, ...] | None = None
    variants: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    stages: tuple[StageRecord, ...] = ()
    artifacts: Mapping[str, Artifact] = field(default_factory=dict)
    tools: Mapping[str, str | None] = field(default_factory=dict)
    recommended: tuple[Recommendation, ...] = ()

    @property
    def digests(self) -> dict[str, str]:
        """The SHA-256 of every artifact, by its file name."""
        return {name: artifact.sha256 for name, artifact in self.artifacts.items()}

    def stage(self, name: str) -> StageRecord | None:
        """The record of a stage, if it has run."""
        return next((stage for stage in self.stages if stage.name == name), None)

    @property
    def made_by(self) -> str:
        """The command that the model came in with."""
        return IMPORT if self.stage("import") else EXPORT

    @property
    def given_alone(self) -> bool:
        """Whether it came quantized, without the float model behind it."""
        return set(self.variants) <= set(FOREIGN)

    def lacks(self, variant: str, folder: Path) -> str:
        """What to say of a variant that isn't among those in ``folder``: how to come by it."""
        if self.made_by == IMPORT:
            way = self._way_to(variant)
        elif self.given_alone:
            way = "the module came quantized, and isn't quantized again"
        else:
            way = f"run `{EXPORT} --variant {variant}`"
        return f"variant {variant} is not in {folder}, which has {', '.join(self.variants)}: {way}"

    def _way_to(self, variant: str) -> str:
        """How an imported model comes by a variant that it lacks."""
        if variant == GIVEN:
            return f"{GIVEN} is a file that came quantized, and this one didn't"
        if variant == REPAIRED:
            return f"`{IMPORT} FILE --repair` makes it of a file that came quantized"
        if variant not in VARIANTS:
            return f"{IMPORT} makes {', '.join(VARIANTS)}"
        if self.given_alone:
            return (
                "a quantized file is never quantized again; "
                f"`{IMPORT} FILE --reference FLOAT.onnx` adds what is made of the float model"
            )
        return f"run `{IMPORT} FILE --variant {variant}`"

    def maker(self, file: str) -> StageRecord | None:
        """The record of the stage that made an artifact."""
        return next((stage for stage in self.stages if file in stage.artifacts), None)

    def files(self, main: str) -> tuple[str, ...]:
        """A model's files: the main one, and those that its stage made beside it.

        They share the name before the suffix: ``fp32.xml`` has its weights in ``fp32.bin``.
        """
        stage = self.maker(main)
        beside = [name for name in stage.artifacts if name in self.artifacts] if stage else ()
        stem = Path(main).stem
        return (main, *(name for name in beside if name != main and Path(name).stem == stem))

    def recommendation(self, key: CellKey) -> Recommendation | None:
        """What tune found for a cell, if the variant is still the file that was tuned."""
        for found in self.recommended:
            hashes = [self.artifacts[name].sha256 for name in self.variants[key.variant].values()]
            if found.key == key and found.evidence.get("sha256") in hashes:
                return found
        return None

    def to_json(self) -> str:
        """Text with a digest of itself, so that an edit shows."""
        body = {"schema_version": SCHEMA_VERSION, **asdict(self)}
        return documents.text({**body, "digest": digest(body)})

    @classmethod
    def from_json(cls, text: str, path: Path) -> Self:
        """Parse and check. Raises ``IntegrityError`` for an edited or damaged manifest."""
        from pydantic import TypeAdapter

        try:
            body = documents.parse(text)
            claimed = body.pop("digest")
            schema = body.pop("schema_version")
            if schema != SCHEMA_VERSION:
                raise WorkspaceError(
                    f"{path}: schema {schema}, this edgepipe reads {SCHEMA_VERSION}: "
                    "`edgepipe export --force` makes everything again"
                )
            if claimed != digest({"schema_version": schema, **body}):
                raise IntegrityError(f"{path}: edited since it was written; {RESTORE}")
            found = TypeAdapter(cls).validate_python(body)
            TypeAdapter(_Model).validate_python(body["model"], strict=True)
            found._check()
            stages = tuple(replace(one, result=Facts(one.result)) for one in found.stages)
            return replace(found, model=Facts(found.model), stages=stages)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            why = documents.reason(error)
            raise IntegrityError(f"{path}: not a manifest ({why}); {RESTORE}") from error

    def _check(self) -> None:
        """Raise ``ValueError`` for files that aren't there or lie elsewhere, and the like."""
        from pydantic import TypeAdapter

        files = [name for kinds in self.variants.values() for name in kinds.values()]
        made = [name for stage in self.stages for name in stage.artifacts]
        for name in (*self.artifacts, *files, *made):
            if not is_file_name(name):
                raise ValueError(f"{name!r} is no name for an artifact")
        for name in files:
            if name not in self.artifacts:
                raise ValueError(f"{name} is a variant's, and no artifact")
        if self.preprocessing:
            TypeAdapter(Preprocessing).validate_python(self.preprocessing)


def digest(value: Any) -> str:
    """SHA-256 of a JSON value, independent of the order of its keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
