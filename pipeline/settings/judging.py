"""The keys of what judges cells: which ones, ``[parity]``, ``[evaluate]``, ``[predict]``, gates."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field, FiniteFloat

from ...runners.images import DECODERS
from ...runners.targets import LOCAL
from .options import (
    Cluster,
    Help,
    OfModel,
    Positive,
    Request,
    Section,
    Share,
    SkipUnreadable,
    Variants,
)

PRECISIONS = ("f32", "tf32", "bf16", "f16")
THREADS = Help("Threads of every runner.", unset="physical cores")
TRUST = Help("Read fp32.pt2 though it was not made here: it can run code.")


class CellsConfig(Section):
    """Which cells a command judges. Empty lists mean "all there are".

    Unless ``tuned`` is off, and where nothing else is asked for, cells run with the settings
    that ``edgepipe tune`` recommends.
    """

    runners: Annotated[
        tuple[str, ...],
        Help("ort-cpu, ort-openvino, …", flag="--runner", short="-r", metavar="NAME"),
    ] = ()
    variants: Variants = ()
    targets: Annotated[
        tuple[str, ...],
        Help(
            "Where to run: local, haswell, isa-avx2, ….",
            flag="--target",
            short="-t",
            metavar="NAME",
        ),
    ] = (LOCAL.name,)
    precisions: Annotated[
        tuple[str, ...], Help("f32, tf32, bf16, f16.", flag="--precision", metavar="NAME")
    ] = ("f32",)
    threads: Annotated[Positive | None, THREADS] = None
    allow_fallback: Annotated[
        bool, Help("Let nodes that a provider doesn't take run on the CPU.")
    ] = False
    tuned: Annotated[
        bool, Help("The default settings, whatever tune recommends.", flag="--untuned", off=True)
    ] = True
    trust_workspace: Annotated[bool, TRUST] = False

    @property
    def threads_unset(self) -> int | None:
        """Threads of a cell that neither this section nor tune gives any."""
        return None


class ClusteredConfig(CellsConfig):
    """Cells that may run on a cluster."""

    cluster: Cluster = None

    @property
    def threads_unset(self) -> int | None:
        """One on a cluster, whose machines may have any number of cores."""
        return 1 if self.cluster else None


class PlacedConfig(CellsConfig):
    """Cells whose placement is under gates."""

    require_ep: Annotated[
        tuple[Share, ...],
        Help(
            "Fail unless N % of the nodes are on that execution provider.",
            metavar="EP=N%",
        ),
    ] = ()


class ParityConfig(PlacedConfig, ClusteredConfig):
    """What ``edgepipe parity`` compares."""

    table: ClassVar[str] = "parity"
    samples: Annotated[Positive | None, Help("Goldens to run.", unset="all")] = None


class ParityRequest(ParityConfig, OfModel):
    """``edgepipe parity``: hold every variant on every runner against the model's answers."""

    recording: Annotated[
        Path | None,
        Help("Judge a parity.npz again, run nothing.", flag="--from", metavar="FILE"),
    ] = None
    explain: Annotated[bool, Help("Also say which step and which layer adds the error.")] = False


class InspectRequest(Request):
    """``edgepipe inspect``: what an ONNX file says of itself, and which runners take it."""

    file: Annotated[Path, Help("An ONNX file.", argument=True)] = Field(kw_only=False)
    runners: Annotated[
        tuple[str, ...],
        Help(
            "Who has to take it.",
            flag="--runner",
            short="-r",
            metavar="NAME",
            unset="all that are here are asked",
        ),
    ] = ()


class EvaluateConfig(ClusteredConfig):
    """What ``edgepipe evaluate`` judges. Without ``max_drop`` accuracy is measured, not judged."""

    table: ClassVar[str] = "evaluate"
    data: Annotated[
        Path | None, Help("A folder of images for each label.", metavar="DIR", unset="digits")
    ] = None
    max_drop: Annotated[
        Annotated[float, Field(ge=0, le=100)] | None,
        Help("Loss of top-1 that is allowed, in points.", metavar="POINTS", unset="no gate"),
    ] = None
    decoders: Annotated[Positive, Help("Images decoded at the same time.")] = DECODERS
    skip_unreadable: SkipUnreadable = False

    @property
    def decoders_on_cluster(self) -> int:
        """Threads that decode beside a cluster's worker: none unless asked for."""
        return self.decoders if "decoders" in self.model_fields_set else 0


class EvaluateRequest(EvaluateConfig, OfModel):
    """``edgepipe evaluate``: judge every variant's accuracy on labelled images against fp32's."""


class PredictConfig(Section):
    """Which cell ``edgepipe predict`` asks, and how many classes of each image it tells."""

    table: ClassVar[str] = "predict"
    variant: Annotated[
        str | None,
        Help("fp32, int8, …", short="-v", metavar="NAME", unset="fp32, or given if there is none"),
    ] = None
    runner: Annotated[str, Help("ort-cpu, openvino, …", short="-r", metavar="NAME")] = "ort-cpu"
    target: Annotated[
        str, Help("Where to run: local, haswell, isa-avx2, ….", short="-t", metavar="NAME")
    ] = LOCAL.name
    precision: Annotated[str, Help("f32, tf32, bf16, f16.", metavar="NAME")] = "f32"
    threads: Annotated[Positive | None, THREADS] = None
    top: Annotated[Positive, Help("Classes to show an image.")] = 5
    decoders: Annotated[Positive, Help("Images decoded at the same time.")] = DECODERS
    trust_workspace: Annotated[bool, TRUST] = False


class PredictRequest(PredictConfig, OfModel):
    """``edgepipe predict``: ask one variant on one runner what is in these images."""

    images: Annotated[
        tuple[str | Path, ...],
        Help("Files, folders, patterns; - for a list on stdin.", argument=True, metavar="IMAGE"),
    ] = Field(kw_only=False)


class GateConfig(Section):
    """``[gates."VARIANT"]`` or ``[gates."VARIANT/RUNNER"]``: limits other than the defaults."""

    min_sqnr_db: Annotated[FiniteFloat | None, Help("Least SQNR against the reference, dB.")] = None
    min_kernels_sqnr_db: Annotated[
        FiniteFloat | None,
        Help("For int8: how near the kernels come to the file's own arithmetic, dB."),
    ] = None
    min_cosine: Annotated[
        Annotated[float, Field(ge=-1, le=1)] | None, Help("Least cosine similarity.")
    ] = None
    min_top1: Annotated[
        Annotated[float, Field(ge=0, le=1)] | None,
        Help("Least share of samples with the reference's class."),
    ] = None
