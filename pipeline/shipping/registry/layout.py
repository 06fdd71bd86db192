"""An OCI image layout: a repository as a folder, for sites that no network reaches.

image-spec 1.1, image-layout.md: ``oci-layout``, ``index.json``, ``blobs/sha256/HEX``.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ....runners import documents
from ....runners.machine.locks import hold
from ...errors import InputError
from ...storage.atomic import whole, write_whole, writing
from . import oci
from .oci import Descriptor, ImageIndex

MARK, LISTING, LOCK = "oci-layout", "index.json", ".edgepipe.lock"
LAYOUT_VERSION = "1.0.0"
CHUNK_BYTES = 1 << 20


class Layout:
    """A layout, which pushes may share: each holds the listing's lock while it changes it."""

    def __init__(self, folder: Path, *, new: bool = False) -> None:
        self.where = f"oci:{folder}"
        self._folder = folder
        self._blobs = folder / "blobs" / oci.SHA256
        if new and not (folder / MARK).exists():
            self._make()
        if not (folder / MARK).is_file():
            raise InputError(f"{folder}: no OCI layout there: it has no {MARK}; `push` makes one")

    def manifest(self, reference: str) -> bytes | None:
        """See ``Store``."""
        if not reference.startswith(f"{oci.SHA256}:"):
            tagged = [one for one in self._listing().manifests if _tag(one) == reference]
            if not tagged:
                return None
            reference = tagged[-1].digest
        path = self._path(reference)
        if not path.is_file():
            return None
        if path.stat().st_size > oci.MAX_DOCUMENT_BYTES:
            raise InputError(f"{path}: too large for a manifest")
        with _reading(path):
            return path.read_bytes()

    def put_manifest(self, data: bytes, media_type: str, tag: str | None = None) -> bool:
        """See ``Store``. What is under a tag stays a blob when the tag moves."""
        found = oci.describe(data, media_type)
        if not self.has(found):
            write_whole(self._path(found.digest), data)
        if tag is None:
            return False
        found = found.model_copy(update={"annotations": {oci.REFERENCE: tag}})
        with self._locked():
            others = [one for one in self._listing().manifests if _tag(one) != tag]
            listing = ImageIndex(manifests=(*others, found))
            write_whole(self._folder / LISTING, listing.to_bytes())
        return False

    def referrers(self, digest: str) -> bytes | None:
        """See ``Store``: a layout keeps none by itself."""
        return None

    def has(self, blob: Descriptor) -> bool:
        """See ``Store``. A damaged one isn't: it is written anew."""
        path = self._path(blob.digest)
        with _reading(path):
            return path.is_file() and oci.describe(path, "").digest == blob.digest

    def put(self, blob: Descriptor, data: Path) -> None:
        """See ``Store``."""
        with whole(self._path(blob.digest)) as file, data.open("rb") as source:
            shutil.copyfileobj(source, file, CHUNK_BYTES)

    def read(self, blob: Descriptor, offset: int = 0) -> Iterator[bytes]:
        """See ``Store``."""
        path = self._path(blob.digest)
        with _reading(path), path.open("rb") as file:
            file.seek(offset)
            while chunk := file.read(CHUNK_BYTES):
                yield chunk

    def _path(self, digest: str) -> Path:
        return self._blobs / digest.removeprefix(f"{oci.SHA256}:")

    def _listing(self) -> ImageIndex:
        path = self._folder / LISTING
        with _reading(path):
            if path.stat().st_size > oci.MAX_DOCUMENT_BYTES:
                raise InputError(f"{path}: too large for a listing")
            return oci.read(ImageIndex, path.read_bytes(), str(path))

    def _make(self) -> None:
        """The mark comes last: a folder that has it is a whole layout."""
        with writing(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            there = {one.name for one in self._folder.iterdir()}
            if there - {LISTING, LOCK, "blobs"}:  # but what a making that was cut off left
                raise InputError(f"{self._folder}: not empty, and no OCI layout")
            self._blobs.mkdir(parents=True, exist_ok=True)
        with self._locked():
            if not (self._folder / LISTING).exists():
                write_whole(self._folder / LISTING, ImageIndex().to_bytes())
            text = documents.text({"imageLayoutVersion": LAYOUT_VERSION})
            write_whole(self._folder / MARK, text.encode())

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with writing(self._folder):
            lock = hold(self._folder / LOCK, waiting=lambda: None)
        try:
            yield
        finally:
            os.close(lock)


def _tag(manifest: Descriptor) -> str | None:
    return (manifest.annotations or {}).get(oci.REFERENCE)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from error
