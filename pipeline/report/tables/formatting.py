"""Figures, names and times as they are shown, and the width of a terminal."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Console

from ....exporters.weights.sources import FILE
from ....runners.targets import estimate

WIDTH = 100
MIB = 1 << 20
NONE = "–"
# What may tell one row from another of the same variant and runner, and how it is said.
APART = {
    "device": "{}",
    "precision": "{}",
    "batch": "batch {}",
    "threads": "{} threads",
    "target": "on {}",
}


def text(*parts: Any) -> str:
    """Tables and lines as a terminal shows them, without colours where nobody looks."""
    console = Console(
        file=io.StringIO(), width=WIDTH, force_terminal=sys.stdout.isatty(), highlight=False
    )
    for part in parts:
        console.print(part, markup=False, soft_wrap=isinstance(part, str))
    output = console.file
    assert isinstance(output, io.StringIO)
    return output.getvalue().rstrip()


# Whose answers the reference is where a file came quantized, without the model behind it.
ANSWERS_FOR_ITSELF = "the quantized file itself, node by node: the runners' kernels are judged"


def source_of(model: Mapping[str, Any]) -> str:
    """Where a model's weights are from, by its facts: "digits weights", "an ONNX file"."""
    return "an ONNX file" if model["weights"] == FILE else f"{model['weights']} weights"


def cpu_of(host: Mapping[str, Any]) -> str:
    """What a machine's CPU is called, and what it computes as, or is emulated by."""
    name = str(host.get("cpu", "an unknown CPU"))
    if host.get("emulator"):
        return f"{name}, emulated by {host['emulator']}"
    return f"{name} computing as {host['isa']}" if host.get("isa") else name


def estimates(hosts: Mapping[str, Mapping[str, Any]], rows: Sequence[Any]) -> list[str]:
    """A line for each target that computes as an older CPU, with oneDNN's word for it."""
    lines = []
    for target, host in hosts.items():
        if host.get("isa"):
            said = next((row.isa for row in rows if row.target == target and row.isa), "nothing")
            lines.append(f"{target}: {estimate(host['isa'])} (oneDNN: {said})")
    return lines


def row_name(row: Any, rows: Sequence[Any]) -> str:
    """A row of a table below it: its variant and runner, and what tells it from other rows."""
    return " ".join((f"{row.variant}/{row.runner}", *apart(row, rows).values()))


def apart(row: Any, rows: Sequence[Any]) -> dict[str, str]:
    """What tells a row from those of the same variant and runner, by attribute."""
    alike = [one for one in rows if (one.variant, one.runner) == (row.variant, row.runner)]
    found: dict[str, str] = {}
    for attribute, says in APART.items():
        own = getattr(row, attribute, None)
        values = {getattr(one, attribute, None) for one in alike} - {None, ""}
        if own in values and len(values) > 1:
            found[attribute] = says.format(own)
    return found


def number(value: float | None, form: str) -> str:
    """A figure, or a dash where there is none."""
    return NONE if value is None else format(value, form)


def interval(ends: Sequence[float] | None, show: Callable[[float], str], to: str = "–") -> str:
    """Both ends, or a dash where there is no interval."""
    return to.join(map(show, ends)) if ends else NONE


def shortened(name: str, width: int) -> str:
    """The end of a name that is too long for so many characters: that is where names differ."""
    return name if len(name) <= width else "…" + name[1 - width :]


def millions(value: float | None) -> str:
    """Millions without decimals, or a dash where there is no figure."""
    return number(None if value is None else value / 1e6, ",.0f")


def mebibytes(value: float | None, form: str = ".1f") -> str:
    """Bytes as MiB, or a dash where there is no figure."""
    return number(None if value is None else value / MIB, form)


def settings(found: Mapping[str, Any]) -> str:
    """Settings of a runner as tune tries them: "threads 1, allow_spinning False"."""
    options = found.get("options", {})
    plain = {name: value for name, value in found.items() if name != "options"}
    return ", ".join(f"{name} {value}" for name, value in {**plain, **options}.items())


def moment(when: str | None) -> str:
    """A time in UTC (ISO 8601) to the minute; a dash for ``None``."""
    return NONE if when is None else f"{when[:16].replace('T', ' ')} UTC"


def ms(value: float | None) -> str:
    """Three significant digits for what is below 100 ms; a dash for ``None``."""
    if value is None:
        return NONE
    if 0 < value < 1:
        return f"{value:.4f}" if value < 0.1 else f"{value:.3f}"
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"
