"""Where artifacts are kept, a registry or a folder, and what both answer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from ...settings.shipping import RegistryAccess
from .address import Address
from .layout import Layout
from .oci import Descriptor
from .remote import Registry


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
        return Layout(Path(address.name), new=new)
    return Registry(address, access)
