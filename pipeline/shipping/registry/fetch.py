"""Blobs out of a store: each whole and held to its digest while it arrives, or not there at all.

They lie in a folder that outlives a pull that breaks. The next one goes on from there, in the
middle of a blob, too.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ....runners.machine.files import sha256_file
from ...errors import IntegrityError
from ...progress import Progress
from ...storage.atomic import writing
from . import oci
from .address import Interrupted
from .oci import Descriptor
from .store import Store

CHUNK_BYTES = 1 << 20
PART = ".part"
TRIES = 4


class Fetcher:
    """Fetches from one store into one folder; ``bytes`` is what has come, documents included."""

    def __init__(self, store: Store, folder: Path, progress: Progress) -> None:
        self.bytes = 0
        self.where = store.where
        self.folder = folder
        self._store = store
        self.progress = progress

    def manifest(self, reference: str) -> bytes | None:
        """A manifest by tag or digest, held to the digest if it is that; ``None``: not there."""
        data = self._store.manifest(reference)
        if data is None:
            return None
        self.bytes += len(data)
        if reference.startswith(f"{oci.SHA256}:") and oci.digest_of(data) != reference:
            raise IntegrityError(f"{self.where}: what is under {reference} is not that")
        return data

    def referrers(self, digest: str) -> bytes | None:
        """What the store itself lists as referring to a manifest."""
        data = self._store.referrers(digest)
        self.bytes += len(data or b"")
        return data

    def read(self, blob: Descriptor, offset: int = 0) -> Iterator[bytes]:
        """A blob's bytes from there on, as the store has them: not held to its digest."""
        for chunk in self._store.read(blob, offset):
            self.bytes += len(chunk)
            yield chunk

    def small(self, blob: Descriptor, most: int) -> bytes:
        """A blob's bytes, of at most so many."""
        if blob.size > most:
            raise IntegrityError(
                f"{self.where}: {_name(blob)} has {blob.size} bytes, at most {most} can be"
            )
        return self.file(blob).read_bytes()

    def place(self, blob: Descriptor) -> Path:
        """Where a blob lies when it has been fetched."""
        return self.folder / blob.digest.removeprefix(f"{oci.SHA256}:")

    def file(self, blob: Descriptor) -> Path:
        """A blob as a file of the folder, fetched unless it is there.

        Raises ``IntegrityError`` for one that isn't what its digest says, ``InputError`` if it
        can't be had, and ``WorkspaceError`` if it can't be written.
        """
        path = self.place(blob)
        if path.is_file() and f"{oci.SHA256}:{sha256_file(path)}" == blob.digest:
            return path
        part = path.with_name(path.name + PART)
        with writing(part, "What has arrived stays for the next pull"):
            self.folder.mkdir(parents=True, exist_ok=True)
            resumed = part.exists()
            found = self._arrive(blob, part)
            if (
                found != blob.digest and resumed
            ):  # what an earlier pull left may be the damaged part
                part.unlink()
                found = self._arrive(blob, part)
            if found != blob.digest:
                part.unlink()
                raise IntegrityError(
                    f"{self.where}: {_name(blob)} is not the file that its digest says, "
                    f"{blob.digest}; nothing of it was kept"
                )
            part.replace(path)
        return path

    def _arrive(self, blob: Descriptor, part: Path) -> str:
        """Let a blob arrive behind what there is of it; returns the digest of it all."""
        for left in reversed(range(TRIES)):
            before = part.stat().st_size if part.exists() else 0
            try:
                return self._append(blob, part)
            except Interrupted:
                if not left or part.stat().st_size == before:
                    raise
        raise AssertionError("the last try returns or raises")

    def _append(self, blob: Descriptor, part: Path) -> str:
        with part.open("a+b") as file:
            file.seek(0)
            digest = hashlib.sha256()
            while chunk := file.read(CHUNK_BYTES):
                digest.update(chunk)
            if file.tell() < blob.size:
                self._stream(blob, file, digest)
            file.flush()
            os.fsync(file.fileno())
        return f"{oci.SHA256}:{digest.hexdigest()}"

    def _stream(self, blob: Descriptor, file: Any, digest: Any) -> None:
        have = file.tell()
        for chunk in self.read(blob, have):
            have += len(chunk)
            if have > blob.size:
                raise IntegrityError(
                    f"{self.where}: more of {_name(blob)} than its {blob.size} bytes"
                )
            digest.update(chunk)
            file.write(chunk)
            self.progress.step(have, blob.size, f"fetching {_name(blob)}")
        self.progress.step(1, 1, "")
        if have < blob.size:
            raise Interrupted(f"{self.where}: {_name(blob)} ends after {have} bytes")


def _name(blob: Descriptor) -> str:
    """Of a file, as its manifest calls it: text of somebody else's, so in quotes."""
    return repr(blob.title) if blob.title else blob.digest
