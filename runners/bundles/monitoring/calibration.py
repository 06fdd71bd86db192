"""What a bundle knows of the images that its model was calibrated on, for live ones to be held to.

It is ``evidence/calibration.json``: what ``package`` took out of the workspace's histograms.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from ...base import BundleError
from ..bundle import Bundle
from ..part import STRICT

SCHEMA_VERSION = 1
KIND, MEMBER = "calibration", "evidence/calibration.json"
MOST_CLASSES = 1 << 20


@dataclass(frozen=True)
class Calibration:
    """``inputs`` have the smallest and the largest value of each input, as the model takes it.

    ``top1`` says for each class of how many of the ``images`` it was the float model's first one,
    ``None`` where the model has no classes or nobody counted. ``layers`` have the same of the first
    layers' outputs, where a probe of them was packaged, in its order.
    """

    __pydantic_config__ = STRICT
    schema_version: int
    images: int
    inputs: dict[str, tuple[float, float]]
    top1: tuple[int, ...] | None
    layers: dict[str, tuple[float, float]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As the member has it."""
        return asdict(self)

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Self:
        """Read what ``to_json`` wrote. Raises ``ValueError`` for anything else."""
        from pydantic import TypeAdapter

        from ... import documents

        made = TypeAdapter(cls).validate_json(documents.text(found))
        if made.schema_version != SCHEMA_VERSION:
            raise ValueError(f"schema {made.schema_version}, this reads {SCHEMA_VERSION}")
        ranges = (*made.inputs.values(), *made.layers.values())
        if made.images < 1 or any(low > high for low, high in ranges):
            raise ValueError("no images, or a range that ends before it begins")
        top1 = made.top1
        if top1 is not None and (
            not 1 < len(top1) <= MOST_CLASSES or min(top1) < 0 or sum(top1) != made.images
        ):
            raise ValueError("first classes that are not one of each image")
        return made


def of_bundle(bundle: Bundle) -> Calibration | None:
    """What a bundle knows, ``None`` for one that was packaged without it.

    Raises ``BundleError`` for a member that is none.
    """
    found = bundle.evidence(KIND)
    try:
        return None if found is None else Calibration.from_json(found)
    except ValueError as error:
        raise BundleError(f"{bundle.path}: {MEMBER} is damaged ({error})") from error
