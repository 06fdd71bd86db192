"""Which bundle is the newest, by TUF: what a box believes of a repository, and what it refuses.

The metadata of The Update Framework (theupdateframework.github.io/specification, 1.0) lies in
the same repository as the bundles, each file as an artifact under a tag: ``tuf-2.root.json``,
``tuf-timestamp.json``. A target is a tag, and its contents the manifest that the tag stands for.
python-tuf's ``Updater`` reads it; what it has seen stays in a folder of this machine, and nothing
older than that is believed again.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from .....runners.machine.files import state_folder, sync_folder
from .....runners.machine.locks import hold
from ....errors import EdgepipeError, InputError, IntegrityError, MissingLibrary, UsageError
from ....storage.atomic import writing
from .. import artifact, oci
from ..oci import Descriptor, Manifest
from ..store import Store

RELEASES = "application/vnd.edgepipe.releases.v1"
METADATA = "application/vnd.edgepipe.tuf.metadata.v1+json"
PREFIX = "tuf-"
ROLES = ("root", "timestamp", "snapshot", "targets")
# A field of timestamp.json of our own: when it was signed (UTC, ISO 8601).
SIGNED_AT = "x-edgepipe-signed-at"
# Before any expiry: for those who go by version numbers.
NO_CLOCK = datetime(1970, 1, 1, tzinfo=UTC)
LARGEST = 5_000_000  # bytes, what python-tuf takes of targets.json

Source = Callable[[str], bytes | None]


class NoReleases(InputError):
    """A repository that says nothing of releases."""


@dataclass(frozen=True)
class Trusted:
    """What is believed of a repository: TUF's four documents, verified, and their targets."""

    documents: Mapping[str, Any]

    @property
    def targets(self) -> Mapping[str, Any]:
        """The target of each tag."""
        return self.documents["targets"].targets

    @property
    def versions(self) -> dict[str, int]:
        """The version of each document."""
        return {role: self.documents[role].version for role in ROLES}

    @property
    def expires(self) -> dict[str, str]:
        """When each document ends."""
        return {role: self.documents[role].expires.isoformat() for role in ROLES}


@dataclass(frozen=True)
class Newest:
    """A tag's newest release: the digest and length of its manifest, and what was said of it."""

    tag: str
    digest: str
    length: int
    about: Mapping[str, Any]
    versions: Mapping[str, int]
    expires: Mapping[str, str]


class Readable(Protocol):
    """What metadata is read from: a store, or what fetches from one."""

    where: str

    def manifest(self, reference: str) -> bytes | None: ...
    def read(self, blob: Descriptor, offset: int = 0) -> Iterator[bytes]: ...


def source_of(store: Readable) -> Source:
    """The metadata in a repository, by file name; ``None`` for a file that isn't there."""

    def get(name: str) -> bytes | None:
        data = store.manifest(f"{PREFIX}{name}")
        if data is None:
            return None
        manifest = oci.read(Manifest, data, f"{store.where}: {name}")
        if len(manifest.layers) != 1 or manifest.layers[0].size > LARGEST:
            raise IntegrityError(f"{store.where}: {name} is no metadata of a release")
        return b"".join(_limited(store.read(manifest.layers[0])))

    return get


def put(store: Store, name: str, data: bytes) -> None:
    """Put a file of metadata into a repository, under its tag."""
    blob = oci.describe(data, METADATA, name)
    config = oci.describe(oci.EMPTY_DATA, oci.EMPTY)
    artifact.put(store, config, oci.EMPTY_DATA)
    artifact.put(store, blob, data)
    manifest = Manifest(artifact_type=RELEASES, config=config, layers=(blob,))
    store.put_manifest(manifest.to_bytes(), oci.MANIFEST, f"{PREFIX}{name}")


def newest(
    store: Readable, root: Path, state: Path | None, tag: str | None, *, no_clock: bool
) -> Newest:
    """The newest release under a tag, or under the only one there is.

    Raises ``IntegrityError`` for metadata that is expired, older than what this machine has seen,
    or not signed by the keys of ``root``; ``InputError`` where there is none.
    """
    try:
        trust = root.read_bytes()
    except OSError as error:
        raise InputError(f"{root}: {error.strerror or error}") from error
    folder = state or _state_of(trust)
    time = NO_CLOCK if no_clock else None
    trusted = believe(source_of(store), trust, folder, store.where, time)
    if no_clock:
        _check_ended(trusted, store.where)
    found = trusted.targets
    if tag is None and len(found) != 1:
        raise UsageError(
            f"{store.where}: say which: {', '.join(f':{one}' for one in sorted(found)) or 'none'}"
        )
    tag = tag or next(iter(found))
    if tag not in found:
        known = ", ".join(sorted(found)) or "nothing"
        raise IntegrityError(f"{store.where}: nothing is released as {tag}; there is {known}")
    digest = f"{oci.SHA256}:{found[tag].hashes.get(oci.SHA256, '')}"
    about = found[tag].custom or {}
    return Newest(tag, digest, found[tag].length, about, trusted.versions, trusted.expires)


