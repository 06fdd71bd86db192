"""Gates on where a cell runs: the share of its nodes that has to be on an execution provider."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

SUFFIX = "ExecutionProvider"
FORM = re.compile(r"(?P<provider>[A-Za-z][\w.]*)=(?P<percent>\d+(\.\d+)?)%?")


@dataclass(frozen=True)
class RequiredShare:
    """At least ``percent`` of the nodes on ``provider``, for the cells that were meant for it."""

    provider: str
    percent: float

    def __str__(self) -> str:
        return f"--require-ep {self.provider}={self.percent:g}%"

    def concerns(self, provider: str) -> bool:
        """Whether it is about this provider; "CUDA" is short for "CUDAExecutionProvider"."""
        return provider in (self.provider, self.provider + SUFFIX)


def required_share(text: str) -> RequiredShare:
    """Parse "CUDAExecutionProvider=95%", or "CUDA=95". Raises ``ValueError``."""
    found = FORM.fullmatch(text.strip())
    if found is None or not 0 < float(found["percent"]) <= 100:
        raise ValueError(f"{text!r} is not PROVIDER=PERCENT, such as OpenVINO=95%")
    return RequiredShare(found["provider"], float(found["percent"]))


def missed(shares: Mapping[str, float], provider: str, required: Sequence[str]) -> list[str]:
    """What a cell fails of ``required``, as reasons. ``provider`` is the one it was meant for."""
    reasons = []
    for gate in map(required_share, required):
        share = shares.get(provider, 0.0)
        if provider and gate.concerns(provider) and share < gate.percent:
            reasons.append(f"{share:g} % of the nodes are on {provider}: {gate} is missed")
    return reasons


def unmet(providers: Collection[str], required: Sequence[str]) -> tuple[str, ...]:
    """The gates that no cell was there for: nothing ran on their provider, which is no pass."""
    return tuple(
        f"{gate}: no cell ran on it"
        for gate in map(required_share, required)
        if not any(gate.concerns(provider) for provider in providers)
    )


def spread(shares: Mapping[str, float], provider: str) -> str:
    """A note for a cell that is not all in one place; empty for one that is."""
    elsewhere = {name: share for name, share in shares.items() if name != provider}
    if not provider or not elsewhere:
        return ""
    parts = ", ".join(f"{share:g} % on {name}" for name, share in elsewhere.items())
    return f"fallback: {shares.get(provider, 0):g} % of the nodes on {provider}, {parts}"
