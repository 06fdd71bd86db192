"""Which cells a command has: nothing named is dropped, nothing unnamed is a failure."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgepipe.pipeline.cells import plan as planning
from edgepipe.pipeline.cells.plan import plan
from edgepipe.pipeline.errors import IntegrityError, UsageError
from edgepipe.pipeline.settings.judging import CellsConfig
from edgepipe.pipeline.settings.load import Config
from edgepipe.pipeline.settings.machine import Places, RunnerConfig
from edgepipe.pipeline.storage import made_here
from edgepipe.pipeline.storage.manifest import Artifact, Manifest, Recommendation
from edgepipe.runners import registry
from edgepipe.runners.base import RunnerUnavailable

MANIFEST = Manifest(
    variants={
        "fp32": {"onnx": "fp32.onnx", "pt2": "fp32.pt2"},
        "int8": {"onnx": "int8.onnx"},
        "fp16": {"openvino-ir": "fp16.xml"},
    },
    artifacts={
        name: Artifact(name, 1) for name in ("fp32.onnx", "fp32.pt2", "int8.onnx", "fp16.xml")
    },
)

FOLDER = Path("artifacts/mobilenet_v2")


@pytest.fixture(autouse=True)
def _made_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``fp32.pt2`` was exported by this user."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert made_here.note(MANIFEST.variants, MANIFEST.artifacts) is None


def planned(
    *runners: str, manifest: Manifest = MANIFEST, config: Config | None = None, **section: Any
) -> tuple[list[tuple[str, str, str]], list[tuple[str, str, str | None]]]:
    """Variant, runner and precision of the cells, and of what is refused."""
    asked = CellsConfig(runners=runners, **section)
    cells, refused = plan(FOLDER, manifest, asked, (config or Config()).places)
    return (
        [(cell.variant, cell.runner, cell.precision) for cell in cells],
        [(one.variant, one.runner, one.precision) for one in refused],
    )


def test_without_names_every_runner_has_what_it_takes_and_nothing_is_refused() -> None:
    cells, refused = planned()
    assert ("int8", "ort-cpu", "f32") in cells
    assert ("fp16", "openvino", "f32") in cells
    assert ("int8", "torch", "f32") not in cells
    assert refused == []


@pytest.mark.parametrize(
    ("runners", "section", "refused"),
    [
        (("ort-cpu", "torch"), {"variants": ("int8",)}, [("int8", "torch", "f32")]),
        (("ort-cpu", "torch"), {}, []),
        (("torch",), {"variants": ("fp32", "int8")}, [("int8", "torch", "f32")]),
        ((), {"variants": ("int8",)}, []),
        (("ort-cpu",), {"variants": ("fp32", "fp16")}, [("fp16", "ort-cpu", "f32")]),
        (("ort-cpu", "openvino"), {"precisions": ("f32", "bf16")}, []),
        (("ort-cpu", "ort-cuda"), {"precisions": ("f32", "tf32")}, []),
        (("ort-cpu",), {"variants": ("fp32",), "precisions": ("bf16",)},
         [("fp32", "ort-cpu", "bf16")]),
        (("ort-cpu",), {"variants": ("fp32",), "precisions": ("f32", "bf16")},
         [("fp32", "ort-cpu", "bf16")]),
        (("openvino", "torch"), {"variants": ("fp32",), "precisions": ("bf16",)},
         [("fp32", "torch", "bf16")]),
        ((), {"variants": ("int8",), "precisions": ("tf32",)}, []),
    ],
)  # fmt: skip
def test_what_was_named_and_can_not_be_is_refused(
    runners: tuple[str, ...], section: dict[str, Any], refused: list[tuple[str, str, str]]
) -> None:
    _, found = planned(*runners, **section)
    assert found == refused


def test_float16_has_a_precision_of_its_own_where_there_are_kernels_for_it() -> None:
    """What nobody named is left out; asked for f32, such a file is f16 all the same."""
    variants = {**MANIFEST.variants, "fp16": {"onnx": "fp16.onnx"}}
    files = {**MANIFEST.artifacts, "fp16.onnx": Artifact("fp16.onnx", 1)}
    manifest = replace(MANIFEST, variants=variants, artifacts=files)
    cells, refused = planned("ort-cuda", manifest=manifest, precisions=("tf32", "f16"))
    assert cells == [
        ("fp32", "ort-cuda", "tf32"),
        ("int8", "ort-cuda", "tf32"),
        ("fp16", "ort-cuda", "f16"),
    ]
    assert refused == []
    cells, _ = planned("ort-cuda", "ort-cpu", manifest=manifest, variants=("fp16",))
    assert cells == [("fp16", "ort-cuda", "f32"), ("fp16", "ort-cpu", "f32")]
    _, refused = planned("ort-cuda", manifest=manifest, variants=("fp32",), precisions=("f16",))
    assert refused == [("fp32", "ort-cuda", "f16")]


def test_a_refusal_says_what_the_runner_takes() -> None:
    section = CellsConfig(runners=("ort-cpu", "torch"), variants=("int8",))
    _, (one,) = plan(FOLDER, MANIFEST, section, Places())
    assert one.reason == "torch takes pt2; int8 is there as onnx"
    assert (one.status, one.target) == ("failed", "local")
    section = CellsConfig(runners=("ort-cpu",), variants=("int8",), precisions=("bf16",))
    _, (one,) = plan(FOLDER, MANIFEST, section, Places())
    assert one.reason == "ort-cpu computes in f32, not bf16"


def test_a_target_that_computes_as_an_older_cpu_has_the_runners_that_can() -> None:
    asked = CellsConfig(targets=("local", "isa-avx2"), variants=("fp32",))
    cells, refused = plan(FOLDER, MANIFEST, asked, Places())
    capped = {cell.runner for cell in cells if cell.target.isa}
    assert capped == {"openvino", "ort-openvino"}
    assert {"ort-cpu", "torch"} <= {cell.runner for cell in cells if not cell.target.isa}
    assert refused == [], "nobody asked for ort-cpu there"


@pytest.mark.parametrize(
    ("target", "instead"),
    [("isa-avx2", "--target haswell emulates"), ("isa-avx2-vnni", "an emulator that has")],
)
def test_another_runner_that_was_named_is_one_row_there(target: str, instead: str) -> None:
    asked = CellsConfig(runners=("ort-cpu", "openvino"), targets=("local", target))
    cells, (one,) = plan(FOLDER, MANIFEST, asked, Places())
    assert ("ort-cpu", "local") in {(cell.runner, cell.target.name) for cell in cells}
    assert (one.variant, one.runner, one.target) == ("", "ort-cpu", target)
    assert one.status == "unavailable"
    assert one.reason.startswith("ort-cpu can't compute as AVX2")
    assert instead in one.reason


def test_only_the_cpu_computes_as_an_older_one() -> None:
    places = Places(runners={"openvino": RunnerConfig(device="GPU")})
    asked = CellsConfig(runners=("openvino",), targets=("isa-avx2",))
    cells, (one,) = plan(FOLDER, MANIFEST, asked, places)
    assert cells == []
    assert one.reason.startswith("openvino on GPU can't compute as AVX2")


def test_a_runner_that_can_not_be_asked_is_one_row(monkeypatch: pytest.MonkeyPatch) -> None:
    def stale(runner: str) -> str | None:
        if runner == "openvino":
            raise RunnerUnavailable("its environment is stale")
        return None

    monkeypatch.setattr(planning.environments, "python_of", stale)
    cells, refused = planned("openvino", "ort-cpu", variants=("fp32",))
    assert cells == [("fp32", "ort-cpu", "f32")]
    assert refused == [("", "openvino", None)]


def test_a_variant_that_the_workspace_lacks_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="variant int8-avx2 is not in"):
        planned(variants=("int8-avx2",))


@pytest.mark.parametrize("name", registry.BUILT_IN)
def test_what_is_known_of_a_runner_is_what_it_says_itself(name: str) -> None:
    known, runner = registry.entry(name), registry.get(name)
    assert known.formats == runner.formats
    assert known.precisions == runner.precisions


def recommended(**changes: Any) -> Recommendation:
    """For fp32 on openvino at f32: one thread."""
    found = Recommendation(
        *("fp32", "openvino", "local", "CPU", "f32", {"threads": 1}, {"sha256": "fp32.onnx"})
    )
    return replace(found, **changes)


@pytest.mark.parametrize(
    ("change", "tuned"),
    [
        ({}, True),
        ({"precision": "bf16"}, False),
        ({"device": "GPU"}, False),
        ({"target": "atom-01"}, False),
        ({"scenario": "offline"}, False),
        ({"runner": "ort-cpu"}, False),
        ({"variant": "int8", "evidence": {"sha256": "int8.onnx"}}, False),
        ({"evidence": {"sha256": "another file"}}, False),
    ],
    ids=str,
)
def test_a_recommendation_is_for_its_own_cell_alone(change: dict[str, Any], tuned: bool) -> None:
    manifest = replace(MANIFEST, recommended=(recommended(**change),))
    section = CellsConfig(runners=("openvino",), variants=("fp32",))
    (cell,), _ = plan(FOLDER, manifest, section, Places())
    assert (cell.tuned, cell.threads) == ((True, 1) if tuned else (False, None))


def test_each_precision_and_device_has_its_own_recommendation() -> None:
    both = (recommended(), recommended(precision="bf16", settings={"threads": 2}))
    manifest = replace(MANIFEST, recommended=both)
    section = CellsConfig(runners=("openvino",), variants=("fp32",), precisions=("f32", "bf16"))
    cells, _ = plan(FOLDER, manifest, section, Places())
    assert [(cell.precision, cell.threads) for cell in cells] == [("f32", 1), ("bf16", 2)]
    on_gpu = Config.model_validate({"runners": {"openvino": {"device": "GPU"}}})
    cells, _ = plan(FOLDER, manifest, section, on_gpu.places)
    assert [(cell.device, cell.tuned) for cell in cells] == [("GPU", False)] * 2


def test_threads_that_were_asked_for_leave_a_recommendation_aside() -> None:
    manifest = replace(MANIFEST, recommended=(recommended(),))
    section = CellsConfig(runners=("openvino",), variants=("fp32",), threads=3)
    (cell,), _ = plan(FOLDER, manifest, section, Places())
    assert (cell.tuned, cell.threads) == (False, 3)


def handed_over() -> Manifest:
    """The same workspace with another program in it, hash and all."""
    evil = {**MANIFEST.artifacts, "fp32.pt2": Artifact("another", 1)}
    return replace(MANIFEST, artifacts=evil)


def test_a_program_that_was_not_made_here_is_not_read() -> None:
    section = CellsConfig(variants=("fp32",))
    cells, refused = plan(FOLDER, handed_over(), section, Places())
    assert "torch" not in {cell.runner for cell in cells}
    (one,) = refused
    assert (one.runner, one.status) == ("torch", "unavailable")
    assert one.reason.startswith("fp32.pt2 was not made here, and reading one can run code")


def test_it_is_an_integrity_error_where_its_runner_is_named() -> None:
    with pytest.raises(IntegrityError, match="was not made here"):
        planned("torch", manifest=handed_over())


def test_a_workspace_that_is_trusted_is_read() -> None:
    cells, refused = planned("torch", manifest=handed_over(), trust_workspace=True)
    assert (cells, refused) == ([("fp32", "torch", "f32")], [])


def test_an_export_vouches_for_what_it_wrote_and_not_for_what_it_found() -> None:
    """An export with nothing to do must not vouch for a workspace from elsewhere."""
    evil = handed_over()
    assert made_here.note(evil.variants, {}) is None
    assert made_here.distrusted(evil, "fp32.pt2")
    assert made_here.note(evil.variants, {"fp32.onnx": evil.artifacts["fp32.onnx"]}) is None
    assert made_here.distrusted(evil, "fp32.pt2")
    assert made_here.note(evil.variants, {"fp32.pt2": evil.artifacts["fp32.pt2"]}) is None
    assert made_here.distrusted(evil, "fp32.pt2") is None


def test_data_needs_nobody_to_vouch_for_it() -> None:
    evil = handed_over()
    assert [made_here.distrusted(evil, name) for name in ("fp32.onnx", "fp16.xml")] == [None] * 2
