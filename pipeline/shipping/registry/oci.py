"""OCI's documents: descriptors, manifests and indexes, as far as a bundle needs them.

github.com/opencontainers/image-spec, version 1.1: descriptor.md, manifest.md, image-index.md,
annotations.md, image-layout.md.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from ....runners import documents
from ....runners.machine.files import sha256_file
from ...errors import IntegrityError

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
EMPTY = "application/vnd.oci.empty.v1+json"
EMPTY_DATA = b"{}"
TITLE = "org.opencontainers.image.title"
VERSION = "org.opencontainers.image.version"
CREATED = "org.opencontainers.image.created"
REFERENCE = "org.opencontainers.image.ref.name"
SHA256 = "sha256"
DIGEST = rf"{SHA256}:[0-9a-f]{{64}}"
TAG = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}"
# What a registry has to take at the least (distribution-spec 1.1, "Pushing Manifests").
MAX_DOCUMENT_BYTES = 4 << 20


class _Oci(BaseModel):
    """Written in camelCase; what isn't known is let be, as the specification asks for."""

    model_config = ConfigDict(frozen=True, alias_generator=to_camel, populate_by_name=True)

    def to_bytes(self) -> bytes:
        """The document; equal ones give equal bytes."""
        plain = self.model_dump(mode="json", by_alias=True, exclude_none=True)
        return documents.text(plain, indent=1, sort_keys=True).encode()


class Descriptor(_Oci):
    """What a blob or a document is: its type, digest, and size in bytes."""

    media_type: str
    digest: Annotated[str, Field(pattern=f"^{DIGEST}$")]
    size: Annotated[int, Field(ge=0)]
    artifact_type: str | None = None
    annotations: dict[str, str] | None = None

    @property
    def title(self) -> str | None:
        """The name of the file that it is."""
        return (self.annotations or {}).get(TITLE)


class Manifest(_Oci):
    """An artifact: its files as layers, and what it is about, if it refers to another one."""

    schema_version: Literal[2] = 2
    media_type: Literal["application/vnd.oci.image.manifest.v1+json"] = MANIFEST
    artifact_type: str | None = None
    config: Descriptor
    layers: tuple[Descriptor, ...]
    subject: Descriptor | None = None
    annotations: dict[str, str] | None = None


class ImageIndex(_Oci):
    """A list of manifests: a layout's own, or what refers to another one."""

    schema_version: Literal[2] = 2
    media_type: str | None = INDEX
    manifests: tuple[Descriptor, ...] = ()


Document = TypeVar("Document", Manifest, ImageIndex)


def digest_of(data: bytes) -> str:
    """The digest of a blob: "sha256:" and hex digits."""
    return f"{SHA256}:{hashlib.sha256(data).hexdigest()}"


def describe(data: bytes | Path, media_type: str, title: str | None = None) -> Descriptor:
    """The descriptor of a blob, or of a file."""
    digest = f"{SHA256}:{sha256_file(data)}" if isinstance(data, Path) else digest_of(data)
    size = data.stat().st_size if isinstance(data, Path) else len(data)
    annotations = {TITLE: title} if title else None
    return Descriptor(media_type=media_type, digest=digest, size=size, annotations=annotations)


def read(kind: type[Document], data: bytes, where: str) -> Document:
    """Read a document that came from ``where``. Raises ``IntegrityError`` for anything else."""
    try:
        documents.parse(data)
        return kind.model_validate_json(data)
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"{where}: no OCI document ({documents.reason(error)})") from error
