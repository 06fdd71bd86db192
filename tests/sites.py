"""Sites for tests: a repository with small bundles in it, their releases, and boxes that pull."""

from __future__ import annotations

import shutil
from datetime import datetime, timedelta, timezone
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgepipe.pipeline import pull, push, release
from edgepipe.pipeline.errors import IntegrityError
from edgepipe.pipeline.settings.shipping import RegistryAccess
from edgepipe.pipeline.shipping.registry.address import Address
from edgepipe.pipeline.shipping.registry.releases import freshness
from edgepipe.pipeline.shipping.registry.releases import release as releasing
from edgepipe.pipeline.shipping.registry.store import Store, opened
from edgepipe.runners.bundles.index import INDEX, SIGNATURE

from . import bundles

TAG = "tiny"


def bundle(folder: Path, **changes: Any) -> Path:
    """A small bundle as `package` writes one: its members sorted, the index first."""
    folder.mkdir(parents=True, exist_ok=True)
    signature = changes.pop("signature", None)
    found = bundles.contents(**changes)
    members = {INDEX: found.pop(INDEX), **dict(sorted(found.items()))}
    if signature is not None:
        members[SIGNATURE] = signature
    return bundles.write(folder / "whole.tar.gz", members)


def layout(folder: Path) -> str:
    return f"oci:{folder / 'a site'}"


class Site:
    """A repository with releases of one model, its keys, and a box that pulls from it."""

    def __init__(
        self, folder: Path, address: str | None = None, storage: Path | None = None
    ) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.address = address or layout(folder)
        self.storage = storage or Path(self.address.removeprefix("oci:"))
        self.keys = folder / "keys"
        self.root = folder / "root.json"
        self.out = folder / "out"

    @property
    def store(self) -> Store:
        return opened(Address.parse(self.address), RegistryAccess())

    def make(self, number: int, **options: Any) -> Path:
        """A bundle of that release number, pushed under it."""
        path = bundle(self.folder / f"made-{number}", release=number, **options)
        push(f"{self.address}:{number}", path)
        return path

    def release(self, *bundles: Path, **options: Any) -> releasing.Released:
        done = release(self.address, bundles=bundles, keys=self.keys, **options)
        if not self.root.exists():
            shutil.copy(done.root, self.root)
        return done

    def pull(self, tag: str = "", box: str = "box", **options: Any) -> int:
        """The number of the release that a box gets."""
        given: dict[str, Any] = {
            "root": self.root,
            "state": self.folder / box,
            "out": self.out,
            "whole": True,
            **options,
        }
        done = pull(self.address + tag, **given)
        assert done.release is not None
        return done.release["about"]["release"]

    def refused(self, tag: str = "", **options: Any) -> str:
        with pytest.raises(IntegrityError) as caught:
            self.pull(tag, **options)
        return str(caught.value)

    def copy(self, name: str) -> Path:
        """The repository as it is now."""
        return Path(shutil.copytree(self.storage, self.folder / name))

    def restore(self, copy: Path) -> None:
        shutil.rmtree(self.storage)
        shutil.copytree(copy, self.storage)

    def metadata(self, name: str) -> bytes:
        found = freshness.source_of(self.store)(name)
        assert found is not None
        return found

    def put(self, name: str, data: bytes) -> None:
        freshness.put(self.store, name, data)

    def key(self, role: str) -> Path:
        (found,) = self.keys.glob(f"{role}-*.pem")
        return found

    def blob(self, digest: str) -> Path:
        """Where the repository keeps a blob, whatever it says itself."""
        hexes = digest.removeprefix("sha256:")
        found = [*self.storage.rglob(f"sha256/{hexes}"), *self.storage.rglob(f"{hexes}/data")]
        return found[-1]


def pass_days(monkeypatch: pytest.MonkeyPatch, days: float) -> None:
    """Let so many days pass, for python-tuf and for `release`."""
    library = import_module("tuf.ngclient._internal.trusted_metadata_set")

    class Later(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.now(tz) + timedelta(days=days)

    later = SimpleNamespace(datetime=Later, timezone=timezone)
    monkeypatch.setattr(library, "datetime", later)
    monkeypatch.setattr(releasing, "datetime", Later)
