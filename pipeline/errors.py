"""One exception tree and one exit-code table.

    EdgepipeError
    +-- Refused             a condition for going on is not met                 1
    +-- UsageError          a flag, a key or a value that makes no sense        2
    +-- InputError          a model, checkpoint, image or dataset               3
    |   +-- WorkspaceError  the workspace can't be read, written or found       3
    +-- IntegrityError      a hash does not match what the manifest says        4
    +-- StageError          a stage broke what it promises                      5
    +-- ClusterError        a cluster or its workers                            5
    Terminated              SIGTERM arrived (a BaseException, like Ctrl-C)    143

The exporters and runners have errors of their own and know no exit codes; ``exit_code`` gives
them one. What is not in the table is a bug: it keeps its traceback and exits with 70.
"""

from __future__ import annotations

from enum import IntEnum

from ..exporters.base import ExportOptionError, MissingLibrary, ModelError
from ..runners.base import (
    BundleError,
    BundleUnreadable,
    ImageError,
    MissingDecoder,
    MissingSigner,
    RunnerError,
    RunnerOptionError,
    StorageFull,
)


class ExitCode(IntEnum):
    """What a shell sees. The README explains each to users."""

    OK = 0
    GATE_FAILED = 1
    USAGE = 2
    BAD_INPUT = 3
    INTEGRITY = 4
    RUNNER = 5
    INCONCLUSIVE = 6
    SOFTWARE = 70  # EX_SOFTWARE of sysexits.h: never to be mistaken for a verdict
    INTERRUPTED = 130
    TERMINATED = 143


class EdgepipeError(Exception):
    """An expected failure. Its message is one line: what and which, and what to do."""


class Refused(EdgepipeError):
    """A condition for going on is not met: what there is has not passed what it must."""


class UsageError(EdgepipeError):
    """The command line or the configuration asks for something that isn't there."""


class InputError(EdgepipeError):
    """Something that was handed in can't be used."""


class WorkspaceError(InputError):
    """The workspace can't be read, written or found."""


class IntegrityError(EdgepipeError):
    """A file is not the one that the manifest describes."""


class StageError(EdgepipeError):
    """A stage could not do its work, or did not ensure what it promises."""


class ClusterError(EdgepipeError):
    """A cluster can't be reached, lost its workers, or has some that compute otherwise."""


class Terminated(BaseException):
    """SIGTERM. Unwinds like Ctrl-C, so that locks, workers and temporary files go."""


EXIT_CODES: tuple[tuple[type[BaseException], ExitCode], ...] = (
    (Refused, ExitCode.GATE_FAILED),
    (UsageError, ExitCode.USAGE),
    (ExportOptionError, ExitCode.USAGE),
    (RunnerOptionError, ExitCode.USAGE),
    (InputError, ExitCode.BAD_INPUT),
    (ModelError, ExitCode.BAD_INPUT),
    (ImageError, ExitCode.BAD_INPUT),
    (BundleUnreadable, ExitCode.BAD_INPUT),
    (StorageFull, ExitCode.BAD_INPUT),
    (IntegrityError, ExitCode.INTEGRITY),
    (BundleError, ExitCode.INTEGRITY),
    (StageError, ExitCode.RUNNER),
    (ClusterError, ExitCode.RUNNER),
    (RunnerError, ExitCode.RUNNER),
    (MissingLibrary, ExitCode.RUNNER),
    (MissingDecoder, ExitCode.RUNNER),
    (MissingSigner, ExitCode.RUNNER),
    (KeyboardInterrupt, ExitCode.INTERRUPTED),
    (Terminated, ExitCode.TERMINATED),
)


def exit_code(error: BaseException) -> ExitCode | None:
    """The exit code of an expected failure; ``None`` for a bug."""
    for kind, code in EXIT_CODES:
        if isinstance(error, kind):
            return code
    return None
