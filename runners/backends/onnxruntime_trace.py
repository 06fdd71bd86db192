"""What ONNX Runtime's profiler writes down of each run, read a line at a time.

The file is a trace in Chrome's format (Trace Event Format, Google 2016), an event a line, each
written when it is over: the nodes of a run first and then "model_run". Times are whole
microseconds. Source: onnxruntime 1.31, core/common/profiler.cc.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from ..base import NodeTime, NodeTimes, Placement, Session, SessionError, TensorSpec

if TYPE_CHECKING:
    import numpy as np

# The profiler keeps every event in memory until its end, at about 3 kB each.
MOST_EVENTS = 20_000
LEAST_RUNS = 4
NODE, RUN, KERNEL = "Node", "model_run", "_kernel_time"
# Names of types as the trace has them -> of precisions. Others (indices, shapes) stay as they are.
PRECISIONS = {
    "uint8": "int8",
    "int8": "int8",
    "float": "f32",
    "float16": "f16",
    "bfloat16": "bf16",
    "double": "f64",
}
INT8_OPERATORS = ("QLinear", "QGemm", "DynamicQuantize", "MatMulInteger", "ConvInteger")
Event = Mapping[str, Any]


class TracedSession:
    """A session with ONNX Runtime's profiler on, behind the ``ProfiledSession`` protocol."""

    def __init__(
        self, session: Session, end: Callable[[], str], folder: TemporaryDirectory[str]
    ) -> None:
        self._session, self._end, self._folder = session, end, folder
        self._runs = self._before = 0
        self.inputs: tuple[TensorSpec, ...] = session.inputs
        self.outputs: tuple[TensorSpec, ...] = session.outputs

    @property
    def placement(self) -> Placement:
        """See ``Session.placement``."""
        return self._session.placement

    @property
    def most_runs(self) -> int:
        """See ``ProfiledSession.most_runs``: as many as fit into the profiler's memory."""
        return max(LEAST_RUNS, MOST_EVENTS // max(1, sum(self.placement.nodes.values())))

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """See ``Session.run``."""
        outputs = self._session.run(feeds)
        self._runs += 1
        return outputs

    def begin(self) -> None:
        """See ``ProfiledSession.begin``."""
        self._before = self._runs

    def times(self) -> NodeTimes:
        """See ``ProfiledSession.times``: medians over the runs."""
        with self._folder, Path(self._end()).open(encoding="utf-8", errors="replace") as lines:
            return node_times(lines, self._before)

    def close(self) -> None:
        """See ``Session.close``."""
        self._session.close()
        self._folder.cleanup()


def node_times(lines: Iterable[str], before: int) -> NodeTimes:
    """The nodes of a trace's runs but the first ``before``, with their medians in us.

    What a node's subgraph takes is in the node's own time, and counted once. Raises
    ``SessionError`` for a trace without such a run.
    """
    import numpy as np

    # By name and number: names need not be unique in an ONNX graph.
    first: dict[tuple[str, str], Event] = {}
    taken: dict[tuple[str, str], list[int]] = {}
    totals: list[int] = []
    for number, events in enumerate(_runs(lines)):
        if number < before:
            continue
        outermost = list(_outermost(events))
        totals.append(sum(event["dur"] for event in outermost))
        runs = len(totals)
        for event in outermost:
            key = event["name"].removesuffix(KERNEL), event["args"].get("node_index", "")
            first.setdefault(key, event)
            durations = taken.setdefault(key, [])
            # One that did not run in every run took nothing then; one that ran twice is added up.
            durations += [0] * (runs - len(durations))
            durations[-1] += event["dur"]
    if not totals:
        raise SessionError("ONNX Runtime's profiler kept no run: the model has too many nodes")
    for durations in taken.values():
        durations += [0] * (len(totals) - len(durations))
    return NodeTimes(
        "median",
        float(np.median(totals)),
        tuple(_node(key[0], event, float(np.median(taken[key]))) for key, event in first.items()),
    )


def _runs(lines: Iterable[str]) -> Iterator[list[Event]]:
    """The nodes' events of each run that was over when the trace ended."""
    nodes: list[Event] = []
    for line in lines:
        text = line.strip(" \t\r\n,")
        if text in ("", "[", "]"):
            continue
        try:
            event = json.loads(text.removeprefix("[").removesuffix("]"))
        except ValueError as error:
            raise SessionError(f"ONNX Runtime's trace can't be read: {error}") from error
        if event.get("cat") == NODE and event["name"].endswith(KERNEL):
            nodes.append(event)
        elif event.get("name") == RUN:
            yield nodes
            nodes = []


def _outermost(events: Iterable[Event]) -> Iterator[Event]:
    """Without those of subgraphs, which lie inside the time of the node that has them."""
    end = -1
    for event in sorted(events, key=lambda one: (one["ts"], -one["dur"])):
        # Neighbours may share a microsecond: inside is what also ends inside and began later.
        if event["ts"] + event["dur"] <= end and event["ts"] < end:
            continue
        end = max(end, event["ts"] + event["dur"])
        yield event


def _node(name: str, event: Event, us: float) -> NodeTime:
    about = event["args"]
    operator = about.get("op_name", "")
    return NodeTime(
        name=name,
        operator=operator,
        kernel="",
        precision=_precision(operator, about),
        provider=about.get("provider", ""),
        us=us,
    )


def _precision(operator: str, about: Event) -> str:
    """The type of what a node reads first, or of what it makes where it reads nothing.

    Quantized operators may read a scale first ("QLinearConcat"), or floats that they quantize
    themselves ("DynamicQuantizeMatMul").
    """
    if operator.startswith(INT8_OPERATORS):
        return "int8"
    for key in ("input_type_shape", "output_type_shape"):
        kinds: list[str] = [kind for tensor in about.get(key, ()) for kind in tensor]
        if kinds:
            return PRECISIONS.get(kinds[0], kinds[0])
    return ""
