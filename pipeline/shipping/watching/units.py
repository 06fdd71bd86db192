"""A systemd service that replays goldens once, and the timer that starts it again and again.

systemd.service(5), systemd.timer(5), systemd.exec(5); quoting is systemd.syntax(7)'s.
"""

from __future__ import annotations

import getpass
import sys
from collections.abc import Sequence
from pathlib import Path

from ...errors import UsageError
from ...storage.atomic import write_whole

SERVICE = """# Written by `edgepipe heartbeat --units`.
[Unit]
Description=edgepipe: goldens of {name} replayed, nothing sent

[Service]
Type=oneshot
User={user}
WorkingDirectory={here}
ExecStart={command}
TimeoutStartSec=600
Nice=10

# It reads a bundle and writes into one folder; it has no network.
PrivateNetwork=true
ProtectSystem=strict
ProtectHome=read-only
ReadWritePaths={folder}
PrivateTmp=true
NoNewPrivileges=true
ProtectKernelTunables=true
ProtectControlGroups=true
RestrictSUIDSGID=true
"""
TIMER = """# Written by `edgepipe heartbeat --units`.
[Unit]
Description=edgepipe: goldens of {name} replayed every {every_s:g} s

[Timer]
OnBootSec=60
OnUnitActiveSec={every_s:g}
AccuracySec=5

[Install]
WantedBy=timers.target
"""
MODULE = "edgepipe.pipeline.cli"


def write_units(
    where: Path,
    name: str,
    bundle: Path,
    folder: Path,
    every_s: float,
    options: Sequence[tuple[str, object]],
) -> tuple[Path, Path]:
    """Write both units into a folder; returns their paths, the service first.

    The service runs as the user that this is called by, with this Python, in the folder that is the
    current one now, whose ``edgepipe.toml`` it so reads. Raises ``UsageError``
    for a path that no unit can hold, ``WorkspaceError`` where they can't be written.
    """
    words = [sys.executable, "-P", "-m", MODULE, "heartbeat", str(bundle)]
    words += ["--folder", str(folder), "--quiet"]
    words += [str(word) for option in options for word in option]
    command = " ".join(map(_quoted, words)).replace("$", "$$")  # of a command it means a variable
    stem = f"edgepipe-heartbeat-{name}"
    service = SERVICE.format(
        name=name,
        user=getpass.getuser(),
        here=_plain(str(Path.cwd())),  # which takes no quotes
        command=command,
        folder=_quoted(str(folder)),
    )
    paths = where / f"{stem}.service", where / f"{stem}.timer"
    for path, text in zip(paths, (service, TIMER.format(name=name, every_s=every_s)), strict=True):
        write_whole(path, text.encode())
    return paths


def _quoted(word: str) -> str:
    inside = _plain(word).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{inside}"'


def _plain(word: str) -> str:
    """Without quotes: systemd puts something in the place of a single %."""
    if any(ord(one) < 32 for one in word):
        raise UsageError(f"{word!r}: a path with such a character can't stand in a unit")
    return word.replace("%", "%%")
