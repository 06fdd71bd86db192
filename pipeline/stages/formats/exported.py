"""Further formats of the float model, each written from the module by an exporter of its own."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ....exporters.base import Exporter
from ....runners.machine.files import temporary_files
from ....runners.machine.installed import versions
from ...numerics.precision import HALF
from ...progress import Progress
from ...storage.workspace import Transaction
from ..export import EXPORTED, Export, blaming, placed, plugin, run_exporter

# The formats beside ONNX that have float16 weights.
HALF_FORMATS = ("openvino-ir",)
MIB = 1 << 20


@dataclass(frozen=True)
class ExportFormat:
    """Writes one variant's files in the exporter's format, ``fp32.xml`` and ``fp32.bin``."""

    export: Export
    exporter: Exporter
    variant: str = "fp32"

    requires: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The stage is named after what it makes."""
        half = self.variant == HALF
        return f"{HALF}-{self.exporter.name}" if half else self.exporter.name

    @property
    def ensures(self) -> tuple[str, ...]:
        """See ``Stage``. The file that a runner is pointed to comes first."""
        return tuple(f"{self.variant}{suffix}" for suffix in self.exporter.suffixes)

    def depends(self, transaction: Transaction) -> Mapping[str, Any]:
        """See ``Stage.depends``."""
        return {
            **self.export.depends(transaction),
            "exporter": self.exporter.name,
            **plugin(self.exporter.name),
            "variant": self.variant,
            "libraries": versions("openvino") if self.exporter.name in HALF_FORMATS else {},
        }

    def run(self, transaction: Transaction, progress: Progress) -> Mapping[str, Any]:
        """See ``Stage.run``."""
        made = self.export.prepare()
        size = transaction.artifact(EXPORTED).size
        with (
            blaming(self.export.spec.source, self.exporter.name),
            temporary_files(size),
            tempfile.TemporaryDirectory(prefix="edgepipe-") as folder,
        ):
            path = Path(folder) / self.ensures[0]
            half, place = self.variant == HALF, path.with_suffix("")
            options = replace(made.options, half_weights=half, place=place)
            files = placed(run_exporter(self.exporter, made, options), path)
            size = sum(file.stat().st_size for file in files) / MIB
            transaction.take(files)
        half = ", weights as float16" if options.half_weights else ""
        return {
            "variant": self.variant,
            "exporter": self.exporter.name,
            "summary": f"{self.exporter.format}, {size:.1f} MiB{half}",
        }
