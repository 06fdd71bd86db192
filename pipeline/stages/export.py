"""Stage 1: the module becomes an ONNX file and an exported program; goldens are recorded."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from ...exporters import modules, registry
from ...exporters.base import (
    Exporter,
    ExportOptionError,
    ExportOptions,
    ModelError,
    ProgramExporter,
)
from ...exporters.complexity import of_program, uncounted
from ...exporters.folding import fold
from ...exporters.onnx import MOST_BYTES, save_program, trace
from ...exporters.own.inputs import bound
from ...exporters.own.outputs import flat, flatten
from ...exporters.own.qdq import with_integer_weights
from ...exporters.own.torchscript import NO_PROGRAM, reason, whole
from ...exporters.weights.fitting import Origin
from ...exporters.weights.sources import OWN, Source, build
from ...runners.base import StorageFull
from ...runners.bundles import scores
from ...runners.machine.installed import versions
from ..errors import MissingLibrary, StageError
from ..progress import Progress
from ..settings.making import ExportConfig
from ..storage import goldens
from ..storage.arrays import Arrays
from ..storage.workspace import Transaction
from .modelspec import ModelSpec
from .samples import Samples
from .torch_reference import Reference, refuse_random

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
    preprocessing is folded into the deployed one, or if it holds fake quantization. Of such one
    ``exact`` answers in float64. ``classes`` is ``None`` for no classifier. ``origin`` is where in
    a checkpoint the weights were, ``notes`` what is to be known of it, a line each.
    """

    module: torch.nn.Module
    deployed: torch.nn.Module
    example: tuple[torch.Tensor, ...]
    options: ExportOptions
    classes: int | None
    origin: Origin | None = None
    exact: torch.nn.Module | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Export:
    """Writes ``exported.onnx``, ``goldens.npz`` and, unless it is TorchScript, ``fp32.pt2``."""

    spec: ModelSpec
    config: ExportConfig
    samples: Samples

    name = "export"
    requires: tuple[str, ...] = ()

    @property
    def ensures(self) -> tuple[str, ...]:
        """See ``Stage``. TorchScript has no program."""
        program = () if self.spec.source.scripted else (PROGRAM,)
        return (EXPORTED, *program, goldens.FILE)

    def depends(self, transaction: Transaction) -> Mapping[str, Any]:
        """See ``Stage.depends``."""
        return {
            **self._made_with(),
            **plugin(self.config.exporter),
            "versions": versions("edgepipe", "torch", "onnx", "onnxscript", "numpy", "pillow"),
        }

    def _made_with(self) -> dict[str, Any]:
        """The choices that the result is made with, as JSON values."""
        spec = self.spec
        return {
            "source": {key: value for key, value in asdict(spec.source).items() if key != "path"},
            "exporter": self.config.exporter,
            "opset": self.config.opset,
            "batch": self.config.batch,
            "preprocessing": spec.preprocessing.to_json() if spec.preprocessing else {},
            "named_inputs": self.config.inputs,
            "goldens": self.samples.about(self.samples.goldens),
        }

    def prepare(self) -> Prepared:
        """What every exporter gets. Raises ``ModelError`` for a module that can't be used."""
        import torch

        built, preprocessing, batch = build(self.spec.source), self.spec.preprocessing, self._batch
        module, fixed = built.module, built.fixed
        deployed = fixed.module if fixed else module
        names = tuple(one.name for one in self.spec.inputs)
        # Two rows for a dynamic batch: torch.export would take a single one for a constant.
        rows = batch or 2
        if preprocessing is None:
            made = Arrays.random(self.spec.inputs, rows, EXAMPLE_SEED).values
            example = tuple(torch.from_numpy(made[name]) for name in names)
            module, deployed = bound(module, names), bound(deployed, names)
        else:
            names = (self.spec.image_input,)
            pixel = torch.uint8 if preprocessing.folded else torch.float32
            example = (torch.zeros(rows, *preprocessing.shape, dtype=pixel),)
        exact = deployed if fixed else None
        if preprocessing and preprocessing.folded:
            reverse = preprocessing.channels == "bgr"
            deployed = fold(deployed, preprocessing.mean, preprocessing.std, reverse)
        outputs, classes = ("logits",), self.spec.source.classes
        if self.spec.source.weights == OWN:
            deployed, outputs, classes = self._own(deployed, example, names)
        if self.spec.source.scripted:
            deployed = whole(deployed, example)
        options = ExportOptions(self.config.opset, batch is None, names, outputs)
        notes = fixed.notes if fixed else ()
        return Prepared(module, deployed, example, options, classes, built.origin, exact, notes)

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
            images = self.spec.preprocessing
            hint = modules.other_channels(module, len(images.mean)) if images else ""
            raise ModelError(
                f"{source.architecture} fails for {shapes}: {reason(error)}{hint}"
            ) from error
        found = flatten(given)
        if taken := set(found) & set(names):
            raise ModelError(
                f"{source.architecture}: an output is called like an input: {', '.join(taken)}"
            )
        deployed = module if isinstance(given, torch.Tensor) else flat(module)
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
        for note in made.notes:
            progress.say(f"warning: {source.architecture}: {note}")
        options = made.options
        exporter = registry.get(self.config.exporter)
        with blaming(source, "torch.export"):
            program = None if source.scripted else trace(made.deployed, made.example, options)
            if source.weights == OWN:
                refuse_random(source.architecture, made.deployed, made.example, program)
            if program:
                _write_program(program, options, transaction)
        with blaming(source, exporter.name), TemporaryDirectory(prefix="edgepipe-") as folder:
            path = Path(folder) / EXPORTED
            place = replace(options, place=path.with_suffix(""))
            files = run_exporter(exporter, made, place, program)
            if source.quantized:
                files = {".onnx": _integers(source, files[".onnx"])}
            transaction.take(placed(files, path))
        batch = (self._batch or 1) if source.weights == OWN else GOLDEN_BATCH
        torchs = Reference(
            made.module, options.output_names, self.spec, self.samples, batch, made.exact
        )
        recorded, raised = torchs.record(program)
        transaction.write(goldens.FILE, recorded.to_bytes())
        for doubt in torchs.doubts(recorded, raised):
            progress.say(f"warning: {doubt}")
        costs = of_program(program, len(made.example[0])) if program else uncounted(made.module)
        if not source.trained:
            progress.say("warning: random weights: good for timing, its answers mean nothing")
        inputs = {
            name: tensor.numpy()
            for name, tensor in zip(options.input_names, made.example, strict=True)
        }
        return {
            **self._made_with(),
            **asdict(costs),
            "classes": made.classes,
            "no_program_because": None if program else NO_PROGRAM,
            "quantized": source.quantized,
            "weights_from": asdict(made.origin) if made.origin else None,
            "inputs": described(inputs),
            "outputs": with_scores(described(recorded.fp32), recorded.fp32),
            "reference": "float64, casts raised" if raised else "float64",
            **recorded.reference_json(),
            "summary": f"{source.architecture} with {source.weights} weights, "
            f"{costs.parameters:,} parameters, opset {self.config.opset}, {self.config.exporter}"
            f"{', quantized as ' + source.quantized if source.quantized else ''}",
        }


