"""What running the goldens through cells gave, kept so that it can be judged without running."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from ...runners import documents
from ...runners.bundles import npz
from ..cells.row import CellRow
from ..cells.session import Cell
from ..errors import InputError
from ..numerics import metrics
from ..numerics.precision import kind_of
from ..storage import goldens as recorded
from ..storage.document import check_hosts
from ..storage.goldens import reference_json

SCHEMA_VERSION = 1
OWN = "own/"


@dataclass(frozen=True, kw_only=True)
class CellOutputs(CellRow):
    """What running a cell gave, before anybody judges it. Goes into ``parity.npz``.

    ``asked`` is the precision that was asked for; ``misplaced`` says that it failed for being
    placed elsewhere.
    ``cell`` is what was run, ``None`` in a recording that was read back.
    """

    __pydantic_config__: ClassVar[Mapping[str, Any]] = {"arbitrary_types_allowed": True}
    asked: str
    misplaced: bool = False
    host: Mapping[str, Any] = field(default_factory=dict)
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)
    cell: Cell | None = None


@dataclass(frozen=True)
class Recording:
    """Outputs of all cells together with torch's for the same goldens.

    ``own`` has, by variant, what the quantized files themselves make of them. ``measured`` says
    when they were run (UTC, ISO 8601). ``reference_assumed``: see ``Goldens``.
    """

    model: Mapping[str, Any]
    artifacts: Mapping[str, str]
    reference_sqnr_db: float
    reference: Mapping[str, np.ndarray]
    cells: tuple[CellOutputs, ...]
    own: Mapping[str, Mapping[str, np.ndarray]] = field(default_factory=dict)
    measured: str | None = None
    reference_assumed: bool = False

    @property
    def samples(self) -> int:
        """How many goldens were run."""
        return len(next(iter(self.reference.values())))

    def reference_json(self) -> dict[str, Any]:
        """See ``Goldens.reference_json``."""
        return reference_json(self.reference_sqnr_db, assumed=self.reference_assumed)

    def to_bytes(self) -> bytes:
        """As ``.npz``: the arrays, and everything else as JSON beside them."""
        arrays = {f"reference/{name}": array for name, array in self.reference.items()}
        about = []
        for number, cell in enumerate(self.cells):
            arrays |= {f"cell{number}/{name}": array for name, array in cell.arrays.items()}
            fields = {k: value for k, value in vars(cell).items() if k not in ("arrays", "cell")}
            about.append(fields)
        for variant, outputs in self.own.items():
            arrays |= {f"{OWN}{variant}/{name}": array for name, array in outputs.items()}
        document = {
            "schema_version": SCHEMA_VERSION,
            "model": self.model,
            "artifacts": self.artifacts,
            **self.reference_json(),
            "measured": self.measured,
            "cells": about,
        }
        text = json.dumps(document, allow_nan=False)
        return recorded.packed({**arrays, "about": np.frombuffer(text.encode(), np.uint8)})

    @classmethod
    def load(cls, path: Path) -> Recording:
        """Read what ``to_bytes`` wrote. Raises ``InputError`` for anything else."""
        from pydantic import TypeAdapter

        try:
            arrays = npz.read(path)
            document = documents.parse(arrays.pop("about").tobytes())
            if document["schema_version"] != SCHEMA_VERSION:
                raise InputError(
                    f"{path}: schema {document['schema_version']}, this reads {SCHEMA_VERSION}; "
                    "run `edgepipe parity` again"
                )
            about = TypeAdapter(_About).validate_python(document)
            check_hosts(*(cell.host for cell in about.cells))
            cells = tuple(
                replace(cell, arrays=_under(arrays, f"cell{number}/"))
                for number, cell in enumerate(about.cells)
            )
            reference = _under(arrays, "reference/")
            npz.outputs(reference)
            variants = dict.fromkeys(cell.variant for cell in cells if cell.status == "ok")
            own = {name: _under(arrays, f"{OWN}{name}/") for name in variants}
            for name, outputs in own.items():
                if kind_of(name, "") == "int8" and not outputs:
                    raise InputError(
                        f"{path}: nothing in it of what {name} itself says: an older edgepipe "
                        "recorded it; run `edgepipe parity` again"
                    )
            return cls(
                about.model,
                about.artifacts,
                metrics.distance(about.reference_sqnr_db, about.reference_state),
                reference,
                cells,
                {name: outputs for name, outputs in own.items() if outputs},
                about.measured,
                about.reference_state == metrics.ASSUMED,
            )
        except OSError as error:
            raise InputError(f"{path}: {error.strerror or error}") from error
        except InputError:
            raise
        except Exception as error:  # a damaged archive fails in many ways inside zipfile and numpy
            why = documents.reason(error)
            raise InputError(f"{path}: not a parity recording ({why})") from error


@dataclass(frozen=True)
class _About:
    """The types of what a recording has beside its arrays."""

    model: Mapping[str, Any]
    artifacts: Mapping[str, str]
    reference_sqnr_db: float | None
    reference_state: Literal["measured", "equal", "broken", "assumed"]
    cells: tuple[CellOutputs, ...]
    measured: str | None = None


def _under(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {
        name.removeprefix(prefix): array
        for name, array in arrays.items()
        if name.startswith(prefix)
    }
