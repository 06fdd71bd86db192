"""Torch's own answers, which every runner is held against, and what a user has to know of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ...exporters.base import ModelError
from ...exporters.onnx import raise_casts
from ...exporters.own.inputs import inside
from ...exporters.own.outputs import flatten
from ...exporters.own.torchscript import reason
from ...exporters.threads import torch_threads
from ...runners import images
from ..storage import goldens
from ..storage.arrays import Arrays
from ..storage.dataset import Dataset
from .modelspec import ModelSpec
from .samples import Samples

if TYPE_CHECKING:
    import torch

# What an operator is called whose result is drawn.
DRAWN = ("rand", "normal", "bernoulli", "multinomial", "dropout", "uniform", "exponential")


@dataclass(frozen=True)
class Reference:
    """A module as it was trained, with the inputs that its answers are recorded for.

    ``batch`` images go through it at a time. ``names`` are those of its outputs. ``exact`` answers
    in float64 for a module that can't.
    """

    module: torch.nn.Module
    names: Sequence[str]
    spec: ModelSpec
    samples: Samples
    batch: int
    exact: torch.nn.Module | None = None

    def record(self, program: torch.export.ExportedProgram | None) -> tuple[goldens.Goldens, bool]:
        """Its answers in float32 and float64.

        Also whether the latter are those of the exported ``program`` with its casts to float32
        raised, for a module that doesn't run in float64 because of them. Raises ``ModelError``
        for one that runs in neither way.
        """
        import torch

        architecture = self.spec.source.architecture
        feeds, pixels, labels = self._feeds()
        raised = False
        with torch_threads(1), torch.inference_mode():
            try:
                fp32 = self._answers(self.module, feeds, torch.float32)
            except RuntimeError as error:
                raise ModelError(
                    f"{architecture} does not run in float32, in which the goldens are recorded: "
                    f"{reason(error)}"
                ) from error
            try:
                fp64 = self._answers(self.exact or self.module, feeds, torch.float64)
            except RuntimeError as error:
                self.module.float()
                if program is None:
                    raise ModelError(
                        f"{architecture} does not run in float64, in which the goldens are "
                        f"recorded: {reason(error)}; make it anew from a module without constants "
                        "or casts of float32"
                    ) from error
                try:
                    fp64 = self._answers(raise_casts(program), feeds, torch.float64)
                    raised = True
                except Exception:  # whatever the rewritten program is no good for
                    raise ModelError(
                        f"{architecture} does not run in float64, in which the goldens are "
                        f"recorded, nor does its program with casts raised: {reason(error)}"
                    ) from error
        self.module.float()
        if self.exact:
            self.exact.float()
        chosen = self.samples.goldens
        arrays = {} if isinstance(chosen, Dataset) else chosen.values
        return goldens.Goldens(pixels, labels, fp32, fp64, arrays), raised

    def doubts(self, recorded: goldens.Goldens, raised: bool) -> Iterator[str]:
        """What a user has to know of these answers, a line each."""
        for name, array in recorded.fp32.items():
            if not np.all(np.isfinite(array)):
                count = int(np.count_nonzero(~np.isfinite(array)))
                yield (
                    f"{count} of torch's own answers ({name}) are NaN or infinite, first in "
                    f"{self._first_not_finite()}: parity will fail"
                )
            elif len(array) > 1 and np.all(array == array[:1]):
                yield f"{name} does not depend on the input: parity will fail as degenerate"
        if raised:
            yield (
                "the model casts to float32 inside: its float64 reference is the exported "
                "program's with these casts raised"
            )

    def _first_not_finite(self) -> str:
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
            for name, part in inside(self.module).named_modules()
        ]
        try:
            with torch_threads(1), torch.inference_mode():
                for parts, _, _ in self._feeds()[0].batches(self.batch):
                    self.module(*_tensors(parts, torch.float32))
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

    def _answers(
        self, module: torch.nn.Module, feeds: Arrays, dtype: torch.dtype
    ) -> dict[str, np.ndarray]:
        """The outputs of ``module`` by name for all feeds, computed in ``dtype``."""
        import torch

        module.to(dtype)
        collected: dict[str, list[np.ndarray]] = {name: [] for name in self.names}
        before = torch.get_default_dtype()
        torch.set_default_dtype(dtype)  # what a forward makes by itself is of this type, too
        try:
            for parts, _, valid in feeds.batches(self.batch):
                found = flatten(module(*_tensors(parts, dtype))).values()
                for name, tensor in zip(collected, found, strict=True):
                    if tensor.is_floating_point() and tensor.dtype != dtype:
                        raise RuntimeError(f"its output {name} is {tensor.dtype} all the same")
                    collected[name].append(goldens.valid_rows(tensor.numpy(), self.batch, valid))
        finally:
            torch.set_default_dtype(before)
        return {name: np.concatenate(parts) for name, parts in collected.items()}


def refuse_random(
    architecture: str,
    module: torch.nn.Module,
    example: Sequence[torch.Tensor],
    program: torch.export.ExportedProgram | None,
) -> None:
    """Raise ``ModelError`` for a module that answers one input differently each time.

    Which operator does so is told by its ``program``, if there is one.
    """
    import torch

    with torch_threads(1), torch.inference_mode():
        first, second = (flatten(module(*example)) for _ in range(2))
    if all(np.array_equal(first[name], second[name], equal_nan=True) for name in first):
        return
    nodes = program.graph.nodes if program else ()
    found = sorted({name for node in nodes if (name := _random_operator(node))})
    operators = f" ({', '.join(found)})" if found else ""
    raise ModelError(
        f"{architecture} answers one input differently each time{operators}: there is nothing to "
        "hold a runner against; take that out of forward"
    )


def _random_operator(node: Any) -> str | None:
    """The name of an operator of a traced program whose result is drawn."""
    schema = getattr(node.target, "_schema", None)
    name = schema.name.rpartition("::")[2] if schema else ""
    return name if any(part in name for part in DRAWN) else None


def _tensors(parts: Any, dtype: torch.dtype) -> list[torch.Tensor]:
    """Arrays by name as tensors, those of floats in ``dtype``."""
    import torch

    tensors = [torch.from_numpy(part) for part in parts.values()]
    return [one.to(dtype) if one.is_floating_point() else one for one in tensors]
