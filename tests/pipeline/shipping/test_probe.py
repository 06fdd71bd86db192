"""package --probe: first layers as a model beside the one that is served, and live images in it."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest

from edgepipe.pipeline import package, parity
from edgepipe.pipeline.errors import UsageError
from edgepipe.runners import Heartbeat, LoadedBundle, load_bundle
from edgepipe.runners.bundles.bundle import unpacked
from edgepipe.runners.bundles.monitoring import probe
from edgepipe.runners.workers.scripted import scripted

from ...made import Made

LAYERS = 3


@pytest.fixture(scope="module")
def bundle(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default model's, which parity did not judge in this workspace."""
    out = tmp_path_factory.mktemp("probed")
    found = package(workspace=exported, output=out, probe=LAYERS, allow_failed_parity=True)
    return found.path


def watched(bundle: Path, folder: Path, runner: str = "ort-cpu") -> LoadedBundle:
    return load_bundle(bundle, runner=runner, heartbeat=Heartbeat(folder, every_s=3600))


def see(model: LoadedBundle, frame: np.ndarray, images: int) -> tuple[int, dict[str, int]]:
    """What the probe has counted after so many of one frame and a replay."""
    assert model.heartbeat
    for _ in range(images):
        model.predict(frame)
    model.heartbeat.beat()
    live = model.heartbeat.state.live
    return live.probed, live.layers


def stripes(size: int) -> np.ndarray:
    """Black and white by turns, uint8 ``[size, size, 3]``: no value that photographs don't have."""
    even = np.indices((size, size)).sum(0) % 2 * 255
    return np.repeat(even[..., None], 3, 2).astype(np.uint8)


@pytest.mark.parametrize("runner", ["ort-cpu", "openvino"])
def test_what_no_calibration_image_did_to_a_layer_is_counted(
    runner: str, bundle: Path, tmp_path: Path
) -> None:
    with unpacked(bundle) as found:
        images = np.load(found.folder / "goldens.npz")["images"]
    with watched(bundle, tmp_path, runner) as model:
        usual, inside = see(model, images[0], 2 * probe.EACH)
        assert (usual, len(inside)) == (2, LAYERS)
        assert not any(inside.values()), "a golden is like the calibration's images"
        odd, outside = see(model, stripes(images.shape[1]), 2 * probe.EACH)
        assert odd == 4
        assert max(outside.values()) == 2
        assert model.heartbeat
        assert model.heartbeat.state.live.outside == {"input": 0}, "its values are usual ones"
    text = (tmp_path / "live.prom").read_text()
    assert "edgepipe_live_probed_total 4.0" in text
    assert json.loads((tmp_path / "live.json").read_text())["live"]["layers"] == outside
    with watched(bundle, tmp_path, runner) as model:  # another process goes on from there
        assert see(model, images[0], 1)[0] == 5


def test_the_model_is_the_one_that_was_judged(bundle: Path, exported: Path) -> None:
    with unpacked(bundle) as found:
        for name in ("fp32.onnx", "int8.onnx"):
            judged = next(exported.glob(f"*/{name}")).read_bytes()
            assert (found.folder / name).read_bytes() == judged
        assert probe.MEMBER in found.index.members


def test_a_probe_that_fails_is_given_up_and_predictions_go_on(
    bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with watched(bundle, tmp_path) as model:
        assert model.heartbeat
        inside = model.heartbeat._probe  # pyright: ignore[reportPrivateUsage]
        assert inside
        inside.close()
        frame = stripes(model.index.preprocessing.height)
        with caplog.at_level(logging.WARNING, "edgepipe"):
            assert see(model, frame, probe.EACH)[0] == 0
        assert "the probe failed" in caplog.text
        assert model.predict(frame).label


def test_without_a_calibration_there_is_a_reason(tmp_path: Path) -> None:
    made = Made(tmp_path / "artifacts", variants=("fp32",))
    with scripted(made.scripts("ort-cpu")):
        parity(workspace=made.root, runners=("ort-cpu",))
    with pytest.raises(UsageError, match="--probe: needs a model that was calibrated here"):
        package(workspace=made.root, output=tmp_path, probe=LAYERS)
    assert not list(tmp_path.glob("*.tar.gz"))
