"""Pinned requirements: what a box has to install to have what the build machine had."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution

from ..errors import MissingLibrary

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
    """As a requirements file."""
    head = f'# What `pip install "{PROJECT}[{extra}]"` was on the machine that made this bundle.\n'
    lines = [f"{name}=={version}\n" for name, version in packages.items()]
    return head + "".join(lines)
