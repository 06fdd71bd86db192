"""Train MobileNetV2 1.0 at 224x224 on the handwritten digits that ship inside scikit-learn.

Writes the two files that `edgepipe export` uses by default: the images (`digits.npz`) and the
trained weights (`mobilenet_v2-digits.safetensors`, float16). Seed, split and schedule are
fixed, so the same machine and thread count give the same weights again.

    pip install -e ".[train]" && python examples/digits/train.py
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch.nn import functional

from edgepipe.exporters.weights.sources import HALVES
from edgepipe.exporters.zoo.mobilenet_v2 import MobileNetV2
from edgepipe.runners.images import Preprocessing, normalize, stack

SEED = 0
HELD_OUT = 397
BATCH = 32
REQUIRED_TOP1 = 0.98
PREPROCESSING = Preprocessing.from_json(HALVES)


def split_digits() -> dict[str, np.ndarray]:
    """The 1,797 digits, uint8 ``[N, 8, 8]`` in 0..255, as train and held-out parts by class."""
    flat, labels = load_digits(return_X_y=True)
    images = np.round(np.reshape(flat, (-1, 8, 8)) * (255 / 16)).astype(np.uint8)
    labels = np.asarray(labels, np.uint8)
    parts = train_test_split(images, labels, test_size=HELD_OUT, stratify=labels, random_state=SEED)
    names = ("train_images", "held_out_images", "train_labels", "held_out_labels")
    return {name: np.asarray(part) for name, part in zip(names, parts, strict=True)}


def to_tensor(images: np.ndarray) -> torch.Tensor:
    """Preprocess uint8 ``[N, 8, 8]`` to the model's float32 ``[N, 3, 224, 224]``."""
    return torch.from_numpy(normalize(stack(images, PREPROCESSING), PREPROCESSING))


def augment(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Turn by up to 10 degrees, scale by up to 10 %, shift by up to 8 % of the width."""
    count = len(images)

    def uniform(limit: float) -> torch.Tensor:
        return (torch.rand(count, generator=generator) * 2 - 1) * limit

    angle, scale = uniform(np.deg2rad(10)), 1 + uniform(0.1)
    cosine, sine = torch.cos(angle) * scale, torch.sin(angle) * scale
    rows = [cosine, -sine, uniform(0.16), sine, cosine, uniform(0.16)]
    grid = functional.affine_grid(
        torch.stack(rows, dim=1).view(count, 2, 3), list(images.shape), align_corners=False
    )
    return functional.grid_sample(images, grid, padding_mode="border", align_corners=False)


@torch.inference_mode()
def top1(model: torch.nn.Module, images: np.ndarray, labels: np.ndarray) -> float:
    """Share of images whose largest logit is at the label, with the model in eval mode."""
    model.eval()
    correct = 0
    for start in range(0, len(images), BATCH):
        logits = model(to_tensor(images[start : start + BATCH]))
        correct += int((logits.argmax(1).numpy() == labels[start : start + BATCH]).sum())
    return correct / len(images)


def train(data: dict[str, np.ndarray], epochs: int) -> MobileNetV2:
    """AdamW with a one-cycle schedule and label smoothing, on augmented training images."""
    torch.manual_seed(SEED)
    torch.use_deterministic_algorithms(True)
    generator = torch.Generator().manual_seed(SEED)
    model = MobileNetV2(classes=10)
    for parameter in model.parameters():
        # What Module.to(memory_format=...) does to the 4-D ones; torch's annotations lack it.
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    images, labels = to_tensor(data["train_images"]), torch.from_numpy(data["train_labels"])
    steps = len(images) // BATCH
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, epochs * steps)
    for epoch in range(epochs):
        model.train()
        started, losses = time.perf_counter(), []
        for batch in torch.randperm(len(images), generator=generator)[: steps * BATCH].split(BATCH):
            inputs = augment(images[batch], generator).contiguous(memory_format=torch.channels_last)
            loss = functional.cross_entropy(
                model(inputs), labels[batch].long(), label_smoothing=0.1
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        accuracy = top1(model, data["held_out_images"], data["held_out_labels"])
        print(
            f"epoch {epoch + 1}/{epochs}: loss {np.mean(losses):.3f}, "
            f"held-out top-1 {accuracy:.2%}, {time.perf_counter() - started:.0f} s",
            flush=True,
        )
    return model


def main() -> None:
    """Split, train, round to float16, evaluate what was rounded, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument(
        "--output", type=Path, default=Path(__file__).parents[2] / "exporters" / "data"
    )
    arguments = parser.parse_args()
    data = split_digits()
    model = train(data, arguments.epochs)
    # What is shipped is what is judged: the accuracy is that of the rounded weights.
    weights = {
        name: (tensor.half() if tensor.is_floating_point() else tensor).contiguous()
        for name, tensor in model.state_dict().items()
    }
    model.load_state_dict(weights)
    accuracy = top1(model, data["held_out_images"], data["held_out_labels"])
    print(f"float16 weights: held-out top-1 {accuracy:.2%} of {HELD_OUT}")
    if accuracy < REQUIRED_TOP1:
        raise SystemExit(f"below the required {REQUIRED_TOP1:.0%}: nothing written")
    arguments.output.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(arguments.output / "digits.npz", allow_pickle=False, **data)
    save_file(weights, arguments.output / "mobilenet_v2-digits.safetensors")


if __name__ == "__main__":
    main()
