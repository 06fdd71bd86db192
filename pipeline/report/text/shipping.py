"""What packaging, verifying, deploying and rolling out a bundle gave, as text for a terminal."""

from __future__ import annotations

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
from ...shipping.verify_result import Verification
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
