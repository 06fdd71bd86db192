"""Model repositories for servers that people already run: folders, configuration, labels.

Each variant becomes a model of its own, version 1, named ``NAME-VARIANT``: a server can't choose
by the CPU as ``verify`` does. Sources of the rules:

* ovms: OpenVINO Model Server, "Preparing a Model Repository" and "Model Server Parameters"
* triton: Triton Inference Server, "Model Repository" and "Model Configuration"
* kserve: KServe, "Deploying ONNX Models": its runtime for ONNX is Triton, so each service gets a
  Triton repository of its own

Triton gets ONNX, never OpenVINO IR. Its OpenVINO backend can be told to compute in bf16 but not in
f32, so that it answers in a precision that parity has not judged wherever the CPU has bf16; and it
fixes an open batch at ``max_batch_size``, so that it refuses single images (its README and source).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ....runners import documents
from ....runners.bundles.formats import ONNX
from ....runners.bundles.index import Index
from ....runners.bundles.selection import recommended
from ....runners.targets import LOCAL
from ...errors import UsageError

OVMS, TRITON, KSERVE = "ovms", "triton", "kserve"
VERSION = "1"
LARGEST_BATCH = 16  # what Triton may put together, where the model leaves the batch open
OPENVINO_IR = "openvino-ir"
TAKEN = {OVMS: (OPENVINO_IR, ONNX), TRITON: (ONNX,), KSERVE: (ONNX,)}  # the better one first
STORAGE = "pvc://models"
# Of a file: its bytes, or where it lies.
Content = bytes | Path


@dataclass(frozen=True)
class Tensors:
    """Names of the model's input and output; ``batch`` is ``None`` where it is open."""

    input: str
    output: str
    batch: int | None
    classes: int


def layout(
    kind: str, index: Index, tensors: Tensors, files: Mapping[str, Content]
) -> dict[str, Content]:
    """The files of a repository by their paths in it. ``files`` are those that the index names."""
    made: dict[str, Content] = {}
    for variant in index.variants:
        made |= _WRITERS[kind](index, variant, tensors, files)
    if kind == OVMS:
        made["config.json"] = _json(
            {"model_config_list": [_ovms(index, v) for v in index.variants]}
        )
    folded = index.preprocessing.folded
    preprocessing = {
        "input": tensors.input,
        "output": tensors.output,
        "layout": "NHWC" if folded else "NCHW",
        "dtype": "uint8" if folded else "float32",
        "formula": "x" if folded else "(x / 255 - mean) / std",
        **index.preprocessing.to_json(),
    }
    made["preprocessing.json"] = _json(preprocessing)
    return dict(sorted(made.items()))


def _model(index: Index, variant: str) -> str:
    return f"{index.name}-{variant}"


def _versioned(
    index: Index, variant: str, server: str, files: Mapping[str, Content]
) -> dict[str, Content]:
    """The model's files in their version folder, under the names that servers look for.

    In the best of the formats that the server takes. Raises ``UsageError`` if there is none.
    """
    kinds, taken = index.variants[variant].files, TAKEN[server]
    found = next((kind for kind in taken if kind in kinds), None)
    if found is None:
        raise UsageError(
            f"{server} takes {' or '.join(taken)}, variant {variant} has {', '.join(kinds)}: "
            f"add --format {taken[-1]}"
        )
    main, *others = kinds[found]
    made = {f"{VERSION}/model{Path(main).suffix}": files[main]}
    for name in others:
        # What ONNX keeps beside the model goes by the name that the model has for it.
        own = name if found == ONNX else f"model{Path(name).suffix}"
        made[f"{VERSION}/{own}"] = files[name]
    return made


def _ovms_files(
    index: Index, variant: str, _tensors: Tensors, files: Mapping[str, Content]
) -> dict[str, Content]:
    model = _model(index, variant)
    made = _versioned(index, variant, OVMS, files)
    labels = {f"labels/{model}.txt": _labels(index)} if index.labels else {}
    return {f"{model}/{name}": data for name, data in made.items()} | labels


def _ovms(index: Index, variant: str) -> dict[str, Any]:
    """An entry of config.json. The precision is said, since OpenVINO takes bf16 where it can."""
    plugin: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": "1",
        "INFERENCE_PRECISION_HINT": "f32",
    }
    if threads := _threads(index, variant, "openvino"):
        plugin["INFERENCE_NUM_THREADS"] = str(threads)
    model = _model(index, variant)
    return {
        "config": {
            "name": model,
            "base_path": model,
            "target_device": "CPU",
            "plugin_config": plugin,
        }
    }


def _triton_files(
    index: Index, variant: str, tensors: Tensors, files: Mapping[str, Content]
) -> dict[str, Content]:
    model = _model(index, variant)
    made = _versioned(index, variant, TRITON, files)
    if index.labels:
        made["labels.txt"] = _labels(index)
    made["config.pbtxt"] = _triton(index, variant, tensors).encode()
    return {f"{model}/{name}": data for name, data in made.items()}


def _triton(index: Index, variant: str, tensors: Tensors) -> str:
    """config.pbtxt: with an open batch the dimensions go without it, else ``max_batch_size`` 0."""
    batch = [] if tensors.batch is None else [tensors.batch]
    most = LARGEST_BATCH if tensors.batch is None else 0
    labels = '\n    label_filename: "labels.txt"' if index.labels else ""
    folded, image = index.preprocessing.folded, index.preprocessing.shape
    lines = [
        f'name: "{_model(index, variant)}"',
        'backend: "onnxruntime"',
        'default_model_filename: "model.onnx"',
        f"max_batch_size: {most}",
        "input [\n  {",
        f'    name: "{tensors.input}"',
        f"    data_type: {'TYPE_UINT8' if folded else 'TYPE_FP32'}",
        f"    dims: {[*batch, *image]}",
        "  }\n]",
        "output [\n  {",
        f'    name: "{tensors.output}"',
        "    data_type: TYPE_FP32",
        f"    dims: {[*batch, tensors.classes]}{labels}",
        "  }\n]",
        "instance_group [\n  {\n    count: 1\n    kind: KIND_CPU\n  }\n]",
    ]
    if threads := _threads(index, variant, "ort-cpu"):
        value = f'value: {{ string_value: "{threads}" }}'
        lines.append(f'parameters {{\n  key: "intra_op_thread_count"\n  {value}\n}}')
    return "\n".join(lines) + "\n"


def _kserve_files(
    index: Index, variant: str, tensors: Tensors, files: Mapping[str, Content]
) -> dict[str, Content]:
    name = _model(index, variant).replace("_", "-").replace(".", "-").lower()
    repository = _triton_files(index, variant, tensors, files)
    service = f"""\
# Put the folder {name}/ where storageUri points, then: kubectl apply -f {name}.yaml
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata:
  name: {name}
spec:
  predictor:
    model:
      runtime: kserve-tritonserver
      protocolVersion: v2
      modelFormat:
        name: onnx
      storageUri: {STORAGE}/{name}
"""
    made = {f"{name}/{path}": data for path, data in repository.items()}
    return made | {f"{name}.yaml": service.encode()}


def _threads(index: Index, variant: str, runner: str) -> int | None:
    """What is recommended for the runner that the server uses, too."""
    found = recommended(index, variant, runner, LOCAL.name)
    return int(found.settings["threads"]) if found and "threads" in found.settings else None


def _labels(index: Index) -> bytes:
    return "".join(f"{label}\n" for label in index.labels or ()).encode()


def _json(document: Any) -> bytes:
    return documents.text(document).encode()


_WRITERS = {OVMS: _ovms_files, TRITON: _triton_files, KSERVE: _kserve_files}
