"""TorchScript for edgepipe: an exporter that traces a module, and a runner of what it traced."""

import io
import json
import warnings

from edgepipe.runners.base import Placement, RunnerUnavailable, SessionError, TensorSpec


class TorchScriptExporter:
    """Writes ``fp32.ts``; names, dtypes and shapes of inputs and outputs travel inside."""

    name = format = "torchscript"
    suffixes = (".ts",)

    def export(self, module, example, options):
        import torch

        with warnings.catch_warnings(), torch.inference_mode():
            warnings.simplefilter("ignore")  # about torch.jit's future
            traced = torch.jit.freeze(torch.jit.trace(module, tuple(example)))
            results = module(*example)
        results = results if isinstance(results, tuple) else (results,)
        rows = [None] if options.dynamic_batch else []
        specs = {
            kind: [
                (name, str(x.dtype).removeprefix("torch."), [*(rows or x.shape[:1]), *x.shape[1:]])
                for name, x in zip(names, tensors, strict=True)
            ]
            for kind, names, tensors in (
                ("inputs", options.input_names, example),
                ("outputs", options.output_names, results),
            )
        }
        buffer = io.BytesIO()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.jit.save(traced, buffer, _extra_files={"specs.json": json.dumps(specs)})
        return {".ts": buffer.getvalue()}


class TorchScript:
    """Runs such files on the CPU."""

    name = "torchscript"
    formats = ("torchscript",)
    precisions = ("f32",)

    def unavailable(self):
        try:
            import torch  # noqa: F401
        except ImportError as error:
            return f"{error}; pip install torch"
        return None

    def version(self):
        import torch

        return torch.__version__

    def devices(self):
        return ("CPU",)

    def load(self, model, settings):
        if reason := self.unavailable():
            raise RunnerUnavailable(reason)
        if (settings.precision, settings.device) != ("f32", "CPU"):
            raise SessionError(
                f"torchscript runs f32 on CPU, not {settings.precision} on {settings.device}"
            )
        import torch

        torch.set_num_threads(settings.threads)
        extra = {"specs.json": ""}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                module = torch.jit.load(model, _extra_files=extra)
            specs = json.loads(extra["specs.json"])
        except Exception as error:
            raise SessionError(f"torchscript can't load the model: {error}") from error
        nodes = sum(1 for _ in module.graph.nodes())
        return Session(module, specs, Placement("CPU", "f32", settings.threads, {"CPU": nodes}))


class Session:
    def __init__(self, module, specs, placement):
        self.placement = placement
        self.inputs = tuple(
            TensorSpec(name, kind, tuple(shape)) for name, kind, shape in specs["inputs"]
        )
        self.outputs = tuple(
            TensorSpec(name, kind, tuple(shape)) for name, kind, shape in specs["outputs"]
        )
        self._module = module

    def run(self, feeds):
        import torch

        try:
            with torch.inference_mode():
                tensors = [torch.from_numpy(feeds[spec.name]) for spec in self.inputs]
                results = self._module(*tensors)
        except Exception as error:
            raise SessionError(f"{type(error).__name__}: {error}") from error
        results = results if isinstance(results, tuple) else (results,)
        return {
            spec.name: result.numpy() for spec, result in zip(self.outputs, results, strict=True)
        }

    def close(self):
        self._module = None
