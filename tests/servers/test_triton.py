"""Triton Inference Server on the folders of `package --layout triton` and `--layout kserve`.

It is the real server that reads them. The numbers come from a stand-in for its ONNX Runtime backend
(``onnxruntime_backend.py``): these tests say nothing of that backend's speed.
"""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgepipe.pipeline import export, package, parity
from edgepipe.pipeline.errors import ExitCode
from edgepipe.pipeline.judging.gates import default_gate, judge
from edgepipe.pipeline.numerics.precision import kind_of
from edgepipe.pipeline.storage.goldens import Goldens
from edgepipe.pipeline.verdicts import PASS

Serve = Callable[..., AbstractContextManager[Any]]
VARIANTS = ("fp32", "int8", "int8-avx2")


@pytest.fixture(scope="module")
def repository(measured: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("triton")
    return package(workspace=measured, output=output, layout="triton").path


@pytest.fixture(scope="module")
def client(serve: Serve, repository: Path) -> Iterator[Any]:
    with serve(f"--model-repository={repository}") as found:
        yield found


@pytest.fixture(scope="module")
def goldens(measured: Path) -> Goldens:
    return Goldens.load(measured / "mobilenet_v2" / "goldens.npz")


def tensors(images: np.ndarray, about: Mapping[str, Any]) -> np.ndarray:
    """What a client sends for uint8 images ``[N, H, W, 3]``: preprocessing.json and no more."""
    if about["dtype"] == "uint8":
        return images
    mean, std = (np.float32(about[name]) for name in ("mean", "std"))
    scaled = ((images / np.float32(255) - mean) / std).astype(np.float32)
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))


def ask(
    client: Any, model: str, about: Mapping[str, Any], array: np.ndarray, top: int = 0
) -> np.ndarray:
    """One request; with ``top``, that many classes as ``score:index:label`` in place of logits."""
    http = importlib.import_module("tritonclient.http")
    given = http.InferInput(
        about["input"], array.shape, about["dtype"].replace("float", "FP").upper()
    )
    given.set_data_from_numpy(array)
    wanted = http.InferRequestedOutput(about["output"], class_count=top)
    return client.infer(model, [given], outputs=[wanted]).as_numpy(about["output"])


def about(repository: Path) -> dict[str, Any]:
    return json.loads((repository / "preprocessing.json").read_text())


def check_answers(
    client: Any, model: str, repository: Path, goldens: Goldens, batch: int = 1
) -> None:
    """All goldens through the server, judged as parity judges a runner."""
    assert goldens.images is not None
    said = about(repository)
    array = tensors(goldens.images, said)
    parts = [array[start : start + batch] for start in range(0, len(array), batch)]
    found = np.concatenate([ask(client, model, said, part) for part in parts])
    variant = model.removeprefix("mobilenet_v2-")
    gate = default_gate(kind_of(variant, "f32"), goldens.reference_sqnr_db)
    judgement = judge({said["output"]: found}, goldens.fp32, gate)
    assert judgement.verdict == PASS, judgement.reasons


@pytest.mark.parametrize("variant", VARIANTS)
def test_triton_serves_every_variant_with_the_tensors_of_the_model(
    client: Any, variant: str
) -> None:
    model = f"mobilenet_v2-{variant}"
    assert client.is_model_ready(model, "1")
    told = client.get_model_metadata(model)
    assert told["inputs"] == [{"name": "input", "datatype": "FP32", "shape": [1, 3, 224, 224]}]
    assert told["outputs"] == [{"name": "logits", "datatype": "FP32", "shape": [1, 10]}]
    (group,) = client.get_model_config(model)["instance_group"]
    assert (group["kind"], group["count"]) == ("KIND_CPU", 1)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_answers_of_triton_pass_the_gates_of_parity(
    client: Any, repository: Path, goldens: Goldens, variant: str
) -> None:
    check_answers(client, f"mobilenet_v2-{variant}", repository, goldens)


def test_triton_names_the_classes(client: Any, repository: Path, goldens: Goldens) -> None:
    """Its classification extension takes the labels from labels.txt."""
    assert goldens.images is not None
    said = about(repository)
    for image, logits in zip(goldens.images[:10], goldens.fp32["logits"][:10], strict=True):
        array = tensors(image[None], said)
        first, second = ask(client, "mobilenet_v2-fp32", said, array, top=2).reshape(-1)
        score, index, label = first.decode().split(":")
        assert int(index) == int(label) == logits.argmax(), "the digits' labels are 0 to 9"
        assert float(score) > float(second.decode().split(":")[0])


def test_triton_refuses_what_the_model_does_not_take(client: Any, repository: Path) -> None:
    exception = importlib.import_module("tritonclient.utils").InferenceServerException
    said = about(repository)
    for array, asked, reason in (
        (np.zeros((1, 3, 192, 192), np.float32), said, "unexpected shape"),
        (np.zeros((2, 3, 224, 224), np.float32), said, "unexpected shape"),
        (np.zeros((1, 3, 224, 224), np.uint8), said | {"dtype": "uint8"}, "UINT8"),
        (np.zeros((1, 3, 224, 224), np.float32), said | {"input": "image"}, "image"),
    ):
        with pytest.raises(exception, match=reason):
            ask(client, "mobilenet_v2-fp32", asked, array)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_folder_of_a_kserve_service_is_a_repository_that_triton_serves(
    measured: Path, tmp_path: Path, serve: Serve, goldens: Goldens, variant: str
) -> None:
    """Started as KServe's runtime kserve-tritonserver starts it, on what storageUri names."""
    folder = package(workspace=measured, output=tmp_path, layout="kserve", variants=(variant,)).path
    (service,) = folder.glob("*.yaml")
    found = re.search(r"storageUri: pvc://models/(.*)$", service.read_text(), re.MULTILINE)
    assert found
    assert found[1] == service.stem
    with serve(f"--model-store={folder / found[1]}", "--allow-http=true") as client:
        (model,) = client.get_model_repository_index()
        assert (model["name"], model["state"]) == (f"mobilenet_v2-{variant}", "READY")
        check_answers(client, model["name"], folder, goldens)


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace whose models take any number of uint8 NHWC frames."""
    workspace = tmp_path_factory.mktemp("opened") / "artifacts"
    export(workspace=workspace, batch="dynamic", fold_preprocessing=True)
    everywhere = ("fp32", "int8-avx2")  # int8 is for CPUs with VNNI
    judged = parity(workspace=workspace, runners=("ort-cpu",), variants=everywhere)
    assert judged.exit_code == ExitCode.OK
    return workspace


def test_an_open_batch_of_frames_is_served_up_to_the_largest_batch(
    opened: Path, tmp_path: Path, serve: Serve
) -> None:
    repository = package(
        workspace=opened, output=tmp_path, layout="triton", allow_failed_parity=True
    ).path
    goldens = Goldens.load(opened / "mobilenet_v2" / "goldens.npz")
    exception = importlib.import_module("tritonclient.utils").InferenceServerException
    with serve(f"--model-repository={repository}") as client:
        for variant in VARIANTS:
            model = f"mobilenet_v2-{variant}"
            (taken,) = client.get_model_metadata(model)["inputs"]
            assert (taken["datatype"], taken["shape"]) == ("UINT8", [-1, 224, 224, 3])
            check_answers(client, model, repository, goldens, batch=16)
        check_answers(client, "mobilenet_v2-fp32", repository, goldens, batch=5)
        too_many = np.zeros((17, 224, 224, 3), np.uint8)
        with pytest.raises(exception, match="batch-size must be <= 16"):
            ask(client, "mobilenet_v2-fp32", about(repository), too_many)
