"""The ONNX project's own node tests through edgepipe's workers: `nox -s node_tests`.

Not a test of the runners' operators: it shows that models, shapes, dtypes, scalars, empty arrays
and names arrive as they were sent, on a thousand cases that nobody wrote for edgepipe. What a
runner can't do stands in ``RUNNER.txt`` beside this file, a line for each case with the way in
which it fails:

    load    the runner refuses the model
    part    its provider takes some of the nodes only; with the fallback allowed the case passes
    run     it fails while running it
    form    an output is missing, extra, or of another shape or dtype
    values  an output is further from ONNX's reference than the case allows
    crash   the worker ended, hung or answered garbage

A case that fails in another way than its line says, and one that passes although it has a line,
fails here: with other versions than those at the top of a list, ``--rewrite`` it and read the
diff. Many a ``load`` is the version of ONNX itself, which is ahead of the runners'. One worker
runs many cases and is replaced when one of them kills it.
"""

from __future__ import annotations

import sys
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from edgepipe.runners.base import RunnerUnavailable, SessionError, Settings, WorkerError
from edgepipe.runners.environments import environments
from edgepipe.runners.targets import LOCAL
from edgepipe.runners.workers.launch import Timeouts, Worker
from edgepipe.runners.workers.protocol import travels

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # reference implementations overflow on purpose
    from onnx.backend.test.loader import load_model_tests

    CASES = {case.name: case for case in load_model_tests(kind="node")}

TIMEOUTS = Timeouts(start=60.0, load=60.0, run=60.0)
PASS, PART = "pass", "part"
LEAST_RUN = 1000
# onnxruntime's OpenVINO provider (1.24.1) takes no node at all of 315 cases and can't compile 103,
# and the onnxruntime around it does not know what ONNX has added since.
LEAST_PASSED = {"ort-cpu": 1000, "openvino": 1000, "ort-openvino": 850}


def tensors(names: list[str], values: Any) -> dict[str, np.ndarray]:
    """The arrays by name. Raises ``TypeError`` for what is no array of plain numbers."""
    found = {}
    for name, value in zip(names, values, strict=True):
        array = numpy_helper.to_array(value) if isinstance(value, TensorProto) else value
        if isinstance(array, np.generic):  # what a reference in numpy gives for a scalar
            array = np.asarray(array)
        kind = array.dtype.name if isinstance(array, np.ndarray) else type(array).__name__
        if not isinstance(array, np.ndarray) or not travels(array.dtype):
            raise TypeError(f"{kind} does not travel between parent and worker")
        found[name] = array
    return found


def compare(
    found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray], rtol: float, atol: float
) -> tuple[str, str]:
    """(outcome, explanation), with the tolerances that ONNX's own runner applies."""
    if found.keys() != expected.keys():
        return "form", f"outputs {list(found)}, expected {list(expected)}"
    for name, reference in expected.items():
        array = found[name]
        if (array.shape, array.dtype) != (reference.shape, reference.dtype):
            form = f"{array.dtype} {array.shape}, expected {reference.dtype} {reference.shape}"
            return "form", f"output {name} is {form}"
        try:
            np.testing.assert_allclose(array, reference, rtol=rtol, atol=atol)
        except AssertionError as error:
            return "values", f"output {name}: {error}"
    return PASS, ""


@dataclass
class Lasting:
    """A worker of one runner for many cases, and what came of them."""

    runner: str
    python: str
    outcomes: dict[str, str] = field(default_factory=dict)
    version: str = ""
    _stack: ExitStack = field(default_factory=ExitStack)
    _worker: Worker | None = None

    def outcome(self, case: Any) -> tuple[str, str]:
        """Run a case, and once more with the fallback allowed if that is all it needs."""
        outcome, explanation = self._try(case, Settings(threads=1))
        if "--allow-fallback" not in explanation:
            return outcome, explanation
        again, why = self._try(case, Settings(threads=1, allow_fallback=True))
        return (PART, explanation) if again == PASS else (again, why)

    def _try(self, case: Any, settings: Settings) -> tuple[str, str]:
        """(outcome, explanation)."""
        graph, (data,) = case.model.graph, case.data_sets
        feeds = tensors([value.name for value in graph.input], data[0])
        expected = tensors([value.name for value in graph.output], data[1])
        model = {"model.onnx": case.model.SerializeToString()}
        phase = "load"
        try:
            worker = self._ready()
            self.version = worker.load(self.runner, model, settings).runner_version
            phase = "run"
            found = worker.run(feeds).arrays
        except RunnerUnavailable as error:
            pytest.exit(f"{self.runner}: {error}", returncode=5)
        except SessionError as error:
            return phase, str(error)
        except WorkerError as error:
            self.close()
            return "crash", str(error)
        return compare(found, expected, case.rtol, case.atol)

    def close(self) -> None:
        """End the worker; the next case gets a new one."""
        self._worker = None
        self._stack.close()

    def _ready(self) -> Worker:
        if self._worker is None:
            self._worker = self._stack.enter_context(Worker(LOCAL.argv(self.python), TIMEOUTS))
        return self._worker


def list_of(runner: str) -> Path:
    return Path(__file__).with_name(f"{runner}.txt")


def expected_failures(runner: str) -> dict[str, str]:
    path = list_of(runner)
    lines = path.read_text().splitlines() if path.is_file() else []
    pairs = (line.split() for line in lines if line and not line.startswith("#"))
    return {name: outcome for outcome, name in pairs}


@pytest.fixture(scope="session")
def lasting(runner: str, request: pytest.FixtureRequest) -> Iterator[Lasting]:
    python = request.config.getoption("--python") or environments.python_of(runner)
    worker = Lasting(runner, str(python or sys.executable))
    yield worker
    worker.close()
    if request.config.getoption("--rewrite"):
        failed = {name: how for name, how in worker.outcomes.items() if how != PASS}
        lines = [f"# onnx {onnx.__version__}, {runner} {worker.version}\n"]
        lines += sorted(f"{how:<7} {name}\n" for name, how in failed.items())
        list_of(runner).write_text("".join(lines))


@pytest.fixture(scope="session")
def expected(runner: str) -> dict[str, str]:
    return expected_failures(runner)


@pytest.mark.parametrize("name", CASES)
def test_node(
    name: str, lasting: Lasting, expected: dict[str, str], request: pytest.FixtureRequest
) -> None:
    try:
        outcome, explanation = lasting.outcome(CASES[name])
    except TypeError as error:
        pytest.skip(str(error))
    lasting.outcomes[name] = outcome
    if not request.config.getoption("--rewrite"):
        assert outcome == expected.get(name, PASS), explanation


def test_the_list_names_cases_that_exist(expected: dict[str, str]) -> None:
    assert expected.keys() <= CASES.keys()


def test_enough_cases_passed(lasting: Lasting) -> None:
    """Last, since it counts. Says what became of all of them with ``-rA``."""
    count = Counter(lasting.outcomes.values())
    print(lasting.runner, dict(count), "skipped", len(CASES) - len(lasting.outcomes))
    if len(lasting.outcomes) < LEAST_RUN:
        pytest.skip(f"only {len(lasting.outcomes)} cases were selected")
    assert count[PASS] + count[PART] >= LEAST_PASSED[lasting.runner]
