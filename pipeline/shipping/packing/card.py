"""A model card in Markdown: what the bundle holds and what was measured, all from its index."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter

from ....exporters.weights.sources import FILE
from ....runners.bundles.index import EXACT_INT8, Index
from ....runners.targets import estimate
from ...judging.parity_result import CellVerdict, ParityResult
from ...report.tables import columns, preparation
from ...report.tables.columns import RUNNER, TARGET, VARIANT, VERDICT
from ...report.tables.formatting import mebibytes, source_of
from ...report.tables.table import Column, Table, figure
from ...speed.bench_result import BenchResult, CellResult

VARIANTS = (Column("variant"), Column("files"), figure("MiB"), Column("for"))
PARITY = (
    *(VARIANT, RUNNER, TARGET, VERDICT, columns.SQNR, *columns.TWICE, columns.TOP1_AGREEMENT),
    columns.SAMPLES,
)
BENCH = (VARIANT, RUNNER, columns.THREADS, columns.P50, columns.LATENCY_INTERVAL, VERDICT)

WAIVED = {
    "untrained": "**The weights are untrained**: the answers mean nothing (`--allow-untrained`).",
    "failed-parity": "**Parity did not pass** on the build machine, or was not measured "
    "(`--allow-failed-parity`).",
}


def model_card(index: Index, parity: ParityResult | None, bench: BenchResult | None) -> str:
    """The card. ``parity`` and ``bench`` are the results of the build machine, if there are."""
    model = index.model
    parts = [
        f"# {index.name}",
        f"{model['architecture']}, {source_of(model)} (SHA-256 "
        f"`{str(model['weights_sha256'])[:16]}…`), {model['parameters']:,} parameters, "
        f"{model['classes']} classes. Packaged by edgepipe {index.edgepipe}" + ".",
    ]
    parts += [WAIVED[name] for name in index.waived]
    parts += ["## Use", _use(index), "## Variants", _variants(index)]
    parts += ["## Fidelity on the build machine", _parity(index, parity)]
    parts += ["## Latency on the build machine", _bench(index, bench)]
    parts += [
        "## Limits",
        "Fidelity says how near the answers are to the reference's, not how often those "
        "are right. The latencies are those of the machine named, not of yours: "
        "`edgepipe verify` measures there.",
    ]
    return "\n\n".join(parts) + "\n"


def _use(index: Index) -> str:
    data = index.preprocessing
    labels = ", ".join(index.labels or ())
    order = "RGB" if data.channels == "bgr" and data.folded else preparation.named(data)
    size = preparation.size_of(data).replace(" × ", "×", 1)
    shape = f"{order} image, {size}, resized by “{data.resize}”"
    scale = f"then (x/255 − {list(data.mean)}) / {list(data.std)}, float32, channels first"
    if data.folded:
        scale = "then as it is, uint8, channels last: the model does the rest"
    known = f"Labels: {labels}." if labels else "No labels."
    return f"Input: {shape}, {scale}. {known}"


def _variants(index: Index) -> str:
    rows = []
    for name, variant in index.variants.items():
        files = variant.names()
        size = mebibytes(sum(index.members[file].size for file in files))
        rows.append((name, ", ".join(files), size, _meant_for(variant.needs)))
    return Table("", VARIANTS, tuple(rows)).markdown()


def _meant_for(needs: str | None) -> str:
    if needs is None:
        return "every CPU"
    return "CPUs with VNNI, ARM64" if needs == EXACT_INT8 else f"ARM64 CPUs with {needs}"


def _parity(index: Index, parity: ParityResult | None) -> str:
    if parity is None:
        return "Not measured."
    text = (
        f"Answers on the goldens against the reference: {_reference(index)}. For int8 "
        "the file's own arithmetic against it, and the runner's kernels against that."
    )
    for target, host in parity.hosts.items():
        if host.get("isa"):
            text += f" On {target}, an {estimate(host['isa'])}."
    return f"{text}\n\n{_measured(PARITY, index, parity.cells)}"


def _reference(index: Index) -> str:
    """Whose answers those of the variants are held against."""
    if index.model["weights"] == FILE and index.model.get("quantized"):
        return "the quantized file's own answers, node by node"
    return "the float model's own float32"


def _bench(index: Index, bench: BenchResult | None) -> str:
    if bench is None:
        return "Not measured."
    quick = " A few short slices only (`--quick`)." if bench.quick else ""
    machine = f"{bench.host.get('cpu')}, {bench.host.get('physical_cores')} cores.{quick}"
    if index.max_p99_ms is not None:
        machine += f" Certified: 99 % of the runs take at most {index.max_p99_ms:g} ms."
    # Not of another CPU than the one that the table names.
    timed = [cell for cell in bench.cells if cell.latency_ms and cell.isa is None]
    return f"{machine}\n\n{_measured(BENCH, index, timed)}"


def _measured(
    shown: Sequence[Column], index: Index, cells: Sequence[CellVerdict | CellResult]
) -> str:
    """The cells that ran, of variants that are in the bundle."""
    rows = [cell for cell in cells if cell.status == "ok" and cell.variant in index.variants]
    return Table.of(shown, rows).markdown(attrgetter("word"))
