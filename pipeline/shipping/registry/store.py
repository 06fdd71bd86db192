"""Where artifacts are kept, a registry or a folder, and what both answer."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ...errors import InputError, UsageError
from ...settings.shipping import ADDRESS, RegistryAccess
from . import oci
from .oci import Descriptor

LATEST = "latest"
# What refers to a manifest, and TUF's documents.
RESERVED = (f"{oci.SHA256}-", "tuf-")
REMOTE, LAYOUT = "oci://", "oci:"
# distribution-spec 1.1, "Pulling manifests".
NAME = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*"
HOST = r"(?:[A-Za-z0-9.-]+|\[[0-9a-fA-F:]+\])(?::[0-9]{1,5})?"
_REMOTE = re.compile(
    f"(?P<host>{HOST})/(?P<name>{NAME})(?::(?P<tag>{oci.TAG}))?(?:@(?P<digest>{oci.DIGEST}))?"
)
_LAYOUT = re.compile(
    f"(?P<name>.+?)(?::(?P<tag>{oci.TAG}))?(?:@(?P<digest>{oci.DIGEST}))?", re.DOTALL
)


class Interrupted(InputError):
    """A connection broke. What has arrived of a blob can be gone on from."""


@dataclass(frozen=True)
class Address:
    """Which artifact: ``host`` is ``None`` for a layout, whose folder ``name`` is then."""

    host: str | None
    name: str
    tag: str | None = None
    digest: str | None = None

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read ``oci://REGISTRY/NAME[:TAG][@DIGEST]`` or ``oci:FOLDER…``. Raises ``UsageError``."""
        remote = text.startswith(REMOTE)
        pattern, rest = (_REMOTE, text[len(REMOTE) :]) if remote else (_LAYOUT, text[len(LAYOUT) :])
        found = pattern.fullmatch(rest) if text.startswith(LAYOUT) else None
        if found is None:
            raise UsageError(f"{text!r} is no address: {ADDRESS}")
        parts = found.groupdict()
        return cls(parts.get("host"), parts["name"], parts["tag"], parts["digest"])

    @property
    def repository(self) -> str:
        """Without tag and digest."""
        return f"{REMOTE}{self.host}/{self.name}" if self.host else f"{LAYOUT}{self.name}"

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return f"{self.repository}{tag}{'@' + self.digest if self.digest else ''}"


def check_tag(tag: str) -> str:
    """A tag that a bundle may have. Raises ``UsageError`` for any other."""
    if not re.fullmatch(oci.TAG, tag) or tag.startswith(RESERVED):
        raise UsageError(f"{tag!r} is no tag for a bundle: give the address another one")
    return tag


class Store(Protocol):
    """A repository of blobs and manifests. Raises ``InputError`` where it can't be used."""

    where: str

    def manifest(self, reference: str) -> bytes | None:
        """The bytes of a tag's or a digest's manifest, not held to any digest; or ``None``."""
        ...

    def put_manifest(self, data: bytes, media_type: str, tag: str | None = None) -> bool:
        """Keep a manifest under its digest, and a tag. Whether its ``subject`` was noted, too."""
        ...

    def referrers(self, digest: str) -> bytes | None:
        """The index of what refers to a manifest, where the repository keeps one by itself."""
        ...

    def has(self, blob: Descriptor) -> bool:
        """Whether a blob is there."""
        ...

    def put(self, blob: Descriptor, data: Path) -> None:
        """Keep a file as a blob."""
        ...

    def read(self, blob: Descriptor, offset: int = 0) -> Iterator[bytes]:
        """A blob's bytes from there on, not held to its digest; ``Interrupted`` if it breaks."""
        ...


def opened(address: Address, access: RegistryAccess, *, new: bool = False) -> Store:
    """The repository of an address; ``new`` makes a layout's folder where there is none."""
    if address.host is None:
        from .layout import Layout

        return Layout(Path(address.name), new=new)
    from .remote import Registry

    return Registry(address, access)
