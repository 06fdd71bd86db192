"""The models of a comparison: what each costs, and where they come from.

That is a workspace, or the zoo by way of the cache.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from ....exporters import complexity
from ....exporters.complexity import Complexity
from ....exporters.zoo import ARCHITECTURES, WITH_WIDTH
from ....exporters.zoo.published import PUBLISHED
from ....runners.images import Size
from ....runners.machine.files import cache_folder
from ...errors import InputError, UsageError
from ...progress import Progress
from ...settings.making import ExportConfig
from ...settings.nearest import nearest
from ...settings.speed import CompareConfig
from ...stages.chain import make_settled
from ...stages.modelspec import settle
from ...storage.workspace import Workspace, models_in
from ..visits import Source

COMMAND = "edgepipe compare"
# Of the zoo's models, as they are published.
CLASSES = 1000
# What is compared unless others are asked for, beside what came quantized.
VARIANTS = ("fp32", "int8")


@dataclass(frozen=True)
class Speed:
    """A variant of a model on a runner. Times in ms for one run; ``None`` unless status is ok.

    ``ratio`` is that time divided by the one of the first model on the same runner, and of its
    first variant.

    ``pareto``: no other of the models measured on this runner and target in this precision is
    published as more accurate and was faster.
    """

    variant: str
    runner: str
    status: str
    reason: str | None
    verdict: str | None
    notes: tuple[str, ...]
    precision: str | None
    threads: int | None
    p50_ms: float | None
    ci95_ms: tuple[float, float] | None
    peak_rss_mib: float | None
    runner_version: str | None = None
    pareto: bool = False
    target: str = "local"
    ratio: float | None = None
    ratio_ci95: tuple[float, float] | None = None

    @property
    def condition(self) -> tuple[str, str, str | None]:
        """What models have to share to be compared."""
        return self.runner, self.target, self.precision


@dataclass(frozen=True)
class Candidate:
    """A model's row.

    ``macs`` (multiply-accumulates) and ``activation_peak_bytes`` are for one image;
    see ``Complexity`` for where they are ``None``.
    ``published_top1`` is that of the architecture's published ImageNet weights, in per cent,
    whatever weights this model has. ``input_size`` is in pixels, the side of a square or height and
    width. ``classes`` and ``input_size`` are ``None`` for a model of
    the user's own that has no such thing. ``training_step_ms`` is for one image, in a step of 8.
    """

    model: str
    architecture: str
    weights: str | None
    width: float | None
    classes: int | None
    input_size: Size | None
    parameters: int
    macs: int | None
    activation_peak_bytes: int | None
    published_top1: float | None
    published_top1_from: str | None
    size_bytes: Mapping[str, int] = field(default_factory=dict)
    training_step_ms: float | None = None
    speeds: tuple[Speed, ...] = ()


def architectures(names: Sequence[str], section: CompareConfig) -> tuple[Candidate, ...]:
    """The rows of architectures of the zoo, all of them if none is named. Nothing is run.

    Raises ``UsageError`` for an unknown one.
    """
    rows = []
    for name in names or ARCHITECTURES:
        if name not in ARCHITECTURES:
            raise UsageError(f"model: no {name!r}; {nearest(name, ARCHITECTURES)}")
        size = section.input_size or PUBLISHED[name].input_size
        width = 1.0 if name in WITH_WIDTH else None
        costs = complexity.of_architecture(name, size, CLASSES)
        rows.append(_candidate(name, name, None, width, CLASSES, size, costs))
    return tuple(rows)


def exported(source: Source) -> Candidate:
    """The row of a model in a workspace, without its speed: what its export recorded."""
    manifest, model = source.manifest, source.manifest.model
    costs = Complexity(*(model[field.name] for field in fields(Complexity)))
    row = _candidate(
        model["name"],
        model["architecture"],
        model["weights"],
        model.get("width"),
        model.get("classes"),
        model.get("input_size"),
        costs,
    )
    sizes = {
        variant: sum(manifest.artifacts[file].size for file in manifest.files(files["onnx"]))
        for variant, files in manifest.variants.items()
        if "onnx" in files
    }
    return replace(row, size_bytes=sizes)


def _candidate(
    model: str,
    architecture: str,
    weights: str | None,
    width: float | None,
    classes: int | None,
    size: Size | None,
    costs: Complexity,
) -> Candidate:
    # What is published is for the whole width.
    published = PUBLISHED.get(architecture) if width in (None, 1.0) else None
    return Candidate(
        model,
        architecture,
        weights,
        width,
        classes,
        size,
        costs.parameters,
        costs.macs,
        costs.activation_peak_bytes,
        published.top1 if published else None,
        published.top1_from if published else None,
    )


def open_exported(
    root: Path, names: Sequence[str], stack: ExitStack, progress: Progress
) -> list[Source]:
    """The models of a workspace, locked and verified until the stack is closed.

    Raises ``InputError`` for a folder without any, ``WorkspaceError`` for a name that isn't there.
    """
    found = models_in(root)
    if not names and not found:
        raise InputError(
            f"{root}: nothing exported yet; run `edgepipe export` or `edgepipe import`"
        )
    sources = []
    for name in names or found:
        place = Workspace(root, name)
        manifest = stack.enter_context(place.exported(COMMAND, progress.say))
        sources.append(Source.of(place, manifest))
    return sources


def open_zoo(
    names: Sequence[str], section: CompareConfig, stack: ExitStack, progress: Progress
) -> list[Source]:
    """Architectures with random weights for 1000 classes, exported into the cache if need be.

    Raises ``UsageError`` for an unknown one.
    """
    for name in names:
        if name not in ARCHITECTURES:
            raise UsageError(f"model: no {name!r}; {nearest(name, ARCHITECTURES)}")
    roots = {}
    for name in names or tuple(ARCHITECTURES):
        size = section.input_size or PUBLISHED[name].input_size
        roots[name] = cache_folder() / "compare" / str(size)
        progress.say(f"{name}: random weights, {size} pixels, in {roots[name] / name}")
        # Not the user's own [export]: what is compared is to be the same everywhere.
        export = ExportConfig(
            weights="random",
            classes=CLASSES,
            input_size=size,
            variants=tuple(dict.fromkeys(("fp32", *(section.variants or VARIANTS)))),
        )
        settled, _ = settle(export, name, named=True)
        make_settled(Workspace(roots[name], name), settled, force=False, progress=progress)
    return [
        source
        for name, root in roots.items()
        for source in open_exported(root, (name,), stack, progress)
    ]
