"""Parts of a bundle: what ``pull`` fetched of one, said by the file behind the index.

The index stays as it was made, so that its digest, and a signature over it, still hold. Which
part was fetched nobody signs: whoever can change it can leave variants out, and nothing else.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from .. import documents

PART = "bundle.part.json"
MAX_PART_BYTES = 64 << 10
SCHEMA_VERSION = 1
STRICT = {"extra": "forbid", "strict": True}


@dataclass(frozen=True)
class Part:
    """The contents of ``bundle.part.json``: the variants that are there, each with its formats."""

    __pydantic_config__ = STRICT
    schema_version: int
    variants: dict[str, tuple[str, ...]]

    def to_bytes(self) -> bytes:
        """As ``bundle.part.json``; equal parts give equal bytes."""
        return documents.text(asdict(self), indent=1, sort_keys=True).encode()

    @classmethod
    def parse(cls, text: bytes) -> Part:
        """Read a ``bundle.part.json``. Raises ``ValueError`` for anything else."""
        from pydantic import TypeAdapter

        documents.parse(text)
        part = TypeAdapter(Part).validate_json(text)
        if part.schema_version != SCHEMA_VERSION:
            raise ValueError(f"there is no schema {part.schema_version}")
        return part
