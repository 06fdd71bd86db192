"""A state in Prometheus' text format, for the textfile collector of node_exporter.

https://prometheus.io/docs/instrumenting/exposition_formats/ (version 0.0.4). The file is written
and nothing more: who collects it, and whether anybody does, is for others to say.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime

from .calibration import Calibration
from .drift import bins_of, drift
from .replay import CHANGED, PASS, VERDICTS
from .state import State

PREFIX = "edgepipe"
Samples = Mapping[tuple[tuple[str, str], ...], float]


def text(state: State, known: Calibration | None, limit_db: float | None, unwritten: int) -> str:
    """The file: every metric with its help and its type."""
    return "".join(_lines(state, known, limit_db, unwritten))


def _lines(
    state: State, known: Calibration | None, limit_db: float | None, unwritten: int
) -> Iterator[str]:
    place, last = state.place, state.last
    if place is not None:
        about = (
            ("bundle", place.bundle),
            ("digest", place.digest),
            ("variant", place.variant),
            ("runner", place.runner),
            ("runner_version", place.runner_version),
        )
        yield _metric("bundle_info", "gauge", "What is running.", {about: 1.0})
    beats = {(("verdict", one),): float(state.beats.get(one, 0)) for one in VERDICTS}
    yield _metric("heartbeat_beats_total", "counter", "Replays of the goldens.", beats)
    if last is not None:
        at = datetime.fromisoformat(last.at).timestamp()
        when = "When it replayed last."
        yield _metric("heartbeat_last_timestamp_seconds", "gauge", when, {(): at})
        good = float(last.verdict in (PASS, CHANGED))
        yield _metric("heartbeat_ok", "gauge", "The last replay is within its limit.", {(): good})
        same = float(last.verdict == PASS)
        help_text = "The last replay gave the same bits as the first one."
        yield _metric("heartbeat_same_bits", "gauge", help_text, {(): same})
        took = "How long the goldens took."
        yield _metric("heartbeat_replay_seconds", "gauge", took, {(): last.seconds})
        if last.sqnr_db is not None:
            near = "Distance to the reference, dB; absent where it is none."
            yield _metric("heartbeat_sqnr_db", "gauge", near, {(): last.sqnr_db})
    if limit_db is not None:
        least = "The least distance that passes, dB."
        yield _metric("heartbeat_sqnr_limit_db", "gauge", least, {(): limit_db})
    failures = {(): float(unwritten)}
    lost = "Times that a file could not be written since the process began."
    yield _metric("heartbeat_write_failures_total", "counter", lost, failures)
    yield from _live(state, known)


def _live(state: State, known: Calibration | None) -> Iterator[str]:
    live = state.live
    if not live.images:
        return
    yield _metric("live_images_total", "counter", "Images seen.", {(): float(live.images)})
    if known is None:
        return
    outside = {(("input", name),): float(count) for name, count in live.outside.items()}
    beyond = "Images with a value that no calibration image had."
    yield _metric("live_outside_total", "counter", beyond, outside)
    if live.probed:
        probed = "Images whose first layers were looked at."
        yield _metric("live_probed_total", "counter", probed, {(): float(live.probed)})
        inside = {(("layer", name),): float(count) for name, count in live.layers.items()}
        left = "Of these, images that left the range of a layer's output."
        yield _metric("live_layer_outside_total", "counter", left, inside)
    if known.top1 is None or len(live.top1) != len(known.top1):
        return
    window = window_of(state)
    counts = {
        (("classes", _named(part)),): float(sum(window[part])) for part in bins_of(known.top1)
    }
    yield _metric("live_top1", "gauge", "First classes in the window, in bins.", counts)
    found = drift(known.top1, window)
    if found.psi is not None and found.critical is not None:
        psi = "Population stability index of first classes against the calibration's."
        yield _metric("live_top1_psi", "gauge", psi, {(): found.psi})
        chance = "What chance stays below in 99 of 100 cases."
        yield _metric("live_top1_psi_critical", "gauge", chance, {(): found.critical})


def window_of(state: State) -> tuple[int, ...]:
    """First classes in the window that is being filled and the one before it."""
    live = state.live
    earlier = live.earlier or (0,) * len(live.top1)
    return tuple(map(sum, zip(live.top1, earlier, strict=True)))


def _named(part: slice) -> str:
    last = part.stop - 1
    return str(part.start) if part.start == last else f"{part.start}-{last}"


def _metric(name: str, kind: str, about: str, samples: Samples) -> str:
    full = f"{PREFIX}_{name}"
    lines = [f"# HELP {full} {about}", f"# TYPE {full} {kind}"]
    for labels, value in samples.items():
        inside = ",".join(f'{key}="{_escaped(said)}"' for key, said in labels)
        lines.append(f"{full}{{{inside}}} {value!r}" if inside else f"{full} {value!r}")
    return "\n".join(lines) + "\n" if samples else ""


def _escaped(said: str) -> str:
    return said.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
