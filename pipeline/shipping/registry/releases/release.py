"""release: sign which bundles are the newest, and for how long that holds.

The registry keeps what is signed and decides nothing. What there is of it is verified before
anything is added, as a box would, and against what this machine has seen: old copies that a
registry hands out are not signed anew.
"""

from __future__ import annotations

import copy
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from .....runners.machine.locks import hold
from ....errors import InputError, IntegrityError, UsageError
from ....progress import Progress
from ....settings.load import load
from ....settings.options import takes
from ....settings.shipping import ReleaseConfig, ReleaseRequest
from ....storage.atomic import write_whole, writing
from ....storage.document import Document
from .. import oci
from ..address import Address, check_tag
from ..store import Store, opened
from . import freshness
from .freshness import NO_CLOCK, PREFIX, ROLES, SIGNED_AT, NoReleases, Source, Trusted
from .keys import Keys, metadata
from .target import Target, check_order

ROOT, SEEN, PENDING, LOCK = "root.json", "seen", "pending", ".lock"
# A document that nothing changed in is signed anew when less than that of its time is left.
RENEWED_AT = 0.5


@dataclass(frozen=True)
class Released(Document):
    """What is signed now.

    ``tags`` maps each to the manifest it stands for. ``versions`` and ``expires`` (UTC, ISO 8601)
    are those of TUF's documents, ``root`` the file that boxes get, ``made`` are new key files.
    """

    MADE_BY = "edgepipe release"

    repository: str
    tags: Mapping[str, str]
    versions: Mapping[str, int]
    expires: Mapping[str, str]
    root: Path
    made: tuple[str, ...]
    notes: tuple[str, ...]


@takes(ReleaseRequest)
def release(request: ReleaseRequest) -> Released:
    """Sign that these bundles are the newest of their tags; without one, that nothing is newer.

    The keywords are the keys of ``[release]``. A bundle has to be in the repository. The first
    release makes the keys. Raises ``InputError`` for a key that is needed and not there,
    ``IntegrityError`` for signed documents that can't be believed, ``Refused`` for a bundle that
    is older than the one that is released.
    """
    settings = load(request.flags()).release
    address = Address.parse(request.repository)
    if address.digest:
        raise UsageError(f"{address}: a release is of a tag; the digest follows from the bundle")
    if address.tag and len(request.bundles) != 1:
        raise UsageError(f"{address}: a tag is for one bundle; without it each has its own name")
    store = opened(address, settings)
    bundles = {_tag(address, one): one for one in map(Target.read, request.bundles)}
    if len(bundles) < len(request.bundles):
        raise UsageError("two bundles of one name: the tag in the address tells them apart")
    for tag, bundle in bundles.items():
        found = store.manifest(bundle.digest)
        if found != bundle.manifest:
            where = f"{address.repository}:{tag}"
            raise InputError(f"{bundle.path}: not there yet; `edgepipe push {where} {bundle.path}`")
    with _alone(settings.keys):
        return _Signing(store, settings, request.progress).release(
            bundles, request.rotate, request.allow_downgrade
        )


def _tag(address: Address, bundle: Target) -> str:
    return check_tag(address.tag or bundle.index.name)


