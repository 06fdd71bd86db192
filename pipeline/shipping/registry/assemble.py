"""The archive of what was fetched: `package`'s own, bit for bit, where it is the whole bundle."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ....runners.base import BundleError
from ....runners.bundles import archive, part
from ....runners.bundles.bundle import Bundle, unpack
from ....runners.bundles.index import INDEX, MAX_SIGNATURE_BYTES, SIGNATURE, SUFFIX, Index, Member
from ....runners.bundles.part import PART, Part
from ...storage.atomic import whole, writing
from . import oci
from .fetch import Fetcher
from .oci import Descriptor

HERE = "here"


@dataclass(frozen=True)
class Wanted:
    """What is to be fetched of a bundle: the formats of its variants, and the files for them.

    ``text`` is its ``bundle.json``; ``layers`` are those of all other files.
    """

    index: Index
    text: bytes
    formats: Mapping[str, tuple[str, ...]]
    layers: Sequence[Descriptor]
    signature: Descriptor | None

    @cached_property
    def kept(self) -> Index:
        """The index of what is fetched."""
        return self.index.part(self.formats)

    @property
    def files(self) -> dict[str, Descriptor]:
        """The files to fetch, by name, in the archive's order."""
        found = {str(one.title): one for one in self.layers if one.title in self.kept.members}
        return dict(sorted(found.items()))

    @property
    def left_out(self) -> dict[str, Member]:
        """The files that are not fetched."""
        return {
            name: one for name, one in self.index.members.items() if name not in self.kept.members
        }

    @property
    def head(self) -> dict[str, bytes]:
        """What an archive of it begins with."""
        if not self.left_out:
            return {INDEX: self.text}
        said = Part(part.SCHEMA_VERSION, dict(sorted(self.formats.items())))
        return {INDEX: self.text, PART: said.to_bytes()}

    @property
    def digest(self) -> str:
        """The bundle's, as hex digits: that of its ``bundle.json``."""
        return oci.digest_of(self.text).removeprefix(f"{oci.SHA256}:")

    @property
    def file_name(self) -> str:
        """How an archive of it is called."""
        return Bundle(Path(), Path(), self.kept, self.digest, self.left_out).file_name


def assemble(wanted: Wanted, out: Path, fetcher: Fetcher) -> Path:
    """Write the archive of what is wanted, unless it is there; returns its path.

    Of the model's bundles in ``out`` files are taken that are the same. Raises as ``Fetcher``,
    and ``WorkspaceError`` if it can't be written; then what was there is unchanged.
    """
    path = out / wanted.file_name
    signature = None
    if wanted.signature:
        signature = fetcher.small(wanted.signature, MAX_SIGNATURE_BYTES)
    if _is_there(path, wanted, signature, fetcher):
        return path
    others = out.glob(f"{wanted.index.name}-*{SUFFIX}")
    for other in sorted(others, key=lambda one: one.stat().st_mtime, reverse=True):
        if _lacking(wanted, fetcher):
            _take(other, fetcher)
    files = {name: fetcher.file(blob) for name, blob in wanted.files.items()}
    signed = {SIGNATURE: signature} if signature is not None else {}
    fetcher.progress.say(f"writing {path}")
    with whole(path) as file:
        archive.write(file, {**wanted.head, **files, **signed})
    return path


def _lacking(wanted: Wanted, fetcher: Fetcher) -> bool:
    return any(not fetcher.place(blob).exists() for blob in wanted.files.values())


def _is_there(path: Path, wanted: Wanted, signature: bytes | None, fetcher: Fetcher) -> bool:
    """Whether an archive is what is wanted; else its files are taken.

    A signature that nobody offers any more is no reason to lose the one that is there.
    """
    found = _take(path, fetcher)
    if found is None:
        return False
    digest, names, signed = found
    same = digest == wanted.digest and names == {*wanted.head, *wanted.files}
    return same and signature in (None, signed)


def _take(path: Path, fetcher: Fetcher) -> tuple[str, set[str], bytes | None] | None:
    """Move the files of an archive, checked, to where they would be fetched to.

    Returns the bundle's digest, their names but for the signature, and that; ``None`` for what
    is no archive, or a damaged one.
    """
    folder = fetcher.folder / HERE
    shutil.rmtree(folder, ignore_errors=True)
    with writing(folder):
        folder.mkdir(parents=True)
        try:
            bundle = unpack(path, folder)
        except BundleError:  # also for one that isn't there: what is in it is fetched
            return None
        signed = (folder / SIGNATURE).read_bytes() if bundle.signed else None
        for name, member in bundle.index.members.items():
            (folder / name).replace(fetcher.folder / member.sha256)
        names = {INDEX, *bundle.index.members, *([PART] if bundle.left_out else [])}
        shutil.rmtree(folder)
    return bundle.digest, names, signed