def with_scores(
    described: list[dict[str, Any]], outputs: Mapping[str, np.ndarray]
) -> list[dict[str, Any]]:
    """Adds what an output's scores are: "probabilities" if every golden's add up to one."""
    return [{**about, "scores": scores.kind_of(outputs[about["name"]])} for about in described]


def described(arrays: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """Inputs or outputs for the manifest; ``shape`` is a sample's, without the batch."""
    return [
        {"name": name, "dtype": array.dtype.name, "shape": list(array.shape[1:])}
        for name, array in arrays.items()
    ]


def _write_program(
    program: torch.export.ExportedProgram, options: ExportOptions, transaction: Transaction
) -> None:
    """Write the program by way of memory, or to a file where it is too large for that.

    torch ends the process where a disk is full.
    """
    if sum(one.nbytes for one in program.state_dict.values()) <= MOST_BYTES:
        buffer = io.BytesIO()
        save_program(program, options, buffer)
        transaction.write(PROGRAM, buffer.getvalue())
        return
    with TemporaryDirectory(prefix="edgepipe-") as folder:
        path = Path(folder) / PROGRAM
        with path.open("wb") as file:
            save_program(program, options, file)
        transaction.take([path])


def _integers(source: Source, model: bytes | Path) -> bytes:
    if isinstance(model, Path):
        raise ModelError(f"{source.architecture}: a quantized module of over 2 GiB isn't taken")
    return with_integer_weights(model)


def placed(files: Mapping[str, bytes | Path], path: Path) -> list[Path]:
    """An exporter's files under the name of a path and their own suffixes, with what they need."""
    for suffix, data in files.items():
        if isinstance(data, bytes):
            path.with_suffix(suffix).write_bytes(data)
        elif data != path.with_suffix(suffix):
            raise StageError(f"an exporter wrote {data}, not {path.with_suffix(suffix)}")
    return sorted(one for one in path.parent.iterdir() if one.stem == path.stem)


def run_exporter(
    exporter: Exporter,
    made: Prepared,
    options: ExportOptions,
    program: torch.export.ExportedProgram | None = None,
) -> Mapping[str, bytes | Path]:
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
    except (ModelError, ExportOptionError, MissingLibrary, StageError, StorageFull, ImportError):
        raise
    except Exception as error:
        if source.weights != OWN:
            raise
        cause: BaseException = error
        while cause.__cause__:  # exporters wrap what happened in advice
            cause = cause.__cause__
        text = reason(cause)[:MOST_OF_A_REASON]
        raise ModelError(
            f"{source.architecture} can't be exported by {exporter}: {text}"
        ) from error


def plugin(exporter: str) -> dict[str, str]:
    """What a result depends on besides, if the exporter is somebody else's."""
    origin = registry.origin(exporter)
    return {"plugin": origin} if origin else {}
