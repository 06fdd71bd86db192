"""What packaging, verifying and watching a bundle gave, as text for a terminal."""

from __future__ import annotations

from pathlib import Path

from ...shipping.deploy import WOULD_DEPLOY, Deployment
from ...shipping.heartbeat_result import HeartbeatResult, LiveCounts
from ...shipping.packing.package import Packaged
from ...shipping.verify_result import Verification
from ..tables.formatting import cpu_of, mebibytes, ms, text
from ..tables.table import Column, Table, figure

HEADS = (Column("file"), figure("MiB"), Column("sha256"))


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
