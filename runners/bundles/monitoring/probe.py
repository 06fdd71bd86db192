"""Live images inside the network: are the first layers within what calibration saw of them.

A bundle may hold ``probe.onnx`` (``package --probe N``): the float model up to its first layers,
and of each layer's output the smallest and the largest value. It is a model beside the one that is
served, which stays as it was judged, and it runs between requests.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

import numpy as np

from ... import registry
from ...base import BundleError, Session, Settings
from .. import formats
from ..bundle import Bundle
from .calibration import Calibration

MEMBER = "probe.onnx"
# Of so many live images one is kept for the next replay, and of these the last few.
EACH, MOST_KEPT = 16, 8
# Share of a range that its ends may be left by: runners round otherwise than the calibration did,
# and what an empty background makes of a layer is often the very end of its range.
SLACK = 1e-3


def outputs_of(place: int) -> tuple[str, str]:
    """What the probe's outputs of a layer are called: its smallest and largest values, ``[N]``."""
    return f"low{place}", f"high{place}"


@dataclass
class Probe:
    """A session of the probe. ``ranges`` are those of the layers, in the order of the outputs."""

    session: Session
    ranges: Mapping[str, tuple[float, float]]
    _seen: int = 0
    _kept: deque[np.ndarray] = field(default_factory=lambda: deque(maxlen=MOST_KEPT))

    @classmethod
    def of(cls, bundle: Bundle, runner: str, known: Calibration | None) -> Self | None:
        """The probe of a bundle on a runner; ``None`` if it has none, or the runner takes no ONNX.

        Raises ``BundleError`` for one that must not be loaded, and what loading raises.
        """
        if known is None or not known.layers or MEMBER not in bundle.index.members:
            return None
        found = registry.get(runner)
        if formats.ONNX not in found.formats:
            return None
        path = bundle.folder / MEMBER
        if problem := formats.problem([path]):
            raise BundleError(f"{bundle.path}: {problem}")
        return cls(found.load(path, Settings(threads=1)), known.layers)

    def keep(self, tensor: np.ndarray) -> None:
        """Take note of a live image, float32 or uint8 ``[...]`` as the model took it: one of many.

        Costs a request nothing else: the array is its own, and is kept as it is.
        """
        if self._seen % EACH == 0:
            self._kept.append(tensor)
        self._seen += 1

    def look(self) -> list[list[str]]:
        """For each image that was kept since the last time: the layers that left their ranges.

        Raises what a session raises.
        """
        found: list[list[str]] = []
        while self._kept:
            tensor = self._kept.popleft()
            taken = self.session.inputs[0]
            batch = np.repeat(tensor[None], taken.shape[0] or 1, axis=0)
            outputs = self.session.run({taken.name: batch})
            outside = []
            for place, (layer, (low, high)) in enumerate(self.ranges.items()):
                least, most = (float(outputs[name][0]) for name in outputs_of(place))
                slack = SLACK * (high - low)
                if not (low - slack <= least and most <= high + slack):  # NaN is outside, too
                    outside.append(layer)
            found.append(outside)
        return found

    def close(self) -> None:
        """Free the session."""
        self.session.close()
