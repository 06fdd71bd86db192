"""What packaging, verifying, deploying, rolling out and watching gave, for a terminal."""

from __future__ import annotations

from pathlib import Path

from ...shipping.deploy_result import WOULD_DEPLOY, Deployment
from ...shipping.fleet.rollout_result import (
    DONE,
    STOPPED,
    UNFINISHED,
    BoxState,
    Rollout,
    WaveState,
)
from ...shipping.packing.package import Packaged
from ...shipping.registry.pull import Pulled
from ...shipping.registry.push import Pushed
from ...shipping.registry.releases.release import Released
from ...shipping.verify_result import Verification
from ...shipping.watching.heartbeat_result import HeartbeatResult, LiveCounts
from ..tables.formatting import NONE, cpu_of, mebibytes, ms, text
from ..tables.table import Column, Table, Verdict, figure

HEADS = (Column("file"), figure("MiB"), Column("sha256"))
WAVES = (
    figure("wave", lambda wave: str(wave.number)),
    figure("boxes", lambda wave: str(len(wave.boxes))),
    Column("state", lambda wave: Verdict(wave.state)),
    figure("hold", lambda wave: _counted(wave, wave.good)),
    figure("don't", lambda wave: _counted(wave, wave.bad)),
    figure("away", lambda wave: _counted(wave, wave.away)),
    Column("why", lambda wave: wave.reason, wraps=True),
)
BOXES = (
    Column("box", lambda box: box.name),
    figure("wave", lambda box: str(box.wave) if box.wave else None),
    Column("state", lambda box: Verdict(box.state)),
    Column("holds", lambda box: None if box.good is None else "yes" if box.good else "no"),
    figure("p99", lambda box: None if box.p99_ms is None else ms(box.p99_ms)),
    figure("limit", lambda box: None if box.max_p99_ms is None else f"{box.max_p99_ms:g}"),
    Column("serves", lambda box: _served(box), wraps=True),
    Column("why", lambda box: box.reason, wraps=True),
)


def packaged(result: Packaged) -> str:
    """The archive and what it holds."""
    rows = tuple(
        (name, mebibytes(member.size, ".2f"), member.sha256[:12])
        for name, member in result.bundle.members.items()
    )
    signed = "signed" if result.signed else "not signed"
    lines = [f"  {note}" for note in result.notes]
    for name in result.bundle.waived:
        lines.append(f"  {name}: packaged because it was allowed; the bundle says so")
    size = f"{mebibytes(result.size)} MiB, {signed}"
    return text(Table("", HEADS, rows).text(), *lines, f"{result.path}  ({size})")


def verification(result: Verification) -> str:
    """The checks, what was run, and the verdict."""
    checks = [f"{check.verdict:<13}{check.name:<11}{check.text}" for check in result.checks]
    over = [f"  not {name}: {why}" for name, why in result.passed_over.items()]
    host = result.host
    flags = ", ".join(flag.upper() for flag in host["cpu_flags"]) or "none of the flags that count"
    settings = "the recommended settings" if result.recommended else "no recommended settings"
    lines = [
        *over,
        f"  {result.bundle['name']} {result.bundle['digest'][:16]}, "
        f"release {result.bundle['release']}, proven at {result.bundle['created'] or 'no time'}, "
        f"packaged by edgepipe {result.bundle['edgepipe']}",
        f"  {cpu_of(host)}: {flags}",
        f"  {result.variant} ({result.file}) on {result.runner} {result.runner_version}, "
        f"{result.precision}, {result.threads} threads; {settings}",
    ]
    if result.sqnr_db is not None:
        limit = result.gate["min_sqnr_db"]
        lines.append(
            f"  SQNR {result.sqnr_db:.1f} dB on {result.samples} goldens, limit {limit:.1f}"
        )
    if result.file_sqnr_db is not None and result.kernels_sqnr_db is not None:
        lines.append(
            f"  the file itself {result.file_sqnr_db:.1f} dB from the reference; the kernels "
            f"{result.kernels_sqnr_db:.1f} dB from the file, limit {result.kernels_limit_db:.1f}"
        )
    lines += _latency(result)
    return text(*checks, *lines, f"{result.verdict}: after {result.seconds:.1f} s")


def _latency(result: Verification) -> list[str]:
    """For information: a short run next to the recorded one, which was on another machine."""
    if result.p50_ms is None:
        return []
    there = ""
    if result.recorded_p50_ms is not None:
        there = f"; {ms(result.recorded_p50_ms)} ms on the build machine ({result.recorded_on})"
    judged = "an estimate, not judged" if result.host.get("isa") else "not judged"
    return [f"  p50 {ms(result.p50_ms)} ms in half a second{there}; {judged}"]


def deployment(result: Deployment) -> str:
    """What the box serves now, what it served before, and why if that is not what was asked."""
    lines = [f"{result.outcome}: {result.bundle} on {result.target}, {result.folder}"]
    if result.reason:
        lines.append(f"  {result.reason}")
    lines += [f"  {name} was removed" for name in result.removed]
    verb = "to send" if result.outcome == WOULD_DEPLOY else "sent"
    size = f"{mebibytes(result.bytes_sent)} MiB"
    lines.append(f"  {verb}: {size}; before: {result.before or 'nothing'}")
    serves, back = result.current or "nothing", result.previous or "nothing"
    return text(*lines, f"  current: {serves}; previous: {back}")


def pushed(result: Pushed) -> str:
    """What is there now, and what of it had to be sent."""
    kinds = " and ".join(result.referrers) or "nothing"
    lines = [
        f"  {result.bundle}, release {result.release}: {result.files} files, "
        f"{mebibytes(result.bytes_sent, '.2f')} of {mebibytes(result.size, '.2f')} MiB sent",
        f"  {kinds} refers to it" if len(result.referrers) < 2 else f"  {kinds} refer to it",
    ]
    if result.before not in (None, result.digest):
        lines.append(f"  the tag was at {result.before}")
    return text(f"{result.reference}: {result.digest}", *lines)


