"""A bundle's bill of materials: CycloneDX 1.6 as JSON. It has no time, so equal bundles agree."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from ....runners.bundles.index import Index, Member
from ...errors import MissingLibrary


def cyclonedx(
    index: Index, files: Mapping[str, Member], packages: Mapping[str, str], version: str
) -> bytes:
    """The model, its files, and the packages that a box runs it with (name -> version).

    ``version`` identifies the model's contents. The tools are those that made the files.
    """
    # Any: the library's decorators hide its classes from type checkers.
    model, boms, components, output = (
        _library(f"cyclonedx.{name}")
        for name in ("model", "model.bom", "model.component", "output.json")
    )
    component, kinds = components.Component, components.ComponentType
    url = _library("packageurl").PackageURL
    bom = boms.Bom(serial_number=uuid.uuid5(uuid.NAMESPACE_URL, f"edgepipe:{version}"))
    bom.metadata.timestamp = None
    bom.metadata.component = component(
        name=index.name,
        version=version,
        type=kinds.MACHINE_LEARNING_MODEL,
        bom_ref=index.name,
        properties=[
            model.Property(name=f"edgepipe:{key}", value=str(value))
            for key, value in sorted(index.model.items())
            if isinstance(value, str | int | bool)
        ],
    )
    for name, tool in sorted(index.provenance["tools"].items()):
        if tool:
            made = component(
                name=name, version=tool, type=kinds.APPLICATION, bom_ref=f"tool:{name}"
            )
            bom.metadata.tools.components.add(made)
    for name, member in files.items():
        digest = model.HashType(alg=model.HashAlgorithm.SHA_256, content=member.sha256)
        bom.components.add(
            component(name=name, type=kinds.FILE, bom_ref=f"file:{name}", hashes=[digest])
        )
    for name, found in packages.items():
        where = url("pypi", name=name, version=found)
        bom.components.add(
            component(
                name=name,
                version=found,
                type=kinds.LIBRARY,
                bom_ref=where.to_string(),
                purl=where,
            )
        )
    bom.register_dependency(bom.metadata.component, list(bom.components))
    return output.JsonV1Dot6(bom).output_as_string(indent=1).encode() + b"\n"


def _library(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise MissingLibrary(f'{error}; pip install "edgepipe[ship]"') from error
