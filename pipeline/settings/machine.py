"""The keys of where things run: ``[targets.NAME]``, ``[runners.NAME]``, and who asks about them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Self

from pydantic import Field, field_validator, model_validator

from ...runners import registry
from ...runners.targets import BUILT_IN_TARGETS, ISAS, LOCAL, Target
from ..errors import UsageError
from .nearest import nearest
from .options import Help, Request, Section

_HOST = r"([\w.+][\w.+-]*@)?(\w[\w.-]*|\[[\da-fA-F:.]+\])"
SSH_HOST = re.compile(rf"{_HOST}|ssh://{_HOST}(:\d+)?")


class TargetConfig(Section):
    """``[targets.NAME]``: the command that starts a Python there, or a machine for ssh."""

    command: Annotated[
        Annotated[tuple[str, ...], Field(min_length=1)] | None,
        Help("What starts a Python there; {python} stands for the interpreter."),
    ] = None
    ssh: Annotated[str | None, Help("host, user@host or ssh://user@host:port.")] = None
    python: Annotated[str | None, Help("The interpreter on that machine.")] = None
    options: Annotated[tuple[str, ...], Help('More of ssh\'s own, such as "-p", "2222".')] = ()
    emulated: Annotated[bool, Help("Outputs count, timings are refused.")] = False
    isa: Annotated[
        Annotated[str, Field(pattern="|".join(f"^{name}$" for name in ISAS))] | None,
        Help(f"An older CPU that OpenVINO is to compute as there: {', '.join(ISAS)}."),
    ] = None

    @field_validator("ssh")
    @classmethod
    def _names_a_host(cls, ssh: str) -> str:
        # ssh would take "-oProxyCommand=..." for an option, and hands %-escapes to commands.
        if not SSH_HOST.fullmatch(ssh):
            raise ValueError("not a host, user@host or ssh://user@host:port")
        return ssh

    @model_validator(mode="after")
    def _starts_one_thing(self) -> Self:
        if (self.command is None) == (self.ssh is None):
            raise ValueError("give it either a command or ssh and python")
        if (self.ssh is None) != (self.python is None) or (self.options and not self.ssh):
            raise ValueError("ssh and python belong together, options only go with ssh")
        return self

    def named(self, name: str) -> Target:
        """The target that this section describes."""
        if self.command is not None:
            return Target(name, self.command, self.emulated, self.isa)
        assert self.ssh
        assert self.python
        return Target.over_ssh(name, self.ssh, self.python, self.options, self.isa)


class RunnerConfig(Section):
    """``[runners.NAME]``: the interpreter of the environment that holds it, and its device."""

    python: Annotated[str | None, Help("Of an environment of its own.")] = None
    device: Annotated[str | None, Help("What it runs on: CPU, GPU, GPU.1, NPU, …")] = None


@dataclass(frozen=True)
class Places:
    """Where runners run: the targets, and each runner's own interpreter and device."""

    targets: Mapping[str, TargetConfig] = field(default_factory=dict)
    runners: Mapping[str, RunnerConfig] = field(default_factory=dict)

    def target(self, name: str) -> Target:
        """A target by name, defined in the configuration or built in.

        Raises ``UsageError`` for an unknown one.
        """
        if name in self.targets:
            return self.targets[name].named(name)
        if name not in BUILT_IN_TARGETS:
            known = (*BUILT_IN_TARGETS, *self.targets)
            raise UsageError(f"targets: no {name!r}; {nearest(name, known)}")
        return BUILT_IN_TARGETS[name]

    def python_of(self, runner: str) -> str | None:
        """The interpreter that a runner is to use, if it has one of its own."""
        return self.runners[runner].python if runner in self.runners else None

    def device_of(self, runner: str) -> str:
        """The device that a runner is to run on: the configured one, or its own default."""
        configured = self.runners[runner].device if runner in self.runners else None
        return configured or registry.device(runner)


TARGETS = Help("Where to look.", flag="--target", short="-t", metavar="NAME")


class RunnersRequest(Request):
    """``edgepipe runners``: list every runner: what it has, or why it is missing."""

    targets: Annotated[tuple[str, ...], TARGETS] = (LOCAL.name,)


class DoctorRequest(Request):
    """``edgepipe doctor``: look for what makes numbers or installs wrong on this machine."""

    targets: Annotated[tuple[str, ...], TARGETS] = (LOCAL.name,)
