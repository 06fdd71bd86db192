"""The index of a bundle, ``bundle.json``: its files, variants, gates and settings.

Reading one imports nothing but the standard library, numpy and pydantic.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

from .. import documents
from ..base import BundleError, BundleUnreadable
from ..images import Preprocessing
from ..machine import arm, host
from ..timing.plan import SINGLE_STREAM
from . import archive, formats
from .part import PART, STRICT

SCHEMA_VERSION = 1
INDEX, SIGNATURE, GOLDENS = "bundle.json", "bundle.sig", "goldens.npz"
SUFFIX = ".tar.gz"
MAX_INDEX_BYTES = 4 << 20
MAX_SIGNATURE_BYTES = 4 << 20
# What a variant can ask of a CPU: that its int8 sums are kept in 32 bits, or an extension of ARM64.
EXACT_INT8 = "exact-int8"
ARM_NEEDS = ("dotprod", "i8mm")
# How variants are called whose int8 sums fit into 16 bits: for x86 CPUs that have no more.
AVX2 = "int8-avx2"


@dataclass(frozen=True)
class Member:
    """A file of the bundle: SHA-256 as hex digits, size in bytes."""

    __pydantic_config__ = STRICT
    sha256: str
    size: int


@dataclass(frozen=True)
class Variant:
    """``files`` by format, the one that a runner is pointed to first. ``needs``: of the CPU.

    ``goldens`` is the member with what a quantized file itself makes of the goldens.
    """

    __pydantic_config__ = STRICT
    files: dict[str, tuple[str, ...]]
    needs: str | None = None
    goldens: str | None = None

    def names(self) -> list[str]:
        """Its files in all formats."""
        return [name for files in self.files.values() for name in files]

    def proofs(self) -> list[str]:
        """Its files in all formats, and what they are judged by beside the goldens."""
        return [*self.names(), *([self.goldens] if self.goldens else [])]

    def saturates(self, facts: Mapping[str, Any]) -> bool:
        """Whether a machine's int8 kernels can't compute it exactly. See ``host.saturates``."""
        return self.needs == EXACT_INT8 and host.saturates(facts)

    def misfit(self, facts: Mapping[str, Any]) -> str | None:
        """Why a machine is not one for this variant, ``None`` if it is. See ``host.facts``."""
        if self.needs is None:
            return None
        if self.needs in ARM_NEEDS:
            if self.needs in facts.get("cpu_flags", ()) and arm.is_arm(facts.get("machine")):
                return None
            return f"it is for ARM64 CPUs with {self.needs}, and this one has none"
        if self.needs != EXACT_INT8:
            return f"it needs {self.needs!r}, of which this edgepipe knows nothing"
        if self.saturates(facts):
            return "the CPU has no VNNI, so int8 sums can saturate on inputs that no golden shows"
        return None


@dataclass(frozen=True)
class BundleGate:
    """The limits of a variant at a precision; ``runner`` is ``None`` for all that have no own."""

    __pydantic_config__ = STRICT
    variant: str
    runner: str | None
    precision: str
    min_sqnr_db: float
    min_cosine: float
    min_top1: float
    min_kernels_sqnr_db: float | None = None


@dataclass(frozen=True)
class Recommended:
    """Settings found fastest for a variant on a runner of a target: see ``base.Settings``.

    They are for one device and precision, and one ``scenario``: "single-stream" is one image
    after the other.
    """

    __pydantic_config__ = STRICT
    variant: str
    runner: str
    target: str
    device: str
    precision: str
    settings: dict[str, Any]
    evidence: dict[str, Any]
    scenario: str = SINGLE_STREAM


@dataclass(frozen=True)
class Index:
    """The contents of ``bundle.json``.

    ``edgepipe`` is the version that packaged it, ``provenance`` where the model comes from,
    ``evidence`` maps "parity" and "bench" to the members that hold them. ``waived`` are the
    conditions that packaging was told to do without ("untrained", "failed-parity"). ``release``
    is a number that its maker counts up, ``created`` when its proof was made (UTC, ISO 8601): by
    them a box tells an older bundle from a newer one, see ``older``. ``max_p99_ms`` is what 99 % of
    the runs are certified not to exceed, ms, where something is.
    """

    __pydantic_config__ = STRICT
    schema_version: int
    name: str
    edgepipe: str
    model: dict[str, Any]
    preprocessing: Preprocessing
    labels: tuple[str, ...] | None
    variants: dict[str, Variant]
    gates: tuple[BundleGate, ...]
    recommended: tuple[Recommended, ...]
    provenance: dict[str, Any]
    evidence: dict[str, str]
    members: dict[str, Member] = field(default_factory=dict)
    waived: tuple[str, ...] = ()
    release: int = 0
    created: str | None = None
    max_p99_ms: float | None = None

    def gate(self, variant: str, runner: str, precision: str) -> BundleGate | None:
        """The limits of a cell: its runner's own, else the variant's."""
        found = {
            gate.runner: gate
            for gate in self.gates
            if (gate.variant, gate.precision) == (variant, precision)
        }
        return found.get(runner) or found.get(None)

    def to_bytes(self) -> bytes:
        """As ``bundle.json``; equal indices give equal bytes."""
        return documents.text(asdict(self), indent=1, sort_keys=True).encode()

    def part(self, formats: Mapping[str, Collection[str]]) -> Index:
        """What is left of it with these variants, each in these formats, and nothing else.

        Raises ``ValueError`` for a variant or format that it hasn't.
        """
        kept: dict[str, Variant] = {}
        for name, kinds in formats.items():
            offered = self.variants[name].files if name in self.variants else {}
            if not kinds or not set(kinds) <= set(offered):
                raise ValueError(f"no variant {name} in {', '.join(kinds) or 'no format'} in it")
            files = {kind: offered[kind] for kind in offered if kind in kinds}
            kept[name] = replace(self.variants[name], files=files)
        if not kept:
            raise ValueError("a part without a variant")
        before = {name for one in self.variants.values() for name in one.proofs()}
        gone = before - {name for one in kept.values() for name in one.proofs()}
        return replace(
            self,
            variants={name: kept[name] for name in self.variants if name in kept},
            gates=tuple(one for one in self.gates if one.variant in kept),
            recommended=tuple(one for one in self.recommended if one.variant in kept),
            members={name: one for name, one in self.members.items() if name not in gone},
        )


def older(index: Index, than: Index) -> str | None:
    """How a bundle is older than another of the same model, in one line; ``None`` if it isn't.

    The release number decides, and where both have the same one the time of creation.
    """
    if index.name != than.name:
        return None
    if index.release != than.release:
        which = f"release {index.release} is older than {than.release}"
        return which if index.release < than.release else None
    if index.created and than.created and index.created < than.created:
        return f"it was made at {index.created}, the other one at {than.created}"
    return None


def parse(text: bytes, path: Path) -> Index:
    """Read a ``bundle.json`` and check that it agrees with itself. ``path`` is for messages."""
    from pydantic import ValidationError

    try:
        schema = documents.parse(text)["schema_version"]
        if type(schema) is int and schema > SCHEMA_VERSION:
            raise BundleUnreadable(
                f"{path}: schema {schema}, this edgepipe reads {SCHEMA_VERSION}: update it"
            )
        index = _adapter().validate_json(text)
    except ValidationError as error:
        raise BundleError(f"{path}: {INDEX}: {documents.reason(error)}") from error
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise BundleError(f"{path}: its {INDEX} is damaged ({error})") from error
    if problem := _disagreement(index):
        raise BundleError(f"{path}: {INDEX}: {problem}")
    return index


@cache
def _adapter() -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(Index)


def _disagreement(index: Index) -> str | None:
    """What an index says that can't be, if anything."""
    if index.schema_version != SCHEMA_VERSION:
        return f"there is no schema {index.schema_version}"
    if "/" in index.name or not archive.NAME.fullmatch(index.name):
        return f"{index.name!r} is no name for a model"
    for name, member in index.members.items():
        if not archive.is_name(name) or name in (INDEX, PART, SIGNATURE):
            return f"{name!r} is no name for a member"
        if any(str(parent) in index.members for parent in PurePosixPath(name).parents):
            return f"{name!r} lies below a file"
        if member.size < 0:
            return f"{name} has a size of {member.size}"
    if not index.variants:
        return "no variants"
    named = [name for variant in index.variants.values() for name in variant.proofs()]
    for variant in index.variants.values():
        if not variant.files or not all(variant.files.values()):
            return "a variant without a file"
        for kind, files in variant.files.items():
            if formats.can_run_code(kind):
                return f"a bundle holds no {kind}: reading one can run code"
            if found := formats.misnamed(kind, files):
                return found
    for name in (GOLDENS, *named, *index.evidence.values()):
        if name not in index.members:
            return f"{name} is named, but is no member"
    for entry in (*index.gates, *index.recommended):
        if entry.variant not in index.variants:
            return f"there is no variant {entry.variant}"
    return None
