"""A bundle as a target of TUF's: its manifest in a repository, and what is said of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .....runners.bundles.bundle import unpacked
from .....runners.bundles.index import INDEX, Index, older
from ....errors import InputError, Refused
from .. import artifact, oci
from .freshness import Trusted
from .keys import metadata


@dataclass(frozen=True)
class Target:
    """A bundle as a target: its manifest follows from its index, whose digest ``bundle`` is."""

    path: Path
    index: Index
    manifest: bytes
    bundle: str

    @classmethod
    def read(cls, path: Path) -> Target:
        """Of an archive. Raises as ``unpacked``, and ``InputError`` for a part of a bundle."""
        with unpacked(path) as found:
            if found.left_out:
                raise InputError(f"{path}: a part of its bundle; a release is of the whole one")
            text = (found.folder / INDEX).read_bytes()
            manifest = artifact.manifest_of(found.index, text).to_bytes()
            return cls(path, found.index, manifest, found.digest)

    @property
    def digest(self) -> str:
        """That of the manifest."""
        return oci.digest_of(self.manifest)

    def described(self, tag: str) -> Any:
        """TUF's description of it, under that tag."""
        about = {
            "name": self.index.name,
            "release": self.index.release,
            "created": self.index.created,
            "bundle": self.bundle,
        }
        hashes = {oci.SHA256: self.digest.removeprefix(f"{oci.SHA256}:")}
        return metadata().TargetFile(len(self.manifest), hashes, tag, {"custom": about})

    def older(self, released: Any) -> str | None:
        """How it is older than what is released, if it is."""
        about = released.custom or {}
        fields = {name: about[name] for name in ("name", "release", "created") if name in about}
        return older(self.index, replace(self.index, **fields))


def check_order(before: Trusted | None, bundles: Mapping[str, Target]) -> None:
    """Raise ``Refused`` for a bundle that is older than what is released under its tag."""
    for tag, bundle in bundles.items():
        released = before.targets.get(tag) if before else None
        if released is not None and (reason := bundle.older(released)):
            raise Refused(
                f"{bundle.path}: {reason}, which is released as {tag}; --allow-downgrade "
                "releases it all the same"
            )
