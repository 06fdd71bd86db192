"""Using a bundle in an application: ``load_bundle(path).predict(image)``.

    from edgepipe.runners import load_bundle

    with load_bundle("/opt/models/current") as model:
        print(model.predict("photo.jpg").label)

The session runs in this very process. What comes with the bundle decides the rest: which variant
fits this CPU, the recommended settings, the preprocessing, the labels.

Environment, modules and stderr of the process are left alone. So it is the application that says
whether onnxruntime may report home (``ORT_DISABLE_TELEMETRY=1`` before the first session).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Self

import numpy as np

from .. import registry
from ..base import RunnerUnavailable, Session, SessionError
from ..images import Pixels, load_image, normalize, pillow, to_pixels
from ..machine import host
from . import signature
from .bundle import Bundle, unpacked
from .index import Index
from .monitoring import calibration
from .monitoring.heartbeat import Heartbeat, Monitor, Watched
from .monitoring.probe import Probe
from .monitoring.replay import Recorded
from .monitoring.state import Place
from .scores import kind_in, probabilities
from .selection import Choice, available, choose
from .signature import Trust


@dataclass(frozen=True)
class Prediction:
    """What the model says of one image.

    ``probabilities`` are float64 ``[classes]``: the softmax of its output, unless the model ends in
    one; ``label`` is the most
    probable one's, or its number as text where the bundle has no labels. Times are in ms;
    ``waited_ms`` is for a heartbeat's golden to end, and not part of the inference.
    """

    label: str
    index: int
    probability: float
    probabilities: np.ndarray
    labels: tuple[str, ...]
    preprocess_ms: float
    inference_ms: float
    waited_ms: float = 0.0

    def top(self, count: int = 5) -> list[tuple[str, float]]:
        """The most probable labels with their probabilities, best first."""
        best = np.argsort(-self.probabilities, kind="stable")[:count]
        return [(self.labels[index], float(self.probabilities[index])) for index in best]


class LoadedBundle:
    """A bundle's model, ready to predict. For one thread at a time; a context manager."""

    def __init__(
        self,
        index: Index,
        digest: str,
        choice: Choice,
        session: Session,
        heartbeat: Monitor | None = None,
    ) -> None:
        self.index = index
        self.digest = digest
        self.choice = choice
        self.heartbeat = heartbeat
        self._session = session
        self._input = session.inputs[0]
        self._output = session.outputs[0].name

    def predict(self, image: Pixels | Path | str) -> Prediction:
        """Classify one image: a file, or an array, uint8 ``[H, W, 3]`` (RGB) or ``[H, W]`` (grey).

        For a model of other channels than a picture has, the file is a ``.npy`` and the array
        ``[H, W, C]``. A frame that already has the model's size needs no Pillow, where nothing is
        to be cut off. Raises ``ImageError`` for a file that is no picture, ``ValueError`` for
        another array, ``SessionError`` if it fails.
        """
        started = perf_counter()
        pixels = self._pixels(image)
        batch = self._input.shape[0] or 1
        tensor = np.repeat(normalize(pixels[None], self.index.preprocessing), batch, axis=0)
        prepared = perf_counter()
        outputs, waited = self._run({self._input.name: tensor})
        ended = perf_counter()
        scores = np.asarray(outputs[self._output][0], np.float64)
        if scores.ndim != 1 or not np.all(np.isfinite(scores)):
            raise SessionError(f"output {self._output} is no finite score for each class")
        kind = kind_in(self.index.model, self._output)
        shares = probabilities(scores[None], kind)[0]
        labels = self.index.labels or tuple(map(str, range(len(scores))))
        best = int(shares.argmax())
        if self.heartbeat is not None:
            self.heartbeat.count(tensor[0], best)
        return Prediction(
            label=labels[best],
            index=best,
            probability=float(shares[best]),
            probabilities=shares,
            labels=labels,
            preprocess_ms=1000 * (prepared - started),
            inference_ms=1000 * (ended - prepared - waited),
            waited_ms=1000 * waited,
        )

    def close(self) -> None:
        """Free the session; no ``predict`` after it."""
        if self.heartbeat is not None:
            self.heartbeat.close()
        self._session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self, feeds: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], float]:
        if self.heartbeat is None:
            return self._session.run(feeds), 0.0
        return self.heartbeat.run(feeds)

    def _pixels(self, image: Pixels | Path | str) -> Pixels:
        preprocessing = self.index.preprocessing
        bands = preprocessing.bands
        if isinstance(image, str | Path):
            image = load_image(Path(image), bands)
        known = [(), (3,), (1,)] if bands is None else [(bands,)]
        shaped = image.ndim > 1 and image.shape[2:] in known
        if image.dtype != np.uint8 or not shaped or not image.size:
            wanted = "[H, W, 3] or [H, W]" if bands is None else f"[H, W, {bands}]"
            raise ValueError(f"an image is uint8 {wanted}, this is {image.dtype} {image.shape}")
        uncut = preprocessing.resize_to in (None, preprocessing.shorter)
        if preprocessing.channels == "grey" and image.ndim == 2:
            image = image[..., None]
        if image.shape == preprocessing.frame and uncut:
            return image
        pillow()  # says what to install
        return to_pixels(image, preprocessing)