def pulled(result: Pulled) -> str:
    """What was fetched, of how much, and what vouches for it."""
    kept = ", ".join(f"{name} ({', '.join(kinds)})" for name, kinds in result.variants.items())
    total = result.bytes_total
    fetched, here = (mebibytes(one, ".2f") for one in (result.bytes_fetched, result.bytes_here))
    share = f"{result.bytes_fetched / total:.0%}" if total else "all"
    lines = [f"  not {name}: {why}" for name, why in result.passed_over.items()]
    lines.append(f"  {kept}" + (f"; without {', '.join(result.left_out)}" * bool(result.left_out)))
    lines.append(
        f"  fetched {fetched} of {mebibytes(total, '.2f')} MiB ({share}); {here} MiB were here"
    )
    if result.signatures > 1:
        lines.append(f"  {result.signatures} signatures refer to it; the last one is in it")
    if result.release:
        about, ends = result.release["about"], result.release["expires"]["timestamp"]
        lines.append(
            f"  released as {result.release['tag']}: {about.get('name')}, release "
            f"{about.get('release')}; nothing newer, which holds until {ends}"
        )
    signed = "with a signature" if result.signatures else "not signed"
    lines.append(f"  {signed}; `edgepipe verify` judges it")
    return text(f"{result.reference}: {result.digest}", *lines, str(result.path))


def released(result: Released) -> str:
    """What is signed now, until when, and what to do with the keys."""
    ends = [
        f"  {role}.json {result.versions[role]}, until {when}"
        for role, when in result.expires.items()
    ]
    tags = [f"  {tag}: {digest}" for tag, digest in result.tags.items()]
    made = [f"  new key: {path}" for path in result.made]
    notes = [f"  {note}" for note in result.notes]
    return text(result.repository, *tags, *ends, *made, *notes, f"{result.root}  (for boxes)")


def rollout(result: Rollout) -> str:
    """The waves, the boxes, and how it ended."""
    notes = [f"  {note}" for note in result.notes]
    return text(waves(result).text(), boxes(result).text(), *notes, sentence(result))


def waves(result: Rollout) -> Table:
    """A row for each wave."""
    return Table.of(WAVES, result.waves, "Waves").without(lambda _column: NONE)


def boxes(result: Rollout) -> Table:
    """A row for each box, in the order of the waves. Times in ms."""
    return Table.of(BOXES, result.boxes, "Boxes; p99 and its limit in ms").without(
        lambda _column: NONE
    )


def sentence(result: Rollout) -> str:
    """How it ended, or what to do."""
    about = f"{result.bundle} on {len(result.boxes)} boxes"
    if result.outcome == UNFINISHED:
        return f"unfinished: {about}; it runs, or --resume goes on with it"
    if result.outcome == DONE:
        good = sum(box.good is True for box in result.boxes)
        return f"done: {result.bundle} holds on {good} of {len(result.boxes)} boxes"
    why = f": {result.reason}" if result.outcome == STOPPED else ""
    return f"{result.outcome}: {about}{why}"


def _counted(wave: WaveState, count: int) -> str | None:
    return None if wave.share is None and not wave.reason else str(count)


def _served(box: BoxState) -> str | None:
    if box.current is None:
        return "nothing" if box.opened else None
    return box.current


def heartbeat(result: HeartbeatResult) -> str:
    """The replay, what there was before it, and what an application counted."""
    if result.beat is None or result.place is None:
        start = Path(result.units[-1]).name
        how = f"  to start it: systemctl enable --now {start} (from /etc/systemd/system)"
        return text(*result.units, how)
    beat, place = result.beat, result.place
    near = "" if beat.sqnr_db is None else f", SQNR {beat.sqnr_db:.1f} dB"
    limit = "" if result.limit_db is None else f", limit {result.limit_db:.1f}"
    lines = [
        f"  {place.bundle} {place.digest[:16]}: {place.variant} on {place.runner} "
        f"{place.runner_version}, {place.threads} threads, {place.cpu}",
        f"  {place.goldens} goldens in {beat.seconds:.2f} s{near}{limit}",
    ]
    lines += [f"  {beat.reason}"] if beat.reason else []
    lines += [f"  {result.said}"] if result.said else []
    lines += _live(result.live) if result.live else []
    counted = ", ".join(f"{count} {verdict}" for verdict, count in sorted(result.beats.items()))
    since = "this is the baseline" if beat.first else f"baseline of {result.since}"
    return text(*lines, f"{beat.verdict}: {since}; so far {counted}")


def _live(live: LiveCounts) -> list[str]:
    outside = ", ".join(
        f"{count:,} with {name} outside of the calibrated range"
        for name, count in live.outside.items()
    )
    lines = [f"  live: {live.images:,} images, {outside or 'no range is packaged'}"]
    if live.probed:
        left = ", ".join(f"{count:,} of {name}" for name, count in live.layers.items())
        lines.append(f"  first layers: of {live.probed:,} images left the range: {left}")
    found = live.drift
    if found is None:
        return [*lines, "  first classes of the calibration are not packaged"]
    if found.psi is None or found.critical is None:
        needs = f"{found.images:,} of {found.needed:,} images" if found.needed else "one class only"
        return [*lines, f"  first classes: {found.verdict} ({needs})"]
    return [
        *lines,
        f"  first classes: {found.verdict}, PSI {found.psi:.3f}; chance stays below "
        f"{found.critical:.3f} ({found.images:,} images, {found.bins} bins)",
    ]
