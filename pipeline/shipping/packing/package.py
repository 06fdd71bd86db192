"""package: the chosen variants with all that proves and describes them, as one signed archive."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ....runners import documents
from ....runners.bundles import archive
from ....runners.bundles.index import (
    INDEX,
    SCHEMA_VERSION,
    SIGNATURE,
    SUFFIX,
    BundleGate,
    Index,
    Member,
    Recommended,
    Variant,
)
from ....runners.bundles.monitoring import calibration, probe
from ....runners.bundles.signature import Signer, sign
from ....runners.machine.files import sha256_file
from ...cells import arithmetic
from ...errors import Refused, UsageError
from ...judging.gates import Gate, gate_of
from ...judging.parity_result import ParityResult
from ...progress import Progress
from ...settings.judging import GateConfig
from ...settings.load import load_exported
from ...settings.options import takes
from ...settings.shipping import PackageConfig, PackageRequest
from ...speed.bench_result import BenchResult
from ...stages.quantize import CALIBRATION, needs_of
from ...storage import goldens as recorded
from ...storage.atomic import whole, writing
from ...storage.document import Document
from ...storage.manifest import Manifest, digest
from ...storage.workspace import Workspace
from . import bom, card, evidence, layers, requirements
from .layouts import Content, Tensors, layout

UNTRAINED, FAILED_PARITY = "untrained", "failed-parity"
CARD, BOM = "MODEL_CARD.md", "bom.cdx.json"
RUNTIMES = ("cpu", "openvino")  # the extras of edgepipe that a box may choose between


@dataclass(frozen=True)
class Packaged(Document):
    """What was written: the archive, and what it holds. ``digest`` is that of its index."""

    MADE_BY = "edgepipe package"

    path: Path
    digest: str
    size: int
    signed: bool
    notes: tuple[str, ...]
    bundle: Index


@takes(PackageRequest)
def package(request: PackageRequest) -> Packaged:
    """Write the bundle of a workspace: variants, proof and settings in one archive.

    The keywords are the keys of ``[package]``. Raises what ``errors.EXIT_CODES`` lists.
    """
    config = load_exported(request.flags())
    place = Workspace(config.workspace, config.model)
    with place.exported("edgepipe package", request.progress.say) as manifest:
        return _package(place, manifest, config.package, config.gates, request.progress)


def _package(
    workspace: Workspace,
    manifest: Manifest,
    settings: PackageConfig,
    gates: Mapping[str, GateConfig],
    progress: Progress,
) -> Packaged:
    """Write the bundle of a workspace, which is locked and verified.

    Raises ``Refused`` for an untrained model, and for one that parity has not passed, unless the
    configuration allows it. Equal workspaces give equal bytes, but for a signature.
    """
    index, members, notes = collect(workspace, manifest, settings, gates)
    if settings.layout:
        return _lay_out(index, members, notes, manifest, settings)
    listing = index.to_bytes()
    contents: dict[str, Content] = {INDEX: listing, **members}
    if settings.sign_key:
        progress.say("signing")
        signer = Signer(settings.sign_key, settings.sign_certificate, settings.sign_chain)
        contents[SIGNATURE] = _signature(contents, signer)
    label = hashlib.sha256(listing).hexdigest()
    path = settings.output / f"{index.name}-{label[:16]}{SUFFIX}"
    with whole(path) as file:
        archive.write(file, contents)
    size = path.stat().st_size
    return Packaged(path, label, size, SIGNATURE in contents, tuple(notes), index)


def _lay_out(
    index: Index,
    contents: Mapping[str, Content],
    notes: list[str],
    manifest: Manifest,
    settings: PackageConfig,
) -> Packaged:
    """Write a server's model repository. One that is there already is replaced as a whole."""
    kind = str(settings.layout)
    if settings.sign_key:
        raise UsageError("a folder for a server is not signed: leave --sign-key or --layout away")
    files = layout(kind, index, _tensors(manifest), contents)
    members = {name: _member(data) for name, data in files.items()}
    label = digest({name: member.sha256 for name, member in members.items()})
    path = settings.output / f"{index.name}-{kind}-{label[:16]}"
    with writing(path):
        settings.output.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".edgepipe-", dir=settings.output) as folder:
            made = Path(folder) / path.name
            _write_all(made, files)
            if path.exists():
                path.replace(Path(folder) / "before")
            made.replace(path)
    size = sum(member.size for member in members.values())
    return Packaged(path, label, size, False, tuple(notes), replace(index, members=members))


def _tensors(manifest: Manifest) -> Tensors:
    """Of a model with one input; its first output is the one with a score for each class."""
    (taken,), given = manifest.model["inputs"], manifest.model["outputs"]
    batch = manifest.model["batch"]
    return Tensors(
        taken["name"],
        given[0]["name"],
        None if batch == "dynamic" else int(batch),
        manifest.model["classes"],
    )


