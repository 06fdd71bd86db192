"""The keys of what ships: packages, their proof, registries, boxes and fleets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field

from ...exporters import registry as exporters
from ...runners.bundles.index import ARM_NEEDS
from ...runners.targets import LOCAL
from .options import Duration, Help, OfModel, Positive, Request, Section, Variants, fraction

ADDRESS = "oci://REGISTRY/NAME:TAG, or oci:FOLDER:TAG."
Days = Annotated[int, Field(ge=1, le=3650)]
FittingRunner = Annotated[
    str | None, Help("", short="-r", metavar="NAME", unset="the first one that is there")
]
FittingVariant = Annotated[
    str | None, Help("", short="-v", metavar="NAME", unset="the best one that fits the CPU")
]
NEED = rf"^[^=]+=({'|'.join(ARM_NEEDS)})$"


def share(text: str) -> float:
    """ "95%" as 0.95. Raises ``ValueError`` for what is no percentage up to 100%."""
    if (value := fraction(text)) > 1:
        raise ValueError("over 100%")
    return value


def reaches(text: str) -> tuple[str, ...]:
    """ "1,10%,100%" as its parts: how many boxes are to have it after each wave.

    Raises ``ValueError`` for a part that is neither a number from 1 on nor a percentage, and for
    numbers or percentages that do not grow.
    """
    parts = tuple(part.strip() for part in text.split(","))
    for part in parts:
        percent = part.endswith("%")
        if not (share(part) > 0 if percent else part.isdecimal() and int(part) > 0):
            raise ValueError(f'{part!r} is neither a number of boxes nor a share such as "10%"')
    for percent in (True, False):
        alike = [float(part.rstrip("%")) for part in parts if part.endswith("%") is percent]
        if alike != sorted(set(alike)):
            raise ValueError("each wave is to reach more boxes than the one before")
    return parts


def _share(text: str) -> str:
    share(text)
    return text


def _waves(text: str) -> str:
    reaches(text)
    return text


BoxShare = Annotated[str, AfterValidator(_share)]
Waves = Annotated[str, AfterValidator(_waves)]
Milliseconds = Annotated[float, Field(gt=0, le=3_600_000)]


class PackageConfig(Section):
    """What ``edgepipe package`` writes. Without ``variants``: all that have one of the formats.

    With a certificate and those above it, a box only has to know the root. A layout is a folder
    for that server instead of a bundle, which carries no proof.
    """

    table: ClassVar[str] = "package"
    output: Annotated[Path, Help("Where to write it.", metavar="DIR")] = Path("bundles")
    variants: Variants = ()
    formats: Annotated[
        tuple[str, ...], Help("onnx, openvino-ir.", flag="--format", metavar="NAME")
    ] = (exporters.ONNX,)
    layout: Annotated[
        Literal["ovms", "triton", "kserve"] | None,
        Help("A folder for ovms, triton or kserve instead.", metavar="NAME"),
    ] = None
    sign_key: Annotated[
        Path | None, Help("Sign with this private key (EC, PEM).", metavar="FILE")
    ] = None
    sign_certificate: Annotated[
        Path | None, Help("The certificate of that key.", metavar="FILE")
    ] = None
    sign_chain: Annotated[tuple[Path, ...], Help("Certificates above it.", metavar="FILE")] = ()
    needs: Annotated[
        tuple[Annotated[str, Field(pattern=NEED)], ...],
        Help("For ARM64 CPUs with this alone: int8=dotprod, int8=i8mm.", metavar="NAME=EXTENSION"),
    ] = ()
    release: Annotated[
        Annotated[int, Field(ge=0)], Help("Its number; boxes refuse older ones.")
    ] = 0
    probe: Annotated[
        Annotated[int, Field(ge=0, le=16)],
        Help("Also so many of the first layers, for heartbeats to hold live images to."),
    ] = 0
    max_p99: Annotated[
        Milliseconds | None,
        Help("Certify that 99 % of the runs take no longer, as bench measured.", metavar="MS"),
    ] = None
    allow_untrained: Annotated[bool, Help("Package random weights; it is noted.")] = False
    allow_failed_parity: Annotated[bool, Help("Package without a passed parity; it is noted.")] = (
        False
    )


class PackageRequest(PackageConfig, OfModel):
    """``edgepipe package``: put variants, their proof and settings into one file for the box."""


class VerifyConfig(Section):
    """How ``edgepipe verify`` checks a bundle: whose signature is required, what is run."""

    table: ClassVar[str] = "verify"
    runner: FittingRunner = None
    variant: FittingVariant = None
    samples: Annotated[Positive | None, Help("Goldens to run.", unset="all")] = None
    key: Annotated[Path | None, Help("Require a signature by this key (PEM).", metavar="FILE")] = (
        None
    )
    roots: Annotated[
        tuple[Path, ...],
        Help(
            "Require a signature whose certificate this one vouches for.",
            flag="--root",
            metavar="FILE",
        ),
    ] = ()
    allow_unfit: Annotated[bool, Help("Accept a --variant that is not for this CPU.")] = False
    max_p99: Annotated[
        Milliseconds | None,
        Help(
            "Fail if more than 1 % of the runs here take longer.",
            metavar="MS",
            unset="what the bundle certifies",
        ),
    ] = None


class VerifyRequest(VerifyConfig, Request):
    """``edgepipe verify``: judge BUNDLE here: integrity, signature, CPU, answers."""

    bundle: Annotated[Path, Help("What `package` wrote.", argument=True, metavar="BUNDLE")] = Field(
        kw_only=False
    )
    target: Annotated[
        str, Help("Where to run it: local, haswell, isa-avx2, ….", short="-t", metavar="NAME")
    ] = LOCAL.name


class DeployConfig(Section):
    """How ``edgepipe deploy`` brings a bundle onto a box. Paths are the box's own."""

    table: ClassVar[str] = "deploy"
    folder: Annotated[str, Help("On the box.", metavar="DIR")] = "~/edgepipe"
    key: Annotated[str | None, Help("On the box: require a signature by it.", metavar="FILE")] = (
        None
    )
    restart: Annotated[str | None, Help("systemd service that serves it.", metavar="UNIT")] = None
    settle: Annotated[
        Annotated[float, Field(ge=0, le=3600)],
        Help("How long the service must stay up.", metavar="SECONDS"),
    ] = 10.0
    allow_downgrade: Annotated[bool, Help("Also an older release than the one served.")] = False


