"""push: a bundle into a registry or an OCI layout, what is there already left alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ....runners.bundles.bundle import Bundle, unpacked
from ....runners.bundles.index import INDEX, SIGNATURE
from ...errors import InputError, UsageError
from ...progress import Progress
from ...settings.load import load
from ...settings.options import takes
from ...settings.shipping import PushRequest
from ...storage.document import Document
from ..packing.package import BOM
from . import artifact, oci
from .address import LATEST, Address, check_tag
from .oci import Descriptor
from .store import Store, opened


@dataclass(frozen=True)
class Pushed(Document):
    """What is in the repository now, sizes in bytes.

    ``digest`` is the manifest's, ``before`` what the tag stood for until now. ``size`` is that of
    all files, ``bytes_sent`` of those that were not there. ``referrers`` maps "signature" and
    "bom" to the manifests that refer to the bundle's.
    """

    MADE_BY = "edgepipe push"

    reference: str
    digest: str
    before: str | None
    bundle: str
    release: int
    files: int
    size: int
    bytes_sent: int
    referrers: dict[str, str]


@takes(PushRequest)
def push(request: PushRequest) -> Pushed:
    """Bring a bundle to a registry, or into an OCI layout, which is made where there is none.

    The keywords are the keys of ``[push]``. The tag moves last, when all files are there. Raises
    ``BundleError`` for a bundle that is not whole and ``InputError`` for a part of one, or if the
    registry can't be reached or refuses.
    """
    settings = load(request.flags()).push
    address = Address.parse(request.reference)
    if address.digest:
        raise UsageError(f"{address}: push gives a bundle a tag; its digest is what it is")
    tag = check_tag(address.tag or LATEST)
    with unpacked(request.bundle) as bundle:
        if bundle.left_out:
            raise InputError(
                f"{request.bundle}: a part of its bundle, without "
                f"{', '.join(sorted(bundle.left_out))}; push the whole one (`pull --all`)"
            )
        return _push(opened(address, settings, new=True), tag, bundle, request.progress)


def _push(store: Store, tag: str, bundle: Bundle, progress: Progress) -> Pushed:
    manifest = artifact.manifest_of(bundle.index, (bundle.folder / INDEX).read_bytes())
    data = manifest.to_bytes()
    subject = oci.describe(data, oci.MANIFEST)
    seen = store.manifest(tag)
    sent = 0
    artifact.put(store, manifest.config, oci.EMPTY_DATA)
    for layer in manifest.layers:
        sent += _put_file(store, layer, bundle.folder, progress)
    store.put_manifest(data, oci.MANIFEST)
    referrers = {}
    if bundle.signed:
        blob = oci.describe(bundle.folder / SIGNATURE, artifact.SIGNED, SIGNATURE)
        sent += _put_file(store, blob, bundle.folder, progress)
        referrers["signature"] = artifact.refer(store, subject, artifact.SIGNED, blob)
    for layer in manifest.layers:
        if layer.title == BOM:
            referrers["bom"] = artifact.refer(store, subject, artifact.BILL, layer)
    store.put_manifest(data, oci.MANIFEST, tag)
    return Pushed(
        reference=f"{store.where}:{tag}",
        digest=subject.digest,
        before=oci.digest_of(seen) if seen else None,
        bundle=bundle.file_name,
        release=bundle.index.release,
        files=len(manifest.layers) + bundle.signed,
        size=sum(layer.size for layer in manifest.layers),
        bytes_sent=sent,
        referrers=referrers,
    )


def _put_file(store: Store, blob: Descriptor, folder: Path, progress: Progress) -> int:
    """Keep a file as a blob; returns the bytes that had to be sent for it."""
    if store.has(blob):
        return 0
    progress.say(f"sending {blob.title}")
    store.put(blob, folder / str(blob.title))
    return blob.size
