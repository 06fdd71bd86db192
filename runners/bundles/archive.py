"""The container of a bundle: a ``.tar.gz`` of which there is only one for given contents.

Any ``tar`` unpacks it; this file alone decides what edgepipe takes. The gzip header carries the
SHA-256 of all that follows it (an extra field, RFC 1952 section 2.3.1.1), so a changed byte shows
before anything is inflated. A member's header has to be, byte for byte, the one that ``write``
makes for its name and size (POSIX.1-1988 ustar): a link, a device, a path out of the folder or
any extension of the format has no such header, and needs no rule of its own.

gzip and not zstd: the standard library reads it on every Python that edgepipe runs on, and
weights hardly compress (15 % on the default model).
"""

from __future__ import annotations

import gzip
import hashlib
import re
import struct
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, BinaryIO

from ..base import BundleError

MAX_BYTES = 8 << 30
# Weights and images hardly compress; DEFLATE reaches 1032:1 on zeros.
MAX_RATIO = 100
SMALLEST_CAP = 1 << 20
LONGEST_NAME = 100  # the ustar field; its prefix field is not used
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]*(/[A-Za-z0-9_][A-Za-z0-9._+-]*)*")

_BLOCK = tarfile.BLOCKSIZE
_CHUNK = 1 << 20
_END = bytes(2 * _BLOCK)
_FIELD = b"EP" + struct.pack("<H", hashlib.sha256().digest_size)
# Magic, deflate, FEXTRA, no time, best compression, unknown system; then the extra field.
_HEADER = b"\x1f\x8b\x08\x04" + bytes(4) + b"\x02\xff"
_HEADER += struct.pack("<H", len(_FIELD) + hashlib.sha256().digest_size) + _FIELD
_KINDS = {
    tarfile.LNKTYPE: "a hard link",
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a pipe",
    tarfile.DIRTYPE: "a folder",
}


def write(file: BinaryIO, members: Mapping[str, bytes | Path]) -> None:
    """Write an archive to a new, seekable file: the members in their order, times and owners 0.

    A path stands for the contents of that file. Equal members give equal bytes, as long as zlib is
    the same.
    """
    pack(file, _blocks(members))


def pack(file: BinaryIO, blocks: Iterable[bytes]) -> None:
    """Compress the blocks of a tar archive into a new, seekable file, a digest in front."""
    deflate = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    file.write(_HEADER + bytes(hashlib.sha256().digest_size))
    digest, crc, size = hashlib.sha256(), 0, 0
    for block in blocks:
        crc, size = zlib.crc32(block, crc), size + len(block)
        packed = deflate.compress(block)
        digest.update(packed)
        file.write(packed)
    rest = deflate.flush() + struct.pack("<LL", crc, size & 0xFFFFFFFF)
    digest.update(rest)
    file.write(rest)
    file.seek(len(_HEADER))
    file.write(digest.digest())


def _blocks(members: Mapping[str, bytes | Path]) -> Iterator[bytes]:
    for name, data in members.items():
        if not is_name(name):
            raise ValueError(f"a bundle can't hold a file of the name {name!r}")
        size = data.stat().st_size if isinstance(data, Path) else len(data)
        yield _member_header(name, size)
        yield from _chunks(data) if isinstance(data, Path) else (data,)
        yield bytes(-size % _BLOCK)
    yield _END


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            yield chunk


def is_name(name: str) -> bool:
    """Whether a member may be called that: a relative path of plain names, none hidden."""
    return len(name) <= LONGEST_NAME and NAME.fullmatch(name) is not None


class Reader:
    """Reads the members of an archive in order. Raises ``BundleError`` for anything else."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._path = path
        packed = check_digest(file, path)
        self._left = min(MAX_BYTES, max(SMALLEST_CAP, MAX_RATIO * packed))
        file.seek(0)
        self._tar = gzip.GzipFile(fileobj=file)

    def __iter__(self) -> Iterator[tuple[str, int]]:
        """Yield each member's name and size; it has to be read before the next one."""
        seen: set[str] = set()
        while (block := self._read(_BLOCK)) != bytes(_BLOCK):
            name, size = self._parse(block)
            if name.lower() in seen:
                raise BundleError(f"{self._path}: {name} is in it twice")
            seen.add(name.lower())
            self._unread = size
            yield name, size
            if self._unread:
                raise AssertionError(f"{name} was not read to its end")
            if any(self._read(-size % _BLOCK)):
                raise BundleError(f"{self._path}: bytes hidden behind {name}")
        if self._read(_BLOCK) != bytes(_BLOCK) or self._more():
            raise BundleError(f"{self._path}: something follows the end of the archive")

    def chunks(self) -> Iterator[bytes]:
        """Yield the contents of the member that was named last."""
        while self._unread:
            chunk = self._read(min(_CHUNK, self._unread))
            self._unread -= len(chunk)
            yield chunk

    def _parse(self, block: bytes) -> tuple[str, int]:
        try:
            info = tarfile.TarInfo.frombuf(block, "utf-8", "strict")
        except (tarfile.HeaderError, ValueError) as error:
            raise BundleError(f"{self._path}: damaged between two members") from error
        name, size = info.name, info.size
        if info.type != tarfile.REGTYPE:
            kind = _KINDS.get(info.type, "not a plain file")
            raise BundleError(f"{self._path}: {name!r} is {kind}; a bundle holds plain files only")
        if not is_name(name):
            raise BundleError(f"{self._path}: {name!r} is no name for a file of a bundle")
        if size < 0 or block != _member_header(name, size):
            raise BundleError(f"{self._path}: {name} has a header that edgepipe doesn't write")
        return name, size

    def _read(self, count: int) -> bytes:
        self._left -= count
        if self._left < 0:
            raise BundleError(f"{self._path}: far larger unpacked than packed; not unpacked")
        data = self._inflate(count)
        if len(data) != count:
            raise BundleError(f"{self._path}: ends in the middle")
        return data

    def _more(self) -> bool:
        return bool(self._inflate(1))

    def _inflate(self, count: int) -> bytes:
        try:
            return self._tar.read(count)
        except (OSError, EOFError, zlib.error, struct.error) as error:
            raise BundleError(f"{self._path}: can't be inflated ({error})") from error


def check_digest(file: IO[bytes], path: Path) -> int:
    """Hold an archive against the digest in its header; returns its length in bytes.

    Raises ``BundleError`` for a file that ``write`` did not write, or that changed since.
    """
    file.seek(0)
    head = file.read(len(_HEADER) + hashlib.sha256().digest_size)
    if head[: len(_HEADER)] != _HEADER or len(head) < len(_HEADER) + 32:
        raise BundleError(f"{path}: not a bundle that edgepipe wrote")
    digest, length = hashlib.sha256(), len(head)
    while chunk := file.read(_CHUNK):
        digest.update(chunk)
        length += len(chunk)
    if digest.digest() != head[len(_HEADER) :]:
        raise BundleError(f"{path}: changed or cut since it was written; copy it again")
    return length


def _member_header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    return info.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict")
