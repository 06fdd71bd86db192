"""load_bundle: predictions in the application's own process, with what the bundle brings."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edgepipe.runners import LoadedBundle, load_bundle
from edgepipe.runners.base import BundleError, ImageError, RunnerUnavailable, SessionError
from edgepipe.runners.bundles.bundle import unpacked
from edgepipe.runners.bundles.signature import Trust
from edgepipe.runners.machine import host

from ... import bundles


@pytest.fixture(scope="module")
def model(bundle: Path) -> Iterator[LoadedBundle]:
    with load_bundle(bundle, runner="ort-cpu", variant="fp32") as loaded:
        yield loaded


@pytest.fixture(scope="module")
def goldens(bundle: Path) -> dict[str, np.ndarray]:
    with unpacked(bundle) as found:
        return dict(np.load(found.folder / "goldens.npz"))


def test_predictions_are_those_that_torch_gave(
    model: LoadedBundle, goldens: dict[str, np.ndarray]
) -> None:
    for image, logits in list(zip(goldens["images"], goldens["fp32.logits"], strict=True))[:8]:
        found = model.predict(image)
        odds = np.exp(logits.astype(np.float64) - logits.max())
        assert found.index == logits.argmax()
        assert found.label == str(found.index)
        np.testing.assert_allclose(found.probabilities, odds / odds.sum(), atol=1e-4)
        assert found.probability == pytest.approx(found.probabilities.max())
        assert found.inference_ms > 0


def test_the_most_probable_labels_come_first(
    model: LoadedBundle, goldens: dict[str, np.ndarray]
) -> None:
    found = model.predict(goldens["images"][0])
    labels, shares = zip(*found.top(10), strict=True)
    assert labels[0] == found.label
    assert sorted(shares, reverse=True) == list(shares)
    assert sum(shares) == pytest.approx(1)


def test_files_and_frames_of_any_size_are_taken(
    model: LoadedBundle, goldens: dict[str, np.ndarray], tmp_path: Path
) -> None:
    from PIL import Image

    image = Image.fromarray(goldens["images"][0]).resize((60, 80))
    image.save(tmp_path / "digit.png")
    expected = model.predict(np.asarray(image)).probabilities
    np.testing.assert_allclose(model.predict(tmp_path / "digit.png").probabilities, expected)
    np.testing.assert_allclose(model.predict(str(tmp_path / "digit.png")).probabilities, expected)
    assert model.predict(np.asarray(image.convert("L"))).probabilities.shape == (10,)


@pytest.mark.parametrize(
    "image",
    [np.zeros((8, 8, 3)), np.zeros((8, 8, 4), np.uint8), np.zeros((0, 0, 3), np.uint8)],
    ids=["floats", "four-channels", "empty"],
)
def test_what_is_no_image_is_refused(model: LoadedBundle, image: np.ndarray) -> None:
    with pytest.raises(ValueError, match="an image is uint8"):
        model.predict(image)


def test_a_file_that_is_no_picture_is_named(model: LoadedBundle, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(ImageError, match=r"text\.png"):
        model.predict(tmp_path / "text.png")


def test_the_variant_that_fits_this_cpu_is_loaded(bundle: Path) -> None:
    with load_bundle(bundle, runner="ort-cpu", threads=1) as loaded:
        assert loaded.choice.variant == ("int8-avx2" if host.saturates(host.facts()) else "int8")
        assert loaded.choice.settings.threads == 1


def test_a_variant_that_does_not_fit_is_refused_unless_allowed(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "cpu_flags", lambda _: ["avx2", "fma"])
    with pytest.raises(SessionError, match="no VNNI"):
        load_bundle(bundle, variant="int8", runner="ort-cpu")
    load_bundle(bundle, variant="int8", runner="ort-cpu", allow_unfit=True).close()


def test_a_runner_that_is_not_there_is_named(bundle: Path) -> None:
    with pytest.raises(RunnerUnavailable, match="ort-cuda: "):
        load_bundle(bundle, runner="ort-cuda")


def test_a_damaged_or_unsigned_bundle_is_not_loaded(bundle: Path, tmp_path: Path) -> None:
    data = bytearray(bundle.read_bytes())
    data[len(data) // 2] ^= 1
    damaged = tmp_path / "damaged.tar.gz"
    damaged.write_bytes(data)
    with pytest.raises(BundleError, match="changed or cut"):
        load_bundle(damaged)
    with pytest.raises(BundleError, match="not signed"):
        load_bundle(bundle, trust=Trust(tmp_path / "key.pub"))


def test_a_model_that_no_runtime_reads_is_an_error(tmp_path: Path) -> None:
    path = bundles.write(tmp_path / "tiny.tar.gz", bundles.contents())
    with pytest.raises(SessionError):
        load_bundle(path, runner="ort-cpu")


def test_an_application_on_the_box_imports_no_model_maker(bundle: Path) -> None:
    code = """
import sys
import numpy as np
from edgepipe.runners import load_bundle
print(load_bundle(sys.argv[1], runner="ort-cpu").predict(np.zeros((224, 224, 3), np.uint8)).label)
print([name for name in ("torch", "onnx", "typer", "edgepipe.pipeline") if name in sys.modules])
"""
    command = [sys.executable, "-c", code, str(bundle)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    label, imported = done.stdout.splitlines()
    assert label in "0123456789"
    assert imported == "[]"


@pytest.mark.parametrize("runner", ["ort-cpu", "openvino"])
def test_the_applications_process_is_left_as_it_was(bundle: Path, runner: str) -> None:
    """Also by loading and predicting: environment, modules, streams and handlers are its own."""
    code = """
import os, signal, sys
import numpy as np

def mine():
    streams = [(os.fstat(number).st_dev, os.fstat(number).st_ino) for number in range(3)]
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    return dict(os.environ), streams, handlers, os.getcwd(), list(sys.path)

before, modules = mine(), dict(sys.modules)
from edgepipe.runners import load_bundle
with load_bundle(sys.argv[1], runner=sys.argv[2]) as model:
    model.predict(np.zeros((224, 224, 3), np.uint8))
assert mine() == before
assert {name: sys.modules.get(name) for name in modules} == modules
assert [name for name, module in sys.modules.items() if module is None] == []
"""
    command = [sys.executable, "-c", code, str(bundle), runner]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
