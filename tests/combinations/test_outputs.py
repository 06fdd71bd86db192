"""One × many outputs, right × wrong × misshapen × not finite, × the command."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgepipe.runners.workers.scripted import scripted

from ..made import CLASSES, NAME, Answer, Made, changed
from .outcomes import Done, case, one_line, strict, valid_files

Make = Callable[..., Made]
Run = Callable[..., Done]
Outputs = dict[str, np.ndarray]
RUNNER = "ort-cpu"
ONE, TWO = ("logits",), ("logits", "features")


def each(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Outputs], Outputs]:
    return lambda outputs: {name: change(array) for name, array in outputs.items()}


def last(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Outputs], Outputs]:
    """Only the last output is otherwise: the first one hides it from whoever looks there only."""

    def altered(outputs: Outputs) -> Outputs:
        name = list(outputs)[-1]
        return {**outputs, name: change(outputs[name])}

    return altered


def noisy(share: float) -> Callable[[np.ndarray], np.ndarray]:
    def noise(array: np.ndarray) -> np.ndarray:
        random = np.random.default_rng(1).normal(size=array.shape)
        return (array * (1 + share * random)).astype(array.dtype)

    return noise


def spoilt(value: float) -> Callable[[np.ndarray], np.ndarray]:
    def spoil(array: np.ndarray) -> np.ndarray:
        array = array.copy()
        array[:, 3] = value
        return array

    return spoil


# What a runner does with its outputs -> the exit codes of parity, bench, evaluate and predict. A
# wrong form ends bench, evaluate and predict with 5: they have nothing to count. It fails parity.
CHANGES: Mapping[str, tuple[Callable[[Outputs], Outputs], tuple[int, int, int, int]]] = {
    "exact": (each(lambda array: array), (0, 0, 0, 0)),
    "a rounding away": (each(noisy(1e-7)), (0, 0, 0, 0)),
    "noisy": (each(noisy(0.02)), (1, 1, 0, 0)),
    "negated": (each(np.negative), (1, 1, 1, 0)),
    "NaN": (each(spoilt(np.nan)), (1, 1, 1, 5)),
    "infinite": (each(spoilt(np.inf)), (1, 1, 1, 5)),
    "minus infinite": (each(spoilt(-np.inf)), (1, 1, 1, 5)),
    "all NaN": (each(lambda array: array * np.nan), (1, 1, 1, 5)),
    "all zero": (each(np.zeros_like), (1, 1, 1, 0)),
    "none": (lambda _outputs: {}, (1, 5, 5, 5)),
    "renamed": (lambda outputs: {f"{name}_1": x for name, x in outputs.items()}, (1, 5, 5, 5)),
    "one more": (lambda outputs: {**outputs, "more": outputs["logits"]}, (1, 5, 0, 0)),
    "float64": (each(lambda array: array.astype(np.float64)), (1, 5, 0, 0)),
    "int64": (each(lambda array: array.astype(np.int64)), (1, 5, 5, 5)),
    "a class less": (each(lambda array: array[:, 1:]), (1, 5, 5, 5)),
    "a rank more": (each(lambda array: array[..., None]), (1, 5, 5, 5)),
    "a row more": (each(lambda array: np.concatenate([array, array])), (1, 5, 5, 5)),
    "no row": (each(lambda array: array[:0]), (1, 5, 5, 5)),
}
# Only the second output is at fault: evaluate and predict don't look at it.
OF_THE_LAST = {
    "reordered": (lambda outputs: dict(reversed(outputs.items())), (0, 0, 0, 0)),
    "last noisy": (last(noisy(0.02)), (1, 1, 0, 0)),
    "last NaN": (last(spoilt(np.nan)), (1, 1, 0, 0)),
    "last float64": (last(lambda array: array.astype(np.float64)), (1, 5, 0, 0)),
    "last missing": (lambda outputs: {"logits": outputs["logits"]}, (1, 5, 0, 0)),
}
COMMANDS = ("parity", "bench", "evaluate", "predict")
PENDING: dict[tuple[str, str, int], str] = {}


def table() -> list[Any]:
    cases = []
    for outputs in (ONE, TWO):
        for name, (change, codes) in {**CHANGES, **(OF_THE_LAST if outputs == TWO else {})}.items():
            for command, code in zip(COMMANDS, codes, strict=True):
                title = f"{command}-{len(outputs)}-{name.replace(' ', '_')}"
                pending = PENDING.get((command, name, len(outputs)), "")
                cases.append(case(command, outputs, change, code, id=title, pending=pending))
    return cases


def flags(command: str, photos: Path) -> list[object]:
    return {
        "parity": ["--runner", RUNNER],
        "bench": ["--runner", RUNNER],
        "evaluate": ["--runner", RUNNER, "--runner", "openvino", "--data", photos],
        "predict": [photos],
    }[command]


@pytest.mark.parametrize(("name", "outputs", "change", "code"), table())
def test_outputs_are_taken_for_what_they_are(
    name: str,
    outputs: tuple[str, ...],
    change: Callable[[Outputs], Outputs],
    code: int,
    make: Make,
    command: Run,
    photos: Path,
    tmp_path: Path,
) -> None:
    made = make(outputs=outputs, variants=("fp32",))
    answer: Answer = changed(made.answer(), change)
    scripts = made.scripts(RUNNER, answer=answer) | made.scripts("openvino")
    if name == "evaluate":  # the good one is the reference, to have one
        scripts = made.scripts(RUNNER) | made.scripts("openvino", answer=answer)
    more = ["--max-drop", "20"] if name == "evaluate" else []
    with scripted(scripts):
        done = command(name, *flags(name, photos), *more, "--json", "--quiet")
    assert done.code == code, done.said
    valid_files(tmp_path)
    if name == "predict":
        if code:
            one_line(done.error)
        return
    cell = done.document["cells"][-1]
    if code:
        assert (cell["status"], cell["verdict"]) != ("ok", "pass")
        one_line(cell["reason"] or "; ".join(cell["notes"]))
        assert cell["status"] == ("ok" if code == 1 else "failed")
        assert name != "parity" or cell["verdict"] == "fail"
        assert name != "bench" or cell["verdict"] == ("invalid" if code == 1 else None)


REFERENCES = {
    # what torch's answers are -> the exit codes of parity, bench, evaluate, predict, tune
    "torch's": (0, 0, 0, 0, 0),
    "exact": (0, 0, 0, 0, 0),
    "nan": (1, 1, 1, 5, 0),
    "constant": (1, 0, 0, 0, 0),
}


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize(
    ("reference", "name", "code"),
    [
        case(
            reference,
            name,
            code,
            id=f"{reference}-{name}",
        )
        for reference, codes in REFERENCES.items()
        for name, code in zip((*COMMANDS, "tune"), codes, strict=True)
    ],
)
def test_whatever_torch_answered_every_command_ends_in_order(
    reference: str,
    name: str,
    code: int,
    count: int,
    make: Make,
    command: Run,
    photos: Path,
    tmp_path: Path,
) -> None:
    made = make(outputs=TWO[:count], reference=reference, variants=("fp32", "int8"))
    with scripted(made.scripts(RUNNER, "openvino")):
        where = flags(name, photos) if name in COMMANDS else ["--runner", RUNNER]
        done = command(name, *where, "--json", "--quiet")
        if name == "parity":
            again = command("parity", "--from", tmp_path / "artifacts" / NAME / "parity.npz")
            assert again.code == code
    assert done.code == code, done.said
    if done.out:
        strict(done.out)
    else:
        one_line(done.error)
    valid_files(tmp_path)


@pytest.mark.parametrize("form", ["html", "markdown"])
@pytest.mark.parametrize(
    "reference",
    REFERENCES,
)
def test_a_report_of_it_is_written(
    reference: str, form: str, make: Make, command: Run, tmp_path: Path
) -> None:
    made = make(reference=reference, variants=("fp32", "int8"))
    with scripted(made.scripts(RUNNER)):
        for name in ("parity", "bench"):
            command(name, "--runner", RUNNER, "--quiet")
    done = command("report", "--format", form, "--quiet")
    assert done.code == 0, done.err
    page = next((tmp_path / "artifacts" / NAME).glob("report.*")).read_text()
    words = page.lower().replace("are nan or infinite", "")
    assert " nan" not in words
    assert "inf dB" not in page


@pytest.mark.parametrize("count", [1, 5, 15, 16])
@pytest.mark.parametrize("variant", ["fp32", "int8"])
def test_few_goldens_carry_a_claim_or_say_how_many_would(
    variant: str, count: int, make: Make, command: Run
) -> None:
    """16 without a flip are the fewest that carry 85 %."""
    made = make(count=count)
    with scripted(made.scripts(RUNNER)):
        flags = ("--runner", RUNNER, "--variant", variant, "--quiet")
        done = command("parity", *flags, "--json")
        shown = command("parity", *flags)
    assert count == 16 or "16 samples like these would" in " ".join(shown.out.split())
    (cell,) = done.document["cells"]
    assert (done.code, cell["verdict"]) == ((0, "pass") if count == 16 else (6, "inconclusive"))
    assert cell["samples"] == count
    assert cell["samples_needed"] == (None if count == 16 else 16)


assert CLASSES > 5  # so that a top-5 is missed or not
