"""NNCF's post-training quantization as a recipe: OpenVINO's own tool, on the same images."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from ...errors import MissingLibrary
from ..draft import Data, Draft


class Nncf:
    """Has NNCF quantize the model, with its slower and more exact bias correction."""

    name = "nncf"

    def apply(self, draft: Draft, data: Data) -> Draft:
        """See ``Quantizer.apply``. Raises ``MissingLibrary`` where NNCF isn't installed."""
        try:
            import nncf  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise MissingLibrary(f'{error}; pip install "edgepipe[nncf]"') from error
        logging.getLogger("nncf").setLevel(logging.ERROR)

        def feeds(sample: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            return dict(sample)

        fix = nncf.OverflowFix.ENABLE if draft.exact_pairs else nncf.OverflowFix.DISABLE
        written = nncf.quantize(
            draft.model,
            nncf.Dataset(list(data.samples), feeds),
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(data.samples),
            fast_bias_correction=False,
            advanced_parameters=nncf.AdvancedQuantizationParameters(overflow_fix=fix),
        )
        return replace(draft, written=written)
