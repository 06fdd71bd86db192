"""Preprocessing as data: from an image file to the tensor a model takes, in one place.

``load_image`` decodes. The two steps after it are kept apart on purpose. ``to_pixels`` does
the geometry and ends in uint8, which is what a camera delivers and what goldens store.
``normalize`` is elementwise float32 arithmetic, so that the same pixels give the same tensor,
bit for bit, on every machine.
"""

from ..base import ImageError, MissingDecoder
from .decoding import (
    ARRAY_SUFFIX,
    DECODERS,
    FORMATS,
    MAX_PIXELS,
    Pixels,
    check_image,
    load_image,
    pillow,
)
from .pixels import Geometry, batches, normalize, stack, to_pixels
from .preprocessing import (
    CHANNELS,
    MOST_CHANNELS,
    PRESETS,
    Preprocessing,
    Size,
    ordered,
    sides,
    spelled,
)

__all__ = [
    "ARRAY_SUFFIX",
    "CHANNELS",
    "DECODERS",
    "FORMATS",
    "MAX_PIXELS",
    "MOST_CHANNELS",
    "PRESETS",
    "Geometry",
    "ImageError",
    "MissingDecoder",
    "Pixels",
    "Preprocessing",
    "Size",
    "batches",
    "check_image",
    "load_image",
    "normalize",
    "ordered",
    "pillow",
    "sides",
    "spelled",
    "stack",
    "to_pixels",
]
