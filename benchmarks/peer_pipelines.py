"""What peers.py times: each peer's way from the same model to int8, with the peer's defaults.

    python peer_pipelines.py NAME FOLDER

Runs in the peer's own environment. FOLDER holds fp32.onnx and calibration.npy (float32
[128, 3, 224, 224], preprocessed); the result goes there, too. Olive starts from the torch
module, as its conversion is part of what it is for, the others from fp32.onnx.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np


def feeds(folder: Path) -> Iterator[dict[str, np.ndarray]]:
    """The calibration images, one at a time."""
    for image in np.load(folder / "calibration.npy", mmap_mode="r"):
        yield {"input": np.array(image[None])}


def quantize_static(folder: Path) -> None:
    """ONNX Runtime's own function, nothing set."""
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self._feeds = feeds(folder)

        def get_next(self) -> Any:
            return next(self._feeds, None)

    quantize_static(folder / "fp32.onnx", folder / "quantize-static.onnx", Reader())


def nncf_onnx(folder: Path, name: str = "nncf-onnx", **options: Any) -> None:
    """NNCF's ONNX backend."""
    import nncf  # pyright: ignore[reportMissingImports]
    import onnx

    model = onnx.load(folder / "fp32.onnx")
    quantized = nncf.quantize(model, nncf.Dataset(list(feeds(folder))), **options)
    onnx.save(quantized, folder / f"{name}.onnx")


def nncf_openvino(folder: Path, name: str = "nncf-openvino", **options: Any) -> None:
    """NNCF's OpenVINO backend."""
    import nncf  # pyright: ignore[reportMissingImports]
    import openvino

    model = openvino.Core().read_model(folder / "fp32.onnx")
    data = [one["input"] for one in feeds(folder)]
    quantized = nncf.quantize(model, nncf.Dataset(data), **options)
    openvino.save_model(quantized, folder / f"{name}.xml", compress_to_fp16=False)


def nncf_with(name: str, folder: Path) -> None:
    """One of its presets and bias corrections: "nncf-onnx-mixed-exact"."""
    import nncf  # pyright: ignore[reportMissingImports]

    _, backend, preset, bias = name.split("-")
    options = {
        "preset": nncf.QuantizationPreset[preset.upper()],
        "fast_bias_correction": bias == "fast",
        "subset_size": len(list(feeds(folder))),
    }
    {"onnx": nncf_onnx, "openvino": nncf_openvino}[backend](folder, name, **options)


def olive(folder: Path) -> None:
    """Olive's two passes: conversion from torch, static quantization."""
    from olive.data.registry import Registry  # pyright: ignore[reportMissingImports]
    from olive.workflows import run  # pyright: ignore[reportMissingImports]

    @Registry.register_dataset("calibration_images")
    def calibration_images(**_: Any) -> Any:  # what the registry looks up
        return [({"input": one["input"][0]}, 0) for one in feeds(folder)]

    output = folder / "olive"
    shutil.rmtree(output, ignore_errors=True)
    run(
        {
            "input_model": {
                "type": "PyTorchModel",
                "model_loader": "torch_module",
                "model_script": __file__,
                "io_config": {
                    "input_names": ["input"],
                    "input_shapes": [[1, 3, 224, 224]],
                    "output_names": ["logits"],
                },
            },
            "data_configs": [
                {
                    "name": "calibration",
                    "load_dataset_config": {"type": "calibration_images"},
                    "pre_process_data_config": {"type": "skip_pre_process"},
                    "post_process_data_config": {"type": "skip_post_process"},
                    "dataloader_config": {"batch_size": 1},
                }
            ],
            "passes": {
                "conversion": {"type": "OnnxConversion"},
                "quantization": {"type": "OnnxStaticQuantization", "data_config": "calibration"},
            },
            "output_dir": str(output),
            "cache_dir": str(output / "cache"),
        }
    )
    (model,) = output.glob("*.onnx")
    shutil.move(model, folder / "olive.onnx")


def torch_module(*_: Any) -> Any:
    """The trained module: Olive's ``model_loader``."""
    from edgepipe.exporters.weights.sources import build, resolve
    from edgepipe.runners.machine.files import cache_folder

    return build(resolve("mobilenet_v2", "digits", cache=cache_folder())).module


PIPELINES = {
    "quantize_static": quantize_static,
    "nncf-onnx": nncf_onnx,
    "nncf-openvino": nncf_openvino,
    "olive": olive,
}

if __name__ == "__main__":
    asked, place = sys.argv[1], Path(sys.argv[2]).resolve()
    if asked.count("-") > 1:
        nncf_with(asked, place)
    else:
        PIPELINES[asked](place)