def collect(
    workspace: Workspace,
    manifest: Manifest,
    settings: PackageConfig,
    gates: Mapping[str, GateConfig],
) -> tuple[Index, dict[str, Content], list[str]]:
    """The index of a bundle, its members, and what a user has to know about them."""
    if not manifest.preprocessing:
        raise UsageError(f"{workspace.folder}: takes no images; a bundle is for models that do")
    preprocessing = recorded.preprocessing_of(manifest)
    if preprocessing is None or not manifest.model["classes"]:
        raise UsageError(
            f"{workspace.folder.name} is no image classifier: only those can be packaged"
        )
    variants = chosen(workspace.folder, manifest, settings)
    names = [name for variant in variants.values() for name in variant.proofs()]
    digests = {name: manifest.artifacts[name].sha256 for name in (*names, recorded.FILE)}
    goldens = recorded.Goldens.load(workspace.folder / recorded.FILE)

    def limits(variant: str, runner: str | None, precision: str) -> Gate:
        return gate_of(variant, runner, precision, goldens.reference_sqnr_db, gates)

    parity = ParityResult.load(workspace.folder / ParityResult.FILE)
    problems = evidence.parity_problems(parity, variants, digests, limits)
    waived = _waived(workspace.folder.name, manifest, problems, settings)
    notes = [f"{FAILED_PARITY}: {problem}" for problem in problems]
    if parity and parity.stale(digests, digests):
        parity = None
    bench = BenchResult.load(workspace.folder / BenchResult.FILE)
    if bench is None:
        notes.append("no bench.json: the bundle says nothing of latency; run `edgepipe bench`")
    elif bench.stale(digests, digests):
        notes.append("bench.json is about other files and was left out; run `edgepipe bench`")
        bench = None
    _check_p99(bench, variants, settings.max_p99)
    members: dict[str, Content] = {name: workspace.folder / name for name in digests}
    proofs = {}
    for kind, result in (("parity", parity), ("bench", bench)):
        if result is not None:
            proofs[kind] = f"evidence/{result.FILE}"
            members[proofs[kind]] = (workspace.folder / result.FILE).read_bytes()
    if (seen := evidence.calibrated(workspace.folder / CALIBRATION, manifest)) is not None:
        proofs[calibration.KIND] = calibration.MEMBER
        known = evidence.calibration(seen, manifest)
        if settings.probe:
            made, ranges = layers.probe(workspace.folder, seen, settings.probe)
            members[probe.MEMBER], known = made, replace(known, layers=ranges)
        members[calibration.MEMBER] = documents.text(known.to_json()).encode()
    elif settings.probe:
        raise UsageError(f"--probe: {layers.UNCALIBRATED}")
    recommended = tuple(
        Recommended(**asdict(found)) for found in manifest.recommended if found.variant in variants
    )
    used = {"f32", *evidence.precisions(parity)}
    used |= {found.precision for found in recommended}
    index = Index(
        schema_version=SCHEMA_VERSION,
        name=workspace.folder.name,
        edgepipe=version("edgepipe"),
        model=dict(manifest.model),
        preprocessing=preprocessing,
        labels=tuple(manifest.labels) if manifest.labels else None,
        variants=variants,
        gates=_gates(variants, sorted(used), limits, gates),
        recommended=recommended,
        provenance=provenance(manifest),
        evidence=proofs,
        waived=waived,
        release=settings.release,
        created=created(parity),
        max_p99_ms=settings.max_p99,
    )
    files = {name: _member(data) for name, data in sorted(members.items())}
    described = _descriptions(replace(index, members=files), parity, bench, notes)
    files |= {name: _member(data) for name, data in described.items()}
    members |= described
    return replace(index, members=dict(sorted(files.items()))), dict(sorted(members.items())), notes


def _check_p99(
    bench: BenchResult | None, variants: Mapping[str, Variant], limit_ms: float | None
) -> None:
    """Raise ``Refused`` for a limit that bench does not show to be held."""
    if limit_ms is not None and (problem := evidence.p99_problem(bench, variants, limit_ms)):
        raise Refused(
            f"--max-p99 {limit_ms:g} can't be certified: {problem}; run `edgepipe bench`, "
            "or leave the variant out"
        )


def created(parity: ParityResult | None) -> str | None:
    """When a bundle's proof was made: what ``SOURCE_DATE_EPOCH`` says, else when parity ran.

    Not when it was packaged: equal workspaces are to give equal bytes.
    """
    epoch = os.environ.get("SOURCE_DATE_EPOCH", "")
    if epoch.isdigit():
        return datetime.fromtimestamp(int(epoch), UTC).isoformat(timespec="seconds")
    return parity.measured if parity else None


