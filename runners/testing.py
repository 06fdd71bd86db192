"""For authors of runners: does mine keep the protocol? Subclass ``RunnerConformance`` and see.

    from edgepipe.runners.testing import RunnerConformance

    class TestAbacus(RunnerConformance):
        runner = Abacus

pytest collects its tests from there; nothing of pytest is needed here. docs/plugins.md has a
whole example.
"""

from __future__ import annotations

import base64
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import SkipTest

import numpy as np

from . import registry
from .base import Runner, RunnerError, RunnerUnavailable, Session, SessionError, Settings
from .targets import LOCAL
from .workers.launch import Worker

Arrays = Mapping[str, np.ndarray]
NO_MODEL = b"this is no model of any format"
UNKNOWN_PRECISION, UNKNOWN_DEVICE = "f7", "NOWHERE"


@dataclass(frozen=True)
class Case:
    """A model's files (name -> contents, the main one first), feeds, and the right answers."""

    files: Mapping[str, bytes]
    feeds: Arrays
    reference: Arrays
    rtol: float = 1e-3
    atol: float = 1e-5


# Conv (1 x 1, 3 -> 4), Relu, GlobalAveragePool, Flatten, MatMul (4 -> 2) in opset 13, as
# tests/runners/backends/test_conformance.py makes it; "input" is float32 [batch, 3, 4, 4].
_NETWORK = base64.b64decode(
    "CAg6hQMKJgoFaW5wdXQKBmtlcm5lbAoEYmlhcxIJY29udm9sdmVkIgRDb252ChsKCWNvbnZvbHZlZBIIZmVhdHVyZXMi"
    "BFJlbHUKJQoIZmVhdHVyZXMSBnBvb2xlZCIRR2xvYmFsQXZlcmFnZVBvb2wKFwoGcG9vbGVkEgRmbGF0IgdGbGF0dGVu"
    "ChwKBGZsYXQKBGhlYWQSBmxvZ2l0cyIGTWF0TXVsEgduZXR3b3JrKkQIBAgDCAEIARABQgZrZXJuZWxKMAAAQL8AACC/"
    "AAAAvwAAwL4AAIC+AAAAvgAAAAAAAAA+AACAPgAAwD4AAAA/AAAgPyocCAQQAUIEYmlhc0oQAAAAPwAAgL4AAAAAAAAA"
    "PiouCAQIAhABQgRoZWFkSiAAAIC/AABAvwAAAL8AAIC+AAAAAAAAgD4AAAA/AABAP1okCgVpbnB1dBIbChkIARIVCgcS"
    "BWJhdGNoCgIIAwoCCAQKAggEYh0KBmxvZ2l0cxITChEIARINCgcSBWJhdGNoCgIIAkIECgAQDQ=="
)
KERNEL = np.arange(-6, 6, dtype=np.float32).reshape(4, 3) / 8
BIAS = np.array([0.5, -0.25, 0, 0.125], np.float32)
HEAD = np.arange(8, dtype=np.float32).reshape(4, 2) / 4 - 1


def onnx_cases(batches: Sequence[int] = (1, 3)) -> tuple[Case, ...]:
    """A small network as ONNX with an open batch, once for each batch size."""
    cases = []
    for batch in batches:
        pixels = np.random.default_rng(batch).normal(size=(batch, 3, 4, 4)).astype(np.float32)
        cases.append(Case({"network.onnx": _NETWORK}, {"input": pixels}, network(pixels)))
    return tuple(cases)


def network(pixels: np.ndarray) -> dict[str, np.ndarray]:
    """What the network of ``onnx_cases`` answers, in float64 until the end."""
    features = np.einsum("nchw,oc->nohw", pixels.astype(np.float64), KERNEL)
    features = np.maximum(features + BIAS[:, None, None], 0)
    return {"logits": (features.mean((2, 3)) @ HEAD).astype(np.float32)}