class _Signing:
    """One release: the documents that there are, what changes in them, and their signatures."""

    def __init__(self, store: Store, settings: ReleaseConfig, progress: Progress) -> None:
        self._store = store
        self._settings = settings
        self._progress = progress
        self._keys = Keys(settings.keys)
        self._now = datetime.now(UTC).replace(microsecond=0)
        self._notes: list[str] = []
        self._made: list[str] = []

    def release(
        self, bundles: Mapping[str, Target], rotated: Sequence[str], downgrade: bool
    ) -> Released:
        path = self._settings.keys / ROOT
        if not path.exists():
            self._begin(path)
        trust = path.read_bytes()
        self._complete(trust)
        before = self._believed(trust)
        if not downgrade:
            check_order(before, bundles)
        old = before.documents["root"] if before else _read(trust)
        root = self._root(old, rotated)
        files: dict[str, bytes] = {}
        if root.version != old.version:
            files[f"{root.version}.root.json"] = self._keys.sign(root, old, root)
        targets = {tag: one.described(tag) for tag, one in bundles.items()}
        files |= self._documents(before, root, targets, rotated)
        self._keep(files)
        after = self._complete(trust)
        assert after is not None
        self._point(after)
        return Released(
            repository=self._store.where,
            tags={tag: _digest(one) for tag, one in sorted(after.targets.items())},
            versions=after.versions,
            expires=after.expires,
            root=path,
            made=tuple(self._made),
            notes=tuple(self._notes),
        )

    def _begin(self, path: Path) -> None:
        """The first root, and a key for each role."""
        if self._store.manifest(f"{PREFIX}1.{ROOT}") is not None:
            raise InputError(
                f"{self._store.where}: its releases have keys already, and {path} is not there; "
                "--keys DIR names the folder that has it"
            )
        root = metadata().Root(expires=self._end("root"), consistent_snapshot=True)
        for role in ROLES:
            root.add_key(self._make(role).public_key, role)
        write_whole(path, self._keys.sign(root, root))
        self._notes.append(
            "keep the keys of root and targets where no network reaches, and a copy of them; "
            "those of snapshot and timestamp renew what is signed"
        )

    def _make(self, role: str) -> Any:
        signer = self._keys.make(role)
        self._made.append(str(self._keys.path(role, signer.public_key.keyid)))
        return signer

    def _believed(self, trust: bytes) -> Trusted | None:
        """What the repository says, or what this machine has seen; ``None`` before the first one.

        What a repository has lost, or was given by somebody else, is written anew.
        """
        local = self._local()
        try:
            return self._believe(freshness.source_of(self._store), trust)
        except (NoReleases, IntegrityError) as error:
            if local("timestamp.json") is None:
                if isinstance(error, NoReleases):
                    return None
                raise
            self._notes.append(f"{error}: written anew, as this machine has last seen it")
            return self._believe(local, trust)

    def _believe(self, source: Source, trust: bytes) -> Trusted:
        """Whatever has expired: this is what renews it."""
        seen = self._settings.keys / SEEN
        return freshness.believe(source, trust, seen, self._store.where, NO_CLOCK)

    def _local(self) -> Source:
        """What this machine has seen, by the names that a repository has it under."""
        seen = self._settings.keys / SEEN

        def get(name: str) -> bytes | None:
            version, _, rest = name.partition(".")
            path = seen / "root_history" / name
            if rest != ROOT:
                path = seen / (rest if version.isdigit() else name)
            return path.read_bytes() if path.is_file() else None

        return get

    def _root(self, old: Any, rotated: Sequence[str]) -> Any:
        """The root as it is to be: with new keys, or for longer. The same if nothing changes."""
        root = copy.deepcopy(old)
        for role in dict.fromkeys(rotated):
            for keyid in list(root.roles[role].keyids):
                root.revoke_key(keyid, role)
                path = self._keys.path(role, keyid)
                self._notes.append(f"{path}: counts no longer; delete it and its copies")
            root.add_key(self._make(role).public_key, role)
        if rotated or self._due(root, root):
            root.version += 1
            root.expires = self._end("root")
        return root

    def _documents(
        self,
        before: Trusted | None,
        root: Any,
        targets: Mapping[str, Any],
        rotated: Sequence[str],
    ) -> dict[str, bytes]:
        """The files of targets, snapshot and timestamp, as far as they are to be signed anew."""
        tuf = metadata()
        found = copy.deepcopy(dict(before.documents)) if before else {}
        files: dict[str, bytes] = {}
        current = found.get("targets") or _unsigned(tuf.Targets)
        changed = not before or bool(targets) or "targets" in rotated
        current.targets.update(targets)
        snapshot = found.get("snapshot") or _unsigned(tuf.Snapshot)
        if changed or self._due(current, root):
            data = self._sign(current, root)
            files[f"{current.version}.targets.json"] = data
            snapshot.meta["targets.json"] = tuf.MetaFile.from_data(
                current.version, data, [oci.SHA256]
            )
        timestamp = found.get("timestamp") or _unsigned(tuf.Timestamp)
        if files or "snapshot" in rotated or self._due(snapshot, root):
            data = self._sign(snapshot, root)
            files[f"{snapshot.version}.snapshot.json"] = data
            timestamp.snapshot_meta = tuf.MetaFile.from_data(snapshot.version, data, [oci.SHA256])
        timestamp.unrecognized_fields[SIGNED_AT] = self._now.isoformat()
        files["timestamp.json"] = self._sign(timestamp, root)
        return files

    def _sign(self, document: Any, root: Any) -> bytes:
        document.version += 1
        document.expires = self._end(document.type)
        return self._keys.sign(document, root)

    def _end(self, role: str) -> datetime:
        return self._now + timedelta(days=getattr(self._settings, f"{role}_days"))

    def _due(self, document: Any, root: Any) -> bool:
        """Whether a document is to be signed anew for its time alone; said, if its key is away."""
        role = document.type
        left = document.expires - self._now
        if left >= RENEWED_AT * (self._end(role) - self._now):
            return False
        if self._keys.of(root.roles[role].keyids):
            return True
        ends = "has ended" if left <= timedelta() else "ends"
        self._notes.append(
            f"{role}.json {ends} at {document.expires.isoformat()}: release with its key there"
        )
        return False

    def _keep(self, files: Mapping[str, bytes]) -> None:
        """Note what is to be published: a release that is cut off is completed by the next one.

        With a new root and the old timestamp a repository would be believed by nobody, and the
        key of the root may be away by then.
        """
        pending = self._settings.keys / PENDING
        made = pending.with_name(f".{PENDING}")
        shutil.rmtree(made, ignore_errors=True)
        for name, data in files.items():
            write_whole(made / name, data)
        with writing(pending):
            made.rename(pending)

    def _complete(self, trust: bytes) -> Trusted | None:
        """Publish what is noted, and see whether it is believed; ``None`` if nothing is."""
        pending = self._settings.keys / PENDING
        if not pending.is_dir():
            return None
        files = {path.name: path.read_bytes() for path in pending.iterdir()}
        self._publish(files)
        found = self._believe(freshness.source_of(self._store), trust)
        for name in files:
            if name.endswith(f".{ROOT}"):
                write_whole(self._settings.keys / ROOT, files[name])
        shutil.rmtree(pending)
        return found

    def _publish(self, files: Mapping[str, bytes]) -> None:
        """Put what is new into the repository, and what it lost; the timestamp comes last."""
        seen = self._settings.keys / SEEN
        there = freshness.source_of(self._store)
        wanted = {path.name: path.read_bytes() for path in seen.glob("root_history/*.json")}
        wanted.setdefault(f"1.{ROOT}", (self._settings.keys / ROOT).read_bytes())
        for role in ("targets", "snapshot"):
            path = seen / f"{role}.json"
            if path.is_file():
                wanted[f"{_read(path.read_bytes()).version}.{role}.json"] = path.read_bytes()
        wanted |= files
        for name in sorted(wanted, key=lambda one: (one == "timestamp.json", ROOT not in one)):
            if _held(there, name) != wanted[name]:
                self._progress.say(f"{name} goes to {self._store.where}")
                freshness.put(self._store, name, wanted[name])

    def _point(self, trusted: Trusted) -> None:
        """Let each tag stand for what is signed for it."""
        for tag, target in trusted.targets.items():
            there = self._store.manifest(tag)
            if there is not None and oci.digest_of(there) == _digest(target):
                continue
            data = self._store.manifest(_digest(target))
            if data is None or oci.digest_of(data) != _digest(target):
                self._notes.append(f"{tag}: {_digest(target)} is gone from {self._store.where}")
                continue
            self._store.put_manifest(data, oci.MANIFEST, tag)


def _unsigned(kind: type) -> Any:
    """A document of TUF's whose first version is yet to be signed."""
    document = kind()
    document.version = 0
    return document


def _digest(target: Any) -> str:
    return f"{oci.SHA256}:{target.hashes[oci.SHA256]}"


def _held(source: Source, name: str) -> bytes | None:
    """What a repository has under a name; of what is damaged, nothing."""
    try:
        return source(name)
    except IntegrityError:
        return None


def _read(data: bytes) -> Any:
    """A document of TUF's out of a file of this machine's."""
    from tuf.api.serialization import DeserializationError

    try:
        return metadata().Metadata.from_bytes(data).signed
    except DeserializationError as error:
        raise InputError(f"no {ROOT} that can be read ({error})") from error


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One release at a time with these keys."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = hold(folder / LOCK, waiting=lambda: None)
    try:
        yield
    finally:
        os.close(lock)
