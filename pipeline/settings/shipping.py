"""The keys of what ships: ``[package]``, ``[verify]``, ``[deploy]``, and those of registries."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from ...exporters import registry as exporters
from ...runners.bundles.bundle import ARM_NEEDS
from ...runners.targets import LOCAL
from .options import Help, OfModel, Positive, Request, Section, Variants

ADDRESS = "oci://REGISTRY/NAME:TAG, or oci:FOLDER:TAG."
Days = Annotated[int, Field(ge=1, le=3650)]
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
