"""tune, from a search to the setting's use in bench. What it makes of every other candidate is in
tests/combinations/test_tuned.py.

The runner is a plug-in of this test: ort-cpu, with options that make it slower.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgepipe.pipeline import bench, export, tune, write_report
from edgepipe.pipeline.speed import validity
from edgepipe.pipeline.storage.workspace import Workspace

NAPPER = """
import time
from dataclasses import replace

from edgepipe.runners.base import SessionError
from edgepipe.runners.backends.onnxruntime import OrtCpu


class Session:
    def __init__(self, inner, nap):
        self.inner, self.nap = inner, nap
        self.inputs, self.outputs = inner.inputs, inner.outputs
        self.placement = inner.placement

    def run(self, feeds):
        time.sleep(self.nap)
        return self.inner.run(feeds)

    def close(self):
        self.inner.close()


class Napper(OrtCpu):
    name = "napper"
    tunables = {TUNABLES}

    def load(self, model, settings):
        options, settings = settings.options, replace(settings, options={})
        if options.get("refused"):
            raise SessionError("refused")
        return Session(super().load(model, settings), options.get("nap", 0.02))
"""


@pytest.fixture
def napper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Install the plug-in with these tunables, for this process and its workers."""

    def install(tunables: str) -> None:
        site = tmp_path / "site"
        about = site / "napper-1.dist-info"
        about.mkdir(parents=True)
        (site / "napper.py").write_text(NAPPER.replace("{TUNABLES}", tunables))
        (about / "METADATA").write_text("Metadata-Version: 2.1\nName: napper\nVersion: 1\n")
        (about / "entry_points.txt").write_text("[edgepipe.runners]\nnapper = napper:Napper\n")
        monkeypatch.syspath_prepend(str(site))
        monkeypatch.setenv("PYTHONPATH", str(site))

    # The machine may be busy with other tests; what is compared here differs by far more.
    for limit in ("MAX_OTHERS_PERCENT", "MAX_STEAL_PERCENT"):
        monkeypatch.setattr(validity, limit, 100.0)
    return install


def search(workspace: Path) -> Any:
    return tune(
        workspace=workspace, runners=("napper",), variants=("int8-avx2",), threads=1, seconds=0.05,
        budget=12,
    )  # fmt: skip


def test_the_faster_setting_is_recommended_and_then_used(workspace: Path, napper: Any) -> None:
    napper('{"nap": (0.04, 0.0), "refused": (True,)}')
    result = search(workspace)
    (row,) = result.cells
    assert (row.status, row.verdict) == ("ok", "recommended"), row.reason
    assert row.settings["options"] == {"nap": 0.0}
    assert row.ci95[1] < 0.9
    assert row.tuned_ms < row.default_ms
    refused = next(trial for trial in row.trials if "refused" in trial.settings["options"])
    assert refused.reason == "refused"

    folder = workspace / "mobilenet_v2"
    (kept,) = json.loads((folder / "manifest.json").read_text())["recommended"]
    assert kept["settings"] == {**row.settings}
    assert kept["evidence"]["sha256"] == result_sha(workspace)
    found = json.loads((folder / "tune.json").read_text())
    assert found["cells"][0]["verdict"] == "recommended"
    assert found["artifacts"]["int8-avx2.onnx"] == result_sha(workspace)
    assert 0 < found["cells"][0]["seconds"] <= found["seconds"]
    for name in ("seconds", "measured"):
        assert kept["evidence"][name] == found["cells"][0][name]
    assert kept["evidence"]["candidates"] == len(row.trials)
    report, _ = write_report(workspace=workspace, format="markdown")
    assert report.tuning
    assert "| int8-avx2 · napper | ✓ recommended | nap 0.0 |" in (folder / "report.md").read_text()

    chosen = {
        "workspace": workspace,
        "runners": ("napper",),
        "variants": ("int8-avx2",),
        "quick": True,
    }
    tuned, default = bench(**chosen).cells[0], bench(**chosen, tuned=False).cells[0]
    assert (tuned.tuned, dict(tuned.options)) == (True, {"nap": 0.0})
    assert (default.tuned, dict(default.options)) == (False, {})
    assert tuned.latency_ms
    assert default.latency_ms
    assert tuned.latency_ms.p50 < default.latency_ms.p50

    # An export that changes nothing keeps it.
    export(workspace=workspace)
    assert Workspace(workspace, "mobilenet_v2").verified().recommended


def result_sha(workspace: Path) -> str:
    manifest = json.loads((workspace / "mobilenet_v2" / "manifest.json").read_text())
    return manifest["artifacts"]["int8-avx2.onnx"]["sha256"]
