"""The zoo beside torchvision and timm: their names and shapes, and what they answer.

Recorded of torchvision 0.28.0 and timm 1.0.31, which the tests do without: the digest of their
state dict's names and shapes, and logits for weights that ``drawn`` makes of these alone.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import nn

from edgepipe.exporters.weights import sources

CLASSES = 1000
# Of the first image at 64 pixels, to six digits.
SHOWN = 6
RECORDED = {
    "mobilenet_v3_small": (
        "2754b0a3901f8aea418775ff89c0158346b1c982bf026ecab2b187c47e3a5a62",
        (0.127476, -0.155665, 0.253996, -0.0397595, -0.0396217, -0.214902),
    ),
    "mobilenet_v3_large": (
        "e875eb90b4a1c4a1e5f5c2a15847e0f036107440e1136446379a1c2cce922293",
        (-0.20048, -0.407667, -0.720963, -0.0237097, 0.45302, 0.483744),
    ),
    "efficientnet_lite0": (
        "955d7892477d8f9d0c07bc8f6230fb0847f6a7b6fbc4a4c50408dfb3e0648e0b",
        (1.39353, 0.283006, -2.19356, -1.85031, -2.11189, 1.04423),
    ),
    "resnet18": (
        "46bd7814ec81a02c3390911e5bf458e1d17c66184eb4b03cbe48c4bcad77cb0a",
        (8.44728, 0.607581, -27.8445, 9.73628, 22.7925, -2.25743),
    ),
    "resnet50": (
        "eeb21a877a7592d7be6e7582411ee9a8144d8890f0cd3384a82ab4fa798e7b92",
        (-280.071, 179.35, 449.895, 21.6192, -29.9371, 1.71015),
    ),
    "shufflenet_v2_x1_0": (
        "3a5244abb2ce123fd6b6971185a501e968f8c37e8da115280bffc15f24eeee07",
        (4.86159, -4.44114, 6.0232, -2.66982, 4.51971, 1.65),
    ),
    "efficientnet_b0": (
        "7e5fc777f415d3feba20299a5ff784084fcc2a137f0dd910fe734dd526970102",
        (0.00342793, 0.12704, 0.0571765, -0.0354197, -0.230646, 0.0809883),
    ),
    "mobilenet_v2": (
        "a22969510520f2a36e4104172e48ec820bc8e2e054a5fbf7ae98bd5dae123149",
        (-1.73212, 1.6663, 0.124214, 0.287584, 3.76291, 2.69076),
    ),
}


def digest(state: Mapping[str, torch.Tensor]) -> str:
    """Of names and shapes, whatever their order."""
    lines = sorted(f"{name} {tuple(value.shape)}\n" for name, value in state.items())
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def drawn(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights for these names: of the size that trained ones have, and never all alike.

    Variances are small, so that what is added to them under the root shows.
    """
    generator = torch.Generator().manual_seed(7)

    def one(name: str, shape: torch.Size) -> torch.Tensor:
        values = torch.randn(shape, generator=generator)
        match name.rpartition(".")[2], len(shape):
            case "running_var", _:
                return 0.01 * (0.5 + values.abs())
            case "weight", 1:
                return 0.1 * (1 + 0.1 * values)
            case "weight", _:
                return values * math.sqrt(2 / math.prod(shape[1:]))
            case _:
                return 0.1 * values

    return {
        name: one(name, state[name].shape) if state[name].is_floating_point() else state[name]
        for name in sorted(state)
    }


def image() -> torch.Tensor:
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(8))


def logits(module: nn.Module) -> list[float]:
    with torch.inference_mode():
        return module.eval()(image())[0, :SHOWN].tolist()


@pytest.mark.parametrize(
    "architecture",
    # What these two are made of is in others.
    [
        pytest.param(name, marks=pytest.mark.long)
        if name in ("mobilenet_v3_large", "resnet50")
        else name
        for name in RECORDED
    ],
)
def test_names_and_answers_are_theirs(architecture: str, tmp_path: Path) -> None:
    names, answers = RECORDED[architecture]
    fresh = sources.construct(architecture, CLASSES)
    assert digest(fresh.state_dict()) == names
    path = tmp_path / "theirs.pth"
    torch.save(drawn(fresh.state_dict()), path)
    built = sources.build(sources.resolve_checkpoint(architecture, path, None)).module
    assert logits(built) == pytest.approx(answers, rel=1e-4, abs=1e-4)
