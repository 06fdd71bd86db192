"""The reference of every JSON document, from the classes that write and read them.

python -m edgepipe.pipeline.report.documentation > docs/reference/json.md
"""

from __future__ import annotations

import inspect
import sys
import types
from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from ...runners.bundles import index as bundle
from ..intake.inspection import Inspection
from ..judging.evaluate_result import EvaluationResult
from ..judging.explanation import ExplainResult
from ..judging.parity_result import ParityResult
from ..judging.predict import PredictResult
from ..machine.doctor import Diagnosis
from ..machine.inventory import Inventory
from ..profiling.profile_result import ProfileResult
from ..quantization.search.search_result import SearchResult
from ..shipping.deploy_result import Deployment
from ..shipping.fleet.rollout_result import Rollout
from ..shipping.packing.package import Packaged
from ..shipping.registry.pull import Pulled
from ..shipping.registry.push import Pushed
from ..shipping.registry.releases.release import Released
from ..shipping.verify_result import Verification
from ..shipping.watching.heartbeat_result import HeartbeatResult
from ..speed.bench_result import BenchResult
from ..speed.comparison.compare import CompareResult
from ..speed.soak.soak_result import SoakResult
from ..speed.tune import TuneResult
from ..storage.document import Document, written
from ..storage.manifest import SCHEMA_VERSION as MANIFEST_SCHEMA
from ..storage.manifest import Manifest
from ..storage.workspace import MANIFEST
from ..training.train import TrainResult

KEPT = (
    BenchResult,
    ProfileResult,
    SoakResult,
    ParityResult,
    EvaluationResult,
    ExplainResult,
    TuneResult,
    SearchResult,
    CompareResult,
)
PRINTED = (
    Inspection,
    PredictResult,
    TrainResult,
    Packaged,
    Verification,
    Deployment,
    Pushed,
    Pulled,
    Released,
    Rollout,
    HeartbeatResult,
    Inventory,
    Diagnosis,
)
PLAIN = {
    str: "string",
    Path: "string",
    int: "integer",
    float: "number",
    bool: "true or false",
    type(None): "null",
    Any: "anything",
}
HEAD = """# JSON documents

Every result is one JSON object: `--json` prints it and nothing else on stdout, and where a file
is named a command leaves it in the workspace. `schema_version` is in each and goes up when a key
changes its meaning or is gone; new keys may come at any time. Of commands about cells, `cells` has
a row for each variant on a runner on a target, those that could not run as well:

| key | what |
|---|---|
| `status` | `ok`, `unavailable` (no such runner there) or `failed` (refused, crashed, timed out) |
| `reason` | why it isn't `ok`, or why the verdict is what it is, in one line; else `null` |
| `verdict` | bench: `valid`, `noisy`, `invalid`; parity, evaluate: `pass`, `fail`, `inconclusive` |

A figure that isn't known is `null`, never zero: a percentile that the samples can't carry, energy
that can't be read. JSON has no infinity and no NaN: a distance that is no number is `null`, and a
state beside it says which it is. What the figures mean: [bench](../bench.md),
[parity](../parity.md#metrics), [evaluate](../evaluate.md). What a bundle holds:
[shipping](../shipping.md#package).

This page is made from the classes that write and read the documents
(`python -m edgepipe.pipeline.report.documentation`).
"""


def markdown() -> str:
    """The page."""
    parts, described = [HEAD], dict[str, str]()
    for kind in (*KEPT, *PRINTED):
        schema, made = kind.SCHEMA, f"`{kind.MADE_BY}`"
        title = kind.FILE or f"{kind.MADE_BY} --json"
        parts.append(_section(2, title, kind, described, f"Made by {made}, schema {schema}."))
    about = f"Made by `edgepipe export`, schema {MANIFEST_SCHEMA}; `digest` is that of the rest."
    parts.append(_section(2, MANIFEST, Manifest, described, about))
    about = f"In a bundle, made by `edgepipe package`, schema {bundle.SCHEMA_VERSION}."
    parts.append(_section(2, bundle.INDEX, bundle.Index, described, about))
    return "\n".join([*parts, "## Parts\n", *(described[name] for name in sorted(described))])


def _section(level: int, title: str, kind: Any, described: dict[str, str], about: str = "") -> str:
    """A class with its fields; the classes of those are added to ``described``."""
    said = [one.__doc__ for one in kind.__mro__ if is_dataclass(one) and one is not Document]
    said = [
        inspect.cleandoc(text or "").replace("``", "`").replace("`None`", "`null`")
        for text in said or [kind.__doc__]
    ]
    lines = [f"{'#' * level} {title}", "", *([about, ""] if about else [])]
    lines += [line for text in said for line in (text, "")]
    lines += ["| key | value |", "|---|---|"]
    hints = _hints(kind)
    for name, hint in hints.items():
        lines.append(f"| `{name}` | {_json(hint)} |")
    for part in (one for hint in hints.values() for one in _classes(hint)):
        if part.__name__ not in described:
            described[part.__name__] = ""  # for one that has itself as a part
            described[part.__name__] = _section(3, part.__name__, part, described)
    return "\n".join([*lines, ""])


def _hints(kind: Any) -> dict[str, Any]:
    """The keys of a document or a part of one, with their types."""
    hints = get_type_hints(kind)
    if not is_dataclass(kind):
        return hints
    named = {name: hints[name] for name in written(kind)}
    if not (isinstance(kind, type) and issubclass(kind, Document)):
        return named
    derived = {name: get_type_hints(getattr(kind, name).fget)["return"] for name in kind.DERIVED}
    return {"schema_version": int, **derived, **named}


def _json(hint: Any) -> str:
    """A type as JSON has it."""
    if hint in PLAIN:
        return PLAIN[hint]
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(map(_json, args))
    if origin is tuple and args[-1] is not Ellipsis:
        return f"[{', '.join(map(_json, args))}]"
    if origin in (tuple, list):
        return f"array of {_json(args[0])}"
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return f"object of {_json(args[1])}"
    return f"[{hint.__name__}](#{hint.__name__.lower()})"


def _classes(hint: Any) -> Iterator[Any]:
    """The classes in a type that have keys of their own."""
    if args := get_args(hint):
        for one in args:
            yield from _classes(one)
    elif hint not in PLAIN and hint is not Ellipsis:
        yield hint


if __name__ == "__main__":
    sys.stdout.write(markdown())
