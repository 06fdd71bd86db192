"""Runners out of a script: what edgepipe makes of a runner, tried in milliseconds and no process.

    from edgepipe.pipeline import bench
    from edgepipe.runners.workers.scripted import Script, scripted

    def test_a_crash_costs_its_own_cell(workspace):
        good = Script(answer, inputs, outputs)
        with scripted({"ort-cpu": good, "ort-cpu/int8": good.failing(load=WorkerCrashed("boom"))}):
            cells = bench(workspace=workspace, runners=("ort-cpu",)).cells

Only the worker's process is replaced, by what a script says it would answer; planning, judging
and everything else is edgepipe's own.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from importlib.metadata import EntryPoint, version
from pathlib import Path, PurePath
from typing import Any
from unittest import mock

import numpy as np

from .. import registry
from ..base import (
    NO_PROFILER,
    NodeTime,
    NodeTimes,
    Placement,
    RunnerError,
    RunnerUnavailable,
    SessionError,
    Settings,
    TensorSpec,
)
from ..machine import isa
from ..targets import Isa
from ..timing.conditions import Conditions
from ..timing.plan import OFFLINE, SERVER
from . import protocol
from .launch import Worker

Arrays = Mapping[str, np.ndarray]
HOST: Mapping[str, Any] = {
    "name": "stage",
    "cpu": "A scripted CPU",
    "machine": "x86_64",
    "emulator": None,
    "cpu_flags": ["avx2", "avx512_vnni"],
    "physical_cores": 2,
    "logical_cpus": 4,
    "total_cpus": 4,
    "cpu_quota": None,
    "governor": None,
    "virtual_machine": False,
    "no_energy": "no RAPL counters",
    "memory_mib": 8192,
    "os": "Linux 6.1",
    "python": "3.11.7",
}
JITTER = 0.002
Reply = tuple[Mapping[str, Any], Mapping[str, Any]]


@dataclass(frozen=True)
class Script:
    """What a runner answers. ``answer`` makes outputs of feeds, both name -> ``[n, ...]``.

    ``inputs`` and ``outputs`` are the model's, ``reason`` is why the runner is unavailable.
    ``ms`` is what a run takes, and ``luck`` how far apart its processes are (standard deviation,
    relative), each its own way with each ``ms``. ``samples`` is how many are taken in a generation,
    ``deviation`` and ``conditions`` are fields of the ``Measurement``; those of ``placement`` are
    what is read back other than asked for. ``free_mib`` is left of the memory once it has warmed
    up, ``usage`` says what the process holds after so many runs, ``on_device_ms`` is what a run in
    the device's memory takes. A runner that is not ``concurrent`` has one run at a time. ``cache``
    is what its loading, which takes ``load_ms``, leaves for the next one; a ``Builder`` has
    ``builds_for``. Without ``nodes`` it can't profile. ``fails`` has the error that each operation
    ends in: "describe", "load", "cache", "run", "warm_up", "slice", "finish", "measure" or
    "profile". ``varies`` says which of all these are otherwise with some settings:
    ``lambda settings: {"ms": 4.0 / settings.threads}``.
    """

    answer: Callable[[Arrays], Arrays]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    formats: tuple[str, ...] = ("onnx",)
    precisions: tuple[str, ...] = ("f32",)
    devices: tuple[str, ...] = ("CPU",)
    tunables: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    reason: str | None = None
    ms: float = 1.0
    samples: int = 100
    luck: float = 0.0
    free_mib: float = 4096.0
    usage: Callable[[int], Mapping[str, Any]] = lambda _runs: {}
    on_device_ms: float | None = None
    deviation: float = 0.0
    conditions: Mapping[str, Any] = field(default_factory=dict)
    placement: Mapping[str, Any] = field(default_factory=dict)
    concurrent: bool = True
    cache: Mapping[str, bytes] = field(default_factory=dict)
    builds_for: Mapping[str, str] = field(default_factory=dict)
    load_ms: float = 5.0
    nodes: tuple[NodeTime, ...] = ()
    fails: Mapping[str, RunnerError] = field(default_factory=dict)
    varies: Callable[[Settings], Mapping[str, Any]] = lambda _settings: {}

    def failing(self, **fails: RunnerError) -> Script:
        """The same, but for operations that end in an error."""
        return replace(self, fails={**self.fails, **fails})


METER = Script(lambda _feeds: {}, (), ())


@contextmanager
def scripted(
    scripts: Mapping[str, Script],
    *,
    host: Mapping[str, Any] = HOST,
    lost: Mapping[str, RunnerError] | None = None,
) -> Iterator[None]:
    """Until it is left, every worker that this process would start follows a script.

    ``scripts`` are by "runner", by "runner/variant" for what differs there, or by "runner/SHA-256"
    of a file. A name that is no built-in runner's becomes a plug-in's; runners without a script are
    unavailable. ``host`` are the facts about the machine. A command with one of the words of
    ``lost`` in it starts no worker.
    """
    names = dict.fromkeys(key.partition("/")[0] for key in scripts)
    plugins = {name: EntryPoint(name, f"{__name__}:{name}", registry.GROUP) for name in names}
    able = {key.partition("/")[0]: script.precisions for key, script in scripts.items()}
    built_in = {
        name: replace(entry, precisions=able.get(name, entry.precisions))
        for name, entry in registry.BUILT_IN.items()
    }
    about = {"protocol": protocol.VERSION, "edgepipe": version("edgepipe"), "pid": 0}
    sessions: dict[int, _Session] = {}

    def start(worker: Worker) -> None:
        for word, error in (lost or {}).items():
            if word in worker.argv:
                missing = copy.copy(error)
                missing.greeted = False
                raise missing

    def request(
        worker: Worker, operation: str, fields: Mapping[str, Any], blobs: Any, _timeout: float
    ) -> Reply:
        cap = isa.cap_of(worker.argv)
        if operation == "hello":
            return {**about, "host": host if cap is None else isa.capped(cap, host)}, {}
        if operation == "meter":
            sessions[id(worker)] = _Session(METER, fields, None)
            return {"work": "none", "threads": fields["threads"]}, {}
        if operation in ("describe", "load"):
            file = fields.get("file", "")
            sent = Path(fields["at"]) if "at" in fields else blobs.get(file, b"")
            script = _find(scripts, fields["runner"], file, sent)
            sessions[id(worker)] = _Session(script, fields, cap)
        session = sessions[id(worker)]
        if operation in session.script.fails:
            raise copy.copy(session.script.fails[operation])
        return getattr(session, operation)(fields, blobs)

    def close(worker: Worker) -> None:
        sessions.pop(id(worker), None)

    with (
        mock.patch.object(registry, "_plugins", return_value=plugins),
        mock.patch.object(registry, "BUILT_IN", built_in),
        mock.patch.multiple(Worker, start=start, request=request, close=close),
    ):
        yield


def _find(scripts: Mapping[str, Script], runner: str, file: str, sent: bytes | Path) -> Script:
    digest = sha256(sent.read_bytes() if isinstance(sent, Path) else sent).hexdigest()
    for key in (f"{runner}/{digest}", f"{runner}/{PurePath(file).stem}", runner):
        if key in scripts:
            return scripts[key]
    raise RunnerUnavailable(f"no {runner} here: it has no script")


class _Session:
    """Answers requests by their names, as ``worker.operations`` do in a process."""

    def __init__(self, script: Script, fields: Mapping[str, Any], cap: Isa | None) -> None:
        self._cap = cap
        self._settings = Settings(**fields.get("settings", {"threads": 1}))
        # Before it loads something a runner knows no settings.
        varied = script.varies(self._settings) if "settings" in fields else {}
        self.script = replace(script, **varied)
        self._runs = 0

    def describe(self, _fields: Mapping[str, Any], _blobs: Arrays) -> Reply:
        script = self.script
        return {
            "formats": script.formats,
            "precisions": script.precisions,
            "reason": script.reason,
            "version": None if script.reason else "1.0",
            "devices": () if script.reason else script.devices,
            "tunables": script.tunables,
            "builds_for": script.builds_for,
        }, {}

    def load(self, fields: Mapping[str, Any], _blobs: Arrays) -> Reply:
        """Raises ``SessionError`` as a runner that does nothing else than it is asked."""
        script, asked, runner = self.script, self._settings, fields["runner"]
        if script.reason:
            raise RunnerUnavailable(script.reason)
        if asked.precision not in script.precisions or asked.device not in script.devices:
            can = f"{' and '.join(script.precisions)} on {' and '.join(script.devices)}"
            raise SessionError(f"{runner} runs {can}, not {asked.precision} on {asked.device}")
        asked.refuse_unknown(runner, script.tunables)
        if fields.get("profiled") and not script.nodes:
            raise SessionError(NO_PROFILER.format(runner))
        provider = f"{asked.device}ExecutionProvider"
        placed = {
            "device": asked.device,
            "device_name": f"a scripted {asked.device}",
            "precision": asked.precision,
            "precision_from": "read back",
            "threads": asked.threads,
            "streams": asked.streams or 2,
            "provider": provider,
            "nodes": {provider: 10},
            "isa": None if self._cap is None else self._cap.logged[0],
        }
        return {
            "inputs": [asdict(spec) for spec in self._fixed(script.inputs)],
            "outputs": [asdict(spec) for spec in self._fixed(script.outputs)],
            "placement": asdict(Placement(**{**placed, **script.placement})),
            "runner_version": "1.0",
            "load_ms": script.load_ms,
            "from_cache": bool(fields["cache"]),
        }, {}

    def cache(self, _fields: Mapping[str, Any], _blobs: Arrays) -> Reply:
        return {}, self.script.cache

    def run(self, _fields: Mapping[str, Any], feeds: Arrays) -> Reply:
        self._check(feeds)
        said = {"elapsed_ms": self.script.ms, "peak_rss_mib": 100.0}
        return said, self.script.answer(feeds)

    def profile(self, fields: Mapping[str, Any], feeds: Arrays) -> Reply:
        _, arrays = self.measure(fields, feeds)
        total_us = sum(node.us for node in self.script.nodes)
        return asdict(NodeTimes("median", total_us, self.script.nodes)), arrays

    def warm_up(self, fields: Mapping[str, Any], feeds: Arrays) -> Reply:
        self._check(feeds)
        self._plan, self._slices = fields["plan"], 0
        if self._plan["scenario"] in (OFFLINE, SERVER) and not self.script.concurrent:
            raise SessionError(f"{self._plan['scenario']}: this runner has one run at a time only")
        return {"free_mib": self.script.free_mib}, {}

    def slice(self, _fields: Mapping[str, Any], _feeds: Arrays) -> Reply:
        self._slices += 1
        return {}, {}

    def finish(self, _fields: Mapping[str, Any], _feeds: Arrays) -> Reply:
        script, plan = self.script, self._plan
        count = max(script.samples, self._slices)  # each has one at least
        jitter = np.random.default_rng(plan["seed"]).normal(1, JITTER, count)
        luck = np.random.default_rng([plan["seed"], round(1e6 * script.ms)]).normal(0, script.luck)
        samples = (1e6 * script.ms * np.exp(luck) * jitter).astype(np.int64)
        seconds = float(samples.sum()) / 1e9
        self._runs += count + 9  # with those of the warm-up, and the one before it
        if plan["scenario"] == SERVER:
            seconds = count / plan["rate"]
        return {
            "warm_up_runs": 8,
            "settled": True,
            "deviation": script.deviation,
            "slices": [len(part) for part in np.array_split(samples, self._slices)],
            "rests": True,
            "conditions": asdict(Conditions(**{"seconds": seconds, **script.conditions})),
            "on_device_ms": script.on_device_ms,
            "device_memory_mib": None,
            "peak_rss_mib": 100.0,
        }, {"samples": samples}

    def measure(self, fields: Mapping[str, Any], feeds: Arrays) -> Reply:
        self.warm_up(fields, feeds)
        self.slice(fields, feeds)
        return self.finish(fields, feeds)

    def usage(self, _fields: Mapping[str, Any], _feeds: Arrays) -> Reply:
        held = {"rss_mib": 100.0, "threads": 4, "descriptors": 8}
        machine = {"clock_mhz": 2000.0, "temperature_c": None}
        return {**held, **machine, **self.script.usage(self._runs)}, {}

    def _fixed(self, specs: Sequence[TensorSpec]) -> list[TensorSpec]:
        """The specs with the batch that was asked for, where the model leaves it open."""
        batch = self._settings.batch
        return [replace(spec, shape=(spec.shape[0] or batch, *spec.shape[1:])) for spec in specs]

    def _check(self, feeds: Arrays) -> None:
        for spec in self._fixed(self.script.inputs):
            if spec.name not in feeds:
                raise SessionError(f"input {spec.name} is missing")
            array = feeds[spec.name]
            shape = tuple(size or len(array) for size in spec.shape)
            if (array.shape, array.dtype.name) != (shape, spec.dtype):
                raise SessionError(f"input {spec.name} is {array.dtype} {list(array.shape)}")
