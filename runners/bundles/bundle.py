"""Bundles: what a model, its proof and its settings look like on the way to a box.

A bundle is an archive (see ``archive``) whose first member, ``bundle.json``, names every other
one with its size and SHA-256. ``bundle.sig``, where there is one, comes last and signs them all.
A part of a bundle has ``bundle.part.json`` behind its index: what ``pull`` fetched of it. Only
whole variants, or formats of one, are ever left out.
Reading one imports nothing but the standard library, numpy and pydantic.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from .. import documents
from ..base import BundleError, BundleUnreadable
from ..images import Preprocessing
from ..machine import arm, host
from ..timing.plan import SINGLE_STREAM
from . import archive, formats
from .part import MAX_PART_BYTES, PART, STRICT, Part

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


@dataclass(frozen=True)
class Bundle:
    """An unpacked bundle whose every file is the one that its index names.

    ``digest`` is that of ``bundle.json``. Of a part, ``index`` is about what is there, and
    ``left_out`` are the members of the whole that are not.
    """

    path: Path
    folder: Path
    index: Index
    digest: str
    left_out: Mapping[str, Member] = field(default_factory=dict)

    @property
    def file_name(self) -> str:
        """How an archive of it is called; one of a part says of what."""
        part = f"-{'+'.join(sorted(self._kept()))}" if self.left_out else ""
        return f"{self.index.name}-{self.digest[:16]}{part}{SUFFIX}"

    def _kept(self) -> Iterator[str]:
        for name, variant in self.index.variants.items():
            for kind in variant.files:
                yield f"{name}.{kind}"

    @property
    def signed(self) -> bool:
        """Whether a signature came with it. Nothing is said of whose."""
        return (self.folder / SIGNATURE).is_file()

    def evidence(self, kind: str) -> dict[str, Any] | None:
        """A result of the build machine ("parity", "bench"), if the bundle has it."""
        if kind not in self.index.evidence:
            return None
        name = self.index.evidence[kind]
        try:
            return documents.parse((self.folder / name).read_bytes())
        except ValueError as error:
            raise BundleError(f"{self.path}: {name} is no result of edgepipe ({error})") from error


@contextmanager
def unpacked(path: Path) -> Iterator[Bundle]:
    """A bundle in a temporary folder, which goes on leaving. Raises as ``unpack``."""
    with tempfile.TemporaryDirectory(prefix="edgepipe-") as folder:
        yield unpack(path, Path(folder))


def unpack(path: Path, folder: Path) -> Bundle:
    """Check a bundle and write its members into an empty folder.

    Each file is held against the index while it is written, which itself is read first. Raises
    ``BundleUnreadable`` if it can't be read at all, ``BundleError`` for whatever doesn't agree;
    then the folder's contents are not to be used.
    """
    try:
        with path.open("rb") as file:
            return _unpack(path, file, folder)
    except OSError as error:
        raise BundleUnreadable(f"{path}: {error.strerror or error}") from error


def read_index(path: Path) -> Index:
    """The index of an archive, and no more of it. Raises as ``unpack``."""
    try:
        with path.open("rb") as file:
            reader = archive.Reader(file, path)
            return parse(_index_text(path, reader, iter(reader)), path)
    except OSError as error:
        raise BundleUnreadable(f"{path}: {error.strerror or error}") from error


def _index_text(path: Path, reader: archive.Reader, members: Iterator[tuple[str, int]]) -> bytes:
    name, size = next(members, ("nothing", 0))
    if name != INDEX or size > MAX_INDEX_BYTES:
        raise BundleError(f"{path}: begins with {name}, not with a {INDEX}")
    return b"".join(reader.chunks())


def _unpack(path: Path, file: BinaryIO, folder: Path) -> Bundle:
    reader = archive.Reader(file, path)
    members = iter(reader)
    text = _index_text(path, reader, members)
    index, left_out = parse(text, path), {}
    first = next(members, None)
    if first and first[0] == PART:
        members_of_all = index.members
        part, index = _part(path, reader, first[1], index)
        left_out = {name: members_of_all[name] for name in members_of_all.keys() - index.members}
        (folder / PART).write_bytes(part)
        first = next(members, None)
    needed = sum(member.size for member in index.members.values())
    if needed > shutil.disk_usage(folder).free:
        raise BundleUnreadable(f"{path}: {folder} has no room for its {needed >> 20} MiB")
    (folder / INDEX).write_bytes(text)
    absent = set(index.members)
    for name, size in chain([first] if first else [], members):
        if name == SIGNATURE and size <= MAX_SIGNATURE_BYTES:
            _extract(reader, folder / name)
            continue
        expected = index.members.get(name)
        if expected is None:
            raise BundleError(f"{path}: {name} is in it, but not in its {INDEX}")
        if size != expected.size:
            raise BundleError(f"{path}: {name} has {size} bytes, {INDEX} says {expected.size}")
        if _extract(reader, folder / name) != expected.sha256:
            raise BundleError(f"{path}: {name} is not the file that {INDEX} describes")
        absent.remove(name)
    if absent:
        raise BundleError(f"{path}: {sorted(absent)[0]} is missing")
    for variant in index.variants.values():
        for files in variant.files.values():
            if found := formats.problem([folder / name for name in files]):
                raise BundleError(f"{path}: {found}")
    return Bundle(path, folder, index, hashlib.sha256(text).hexdigest(), left_out)


def _part(path: Path, reader: archive.Reader, size: int, index: Index) -> tuple[bytes, Index]:
    if size > MAX_PART_BYTES:
        raise BundleError(f"{path}: {PART} has {size} bytes")
    text = b"".join(reader.chunks())
    try:
        return text, index.part(Part.parse(text).variants)
    except ValueError as error:
        raise BundleError(f"{path}: {PART}: {documents.reason(error)}") from error


def _extract(reader: archive.Reader, path: Path) -> str:
    """Write the member at hand to a new file; returns its SHA-256."""
    path.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with path.open("xb") as file:
        for chunk in reader.chunks():
            digest.update(chunk)
            file.write(chunk)
    return digest.hexdigest()


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