class RunnerConformance:
    """The protocol of ``base.Runner`` and ``base.Session``, one test for each clause.

    Set ``runner``, and ``cases`` if it doesn't take ONNX: models that it can load, with a batch
    of one and with a larger one. Where the runner is unavailable every test but the first is
    skipped with its reason.
    """

    runner: type[Runner]
    cases: Sequence[Case] = onnx_cases()
    settings = Settings(threads=1)
    repeats_exactly = True  # False for devices that add up in any order

    def test_it_describes_itself(self) -> None:
        """Name, formats, precisions, and either what it has here or why it can't run."""
        runner = self.runner()
        broken = registry.breach(runner, runner.name)
        _must(broken is None, f"it breaks the protocol: {broken}")
        _must(runner.name == runner.name.strip() != "", f"the name {runner.name!r}")
        reason = runner.unavailable()
        if reason is not None:
            _must(isinstance(reason, str) and bool(reason.strip()), "unavailable without a reason")
            _must("\n" not in reason, "the reason is more than one line")
            return
        version, devices = runner.version(), runner.devices()
        _must(isinstance(version, str) and bool(version), f"the version {version!r}")
        good = isinstance(devices, tuple) and all(isinstance(name, str) for name in devices)
        _must(good and bool(devices), f"the devices {devices!r}, not a tuple of names")

    def test_inputs_and_outputs_are_the_models(self) -> None:
        """Names, dtypes and shapes of the specs; ``None`` only for what is open."""
        for case in self.cases:
            with self._session(case) as session:
                for specs, arrays in (
                    (session.inputs, case.feeds),
                    (session.outputs, case.reference),
                ):
                    names = [spec.name for spec in specs]
                    _must(names == list(arrays), f"it names {names}, the model {list(arrays)}")
                    for spec in specs:
                        array = arrays[spec.name]
                        _must(spec.dtype == array.dtype.name, f"{spec.name} is {spec.dtype}")
                        fits = len(spec.shape) == array.ndim and all(
                            size in (None, length)
                            for size, length in zip(spec.shape, array.shape, strict=True)
                        )
                        _must(fits, f"{spec.name} has shape {spec.shape}, not {array.shape}")

    def test_outputs_are_right(self) -> None:
        """Every output, by name and in order, with its dtype, shape and values.

        Also after the model's files are gone: a worker removes them once they are loaded.
        """
        for case in self.cases:
            with self._session(case) as session:
                _must_be_right(_run(session, case), case)

    def test_there_is_a_batch_of_one_and_a_larger_one(self) -> None:
        """About the cases: a runner that mixes up the images of a batch shows only there."""
        sizes = {len(array) for case in self.cases for array in case.feeds.values()}
        _must(1 in sizes and len(sizes) > 1, f"the cases have batches of {sorted(sizes)}")

    def test_the_same_feeds_give_the_same_outputs(self) -> None:
        """Bit for bit: in the same session with others in between, and in a new one."""
        for case in self.cases:
            with self._session(case) as session:
                first = _copied(_run(session, case))
                session.run(_other(case.feeds))
                again = _copied(_run(session, case))
            with self._session(case) as session:
                anew = _copied(_run(session, case))
            for outputs, when in ((again, "again"), (anew, "in a new session")):
                for name, array in first.items():
                    same = array.tobytes() == outputs[name].tobytes()
                    if not self.repeats_exactly:
                        same = np.allclose(array, outputs[name], case.rtol, case.atol)
                    _must(same, f"{name} differs when the same feeds are run {when}")

    def test_outputs_outlive_the_next_run(self) -> None:
        """What a run returned is the caller's: the next one must not write to it."""
        for case in self.cases:
            with self._session(case) as session:
                outputs = _run(session, case)
                kept = _copied(outputs)
                session.run(_other(case.feeds))
                for name, array in kept.items():
                    same = np.array_equal(array, outputs[name])
                    _must(same, f"{name} changed when other feeds were run")

    def test_feeds_are_left_alone(self) -> None:
        """A run must not write to its inputs: the same arrays are fed again and again."""
        for case in self.cases:
            feeds = _copied(case.feeds)
            with self._session(case) as session:
                session.run(feeds)
            for name, array in case.feeds.items():
                _must(np.array_equal(array, feeds[name]), f"it wrote to the input {name}")

    def test_a_changed_array_in_the_same_feeds_is_seen(self) -> None:
        """Feeds may be filled anew in place: nothing of an earlier run may be kept."""
        for case in self.cases:
            feeds = _copied(_other(case.feeds))
            with self._session(case) as session:
                session.run(feeds)
                for name, array in case.feeds.items():
                    feeds[name][...] = array
                _must_be_right(session.run(feeds), case)

    def test_feeds_that_do_not_fit_are_an_error_and_the_session_goes_on(self) -> None:
        """A missing input, a misnamed one and another rank raise ``SessionError``."""
        for case in self.cases:
            name, array = next(iter(case.feeds.items()))
            rest = {other: feed for other, feed in case.feeds.items() if other != name}
            wrong = {"missing": rest, "misnamed": rest | {f"{name}_": array}}
            wrong["of another rank"] = rest | {name: array[None]}
            with self._session(case) as session:
                _must_be_right(_run(session, case), case)
                for how, feeds in wrong.items():
                    what = f"running with {name} {how}"
                    _must_raise(SessionError, lambda f=feeds: session.run(f), what)
                    _must_be_right(_run(session, case), case)

    def test_a_file_that_is_no_model_is_an_error(self) -> None:
        """Loading garbage, or the first half of a model, raises ``SessionError``."""
        case = self.cases[0]
        main = next(iter(case.files))
        half = case.files[main][: len(case.files[main]) // 2]
        for what, data in (("garbage", NO_MODEL), ("nothing", b""), ("half a model", half)):
            broken = Case({**case.files, main: data}, case.feeds, case.reference)
            _must_raise(SessionError, lambda b=broken: self._load_only(b), f"loading {what}")

    def test_the_placement_adds_up(self) -> None:
        """A device, nodes that add up to 100 %, and no more threads than were asked for."""
        for case in self.cases:
            with self._session(case) as session:
                placement = session.placement
            _must(bool(placement.device), "the placement names no device")
            total = sum(placement.shares().values())
            _must(math.isclose(total, 100, abs_tol=0.1), f"the nodes add up to {total:g} %")
            asked, threads = self.settings.threads, placement.threads
            _must(1 <= threads <= asked, f"{threads} threads, {asked} were asked for")

    def test_a_precision_is_what_was_asked_for_or_an_error(self) -> None:
        """Every precision it lists, and one that nobody has: never another one in its place."""
        case, runner = self.cases[0], self._available()
        for precision in (*runner.precisions, UNKNOWN_PRECISION):
            settings = Settings(self.settings.threads, precision, self.settings.device)
            try:
                with self._session(case, settings) as session:
                    found = session.placement.precision
            except RunnerError as error:
                first = precision == runner.precisions[0]
                _must(not first, f"{precision} comes first in its precisions and fails: {error}")
            else:
                _must(found == precision, f"it runs {found} where {precision} was asked for")

    def test_an_unknown_device_is_an_error(self) -> None:
        """Loading for a device that isn't there raises; it never falls back to another one."""
        settings = Settings(self.settings.threads, self.settings.precision, UNKNOWN_DEVICE)
        errors = (SessionError, RunnerUnavailable)
        what = f"loading for the device {UNKNOWN_DEVICE}"
        _must_raise(errors, lambda: self._load_only(self.cases[0], settings), what)

    def test_a_closed_session_runs_no_more(self) -> None:
        """``run`` after ``close`` raises ``SessionError``, and a new session works."""
        case = self.cases[0]
        with self._session(case) as session:
            _run(session, case)
            session.close()
            _must_raise(SessionError, lambda: _run(session, case), "running a closed session")
        with self._session(case) as session:
            _must_be_right(_run(session, case), case)

    def test_it_works_in_a_worker(self) -> None:
        """As edgepipe uses it: found by its entry point, loaded and run in a process of its own."""
        runner = self._available()
        if runner.name not in registry.names():
            raise SkipTest(f"not installed: no entry point {runner.name} in {registry.GROUP}")
        with Worker(LOCAL.argv()) as worker:
            described = worker.describe(runner.name)
            _must(described.formats == runner.formats, "the entry point is another runner's")
            for case in self.cases:
                worker.load(runner.name, case.files, self.settings)
                _must_be_right(worker.run(case.feeds).arrays, case)

    def _available(self) -> Runner:
        runner = self.runner()
        reason = runner.unavailable()
        if reason is not None:
            raise SkipTest(reason)
        return runner

    @contextmanager
    def _session(self, case: Case, settings: Settings | None = None) -> Iterator[Session]:
        runner = self._available()
        with tempfile.TemporaryDirectory(prefix="edgepipe-") as folder:
            for name, data in case.files.items():
                (Path(folder) / name).write_bytes(data)
            main = Path(folder) / next(iter(case.files))
            session = runner.load(main, settings or self.settings)
        try:
            yield session
        finally:
            session.close()

    def _load_only(self, case: Case, settings: Settings | None = None) -> None:
        with self._session(case, settings):
            pass


def _run(session: Session, case: Case) -> dict[str, np.ndarray]:
    """With feeds of its own, so that a runner that writes to them spoils no other test."""
    return session.run(_copied(case.feeds))


def _must(condition: bool, text: str) -> None:
    if not condition:
        raise AssertionError(text)


def _must_raise(
    expected: type[RunnerError] | tuple[type[RunnerError], ...],
    call: Callable[[], Any],
    what: str,
) -> None:
    names = " or ".join(
        kind.__name__ for kind in (expected if isinstance(expected, tuple) else (expected,))
    )
    try:
        call()
    except expected:
        return
    except Exception as error:
        kind = type(error).__name__
        raise AssertionError(f"{what} raises {kind} ({error}), not {names}") from error
    raise AssertionError(f"{what} raises nothing; {names} is expected")


def _must_be_right(outputs: Arrays, case: Case) -> None:
    expected = case.reference
    _must(list(outputs) == list(expected), f"outputs {list(outputs)}, not {list(expected)}")
    for name, right in expected.items():
        found = outputs[name]
        _must(isinstance(found, np.ndarray), f"{name} is a {type(found).__name__}, not an array")
        _must(found.dtype == right.dtype, f"{name} is {found.dtype}, not {right.dtype}")
        _must(found.shape == right.shape, f"{name} has shape {found.shape}, not {right.shape}")
        close = np.allclose(found, right, case.rtol, case.atol)
        _must(close, f"{name} is wrong: {found.ravel()[:4]}…, not {right.ravel()[:4]}…")


def _copied(arrays: Arrays) -> dict[str, np.ndarray]:
    return {name: np.array(array) for name, array in arrays.items()}


def _other(feeds: Arrays) -> dict[str, np.ndarray]:
    """Feeds of the same form that give other answers."""
    return {name: array[..., ::-1] * 2 + 1 for name, array in feeds.items()}