def load_bundle(
    path: Path | str,
    *,
    variant: str | None = None,
    runner: str | None = None,
    threads: int | None = None,
    trust: Trust | None = None,
    allow_unfit: bool = False,
    heartbeat: Heartbeat | None = None,
) -> LoadedBundle:
    """Check a bundle and load the variant of it that this machine is to use.

    Every file is held against its hash, and against a signature with ``trust``; the goldens are
    not run: that is for ``edgepipe verify``. With a ``heartbeat`` some are, now and then again
    between predictions, and live images are counted: see ``Heartbeat``. Raises ``BundleError`` for
    a bundle that is not whole, ``RunnerUnavailable`` if no runner works here, and ``SessionError``
    for a variant that does not fit the CPU (unless ``allow_unfit``) or that the runner refuses.
    """
    with unpacked(Path(path)) as bundle:
        if trust:
            signature.check(bundle, trust)
        facts = host.facts()
        formats = available(bundle.index, runner, _formats)
        choice = choose(bundle.index, facts, formats, variant=variant)
        if choice.misfit and not allow_unfit:
            raise SessionError(f"{choice.variant} is not one for this CPU: {choice.misfit}")
        if threads is not None:
            choice = replace(choice, settings=replace(choice.settings, threads=threads))
        session = _session(bundle, choice)
        try:
            watching = heartbeat and _monitor(heartbeat, bundle, choice, session)
        except BaseException:
            session.close()
            raise
        return LoadedBundle(bundle.index, bundle.digest, choice, session, watching)


def _session(bundle: Bundle, choice: Choice) -> Session:
    session = registry.get(choice.runner).load(bundle.folder / choice.files[0], choice.settings)
    placement = session.placement
    if placement.elsewhere() and not choice.settings.allow_fallback:
        session.close()
        raise SessionError(f"not all nodes are on {placement.provider}: {placement.elsewhere()}")
    return session


def _monitor(options: Heartbeat, bundle: Bundle, choice: Choice, session: Session) -> Monitor:
    index = bundle.index
    recorded = Recorded.of(bundle, options.goldens)
    place = Place(
        bundle=index.name,
        digest=bundle.digest,
        variant=choice.variant,
        runner=choice.runner,
        runner_version=registry.get(choice.runner).version(),
        threads=session.placement.threads,
        cpu=host.cpu_name(),
        goldens=len(recorded.images),
    )
    gate = index.gate(choice.variant, choice.runner, choice.settings.precision)
    known = calibration.of_bundle(bundle)
    probe = Probe.of(bundle, choice.runner, known)
    limit = gate and gate.min_sqnr_db
    watched = Watched(place, index.preprocessing, recorded, limit, known, probe)
    return Monitor(options, watched, session).start()


def _formats(runner: str) -> tuple[str, ...]:
    found = registry.get(runner)
    if reason := found.unavailable():
        raise RunnerUnavailable(reason)
    return found.formats
