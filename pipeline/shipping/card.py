"""A model card in Markdown: what the bundle holds and what was measured, all from its index."""

from __future__ import annotations

from ...runners.bundles.bundle import EXACT_INT8, Index
from ...runners.targets import estimate
from ..judging.parity_result import ParityResult
from ..speed.bench_result import BenchResult

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
        f"{model['architecture']}, {model['weights']} weights (SHA-256 "
        f"`{str(model['weights_sha256'])[:16]}…`), {model['parameters']:,} parameters, "
        f"{model['classes']} classes. Packaged by edgepipe {index.edgepipe}" + ".",
    ]
    parts += [WAIVED[name] for name in index.waived]
    parts += ["## Use", _use(index), "## Variants", _variants(index)]
    parts += ["## Fidelity on the build machine", _parity(index, parity)]
    parts += ["## Latency on the build machine", _bench(index, bench)]
    parts += [
        "## Limits",
        "Fidelity says how near the answers are to the trained model's own, not how often those "
        "are right. The latencies are those of the machine named, not of yours: "
        "`edgepipe verify` measures there.",
    ]
    return "\n\n".join(parts) + "\n"


def _use(index: Index) -> str:
    data = index.preprocessing
    labels = ", ".join(index.labels or ())
    order = "BGR" if data.channels == "bgr" and not data.folded else "RGB"
    shape = f"{order} image, {data.size}×{data.size}, resized by “{data.resize}”"
    scale = f"then (x/255 − {list(data.mean)}) / {list(data.std)}, float32, channels first"
    if data.folded:
        scale = "then as it is, uint8, channels last: the model does the rest"
    known = f"Labels: {labels}." if labels else "No labels."
    return f"Input: {shape}, {scale}. {known}"


def _variants(index: Index) -> str:
    rows = ["| variant | files | MiB | for |", "|---|---|---|---|"]
    for name, variant in index.variants.items():
        files = variant.names()
        size = sum(index.members[file].size for file in files) / (1 << 20)
        needs = "CPUs with VNNI" if variant.needs == EXACT_INT8 else "every CPU"
        rows.append(f"| {name} | {', '.join(files)} | {size:.1f} | {needs} |")
    return "\n".join(rows)


def _parity(index: Index, parity: ParityResult | None) -> str:
    if parity is None:
        return "Not measured."
    columns = ("variant", "runner", "target", "verdict", "SQNR dB", "file dB", "kernels dB")
    rows = [f"| {' | '.join(columns)} | top-1 | n |", "|---" * 9 + "|"]
    for cell in parity.cells:
        if cell.status == "ok" and cell.variant in index.variants:
            distances = (cell.sqnr_db, cell.file_sqnr_db, cell.kernels_sqnr_db)
            figures = [_figure(distance, ".1f") for distance in distances]
            figures.append(_figure(cell.top1_agreement, ".1%"))
            rows.append(
                f"| {cell.variant} | {cell.runner} | {cell.target} | {cell.verdict} "
                f"| {' | '.join(figures)} | {cell.samples} |"
            )
    text = (
        "Answers on the goldens against torch's float32. For int8 the file's own arithmetic "
        "against torch, and the runner's kernels against that."
    )
    for target, host in parity.hosts.items():
        if host.get("isa"):
            text += f" On {target}, an {estimate(host['isa'])}."
    return f"{text}\n\n" + "\n".join(rows)


def _bench(index: Index, bench: BenchResult | None) -> str:
    if bench is None:
        return "Not measured."
    rows = ["| variant | runner | threads | p50 ms | 95 % interval | verdict |", "|---" * 6 + "|"]
    for cell in bench.cells:
        latency = cell.latency_ms
        estimated = cell.isa is not None  # of another CPU than the one that the table names
        if latency and not estimated and cell.variant in index.variants:
            interval = "{:.2f}–{:.2f}".format(*latency.ci95) if cell.rounds > 1 else "–"
            rows.append(
                f"| {cell.variant} | {cell.runner} | {cell.threads} "
                f"| {latency.p50:.2f} | {interval} | {cell.verdict} |"
            )
    quick = " One short round only (`--quick`)." if bench.quick else ""
    machine = f"{bench.host.get('cpu')}, {bench.host.get('physical_cores')} cores.{quick}"
    return machine + "\n\n" + "\n".join(rows)


def _figure(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)
