"""Fine-tuning by plain torch: epochs that can be repeated, stopped and gone on with."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from ...exporters.threads import torch_threads
from ...exporters.weights import checkpoints, sources
from ...exporters.weights.fitting import Expected, choose, load_strictly
from ...runners.images import Preprocessing, normalize
from ..progress import Progress
from ..settings.making import TrainConfig
from ..storage.dataset import Dataset
from .augmentation import augment
from .resume import TrainingState

if TYPE_CHECKING:
    import torch

LABEL_SMOOTHING = 0.1
WEIGHT_DECAY = 0.01
# Batches that normalizations are settled on before an epoch is judged.
SETTLING_STEPS = 8
# Peak of the learning rate: what AdamW takes from scratch, and what leaves learnt features alone.
FRESH_RATE, TUNED_RATE = 3e-3, 5e-4


@dataclass(frozen=True)
class Epoch:
    """What one pass over the training images came to. ``top1`` is in per cent."""

    number: int
    loss: float
    held_out_loss: float
    top1: float
    seconds: float


@dataclass(frozen=True)
class Start:
    """Where training starts from: weights that were learnt before (``path``), or fresh ones."""

    architecture: str
    width: float | None
    preprocessing: Preprocessing
    digest: str
    path: Path | None = None


class Training:
    """One training: AdamW under a one-cycle schedule (Smith and Topin, arXiv 1708.07120)."""

    def __init__(
        self,
        section: TrainConfig,
        start: Start,
        labels: tuple[str, ...],
        parts: tuple[Dataset, Dataset],
        progress: Progress,
    ) -> None:
        import torch

        self._section, self._start, self._labels = section, start, labels
        self._learnt, self._held_out = parts
        self._progress = progress
        self._batch = min(section.batch, len(self._learnt))
        self._steps = len(self._learnt) // self._batch
        self._module = _module(start, len(labels), section.seed)
        rate = section.learning_rate or (TUNED_RATE if start.path else FRESH_RATE)
        self._optimizer = torch.optim.AdamW(self._module.parameters(), weight_decay=WEIGHT_DECAY)
        self._schedule = torch.optim.lr_scheduler.OneCycleLR(
            self._optimizer, rate, section.epochs * self._steps
        )
        black = (0 - np.array(start.preprocessing.mean)) / np.array(start.preprocessing.std)
        self._black = torch.tensor(black, dtype=torch.float32).view(3, 1, 1)
        self.history: list[Epoch] = []
        self.resumed_after = 0
        self._best: dict[str, torch.Tensor] = {}

    def go_on(self, state: TrainingState, restart: bool) -> None:
        """All epochs that are left, until the held-out loss has not fallen for ``patience``."""
        saved = None if restart else state.load()
        if saved:
            self._restore(saved)
            self._progress.say(f"going on after epoch {self.resumed_after}")
        while len(self.history) < self._section.epochs and not self._stuck():
            epoch = self._epoch(len(self.history) + 1)
            self.history.append(epoch)
            if self._best_epoch() is epoch:
                self._best = {
                    name: value.clone() for name, value in self._module.state_dict().items()
                }
            state.save(
                module=self._module.state_dict(),
                optimizer=self._optimizer.state_dict(),
                schedule=self._schedule.state_dict(),
                best=self._best,
                history=[asdict(epoch) for epoch in self.history],
            )
            self._progress.say(
                f"epoch {epoch.number}/{self._section.epochs}: loss {epoch.loss:.3f}, held out "
                f"{epoch.held_out_loss:.3f}, top-1 {epoch.top1:.2f} %  ({epoch.seconds:.1f} s)"
            )
        if self._stuck():
            self._progress.say(f"stopped: no better for {self._section.patience} epochs")

    def finish(self) -> tuple[Epoch, np.ndarray]:
        """Back to the best epoch's weights; returns it with its confusion matrix."""
        self._module.load_state_dict(self._best)
        _, confusion = self._judge()
        return self._best_epoch(), confusion

    def checkpoint(self, trained_on: Mapping[str, Any]) -> bytes:
        """The weights as ``.safetensors``, with what ``edgepipe export`` needs to know."""
        from safetensors.torch import save

        metadata = {
            "format": "pt",
            "architecture": self._start.architecture,
            "labels": json.dumps(self._labels, allow_nan=False),
            "preprocessing": json.dumps(self._start.preprocessing.to_json(), allow_nan=False),
            "input_size": str(self._start.preprocessing.size),
            "trained_on": json.dumps(trained_on, allow_nan=False),
        }
        if self._start.width is not None:
            metadata["width"] = str(self._start.width)
        state = self._module.state_dict()
        return _ordered(save({name: value.contiguous() for name, value in state.items()}, metadata))

    def _epoch(self, number: int) -> Epoch:
        import torch
        from torch.nn import functional

        # Each epoch has a seed of its own, so that one can be repeated without those before it.
        seed = int(np.random.SeedSequence((self._section.seed, number)).generate_state(1)[0])
        torch.manual_seed(seed)
        generator = torch.Generator().manual_seed(seed)
        order = np.random.default_rng(seed).permutation(len(self._learnt))
        shuffled = select(self._learnt, order[: self._steps * self._batch].tolist())
        started, total = perf_counter(), 0.0
        self._module.train()
        for step, (inputs, labels) in enumerate(self._batches(shuffled), 1):
            inputs = augment(inputs, self._section.augment, self._black, generator)
            inputs = inputs.contiguous(memory_format=torch.channels_last)
            loss = functional.cross_entropy(
                self._module(inputs), labels, label_smoothing=LABEL_SMOOTHING
            )
            self._optimizer.zero_grad()
            loss.backward()
            self._optimizer.step()
            self._schedule.step()
            total += loss.item()
            done = (number - 1) * self._steps + step
            text = f"epoch {number}/{self._section.epochs}: loss {total / step:.3f}"
            self._progress.step(done, self._section.epochs * self._steps, text)
        self._settle_normalizations(shuffled)
        held_out_loss, confusion = self._judge()
        return Epoch(
            number,
            total / self._steps,
            held_out_loss,
            100 * float(np.trace(confusion)) / len(self._held_out),
            perf_counter() - started,
        )

    def _settle_normalizations(self, images: Dataset) -> None:
        """Batch normalization's means and variances for the weights as they are now.

        Its running averages trail the weights by a dozen steps, which on a small folder is more
        than an epoch: a network that has learnt then answers as by chance until the rate is low.
        So they are taken anew before it is judged (Wu and Johnson, arXiv 2105.07576, section 3).
        """
        import torch
        from torch.optim.swa_utils import update_bn

        rows = range(min(len(images), SETTLING_STEPS * self._batch))
        with torch.no_grad():
            update_bn(self._batches(select(images, list(rows))), self._module)

    def _judge(self) -> tuple[float, np.ndarray]:
        """The held-out loss, and how often class i was taken for class j: int64 ``[C, C]``."""
        import torch
        from torch.nn import functional

        confusion = np.zeros((len(self._labels), len(self._labels)), np.int64)
        total = 0.0
        self._module.eval()
        with torch.inference_mode():
            for inputs, labels in self._batches(self._held_out):
                logits = self._module(inputs.contiguous(memory_format=torch.channels_last))
                total += functional.cross_entropy(logits, labels, reduction="sum").item()
                np.add.at(confusion, (labels.numpy(), logits.argmax(1).numpy()), 1)
        return total / len(self._held_out), confusion

    def _batches(self, images: Dataset) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        import torch

        preprocessing = self._start.preprocessing
        for pixels, labels in images.chunks(preprocessing, self._batch):
            yield torch.from_numpy(normalize(pixels, preprocessing)), torch.from_numpy(labels)

    def _best_epoch(self) -> Epoch:
        return min(self.history, key=lambda epoch: epoch.held_out_loss)

    def _stuck(self) -> bool:
        if not self.history:
            return False
        return len(self.history) - self._best_epoch().number >= self._section.patience

    def _restore(self, saved: Mapping[str, Any]) -> None:
        self._module.load_state_dict(saved["module"])
        self._optimizer.load_state_dict(saved["optimizer"])
        self._schedule.load_state_dict(saved["schedule"])
        self._best = saved["best"]
        self.history = [Epoch(**epoch) for epoch in saved["history"]]
        self.resumed_after = len(self.history)


