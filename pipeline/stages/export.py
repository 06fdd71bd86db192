"""Stage 1: the module becomes an ONNX file and an exported program; goldens are recorded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ...exporters import modules, registry
from ...exporters.base import (
    Exporter,
    ExportOptionError,
    ExportOptions,
    MissingLibrary,
    ModelError,
    ProgramExporter,
)
from ...exporters.fitting import Origin
from ...exporters.folding import fold
from ...exporters.onnx import raise_casts, save_program, trace
from ...exporters.sources import OWN, Source, build
from ...exporters.threads import torch_threads
from ...runners import images, scores
from .. import goldens
from ..arrays import Arrays
from ..dataset import Dataset
from ..errors import StageError
from ..modelspec import ModelSpec
from ..progress import Progress
from ..recording import reference_json
from ..samples import Samples
from ..sections import ExportConfig
from ..workspace import Transaction
from . import versions

if TYPE_CHECKING:
    import torch

EXPORTED, PROGRAM = "exported.onnx", "fp32.pt2"
# Images at a time through torch for the goldens: fixed, since it can change the last bit.
GOLDEN_BATCH = 4
EXAMPLE_SEED = 2000
MOST_OF_A_REASON = 300


@dataclass(frozen=True)
class Prepared:
    """A model on its way to the exporters: ``deployed`` is what they get, with ``example`` inputs.

    ``module`` is the model as it was trained, which answers for the goldens; the two differ if
    preprocessing is folded into the deployed one. ``classes`` is ``None`` for no classifier.
    ``origin`` is where in a checkpoint the weights were.
    """

    module: torch.nn.Module
    deployed: torch.nn.Module
    example: tuple[torch.Tensor, ...]
    options: ExportOptions
    classes: int | None
    origin: Origin | None = None


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
        spec = self.spec
        source = {key: value for key, value in asdict(spec.source).items() if key != "path"}
        return {
            "source": source,
            "exporter": self.config.exporter,
            **plugin(self.config.exporter),
            "opset": self.config.opset,
            "batch": self.config.batch,
            "preprocessing": spec.preprocessing.to_json() if spec.preprocessing else {},
            "inputs": self.config.inputs,
            "goldens": self.samples.about(self.samples.goldens),
            "versions": versions("edgepipe", "torch", "onnx", "onnxscript", "numpy", "pillow"),
        }

    def prepare(self) -> Prepared:
        """What every exporter gets. Raises ``ModelError`` for a module that can't be used."""
        import torch

        built, preprocessing, batch = build(self.spec.source), self.spec.preprocessing, self._batch
        module = built.module
        deployed, names = module, tuple(one.name for one in self.spec.inputs)
        # Two rows for a dynamic batch: torch.export would take a single one for a constant.
        rows = batch or 2
        if preprocessing is None:
            made = Arrays.random(self.spec.inputs, rows, EXAMPLE_SEED).values
            example = tuple(torch.from_numpy(made[name]) for name in names)
        else:
            names = ("input",)
            pixel = torch.uint8 if preprocessing.folded else torch.float32
            example = (torch.zeros(rows, *preprocessing.shape, dtype=pixel),)
        if preprocessing and preprocessing.folded:
            reverse = preprocessing.channels == "bgr"
            deployed = fold(module, preprocessing.mean, preprocessing.std, reverse)
        outputs, classes = ("logits",), self.spec.source.classes
        if self.spec.source.weights == OWN:
            deployed, outputs, classes = self._own(deployed, example, names)
        options = ExportOptions(self.config.opset, batch is None, names, outputs)
        return Prepared(module, deployed, example, options, classes, built.origin)

    @property
    def _batch(self) -> int | None:
        return None if self.config.batch == "dynamic" else int(self.config.batch)

    def _own(
        self, module: torch.nn.Module, example: tuple[torch.Tensor, ...], names: Sequence[str]
    ) -> tuple[torch.nn.Module, tuple[str, ...], int | None]:
        """A user's module with its outputs in one tuple, their names, and the number of classes.

        One that takes images and gives float ``[N, C]`` is a classifier of C classes.
        """
        import torch

        source = self.spec.source
        try:
            with torch.inference_mode():
                given = module(*example)
        except Exception as error:  # it is their code that runs
            shapes = ", ".join(f"{tensor.dtype} {list(tensor.shape)}" for tensor in example)
            text = f"{type(error).__name__}: {error}"
            raise ModelError(f"{source.architecture} fails for {shapes}: {text}") from error
        found = modules.flatten(given)
        if taken := set(found) & set(names):
            raise ModelError(
                f"{source.architecture}: an output is called like an input: {', '.join(taken)}"
            )
        deployed = module if isinstance(given, torch.Tensor) else modules.flat(module)
        output = next(iter(found.values()))
        scores = output.ndim == 2 and output.shape[1] > 1 and output.is_floating_point()
        if self.spec.preprocessing is None or len(found) > 1 or not scores:
            if source.labels:
                raise ModelError(f"{source.architecture} is no classifier: labels are for those")
            return deployed, tuple(found), None
        if source.labels and len(source.labels) != output.shape[1]:
            raise ModelError(
                f"{source.architecture} has {output.shape[1]} classes, "
                f"the labels name {len(source.labels)}"
            )
        return deployed, ("logits",), output.shape[1]

    def run(self, transaction: Transaction, progress: Progress) -> Mapping[str, Any]:
        """See ``Stage.run``."""
        made, source = self.prepare(), self.spec.source
        if made.origin and not made.origin.plain:
            progress.say(f"warning: {source.path}: took {made.origin}")
        options = made.options
        exporter = registry.get(self.config.exporter)
        with blaming(source, "torch.export"):
            program = trace(made.deployed, made.example, options)
            if source.weights == OWN:
                self._refuse_random(made, program)
            transaction.write(PROGRAM, save_program(program, options))
        with blaming(source, exporter.name):
            files = run_exporter(exporter, made, options, program)
        transaction.write(EXPORTED, files[".onnx"])
        recorded, raised = self._record_goldens(made, program)
        transaction.write(goldens.FILE, recorded.to_bytes())
        for doubt in self._doubts(made, recorded, raised):
            progress.say(f"warning: {doubt}")
        parameters = sum(parameter.numel() for parameter in made.module.parameters())
        if not source.trained:
            progress.say("warning: random weights: good for timing, its answers mean nothing")
        inputs = {
            name: tensor.numpy()
            for name, tensor in zip(options.input_names, made.example, strict=True)
        }
        return {
            "parameters": parameters,
            "classes": made.classes,
            "weights_from": asdict(made.origin) if made.origin else None,
            "inputs": _described(inputs),
            "outputs": _with_scores(_described(recorded.fp32), recorded.fp32),
            "reference": "float64, casts raised" if raised else "float64",
            **reference_json(recorded.reference_sqnr_db),
            "summary": f"{source.architecture} with {source.weights} weights, "
            f"{parameters:,} parameters, opset {self.config.opset}, {self.config.exporter}",
        }

    def _refuse_random(self, made: Prepared, program: torch.export.ExportedProgram) -> None:
        """Raise ``ModelError`` for a model that answers one input differently each time."""
        import torch

        with torch_threads(1), torch.inference_mode():
            first, second = (modules.flatten(made.deployed(*made.example)) for _ in range(2))
        if all(np.array_equal(first[name], second[name], equal_nan=True) for name in first):
            return
        found = sorted({name for node in program.graph.nodes if (name := _random_operator(node))})
        operators = f" ({', '.join(found)})" if found else ""
        raise ModelError(
            f"{self.spec.source.architecture} answers one input differently each "
            f"time{operators}: there is nothing to hold a runner against; take that out of forward"
        )

    def _doubts(self, made: Prepared, recorded: goldens.Goldens, raised: bool) -> Iterator[str]:
        """What a user has to know of torch's own answers."""
        for name, array in recorded.fp32.items():
            if not np.all(np.isfinite(array)):
                where = self._first_not_finite(made)
                count = int(np.count_nonzero(~np.isfinite(array)))
                yield (
                    f"{count} of torch's own answers ({name}) are NaN or infinite, first in "
                    f"{where}: parity will fail"
                )
            elif len(array) > 1 and np.all(array == array[:1]):
                yield f"{name} does not depend on the input: parity will fail as degenerate"
        if raised:
            yield (
                "the model casts to float32 inside: its float64 reference is the exported "
                "program's with these casts raised"
            )

    def _first_not_finite(self, made: Prepared) -> str:
        """The first module, by its name, that gives something that is not finite."""
        import torch

        found: list[str] = []

        def note(name: str) -> Any:
            def look(_module: Any, _inputs: Any, output: Any) -> None:
                whole = not isinstance(output, torch.Tensor) or torch.isfinite(output).all()
                if not whole:
                    found.append(name)

            return look

        handles = [
            part.register_forward_hook(note(name or "forward"))
            for name, part in made.module.named_modules()
        ]
        try:
            with torch_threads(1), torch.inference_mode():
                for tensors in self._golden_inputs(torch.float32):
                    made.module(*tensors)
                    if found:
                        break
        finally:
            for handle in handles:
                handle.remove()
        return found[0] if found else "forward"

    def _feeds(self) -> tuple[Arrays, np.ndarray | None, np.ndarray]:
        """The goldens' inputs, their pixels if they are images, and their labels."""
        chosen, preprocessing = self.samples.goldens, self.spec.preprocessing
        if not isinstance(chosen, Dataset):
            return chosen, None, np.full(len(chosen), -1)
        assert preprocessing
        ((pixels, labels),) = chosen.chunks(preprocessing, len(chosen))
        tensor = images.normalize(pixels, replace(preprocessing, folded=False))
        return Arrays({"input": tensor}), pixels, labels

    @property
    def _golden_batch(self) -> int:
        return (self._batch or 1) if self.spec.source.weights == OWN else GOLDEN_BATCH

    def _golden_inputs(self, dtype: Any) -> Iterator[list[torch.Tensor]]:
        import torch

        for parts, _, _ in self._feeds()[0].batches(self._golden_batch):
            tensors = [torch.from_numpy(part) for part in parts.values()]
            yield [one.to(dtype) if one.is_floating_point() else one for one in tensors]

    def _record_goldens(
        self, made: Prepared, program: torch.export.ExportedProgram
    ) -> tuple[goldens.Goldens, bool]:
        """Torch's answers in float32 and float64, of the model as it was trained.

        Also whether the latter are those of the exported program with its casts to float32
        raised, for a model that doesn't run in float64 because of them.
        """
        import torch

        feeds, pixels, labels = self._feeds()
        batch, names = self._golden_batch, made.options.output_names
        raised = False
        with torch_threads(1), torch.inference_mode():
            try:
                fp32 = _answers(made.module, names, feeds, batch, torch.float32)
            except RuntimeError as error:
                raise ModelError(
                    f"{self.spec.source.architecture} does not run in float32, in which the "
                    f"goldens are recorded: {error}"
                ) from error
            try:
                fp64 = _answers(made.module, names, feeds, batch, torch.float64)
            except RuntimeError as error:
                made.module.float()
                try:
                    fp64 = _answers(raise_casts(program), names, feeds, batch, torch.float64)
                    raised = True
                except Exception:  # whatever the rewritten program is no good for
                    raise ModelError(
                        f"{self.spec.source.architecture} does not run in float64, in which the "
                        f"goldens are recorded, nor does its program with casts raised: {error}"
                    ) from error
        made.module.float()
        chosen = self.samples.goldens
        arrays = {} if isinstance(chosen, Dataset) else chosen.values
        return goldens.Goldens(pixels, labels, fp32, fp64, arrays), raised


