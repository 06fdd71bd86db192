"""Addresses of artifacts: a registry or a folder, a repository in it, a tag or a digest."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ...errors import InputError, UsageError
from ...settings.shipping import ADDRESS
from . import oci

LATEST = "latest"
# What refers to a manifest, and TUF's documents.
RESERVED = (f"{oci.SHA256}-", "tuf-")
REMOTE, LAYOUT = "oci://", "oci:"
# distribution-spec 1.1, "Pulling manifests".
NAME = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*"
HOST = r"(?:[A-Za-z0-9.-]+|\[[0-9a-fA-F:]+\])(?::[0-9]{1,5})?"
_REMOTE = re.compile(
    f"(?P<host>{HOST})/(?P<name>{NAME})(?::(?P<tag>{oci.TAG}))?(?:@(?P<digest>{oci.DIGEST}))?"
)
_LAYOUT = re.compile(
    f"(?P<name>.+?)(?::(?P<tag>{oci.TAG}))?(?:@(?P<digest>{oci.DIGEST}))?", re.DOTALL
)


class Interrupted(InputError):
    """A connection broke. What has arrived of a blob can be gone on from."""


@dataclass(frozen=True)
class Address:
    """Which artifact: ``host`` is ``None`` for a layout, whose folder ``name`` is then."""

    host: str | None
    name: str
    tag: str | None = None
    digest: str | None = None

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read ``oci://REGISTRY/NAME[:TAG][@DIGEST]`` or ``oci:FOLDER…``. Raises ``UsageError``."""
        remote = text.startswith(REMOTE)
        pattern, rest = (_REMOTE, text[len(REMOTE) :]) if remote else (_LAYOUT, text[len(LAYOUT) :])
        found = pattern.fullmatch(rest) if text.startswith(LAYOUT) else None
        if found is None:
            raise UsageError(f"{text!r} is no address: {ADDRESS}")
        parts = found.groupdict()
        return cls(parts.get("host"), parts["name"], parts["tag"], parts["digest"])

    @property
    def repository(self) -> str:
        """Without tag and digest."""
        return f"{REMOTE}{self.host}/{self.name}" if self.host else f"{LAYOUT}{self.name}"

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return f"{self.repository}{tag}{'@' + self.digest if self.digest else ''}"


def check_tag(tag: str) -> str:
    """A tag that a bundle may have. Raises ``UsageError`` for any other."""
    if not re.fullmatch(oci.TAG, tag) or tag.startswith(RESERVED):
        raise UsageError(f"{tag!r} is no tag for a bundle: give the address another one")
    return tag