def believe(
    source: Source, root: bytes, folder: Path, where: str, time: datetime | None
) -> Trusted:
    """Update what a machine believes of a repository, and return it.

    ``folder`` is its memory, ``time`` what expiry is judged by, now if ``None``.
    """
    try:
        from tuf.api.exceptions import DownloadError, RepositoryError
        from tuf.ngclient import Updater, UpdaterConfig
    except ImportError as error:
        raise MissingLibrary(f'{error}; pip install "edgepipe[registry]"') from error
    with _alone(folder), writing(folder, "Nothing was fetched"):
        try:
            updater = Updater(
                str(folder),
                "tuf:",
                fetcher=_fetcher(source),
                config=UpdaterConfig(targets_max_length=LARGEST),
                bootstrap=root,
            )
            known = updater._trusted_set
            if time:
                known.reference_time = time
            updater.refresh()
        except RepositoryError as error:
            raise IntegrityError(f"{where}: {_said(error)}") from error
        except DownloadError as error:
            raise _missing(error, where) from error
        finally:
            _sync(folder)
    return Trusted({role: known[role] for role in ROLES})


def _check_ended(trusted: Trusted, where: str) -> None:
    """Raise ``IntegrityError`` for what had ended by the time that the timestamp was signed at.

    It is the one moment that somebody without a clock can be sure to be past.
    """
    signed = _signed_at(trusted.documents["timestamp"])
    for role in ROLES:
        if signed and trusted.documents[role].is_expired(signed):
            raise IntegrityError(
                f"{where}: {role}.json had ended when timestamp.json was signed, {signed}"
            )


def _fetcher(source: Source) -> Any:
    from tuf.api.exceptions import DownloadHTTPError
    from tuf.ngclient import FetcherInterface

    class Fetcher(FetcherInterface):
        def _fetch(self, url: str) -> Iterator[bytes]:
            name = url.rpartition("/")[2]
            data = source(name)
            if data is None:
                raise DownloadHTTPError(name, 404)
            return iter([data])

    return Fetcher()


def _missing(error: Exception, where: str) -> Exception:
    """What a failed download was: an error of ours inside it, or a file that isn't there."""
    from tuf.api.exceptions import DownloadLengthMismatchError

    if isinstance(error.__cause__, EdgepipeError):
        return error.__cause__
    if isinstance(error, DownloadLengthMismatchError):
        return IntegrityError(f"{where}: its files are not of one release ({error})")
    if getattr(error, "status_code", None) != 404:
        return IntegrityError(f"{where}: {error}")
    if str(error) == "timestamp.json":
        return NoReleases(f"{where}: says nothing of releases; `edgepipe release` makes it do so")
    return IntegrityError(f"{where}: {error} of its releases is missing")


def _said(error: Exception) -> str:
    """A refusal of python-tuf's in the words of a user."""
    from tuf.api import exceptions

    if isinstance(error, exceptions.ExpiredMetadataError):
        return (
            f"{error}: nobody has signed since that nothing is newer, or it is held back; "
            "`edgepipe release` renews it, and --no-clock is for machines whose time is wrong"
        )
    if isinstance(error, exceptions.BadVersionNumberError):
        return f"older than what this machine has seen, an old copy ({error})"
    if isinstance(error, exceptions.UnsignedMetadataError):
        return f"not signed by the keys of the root ({error})"
    if isinstance(error, exceptions.LengthOrHashMismatchError):
        return f"its files are not of one release ({error})"
    return f"no metadata of releases that can be believed ({error})"


def _signed_at(timestamp: Any) -> datetime | None:
    try:
        return datetime.fromisoformat(timestamp.unrecognized_fields[SIGNED_AT])
    except (KeyError, TypeError, ValueError):
        return None


def _state_of(root: bytes) -> Path:
    """What this machine remembers of the repository of a root, or of one that it was led to.

    By the root and not by the address: a layout has another one each time that it is plugged in.
    """
    states = state_folder() / "releases"
    for known in sorted(states.glob("*/root_history/*.root.json")):
        if known.read_bytes() == root:
            return known.parents[1]
    return states / hashlib.sha256(root).hexdigest()[:16]


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """python-tuf wants a folder for itself."""
    with writing(folder, "Nothing was fetched"):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = hold(folder / ".lock", waiting=lambda: None)
    try:
        yield
    finally:
        os.close(lock)


def _sync(folder: Path) -> None:
    """What was seen has to outlive a power cut: python-tuf leaves that to the system."""
    for path in (*folder.glob("*.json"), *folder.glob("root_history/*")):
        with path.open("rb") as file:
            os.fsync(file.fileno())
    sync_folder(folder)


def _limited(chunks: Iterator[bytes]) -> Iterator[bytes]:
    left = LARGEST
    for chunk in chunks:
        left -= len(chunk)
        if left < 0:
            return
        yield chunk
