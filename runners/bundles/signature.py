"""Signatures of bundles, by OpenSSF model-signing: over every file of an unpacked bundle.

Offline, with a key or with a certificate. The standard tool checks the same signature:
``model_signing verify key FOLDER --public_key KEY --signature FOLDER/bundle.sig --ignore-paths
FOLDER/bundle.sig``.

What is signed is the SHA-256 of each file. So the signature of a whole bundle also holds for a
part of it: the files that are there are hashed, and for those that were left out the hashes in
``bundle.json`` stand, which is itself one of the files that are hashed. Which files are left out
nobody signs; see ``part``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import Any

from ..base import BundleError, BundleUnreadable, MissingSigner
from .bundle import Bundle
from .index import SIGNATURE, Member
from .part import PART

MAX_REASON = 600


@dataclass(frozen=True)
class Signer:
    """What to sign with: an elliptic-curve private key (PEM), and the certificate for it if any.

    ``chain`` are the certificates between that one and the root that boxes trust.
    """

    key: Path
    certificate: Path | None = None
    chain: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Trust:
    """Whose signatures to accept: a public key, or the roots of the signer's certificate."""

    key: Path | None = None
    roots: tuple[Path, ...] = ()

    def __bool__(self) -> bool:
        return self.key is not None or bool(self.roots)


def sign(folder: Path, signer: Signer) -> bytes:
    """The signature of a folder's files, for ``bundle.sig``.

    Raises ``BundleUnreadable`` for a key or certificate that can't be used.
    """
    config = _library("signing").Config()
    _readable(signer.key, *signer.chain, *filter(None, (signer.certificate,)))
    try:
        config.set_hashing_config(_hashing())
        if signer.certificate is None:
            config.use_elliptic_key_signer(private_key=signer.key)
        else:
            config.use_certificate_signer(
                private_key=signer.key,
                signing_certificate=signer.certificate,
                # model-signing 1.1 can't read an empty chain.
                certificate_chain=signer.chain or (signer.certificate,),
            )
        config.sign(folder, folder / SIGNATURE)
    except Exception as error:  # of cryptography's many kinds
        raise BundleUnreadable(f"{signer.key}: can't sign with it ({_line(error)})") from error
    return (folder / SIGNATURE).read_bytes()


def check(bundle: Bundle, trust: Trust) -> None:
    """Raise ``BundleError`` unless a trusted signature covers every file of the bundle."""
    whom = ", ".join(map(str, (*filter(None, (trust.key,)), *trust.roots)))
    if not bundle.signed:
        raise BundleError(f"{bundle.path}: not signed, and a signature by {whom} is required")
    config = _library("verifying").Config()
    _readable(*filter(None, (trust.key,)), *trust.roots)
    try:
        if trust.key is not None:
            config.use_elliptic_key_verifier(public_key=trust.key)
        else:
            config.use_certificate_verifier(certificate_chain=trust.roots)
    except Exception as error:
        raise BundleUnreadable(f"{whom}: no key or certificate ({_line(error)})") from error
    try:
        config.set_hashing_config(_of_the_whole(bundle.left_out))
        config.verify(bundle.folder, bundle.folder / SIGNATURE)
    except Exception as error:  # whatever a forged signature makes the parsers raise
        text = f"{bundle.path}: its signature is not one by {whom}, or not of these files"
        raise BundleError(f"{text} ({_line(error)})") from error


def _hashing() -> Any:
    """All files of the folder, but for the signature, which can't sign itself."""
    return _of_files(_library("hashing").Config(), SIGNATURE)


def _of_files(config: Any, *but: str) -> Any:
    config.use_file_serialization(hashing_algorithm="sha256")
    return config.set_ignored_paths(paths=list(but), ignore_git_paths=False)


def _of_the_whole(left_out: Mapping[str, Member]) -> Any:
    """As ``_hashing``; files that were left out have the hashes of the index."""
    if not left_out:
        return _hashing()
    hashing, manifests = _library("hashing"), _library("manifest")

    class Whole(hashing.Config):
        def hash(self, model_path: Path, **options: Any) -> Any:
            there = super().hash(model_path, **options)
            found = {one.identifier: one.digest for one in there.resource_descriptors()}
            digest = type(next(iter(found.values())))
            for name, member in left_out.items():
                found[name] = digest("sha256", bytes.fromhex(member.sha256))
            items = [
                manifests.FileManifestItem(path=PurePosixPath(name), digest=one)
                for name, one in found.items()
            ]
            kind = manifests.SerializationType.from_args(there.serialization_type)
            return manifests.Manifest(there.model_name, items, kind)

    return _of_files(Whole(), SIGNATURE, PART)


def _library(module: str) -> Any:
    try:
        return import_module(f"model_signing.{module}")
    except ImportError as error:
        raise MissingSigner(f'{error}; pip install "edgepipe[sign]"') from error


def _readable(*paths: Path) -> None:
    for path in paths:
        try:
            path.open("rb").close()
        except OSError as error:
            raise BundleUnreadable(f"{path}: {error.strerror or error}") from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:MAX_REASON] or type(error).__name__
