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
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

from .. import documents
from ..base import BundleError, BundleUnreadable
from . import archive, formats
from .index import (
    INDEX,
    MAX_INDEX_BYTES,
    MAX_SIGNATURE_BYTES,
    SIGNATURE,
    SUFFIX,
    Index,
    Member,
    parse,
)
from .part import MAX_PART_BYTES, PART, Part


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