def chosen(folder: Path, manifest: Manifest, settings: PackageConfig) -> dict[str, Variant]:
    """The variants to ship, in the formats asked for. Raises ``UsageError`` if one is missing."""
    needs = dict(one.split("=", 1) for one in settings.needs)
    for name in (*settings.variants, *needs):
        if name not in manifest.variants:
            raise UsageError(manifest.lacks(name, folder))
    variants = {}
    for name in settings.variants or tuple(manifest.variants):
        files = {
            kind: manifest.files(main)
            for kind, main in manifest.variants[name].items()
            if kind in settings.formats
        }
        if files:
            second = arithmetic.file_of(name)
            variants[name] = Variant(
                files,
                needs.get(name, needs_of(name)),
                second if second in manifest.artifacts else None,
            )
        elif name in settings.variants:
            raise UsageError(f"variant {name} has no file in {', '.join(settings.formats)}")
    missing = set(settings.formats) - {kind for one in variants.values() for kind in one.files}
    if missing:
        kind = sorted(missing)[0]
        raise UsageError(f"no variant has a file in {kind}: run `edgepipe export --format {kind}`")
    return variants


def _waived(
    model: str, manifest: Manifest, problems: list[str], settings: PackageConfig
) -> tuple[str, ...]:
    waived = []
    if not manifest.model["trained"]:
        if not settings.allow_untrained:
            raise Refused(
                f"{model} has untrained weights ({manifest.model['weights']}); "
                "--allow-untrained packages it all the same, and the bundle says so"
            )
        waived.append(UNTRAINED)
    if problems:
        if not settings.allow_failed_parity:
            more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
            raise Refused(
                f"parity has not passed: {problems[0]}{more}; run `edgepipe parity`, or "
                "--allow-failed-parity packages it all the same, and the bundle says so"
            )
        waived.append(FAILED_PARITY)
    return tuple(waived)


def _gates(
    variants: Mapping[str, Variant],
    precisions: list[str],
    limits: Any,
    gates: Mapping[str, GateConfig],
) -> tuple[BundleGate, ...]:
    """The limits of every variant, and those of single runners where ``[gates]`` has them."""
    own = [key.split("/", 1) for key in gates if "/" in key]
    return tuple(
        BundleGate(variant, runner, precision, **asdict(limits(variant, runner, precision)))
        for variant in variants
        for runner in (None, *sorted(runner for name, runner in own if name == variant))
        for precision in precisions
    )


def provenance(manifest: Manifest) -> dict[str, Any]:
    """Where the model comes from: weights, versions, calibration."""
    calibration = manifest.artifacts.get(CALIBRATION)
    return {
        "weights": manifest.model["weights"],
        "weights_sha256": manifest.model["weights_sha256"],
        "tools": dict(manifest.tools),
        "calibration_sha256": calibration.sha256 if calibration else None,
        "stages": {stage.name: stage.key for stage in manifest.stages},
        "workspace": digest({name: art.sha256 for name, art in manifest.artifacts.items()}),
    }


def _descriptions(
    listed: Index,
    parity: ParityResult | None,
    bench: BenchResult | None,
    notes: list[str],
) -> dict[str, bytes]:
    """Members about the others: pinned requirements, bill of materials, model card."""
    files = listed.members
    made: dict[str, bytes] = {}
    packages: dict[str, str] = {}
    for extra in RUNTIMES:
        pins = requirements.pinned(extra)
        if pins is None:
            notes.append(f"edgepipe[{extra}] is not installed here: no requirements for it")
            continue
        made[f"requirements/{extra}.txt"] = requirements.text(pins, extra).encode()
        packages |= pins
    identity = digest({name: member.sha256 for name, member in files.items()})
    made[BOM] = bom.cyclonedx(listed, files, dict(sorted(packages.items())), identity)
    made[CARD] = card.model_card(listed, parity, bench).encode()
    return made


def _member(data: Content) -> Member:
    if isinstance(data, Path):
        return Member(sha256_file(data), data.stat().st_size)
    return Member(hashlib.sha256(data).hexdigest(), len(data))


def _signature(contents: Mapping[str, Content], signer: Signer) -> bytes:
    with tempfile.TemporaryDirectory(prefix="edgepipe-") as folder:
        named = Path(folder) / "bundle"  # the signature has the folder's name in it
        _write_all(named, contents)
        return sign(named, signer)


def _write_all(folder: Path, files: Mapping[str, Content]) -> None:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(data, Path):
            shutil.copyfile(data, path)
        else:
            path.write_bytes(data)
