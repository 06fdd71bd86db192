"""OpenVINO's performance counters: what each node of a compiled model takes.

With ``PERF_COUNT`` a graph adds up what its nodes take, in whole microseconds, and answers with
the mean over all runs since it was compiled. So the runs that warmed it up are taken off again,
and there is a mean and no median. Source: openvino 2026.4, src/plugins/intel_cpu/src/perf_count.h.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..base import NodeTime, NodeTimes, SessionError

# Element types -> precisions; "u8" and "i8" are operands of the same kernels.
PRECISIONS = {"u8": "int8", "i8": "int8"}
# What the runtime's graph has beside what is computed.
NOTHING = ("Const", "Input", "Output", "Parameter", "Result")


class Counters:
    """The counters of one infer request of a model that was compiled with ``PERF_COUNT``."""

    def __init__(self, compiled: Any, request: Any) -> None:
        self._compiled, self._request = compiled, request
        self._runs = 0
        self._before: tuple[int, Mapping[str, int]] = (0, {})

    def ran(self) -> None:
        """Count a run."""
        self._runs += 1

    def begin(self) -> None:
        """See ``ProfiledSession.begin``."""
        self._before = self._runs, self._means() if self._runs else {}

    def times(self, device: str) -> NodeTimes:
        """See ``ProfiledSession.times``."""
        before, earlier = self._before
        runs = self._runs - before
        if not runs:
            raise SessionError("nothing was run since the profile began")
        about = self._about()
        nodes = []
        for info in self._executed():
            mean = _us(info)
            total = mean * self._runs - earlier.get(info.node_name, 0) * before
            known = about.get(info.node_name, {})
            precision = known.get("runtimePrecision", "")
            originals = known.get("originalLayersNames", "")
            nodes.append(
                NodeTime(
                    name=info.node_name,
                    operator=info.node_type,
                    kernel=info.exec_type,
                    precision=PRECISIONS.get(precision, precision),
                    provider=device,
                    us=max(0.0, total / runs),  # means are cut to whole microseconds
                    originals=tuple(name for name in originals.split(",") if name),
                )
            )
        return NodeTimes("mean", sum(node.us for node in nodes), tuple(nodes))

    def _means(self) -> dict[str, int]:
        return {info.node_name: _us(info) for info in self._executed()}

    def _executed(self) -> list[Any]:
        return [
            info
            for info in self._request.get_profiling_info()
            if str(info.status).endswith("EXECUTED") and info.node_type not in NOTHING
        ]

    def _about(self) -> dict[str, dict[str, str]]:
        """What the runtime's graph says of each node, by its name."""
        return {
            operation.friendly_name: {
                name: str(value.astype(str)) for name, value in operation.get_rt_info().items()
            }
            for operation in self._compiled.get_runtime_model().get_ops()
        }


def _us(info: Any) -> int:
    return round(info.real_time.total_seconds() * 1e6)
