"""What packaging and verifying a bundle gave, as text for a terminal."""

from __future__ import annotations

from ...shipping.deploy import WOULD_DEPLOY, Deployment
from ...shipping.packing.package import Packaged
from ...shipping.registry.pull import Pulled
from ...shipping.registry.push import Pushed
from ...shipping.registry.releases.release import Released
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
