"""Which files whose reading can run code were made by this user's own commands.

A workspace may come from somebody else, and its manifest vouches for nothing but itself. So what
makes such files (an export, a runner that builds engines) leaves a note of them, by their SHA-256,
where no workspace can put one: in the user's own state (``$XDG_STATE_HOME``, by default
``~/.local/state``).
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from ...runners.bundles.formats import can_run_code, kind_of
from ...runners.machine.files import state_folder
from .manifest import Artifact, Manifest


def note(variants: Mapping[str, Mapping[str, str]], written: Mapping[str, Artifact]) -> str | None:
    """Note those of the files just ``written`` that are a variant's, if reading one can run code.

    Returns why that could not be done, in one line.
    """
    for files in variants.values():
        for kind, name in files.items():
            if name in written and can_run_code(kind):
                try:
                    _note(written[name].sha256)
                except OSError as error:
                    return f"{_folder()}: {error.strerror}: {name} will need --trust-workspace"
    return None


def note_file(sha256: str) -> None:
    """Note a file that is made again where nobody vouches for it, so that nothing is said."""
    with suppress(OSError):
        _note(sha256)


def is_noted(sha256: str) -> bool:
    """Whether a file with this SHA-256 was noted."""
    return (_folder() / sha256).is_file()


def _note(sha256: str) -> None:
    _folder().mkdir(parents=True, exist_ok=True, mode=0o700)
    (_folder() / sha256).touch(mode=0o600)


def distrusted(manifest: Manifest, name: str) -> str | None:
    """Why an artifact must not be read unless the user trusts its workspace, if so."""
    if not can_run_code(kind_of(Path(name))):
        return None
    if is_noted(manifest.artifacts[name].sha256):
        return None
    return (
        f"{name} was not made here, and reading one can run code: make it again with "
        "`edgepipe export --force`, or say --trust-workspace"
    )


def _folder() -> Path:
    return state_folder() / "made"
