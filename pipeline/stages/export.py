"""Stage 1: the module becomes an ONNX file and an exported program; goldens are recorded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ...exporters import registry
from ...exporters.base import (
    Exporter,
    ExportOptionError,
    ExportOptions,
    MissingLibrary,
    ModelError,
)
from ...exporters.onnx import export_program
from ...exporters.sources import build
from ...runners import images
from .. import goldens
from ..config import ExportConfig
from ..errors import StageError
from ..modelspec import ModelSpec
from ..progress import Progress
from ..samples import Samples
from ..workspace import Transaction
from . import versions

if TYPE_CHECKING:
    import torch

EXPORTED, PROGRAM = "exported.onnx", "fp32.pt2"
# Images at a time through torch for the goldens: fixed, since it can change the last bit.
GOLDEN_BATCH = 8


@dataclass(frozen=True)
class Export:
    """Writes ``exported.onnx``, ``fp32.pt2`` and ``goldens.npz``."""

    spec: ModelSpec
    config: ExportConfig
    samples: Samples

    name = "export"
    requires: tuple[str, ...] = ()
    ensures: tuple[str, ...] = (EXPORTED, PROGRAM, goldens.FILE)

    def depends(self, transaction: Transaction) -> Mapping[str, Any]:
        """See ``Stage.depends``."""
        source = {key: value for key, value in asdict(self.spec.source).items() if key != "path"}
        return {
            "source": source,
            "exporter": self.config.exporter,
            **plugin(self.config.exporter),
            "opset": self.config.opset,
            "batch": self.config.batch,
            "preprocessing": self.spec.preprocessing.to_json(),
            "goldens": self.samples.about(self.samples.goldens),
            "versions": versions("edgepipe", "torch", "onnx", "onnxscript", "numpy", "pillow"),
        }

    def inputs(self) -> tuple[torch.nn.Module, tuple[torch.Tensor], ExportOptions]:
        """What every exporter gets: the module, an example input, the options."""
        import torch

        batch, size = self.config.batch, self.spec.preprocessing.size
        # Two rows for a dynamic batch: torch.export would take a single one for a constant.
        rows = 2 if batch == "dynamic" else int(batch)
        options = ExportOptions(self.config.opset, dynamic_batch=batch == "dynamic")
        return build(self.spec.source), (torch.zeros(rows, 3, size, size),), options

    def run(self, transaction: Transaction, progress: Progress) -> Mapping[str, Any]:
        """See ``Stage.run``."""
        module, example, options = self.inputs()
        files = run_exporter(registry.get(self.config.exporter), module, example, options)
        transaction.write(EXPORTED, files[".onnx"])
        transaction.write(PROGRAM, export_program(module, example, options))
        recorded = self._record_goldens(module, options)
        transaction.write(goldens.FILE, recorded.to_bytes())
        output = options.output_names[0]
        parameters = sum(parameter.numel() for parameter in module.parameters())
        source = self.spec.source
        if not source.trained:
            progress.say("warning: random weights: good for timing, its answers mean nothing")
        return {
            "parameters": parameters,
            "input": options.input_names[0],
            "output": output,
            "reference_sqnr_db": recorded.reference_sqnr_db,
            "summary": f"{source.architecture} with {source.weights} weights, "
            f"{parameters:,} parameters, opset {self.config.opset}, {self.config.exporter}",
        }

    def _record_goldens(self, module: torch.nn.Module, options: ExportOptions) -> goldens.Goldens:
        import torch

        preprocessing, chosen = self.spec.preprocessing, self.samples.goldens
        ((pixels, labels),) = chosen.chunks(preprocessing, len(chosen))
        inputs = torch.from_numpy(images.normalize(pixels, preprocessing))
        outputs: dict[torch.dtype, np.ndarray] = {}
        with _one_thread(), torch.inference_mode():
            for dtype in (torch.float32, torch.float64):
                module.to(dtype)
                parts = [module(part.to(dtype)) for part in inputs.split(GOLDEN_BATCH)]
                outputs[dtype] = torch.cat(parts).numpy()
        module.float()
        name = options.output_names[0]
        return goldens.Goldens(
            pixels,
            labels,
            fp32={name: outputs[torch.float32]},
            fp64={name: outputs[torch.float64]},
        )


def run_exporter(
    exporter: Exporter,
    module: torch.nn.Module,
    example: tuple[torch.Tensor],
    options: ExportOptions,
) -> Mapping[str, bytes]:
    """Every file that the exporter names, by suffix. A plug-in's bug is a ``StageError``."""
    origin = registry.origin(exporter.name)
    try:
        files = exporter.export(module, example, options)
    except (ModelError, ExportOptionError, MissingLibrary, ImportError):
        raise
    except Exception as error:
        if origin is None:
            raise
        raise StageError(
            f"exporter {exporter.name} ({origin}) failed: {type(error).__name__}: {error}"
        ) from error
    if set(files) != set(exporter.suffixes):
        raise StageError(
            f"exporter {exporter.name} gave {', '.join(files) or 'no files'}, "
            f"not {', '.join(exporter.suffixes)}"
        )
    return files


def plugin(exporter: str) -> dict[str, str]:
    """What a result depends on besides, if the exporter is somebody else's."""
    origin = registry.origin(exporter)
    return {"plugin": origin} if origin else {}


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sums in one order, so that the last bits don't depend on the number of cores."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
