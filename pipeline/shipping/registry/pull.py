"""pull: of a bundle what fits this machine, as an archive that `verify` and `deploy` take."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ....runners.base import RunnerUnavailable, SessionError
from ....runners.bundles.index import MAX_INDEX_BYTES, Index
from ....runners.bundles.selection import choose
from ....runners.machine.locks import hold
from ...cells.plan import abilities_of
from ...errors import InputError, IntegrityError, UsageError
from ...progress import Progress
from ...settings.load import Config, load
from ...settings.nearest import nearest
from ...settings.options import takes
from ...settings.shipping import PullConfig, PullRequest
from ...storage.atomic import writing
from ...storage.document import Document
from ..there import runners_of
from . import artifact, oci
from .address import LATEST, Address
from .assemble import Wanted, assemble
from .fetch import Fetcher
from .releases import freshness
from .releases.freshness import Newest
from .store import opened

SCRATCH, LOCK = ".edgepipe-pull", ".edgepipe-pull.lock"


@dataclass(frozen=True)
class Pulled(Document):
    """What was fetched, and of what; sizes in bytes.

    ``digest`` is the manifest's, ``bundle`` the digest of ``bundle.json``. ``variants`` are those
    in the archive with their formats, ``left_out`` the files that it lacks. ``bytes_total`` is
    the size of all files, ``bytes_fetched`` what came over, ``bytes_here`` what was here before.
    ``signatures`` is how many refer to it; the archive has the last one. ``release`` is what its
    maker signed of it, under ``--root``.
    """

    MADE_BY = "edgepipe pull"

    reference: str
    digest: str
    path: Path
    bundle: str
    variants: Mapping[str, tuple[str, ...]]
    left_out: tuple[str, ...]
    passed_over: Mapping[str, str]
    signatures: int
    bytes_total: int
    bytes_fetched: int
    bytes_here: int
    release: Mapping[str, Any] | None


@takes(PullRequest)
def pull(request: PullRequest) -> Pulled:
    """Fetch a bundle, or what of it fits a target, and write it as one archive.

    The keywords are the keys of ``[pull]``. Each file is held to its digest while it arrives; the
    archive appears when it is whole. Whether it holds here is for ``verify`` to say. Raises
    ``IntegrityError`` or ``BundleError`` for what isn't what its digest says, and for what
    ``root`` doesn't vouch for, ``InputError`` if it isn't there or can't be fetched.
    """
    config = load(request.flags())
    address = Address.parse(request.reference)
    store = opened(address, config.pull)
    with _scratch(config.pull.out, request.progress) as folder:
        fetcher = Fetcher(store, folder, request.progress)
        fresh = _newest(fetcher, address, config.pull)
        data = _manifest(fetcher, address, fresh)
        done = _pull(fetcher, data, config, request)
    return Pulled(**done, release=asdict(fresh) if fresh else None)


def _newest(fetcher: Fetcher, address: Address, settings: PullConfig) -> Newest | None:
    if settings.root is None:
        if settings.no_clock or settings.state:
            raise UsageError("--no-clock and --state are about releases: they need --root")
        return None
    return freshness.newest(
        fetcher, settings.root, settings.state, address.tag, no_clock=settings.no_clock
    )


def _manifest(fetcher: Fetcher, address: Address, fresh: Newest | None) -> bytes:
    """The manifest that an address stands for, which is the one that is released, if one is."""
    tag = address.tag or (fresh.tag if fresh else LATEST)
    if fresh is None:
        data = fetcher.manifest(address.digest or tag)
        if data is None:
            raise InputError(f"{fetcher.where}: no {address.digest or f'tag {tag}'} there")
        return data
    asked = address.digest or _digest_under(fetcher, tag)
    if asked not in (None, fresh.digest):
        raise IntegrityError(
            f"{fetcher.where}: {asked} is not what is released as {fresh.tag}: that is "
            f"{fresh.digest}, release {fresh.about.get('release')}; an old or a foreign copy"
        )
    data = fetcher.manifest(fresh.digest)
    if data is None or len(data) != fresh.length:
        raise InputError(f"{fetcher.where}: {fresh.digest}, released as {fresh.tag}, is not there")
    return data


def _digest_under(fetcher: Fetcher, tag: str) -> str | None:
    data = fetcher.manifest(tag)
    return oci.digest_of(data) if data else None


def _pull(fetcher: Fetcher, data: bytes, config: Config, request: PullRequest) -> dict[str, Any]:
    digest = oci.digest_of(data)
    where = f"{fetcher.where}@{digest}"
    manifest = artifact.read(data, where)
    text = fetcher.small(manifest.layers[0], MAX_INDEX_BYTES)
    index = artifact.index_of(manifest, text, where)
    formats, passed = _chosen(index, config, request)
    found = artifact.referring(fetcher, digest, artifact.SIGNED, where)
    wanted = Wanted(index, text, formats, manifest.layers[1:], found[-1] if found else None)
    before = fetcher.bytes
    path = assemble(wanted, config.pull.out, fetcher)
    here = sum(one.size for one in wanted.files.values()) - (fetcher.bytes - before)
    return {
        "reference": request.reference,
        "digest": digest,
        "path": path,
        "bundle": manifest.layers[0].digest,
        "variants": {name: tuple(one.files) for name, one in wanted.kept.variants.items()},
        "left_out": tuple(wanted.left_out),
        "passed_over": passed,
        "signatures": len(found),
        "bytes_total": sum(one.size for one in manifest.layers),
        "bytes_fetched": fetcher.bytes,
        "bytes_here": max(0, here),
    }


def _chosen(
    index: Index, config: Config, request: PullRequest
) -> tuple[dict[str, tuple[str, ...]], Mapping[str, str]]:
    """The variants to fetch, each in which formats, and why others were passed over."""
    settings, places = config.pull, config.places
    if settings.whole:
        if settings.variants or settings.runner:
            raise UsageError("--all is every variant in every format: say no --variant, --runner")
        return {name: tuple(one.files) for name, one in index.variants.items()}, {}
    if settings.variants:
        takes = abilities_of(settings.runner, places).formats if settings.runner else None
        return {name: _formats(index, name, takes) for name in settings.variants}, {}
    target = places.target(request.target)
    try:
        host, runners = runners_of(index, settings.runner, places, target, request.progress)
        choice = choose(index, host, runners, target=target.name)
    except (RunnerUnavailable, SessionError) as error:
        hint = "--variant NAME or --all fetches without asking what fits"
        raise type(error)(f"{error}; {hint}") from error
    files = index.variants[choice.variant].files
    kind = next(kind for kind, names in files.items() if names == choice.files)
    return {choice.variant: (kind,)}, choice.passed_over


def _formats(index: Index, variant: str, taken: tuple[str, ...] | None) -> tuple[str, ...]:
    """The formats of a variant to fetch: all, or the first that a runner takes."""
    if variant not in index.variants:
        raise UsageError(f"no variant {variant} in it; {nearest(variant, index.variants)}")
    offered = tuple(index.variants[variant].files)
    if taken is None:
        return offered
    kind = next((kind for kind in taken if kind in offered), None)
    if kind is None:
        raise UsageError(f"{variant} has {', '.join(offered)} in it, the runner takes none of that")
    return (kind,)


@contextmanager
def _scratch(out: Path, progress: Progress) -> Iterator[Path]:
    """The folder that files arrive in, for one pull at a time. It stays if that fails."""
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        lock = hold(out / LOCK, waiting=lambda: progress.say(f"another pull writes to {out}"))
    try:
        yield out / SCRATCH
        shutil.rmtree(out / SCRATCH, ignore_errors=True)
    finally:
        os.close(lock)
