"""What a heartbeat found: one replay, what there was before, and what an application counted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ....runners.bundles.monitoring.drift import Drift
from ....runners.bundles.monitoring.replay import CHANGED, FAIL, Beat
from ....runners.bundles.monitoring.state import Place
from ...errors import ExitCode
from ...storage.document import Document


@dataclass(frozen=True)
class LiveCounts:
    """What an application counted of its live images in the same folder (``load_bundle``).

    ``outside`` says of how many images an input left the calibrated range, ``drift`` how first
    classes compare with the calibration's, ``null`` where that is not packaged. Of ``probed``
    images ``layers`` says how many left the calibrated range of a first layer's output.
    """

    images: int
    outside: Mapping[str, int]
    drift: Drift | None
    probed: int = 0
    layers: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class HeartbeatResult(Document):
    """One replay of a bundle's goldens, ``null`` where units were written instead.

    ``beats`` counts replays by verdict since ``since``, when the baseline was set. ``said`` is why
    that is not an older one. ``units`` are the files that ``--units`` wrote.
    """

    MADE_BY = "edgepipe heartbeat"

    bundle: str
    folder: str
    place: Place | None
    beat: Beat | None
    limit_db: float | None
    beats: Mapping[str, int]
    since: str | None
    said: str | None
    live: LiveCounts | None
    units: tuple[str, ...]

    @property
    def exit_code(self) -> ExitCode:
        """What a shell, or a timer, sees."""
        codes = {FAIL: ExitCode.GATE_FAILED, CHANGED: ExitCode.INCONCLUSIVE}
        return codes.get(self.beat.verdict, ExitCode.OK) if self.beat else ExitCode.OK
