"""The keys of releases: ed25519 in PEM files, and signing TUF's documents with them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ....errors import InputError
from ....storage.atomic import writing
from ..libraries import library

SUFFIX = ".pem"
SHOWN = 8


class Keys:
    """A folder of private keys, ``ROLE-KEYID.pem``; each may lie elsewhere until it is needed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._signers: dict[str, Any] = {}
        for path in sorted(folder.glob(f"*-*{SUFFIX}")):
            signer = _load(path)
            self._signers[signer.public_key.keyid] = signer

    def make(self, role: str) -> Any:
        """A new key for a role: its signer. It is on the disk when this returns."""
        signer = _signers().CryptoSigner.generate_ed25519()
        path = self.path(role, signer.public_key.keyid)
        with writing(path):
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            path.touch(mode=0o600)
            path.write_bytes(signer.private_bytes)
        self._signers[signer.public_key.keyid] = signer
        return signer

    def path(self, role: str, keyid: str) -> Path:
        """Where a key lies."""
        return self.folder / f"{role}-{keyid[:SHOWN]}{SUFFIX}"

    def of(self, keyids: Iterable[str]) -> list[Any]:
        """The signers that are here of these keys."""
        return [self._signers[one] for one in keyids if one in self._signers]

    def sign(self, document: Any, *roots: Any) -> bytes:
        """A document of TUF's as a file, signed by its role's keys in each of the ``roots``.

        Raises ``InputError`` for a key that isn't here.
        """
        made = metadata().Metadata(document)
        signed: set[str] = set()
        for root in roots:
            keyids = root.roles[document.type].keyids
            signers = self.of(keyids)
            if not signers:
                names = ", ".join(str(self.path(document.type, one)) for one in keyids)
                raise InputError(f"{names}: needed to sign {document.type}.json, and not there")
            for signer in signers:
                if signer.public_key.keyid not in signed:
                    made.sign(signer, append=True)
                    signed.add(signer.public_key.keyid)
        return made.to_bytes()


def metadata() -> Any:
    """The library of TUF's documents. Any: its public names are hidden from type checkers."""
    return library("tuf.api.metadata")


def _load(path: Path) -> Any:
    signers = _signers()
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        return signers.CryptoSigner(load_pem_private_key(path.read_bytes(), None))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from error
    except Exception as error:  # of cryptography's many kinds
        raise InputError(f"{path}: no private key that can be used ({error})") from error


def _signers() -> Any:
    return library("securesystemslib.signer")
