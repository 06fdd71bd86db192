"""A bundle as an OCI artifact: a layer for each file, signature and bill of materials refer to it.

    bundle.json, then each member       layers, named by ``org.opencontainers.image.title``
    bundle.sig                          a manifest of its own whose ``subject`` is the bundle's
    bom.cdx.json                        the same; its blob is the layer's

The manifest is made of ``bundle.json`` alone, so equal bundles have equal digests, signed or
not, and a signature may come later. Where a registry keeps no list of what refers to a manifest,
the tag ``sha256-HEX`` is one (distribution-spec 1.1, "Referrers Tag Schema").
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Protocol

from ....runners import documents
from ....runners.base import BundleError
from ....runners.bundles.index import INDEX, Index, parse
from ...errors import InputError, IntegrityError
from ..packing.package import BOM
from . import oci
from .oci import Descriptor, ImageIndex, Manifest
from .store import Store


class Documents(Protocol):
    """What manifests are read from: a store, or what fetches from one."""

    def manifest(self, reference: str) -> bytes | None: ...
    def referrers(self, digest: str) -> bytes | None: ...


BUNDLE = "application/vnd.edgepipe.bundle.v1"
LISTING = "application/vnd.edgepipe.bundle.index.v1+json"
FILE = "application/vnd.edgepipe.bundle.file.v1"
SIGNED = "application/vnd.dev.sigstore.bundle.v0.3+json"
BILL = "application/vnd.cyclonedx+json"


def manifest_of(index: Index, text: bytes) -> Manifest:
    """The manifest of a whole bundle; ``text`` is its ``bundle.json``."""
    layers = [oci.describe(text, LISTING, INDEX)]
    for name, member in index.members.items():
        layers.append(
            Descriptor(
                media_type=BILL if name == BOM else FILE,
                digest=f"{oci.SHA256}:{member.sha256}",
                size=member.size,
                annotations={oci.TITLE: name},
            )
        )
    about = {oci.TITLE: index.name, oci.VERSION: str(index.release)}
    if index.created:
        about[oci.CREATED] = index.created
    return Manifest(
        artifact_type=BUNDLE,
        config=oci.describe(oci.EMPTY_DATA, oci.EMPTY),
        layers=tuple(layers),
        annotations=about,
    )


def read(data: bytes, where: str) -> Manifest:
    """A bundle's manifest. Raises ``InputError`` for another artifact, say an image."""
    try:
        kind = documents.parse(data).get("artifactType")
    except ValueError as error:
        raise InputError(f"{where}: no bundle of edgepipe ({error})") from error
    if kind != BUNDLE:
        raise InputError(f"{where}: no bundle of edgepipe, but {kind or 'an image'}")
    manifest = oci.read(Manifest, data, where)
    if not manifest.layers or manifest.layers[0].title != INDEX:
        raise IntegrityError(f"{where}: its first layer is not {INDEX}")
    return manifest


def index_of(manifest: Manifest, text: bytes, where: str) -> Index:
    """The index that a manifest's first layer holds, if it names the very layers.

    No name of the manifest is used: those of an index are checked to lie in no other folder.
    Raises ``BundleError`` for a manifest that is about other files.
    """
    index = parse(text, Path(where))
    expected = manifest_of(index, text).layers
    for layer, ours in zip(manifest.layers, expected, strict=False):
        if (layer.title, layer.digest, layer.size) != (ours.title, ours.digest, ours.size):
            raise BundleError(f"{where}: layer {layer.title!r} is not the file of its {INDEX}")
    if len(manifest.layers) != len(expected):
        raise BundleError(f"{where}: not a layer for each file of its {INDEX}")
    return index


def put(store: Store, blob: Descriptor, data: bytes) -> None:
    """Keep bytes as a blob, unless they are there."""
    if store.has(blob):
        return
    with tempfile.TemporaryDirectory(prefix="edgepipe-") as folder:
        path = Path(folder) / "blob"
        path.write_bytes(data)
        store.put(blob, path)


def refer(store: Store, subject: Descriptor, kind: str, blob: Descriptor) -> str:
    """Let a blob that is there refer to a manifest, as what ``kind`` says; returns the digest."""
    referrer = Manifest(
        artifact_type=kind,
        config=oci.describe(oci.EMPTY_DATA, oci.EMPTY),
        layers=(blob,),
        subject=subject,
    )
    data = referrer.to_bytes()
    noted = store.put_manifest(data, oci.MANIFEST)
    found = oci.describe(data, oci.MANIFEST).model_copy(update={"artifact_type": kind})
    if not noted:
        tag = _tag(subject.digest)
        before = store.manifest(tag)
        listed = oci.read(ImageIndex, before, f"{store.where}:{tag}").manifests if before else ()
        others = tuple(one for one in listed if one.digest != found.digest)
        index = ImageIndex(manifests=(*others, found))
        store.put_manifest(index.to_bytes(), oci.INDEX, tag)
    return found.digest


def referring(place: Documents, digest: str, kind: str, where: str) -> list[Descriptor]:
    """The blobs that refer to a manifest as ``kind``, in the repository's order.

    Raises ``IntegrityError`` for a list that names what isn't there.
    """
    data = place.referrers(digest) or place.manifest(_tag(digest))
    if data is None:
        return []
    blobs = []
    for one in oci.read(ImageIndex, data, f"{where}: what refers to it").manifests:
        if one.artifact_type != kind:
            continue
        text = place.manifest(one.digest)
        if text is None:
            raise IntegrityError(f"{where}: {one.digest}, which refers to it, is gone")
        referrer = oci.read(Manifest, text, f"{where}: {one.digest}")
        if referrer.subject and referrer.subject.digest == digest and len(referrer.layers) == 1:
            blobs.append(referrer.layers[0])
    return blobs


def _tag(digest: str) -> str:
    return digest.replace(":", "-")
