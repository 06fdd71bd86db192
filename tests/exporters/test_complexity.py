"""Multiply-accumulates and live activations, against networks small enough to count by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgepipe.exporters import complexity

FLOAT = 4
SIDE = 8 * 8


def program(module: nn.Module, *shape: int) -> torch.export.ExportedProgram:
    return torch.export.export(module.eval(), (torch.zeros(*shape),))


def test_by_hand() -> None:
    module = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.Conv2d(4, 4, 3, stride=2, padding=1, groups=4),
        nn.Flatten(),
        nn.Linear(4 * 16, 5),
    )
    found = complexity.of_program(program(module, 1, 3, 8, 8), 1)
    assert found.macs == 64 * 4 * 27 + 16 * 4 * 9 + 64 * 5
    assert found.parameters == (4 * 27 + 4) + (4 * 9 + 4) + (5 * 64 + 5)
    # The first convolution has its input and its output alive, and nothing after it has more.
    assert found.activation_peak_bytes == (3 + 4) * SIDE * FLOAT


class Shortcut(nn.Module):
    """A value that is needed again at the end."""

    def __init__(self, inplace: bool) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 1)
        self.wide = nn.Conv2d(8, 16, 1)
        self.narrow = nn.Conv2d(16, 8, 1)
        self.norm = nn.BatchNorm2d(16)
        self.relu = nn.ReLU(inplace)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        return x + self.narrow(self.relu(self.norm(self.wide(x))))


@pytest.mark.parametrize("inplace", [True, False])
def test_a_shortcut_stays_alive_and_elementwise_operators_take_no_memory(inplace: bool) -> None:
    found = complexity.of_program(program(Shortcut(inplace), 1, 3, 8, 8), 1)
    # Shortcut, wide and narrow at the last convolution; the sum goes into one of them.
    assert found.activation_peak_bytes == (8 + 16 + 8) * SIDE * FLOAT


class Needed(nn.Module):
    """An elementwise operator whose input is still needed has to have memory of its own."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, x.relu()], 1)


def test_memory_that_is_still_needed_is_not_written_over() -> None:
    found = complexity.of_program(program(Needed(), 1, 3, 8, 8), 1)
    assert found.activation_peak_bytes == (3 + 3 + 6) * SIDE * FLOAT


def test_padding_takes_no_memory_of_its_own() -> None:
    module = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(8, 4, 3, 2))
    found = complexity.of_program(program(module, 1, 3, 8, 8), 1)
    assert found.activation_peak_bytes == (3 + 8) * SIDE * FLOAT


def test_mobilenet_v2_peaks_where_its_paper_says() -> None:
    # Behind the first expansion: 96 channels at 112 pixels, and the same at 56 behind it.
    found = complexity.of_architecture("mobilenet_v2", 224)
    assert found.activation_peak_bytes == 96 * (112**2 + 56**2) * FLOAT


def test_a_program_counts_for_one_image_of_its_batch() -> None:
    module = Shortcut(inplace=False).eval()
    one = complexity.of_program(program(module, 1, 3, 8, 8), 1)
    assert complexity.of_program(program(module, 3, 3, 8, 8), 3) == one
    open_batch = torch.export.export(
        module, (torch.zeros(2, 3, 8, 8),), dynamic_shapes=({0: torch.export.Dim("batch")},)
    )
    assert complexity.of_program(open_batch, 2) == one


class Found(nn.Module):
    """As many outputs as there are values above zero."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nonzero(x > 0).float()


def test_what_depends_on_values_is_not_counted() -> None:
    assert complexity.of_program(program(Found(), 1, 3, 8, 8), 1) == complexity.Complexity(
        0, None, None
    )
