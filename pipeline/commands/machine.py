"""Commands about this machine and its runners."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..progress import SILENT, Progress

if TYPE_CHECKING:
    from ..machine.doctor import Diagnosis
    from ..machine.inventory import Inventory


def runners(*, targets: Sequence[str] = ("local",), progress: Progress = SILENT) -> Inventory:
    """Ask every runner on every target what it is and has, and why it can't run if it can't.

    Raises ``UsageError`` for an unknown target; a runner that fails is part of the result.
    """
    from ..machine.inventory import inventory
    from ..settings import load as configuration

    return inventory(configuration.load(), targets, progress)


def doctor(*, targets: Sequence[str] = ("local",)) -> Diagnosis:
    """Look for what would make numbers or installs wrong: the machine and its packages.

    Raises ``UsageError`` for an unknown or emulated target; everything else is a finding.
    """
    from ..machine.doctor import diagnose
    from ..settings import load as configuration

    return diagnose(configuration.load(), targets)