def _random_operator(node: Any) -> str | None:
    """The name of an operator of a traced program whose result is drawn."""
    schema = getattr(node.target, "_schema", None)
    name = schema.name.rpartition("::")[2] if schema else ""
    drawn = ("rand", "normal", "bernoulli", "multinomial", "dropout", "uniform", "exponential")
    return name if any(part in name for part in drawn) else None


def _with_scores(
    described: list[dict[str, Any]], outputs: Mapping[str, np.ndarray]
) -> list[dict[str, Any]]:
    """Adds what an output's scores are: "probabilities" if every golden's add up to one."""
    return [{**about, "scores": scores.kind_of(outputs[about["name"]])} for about in described]


def _answers(
    module: torch.nn.Module, names: Sequence[str], feeds: Arrays, batch: int, dtype: Any
) -> dict[str, np.ndarray]:
    """The outputs by name for all feeds, computed in ``dtype``."""
    import torch

    module.to(dtype)
    collected: dict[str, list[np.ndarray]] = {name: [] for name in names}
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)  # what a forward makes by itself is of this type, too
    try:
        for parts, _, valid in feeds.batches(batch):
            tensors = [torch.from_numpy(part) for part in parts.values()]
            given = module(*(one.to(dtype) if one.is_floating_point() else one for one in tensors))
            found = modules.flatten(given).values()
            for name, tensor in zip(collected, found, strict=True):
                if tensor.is_floating_point() and tensor.dtype != dtype:
                    raise RuntimeError(f"its output {name} is {tensor.dtype} all the same")
                collected[name].append(goldens.valid_rows(tensor.numpy(), batch, valid))
    finally:
        torch.set_default_dtype(before)
    return {name: np.concatenate(parts) for name, parts in collected.items()}


