"""The keys of what ships: ``[package]``, ``[verify]``, ``[deploy]`` and ``[heartbeat]``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from ...exporters import registry as exporters
from ...runners.bundles.bundle import ARM_NEEDS
from ...runners.targets import LOCAL
from .options import Duration, Help, OfModel, Positive, Request, Section, Variants

NEED = rf"^[^=]+=({'|'.join(ARM_NEEDS)})$"


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
    allow_untrained: Annotated[bool, Help("Package random weights; it is noted.")] = False
    allow_failed_parity: Annotated[bool, Help("Package without a passed parity; it is noted.")] = (
        False
    )


class PackageRequest(PackageConfig, OfModel):
    """``edgepipe package``: put variants, their proof and settings into one file for the box."""


class VerifyConfig(Section):
    """How ``edgepipe verify`` checks a bundle: whose signature is required, what is run."""

    table: ClassVar[str] = "verify"
    runner: Annotated[
        str | None,
        Help("", short="-r", metavar="NAME", unset="the first one that is there"),
    ] = None
    variant: Annotated[
        str | None,
        Help("", short="-v", metavar="NAME", unset="the best one that fits the CPU"),
    ] = None
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


class HeartbeatConfig(Section):
    """How ``edgepipe heartbeat`` replays goldens. A signature is required as ``[verify]`` says."""

    table: ClassVar[str] = "heartbeat"
    runner: Annotated[
        str | None,
        Help("", short="-r", metavar="NAME", unset="the first one that is there"),
    ] = None
    variant: Annotated[
        str | None,
        Help("", short="-v", metavar="NAME", unset="the best one that fits the CPU"),
    ] = None
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
