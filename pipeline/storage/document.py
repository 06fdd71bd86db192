"""Documents: what a command found, as one class that writes and reads its JSON."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Self

from typing_extensions import TypedDict

from ...runners import documents
from ..errors import InputError

# The metadata of a field of a result that is not part of its document.
UNWRITTEN = {"unwritten": True}


class _Host(TypedDict, total=False):
    """The types of a machine's facts, as far as commands rely on them: see ``host.facts``."""

    cpu: str
    machine: str
    cpu_flags: list[str]
    physical_cores: int
    cpu_quota: float | None
    memory_mib: float
    no_energy: str | None


class OtherSchema(InputError):
    """A document of an older or a newer edgepipe."""


@dataclass(frozen=True)
class Document:
    """What a command found: its fields are the document's, in their order.

    ``FILE`` is where it is kept, if it is, ``MADE_BY`` the command that makes it, and ``DERIVED``
    are properties that the document has as well.
    """

    __pydantic_config__: ClassVar[Mapping[str, Any]] = {"arbitrary_types_allowed": True}
    SCHEMA: ClassVar[int] = 1
    FILE: ClassVar[str] = ""
    MADE_BY: ClassVar[str] = ""
    DERIVED: ClassVar[tuple[str, ...]] = ()

    def to_json(self) -> dict[str, Any]:
        """The document: JSON values only."""
        derived = {name: plain(getattr(self, name)) for name in self.DERIVED}
        return {"schema_version": self.SCHEMA, **derived, **plain(self)}

    @classmethod
    def from_json(cls, found: Mapping[str, Any], where: object, again: str = "") -> Self:
        """Read what ``to_json`` wrote; ``where`` it stood is for messages, ``again`` the remedy.

        Raises ``InputError`` for anything else, ``OtherSchema`` for what another edgepipe wrote.
        """
        again = again or f"run `{cls.MADE_BY}` again"
        try:
            if (schema := found["schema_version"]) != cls.SCHEMA:
                raise OtherSchema(f"{where}: schema {schema}, this reads {cls.SCHEMA}; {again}")
            known = {name: found[name] for name in written(cls) if name in found}
            made = _adapter(cls).validate_python(known)
            check_hosts(known.get("host", {}), *known.get("hosts", {}).values())
            return made
        except (ValueError, KeyError, TypeError) as error:
            why = documents.reason(error)
            raise InputError(f"{where}: can't be read ({why}); {again}") from error

    @classmethod
    def load(cls, path: Path, again: str = "") -> Self | None:
        """``from_json`` of a file, ``None`` if there is none."""
        again = again or f"run `{cls.MADE_BY}` again"
        try:
            found = documents.parse(path.read_bytes())
        except FileNotFoundError:
            return None
        except OSError as error:
            raise InputError(f"{path}: {error.strerror or error}") from error
        except ValueError as error:
            raise InputError(f"{path}: can't be read ({error}); {again}") from error
        return cls.from_json(found, path, again)


@dataclass(frozen=True)
class Result(Document):
    """A document about a workspace: ``artifacts`` has the SHA-256 of each file, by its name."""

    artifacts: Mapping[str, str]

    def stale(self, now: Mapping[str, str], names: Collection[str] | None = None) -> list[str]:
        """Which files it is not about as they are ``now``: of its own, or of ``names``."""
        return changed(self.artifacts, now, names)


def changed(
    seen: Mapping[str, str], now: Mapping[str, str], names: Collection[str] | None = None
) -> list[str]:
    """The files whose SHA-256 is no longer, or was never, what was ``seen``."""
    asked = sorted(seen) if names is None else names
    return [name for name in asked if name not in now or seen.get(name) != now[name]]


def written(kind: Any) -> list[str]:
    """The fields of a class that its document has."""
    return [one.name for one in fields(kind) if "unwritten" not in one.metadata]


def plain(value: Any) -> Any:
    """A value as JSON has it: no classes, no paths, and null for what is not finite."""
    if is_dataclass(value) and not isinstance(value, type):
        return {name: plain(getattr(value, name)) for name in written(type(value))}
    if isinstance(value, Mapping):
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, Path):
        return str(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


def check_hosts(*hosts: Any) -> None:
    """Raise ``ValueError`` for what can't be a machine's facts."""
    for host in hosts:
        _adapter(_Host).validate_python(host)


@cache
def _adapter(kind: type) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)
