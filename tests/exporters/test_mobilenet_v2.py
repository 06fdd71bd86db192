"""MobileNetV2 against the paper's counts and torchvision's parameter names."""

from __future__ import annotations

import pytest
import torch

from edgepipe.exporters import complexity
from edgepipe.exporters.zoo.mobilenet_v2 import MobileNetV2, round_channels


def torchvision_shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of torchvision's mobilenet_v2 state dict, written out from its layout."""
    shapes: dict[str, tuple[int, ...]] = {}

    def unit(conv: str, norm: str, weight: tuple[int, ...]) -> None:
        shapes[f"{conv}.weight"] = weight
        for name in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{norm}.{name}"] = weight[:1]
        shapes[f"{norm}.num_batches_tracked"] = ()

    unit("features.0.0", "features.0.1", (32, 3, 3, 3))
    inputs, index = 32, 1
    for t, c, n in (
        (1, 16, 1),
        (6, 24, 2),
        (6, 32, 3),
        (6, 64, 4),
        (6, 96, 3),
        (6, 160, 3),
        (6, 320, 1),
    ):
        for _ in range(n):
            block, hidden, last = f"features.{index}.conv", inputs * t, 1
            if t != 1:
                unit(f"{block}.0.0", f"{block}.0.1", (hidden, inputs, 1, 1))
                last = 2
            unit(f"{block}.{last - 1}.0", f"{block}.{last - 1}.1", (hidden, 1, 3, 3))
            unit(f"{block}.{last}", f"{block}.{last + 1}", (c, hidden, 1, 1))
            inputs, index = c, index + 1
    unit("features.18.0", "features.18.1", (1280, 320, 1, 1))
    shapes |= {"classifier.1.weight": (1000, 1280), "classifier.1.bias": (1000,)}
    return shapes


def test_a_torchvision_checkpoint_loads_strictly() -> None:
    generator = torch.Generator().manual_seed(1)
    state = {
        name: torch.randn(shape, generator=generator).abs()
        if shape
        else torch.tensor(7, dtype=torch.int64)
        for name, shape in torchvision_shapes().items()
    }
    model = MobileNetV2()
    model.load_state_dict(state, strict=True)
    assert torch.equal(
        model.state_dict()["features.7.conv.1.0.weight"], state["features.7.conv.1.0.weight"]
    )


# Published by the authors (tensorflow/models, research/slim/nets/mobilenet), in whole millions.
@pytest.mark.parametrize(
    ("width", "size", "million_macs", "million_parameters"),
    [(1.4, 224, 582, 6.06), (1.0, 192, 221, 3.47), (0.5, 224, 97, 1.95), (0.35, 96, 11, 1.66)],
)
def test_width_multiplier(
    width: float, size: int, million_macs: float, million_parameters: float
) -> None:
    found = complexity.of_architecture("mobilenet_v2", size, width=width)
    assert found.macs is not None
    assert found.macs / 1e6 == pytest.approx(million_macs, abs=1)
    assert found.parameters / 1e6 == pytest.approx(million_parameters, rel=0.02)


@pytest.mark.parametrize(
    ("channels", "rounded"), [(32, 32), (33.6, 32), (11.2, 16), (3, 8), (44.8, 48), (22.4, 24)]
)
def test_channels_are_multiples_of_8_and_lose_at_most_a_tenth(
    channels: float, rounded: int
) -> None:
    assert round_channels(channels) == rounded
    assert rounded >= 0.9 * channels