class DeployRequest(DeployConfig, Request):
    """``edgepipe deploy``: bring BUNDLE onto a box: verified there, served, with a way back."""

    bundle: Annotated[Path, Help("What `package` wrote.", argument=True, metavar="BUNDLE")] = Field(
        kw_only=False
    )
    target: Annotated[str, Help("The box, a [targets.NAME].", short="-t", metavar="NAME")]
    runner: Annotated[str | None, Help("As for `verify`, there.", short="-r", metavar="NAME")] = (
        None
    )
    variant: Annotated[str | None, Help("As for `verify`, there.", short="-v", metavar="NAME")] = (
        None
    )
    samples: Annotated[Positive | None, Help("Goldens to run.", unset="all")] = None
    dry_run: Annotated[bool, Help("Connect and say what would happen.")] = False
    rollback: Annotated[bool, Help("Let the box go back from BUNDLE to what it served before.")] = (
        False
    )


class RegistryAccess(Section):
    """How a registry is spoken to. Who one is there comes from ``docker login``."""

    plain_http: Annotated[bool, Help("HTTP without TLS; on loopback without --ca, too.")] = False
    ca: Annotated[
        Path | None,
        Help("Certificates that vouch for the registry's (PEM).", metavar="FILE"),
    ] = None


class PushConfig(RegistryAccess):
    """How ``edgepipe push`` brings a bundle to a registry."""

    table: ClassVar[str] = "push"


class PushRequest(PushConfig, Request):
    """``edgepipe push``: bring BUNDLE to a registry or an OCI layout, a layer for each file."""

    reference: Annotated[str, Help(ADDRESS, argument=True, metavar="ADDRESS")] = Field(
        kw_only=False
    )
    bundle: Annotated[Path, Help("What `package` wrote.", argument=True, metavar="BUNDLE")] = Field(
        kw_only=False
    )


class PullConfig(RegistryAccess):
    """What ``edgepipe pull`` fetches, and what it must be vouched for by.

    Without ``variants`` and ``whole``: the variant that fits the target, in the format of the
    runner that is there. With ``root`` only what ``edgepipe release`` says is the newest.
    """

    table: ClassVar[str] = "pull"
    out: Annotated[Path, Help("Where to write it.", metavar="DIR")] = Path("bundles")
    variants: Variants = ()
    runner: Annotated[
        str | None,
        Help("For this one.", short="-r", metavar="NAME", unset="the first one that is there"),
    ] = None
    whole: Annotated[bool, Help("Every variant, as it was packaged.", flag="--all")] = False
    root: Annotated[
        Path | None, Help("Take releases by these keys alone (root.json).", metavar="FILE")
    ] = None
    state: Annotated[
        Path | None,
        Help(
            "What this machine has seen of releases.",
            metavar="DIR",
            unset="a folder of this user's",
        ),
    ] = None
    no_clock: Annotated[bool, Help("The time here is wrong: go by version numbers.")] = False


class PullRequest(PullConfig, Request):
    """``edgepipe pull``: fetch of a bundle what fits this machine, each file held to its digest."""

    reference: Annotated[
        str, Help(f"{ADDRESS[:-1]}, or …@sha256:DIGEST.", argument=True, metavar="ADDRESS")
    ] = Field(kw_only=False)
    target: Annotated[
        str, Help("For which machine: local, haswell, ….", short="-t", metavar="NAME")
    ] = LOCAL.name


