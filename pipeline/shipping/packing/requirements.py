"""Pinned requirements: what a box has to install to have what the build machine had."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, distribution

from ...errors import MissingLibrary

PROJECT = "edgepipe"


def pinned(extra: str) -> dict[str, str] | None:
    """Name -> version of all that ``edgepipe[extra]`` needs, as installed here; sorted.

    Markers are those of this Python and system. ``None`` if a part of it is not installed.
    """
    try:
        from packaging.requirements import Requirement
        from packaging.utils import canonicalize_name
    except ImportError as error:
        raise MissingLibrary(f'{error}; pip install "edgepipe[ship]"') from error

    found: dict[str, str] = {}
    done: set[tuple[str, str]] = set()
    todo = [(PROJECT, extra), (PROJECT, "")]
    while todo:
        name, wanted = todo.pop()
        if (name, wanted) in done:
            continue
        done.add((name, wanted))
        try:
            installed = distribution(name)
        except PackageNotFoundError:
            return None
        found[canonicalize_name(name)] = installed.version
        for line in installed.requires or ():
            requirement = Requirement(line)
            if requirement.marker and not requirement.marker.evaluate({"extra": wanted}):
                continue
            todo += [(requirement.name, further) for further in ("", *requirement.extras)]
    return dict(sorted(found.items()))


def text(packages: dict[str, str], extra: str) -> str:
    """As a requirements file. What only machines like this one can have is marked as theirs."""
    head = f'# What `pip install "{PROJECT}[{extra}]"` was on the machine that made this bundle.\n'
    here, like_this = _of_this_machine(extra), f'; platform_machine == "{platform.machine()}"'
    lines = [
        f"{name}=={version}{like_this if name in here else ''}\n"
        for name, version in packages.items()
    ]
    return head + "".join(lines)


def _of_this_machine(extra: str) -> set[str]:
    """What the project asks for here, and not on a machine of another kind."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    found = map(Requirement, distribution(PROJECT).requires or ())
    elsewhere = {"extra": extra, "platform_machine": "another"}
    return {
        canonicalize_name(one.name)
        for one in found
        if one.marker
        and one.marker.evaluate({"extra": extra})
        and not one.marker.evaluate(elsewhere)
    }