def _module(start: Start, classes: int, seed: int) -> torch.nn.Module:
    """The architecture with the weights to start from; a head for other classes stays fresh.

    Raises ``ModelError`` for weights that don't fit apart from that.
    """
    import torch

    torch.manual_seed(seed)
    module = sources.construct(start.architecture, classes, start.width)
    if start.path is not None:
        states = checkpoints.read_states(start.path)
        fresh_for = partial(sources.construct, start.architecture, width=start.width)
        chosen = choose(states, Expected.with_any_classes(fresh_for), start.path)
        state = dict(chosen.state)
        fresh = module.state_dict()
        for name in list(fresh)[-2:]:  # the classifier's weight and bias stand last
            if name in state and state[name].shape != fresh[name].shape:
                state[name] = fresh[name]
        load_strictly(module, state, start.path, chosen.origin)
    for parameter in module.parameters():
        # What Module.to(memory_format=...) does to the 4-D ones; torch's annotations lack it.
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return module.float()


@contextmanager
def reproducible(section: TrainConfig) -> Iterator[None]:
    """Deterministic operators and the threads asked for; torch is as before afterwards."""
    import torch

    before = torch.are_deterministic_algorithms_enabled()
    with torch_threads(section.threads), torch.random.fork_rng(devices=[]):
        torch.use_deterministic_algorithms(True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before)


def _ordered(file: bytes) -> bytes:
    """A ``.safetensors`` file with its metadata in order: it is written as a hash map has it."""
    size = int.from_bytes(file[:8], "little")
    header = json.loads(file[8 : 8 + size])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), allow_nan=False).encode()
    text += b" " * (-len(text) % 8)  # the tensors stay aligned
    return len(text).to_bytes(8, "little") + text + file[8 + size :]


def select(images: Dataset, rows: list[int]) -> Dataset:
    """Some of the images, in this order."""
    return replace(images, labels=images.labels[rows], image=lambda row: images.image(rows[row]))