class ReleaseConfig(RegistryAccess):
    """How ``edgepipe release`` signs which bundle is the newest, and for how long that holds."""

    table: ClassVar[str] = "release"
    keys: Annotated[Path, Help("The keys, made by the first release.", metavar="DIR")] = Path(
        "release-keys"
    )
    root_days: Annotated[Days, Help("How long root.json holds.")] = 365
    targets_days: Annotated[Days, Help("How long what is released holds.")] = 90
    snapshot_days: Annotated[Days, Help("How long the list of versions holds.")] = 30
    timestamp_days: Annotated[Days, Help("How long a box goes without news.")] = 7


class ReleaseRequest(ReleaseConfig, Request):
    """``edgepipe release``: sign that BUNDLE is the newest; without one: that nothing is newer."""

    repository: Annotated[
        str,
        Help("oci://REGISTRY/NAME[:TAG], or oci:FOLDER[:TAG].", argument=True, metavar="ADDRESS"),
    ] = Field(kw_only=False)
    bundles: Annotated[
        tuple[Path, ...], Help("What was pushed there.", argument=True, metavar="BUNDLE")
    ] = ()
    rotate: Annotated[
        tuple[Literal["root", "targets", "snapshot", "timestamp"], ...],
        Help("A new key for this role, and an end to the old one.", metavar="ROLE"),
    ] = ()
    allow_downgrade: Annotated[bool, Help("Also an older release than the one signed.")] = False


class RolloutConfig(Section):
    """How ``edgepipe rollout`` brings a bundle onto many boxes, wave after wave.

    What it does on a single box is said in the fleet file, else in ``[deploy]`` and ``[verify]``.
    """

    table: ClassVar[str] = "rollout"
    waves: Annotated[Waves, Help("How many boxes have it after each wave.", metavar="N,N%,…")] = (
        "1,10%,50%,100%"
    )
    order: Annotated[
        str | None, Help("Sort the boxes by this label.", metavar="LABEL", unset="the file's order")
    ] = None
    parallel: Annotated[Positive, Help("Boxes at the same time.")] = 8
    threshold: Annotated[
        BoxShare, Help("Share of a wave's boxes that has to hold.", metavar="N%")
    ] = "95%"
    soak: Annotated[
        Duration | None,
        Help("Wait so long, then verify a wave's boxes again.", metavar="TIME", unset="no soak"),
    ] = None
    wait: Annotated[Duration, Help("For a box that is away.", metavar="TIME")] = "10m"
    max_away: Annotated[
        BoxShare, Help("Share of a wave's boxes that may be away.", metavar="N%")
    ] = "10%"
    max_p99: Annotated[
        Milliseconds | None,
        Help(
            "Limit of the p99 on boxes that have none of their own.",
            metavar="MS",
            unset="what the bundle certifies",
        ),
    ] = None
    rollback: Annotated[
        Literal["wave", "all"], Help("What goes back when a wave fails: wave, all.", metavar="NAME")
    ] = "wave"


class RolloutRequest(RolloutConfig, Request):
    """``edgepipe rollout``: bring BUNDLE onto the boxes of FLEET, wave after wave."""

    fleet: Annotated[
        Path, Help("A TOML file that lists the boxes.", argument=True, metavar="FLEET")
    ] = Field(kw_only=False)
    bundle: Annotated[Path, Help("What `package` wrote.", argument=True, metavar="BUNDLE")] = Field(
        kw_only=False
    )
    journal: Annotated[
        Path | None,
        Help("Where it is noted.", metavar="FILE", unset="rollout.jsonl beside FLEET"),
    ] = None
    resume: Annotated[bool, Help("Go on with what the journal says was begun.")] = False
    dry_run: Annotated[bool, Help("Say which box is in which wave; reach none.")] = False


class StatusRequest(Request):
    """``edgepipe status``: tell from JOURNAL how far a rollout is, and why."""

    journal: Annotated[Path, Help("What `rollout` noted.", argument=True, metavar="JOURNAL")] = (
        Field(kw_only=False)
    )


class HeartbeatConfig(Section):
    """How ``edgepipe heartbeat`` replays goldens. A signature is required as ``[verify]`` says."""

    table: ClassVar[str] = "heartbeat"
    runner: FittingRunner = None
    variant: FittingVariant = None
    samples: Annotated[Positive | None, Help("Goldens to replay.", unset="all")] = None


class HeartbeatRequest(HeartbeatConfig, Request):
    """``edgepipe heartbeat``: replay BUNDLE's goldens here, and compare with the first time."""

    bundle: Annotated[Path, Help("What `package` wrote.", argument=True, metavar="BUNDLE")] = Field(
        kw_only=False
    )
    folder: Annotated[Path, Help("Where it keeps what it has seen.", metavar="DIR")]
    every: Annotated[
        Duration | None, Help("Again and again, so far apart: 5m.", metavar="TIME", unset="once")
    ] = None
    units: Annotated[
        Path | None,
        Help("Replay nothing; write a systemd service and its timer there.", metavar="DIR"),
    ] = None