def _described(arrays: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """Inputs or outputs for the manifest; ``shape`` is a sample's, without the batch."""
    return [
        {"name": name, "dtype": array.dtype.name, "shape": list(array.shape[1:])}
        for name, array in arrays.items()
    ]


def run_exporter(
    exporter: Exporter,
    made: Prepared,
    options: ExportOptions,
    program: torch.export.ExportedProgram | None = None,
) -> Mapping[str, bytes]:
    """Every file that the exporter names, by suffix. A plug-in's bug is a ``StageError``.

    ``program`` is what ``trace`` gave for the same module and options, if it is there already.
    """
    origin = registry.origin(exporter.name)
    try:
        if program is not None and isinstance(exporter, ProgramExporter):
            files = exporter.export_program(program, options)
        else:
            files = exporter.export(made.deployed, made.example, options)
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


@contextmanager
def blaming(source: Source, exporter: str) -> Iterator[None]:
    """A module of a user's own may be more than an exporter can take: that is one line."""
    try:
        yield
    except (ModelError, ExportOptionError, MissingLibrary, StageError, ImportError):
        raise
    except Exception as error:
        if source.weights != OWN:
            raise
        cause: BaseException = error
        while cause.__cause__:  # exporters wrap what happened in advice
            cause = cause.__cause__
        lines = [line.strip() for line in str(cause).splitlines() if line.strip()] or [""]
        text = f"{type(cause).__name__}: {lines[0][:MOST_OF_A_REASON]}"
        raise ModelError(
            f"{source.architecture} can't be exported by {exporter}: {text}"
        ) from error


def plugin(exporter: str) -> dict[str, str]:
    """What a result depends on besides, if the exporter is somebody else's."""
    origin = registry.origin(exporter)
    return {"plugin": origin} if origin else {}
