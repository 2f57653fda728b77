"""Part of an image that a preprocessing shows: the center, all of it squashed, or all of it with padding.

Processors express this in fields whose meaning differs by class; here it is measured on probe images.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from hf_tl.data.decoding.opening import with_image
from hf_tl.data.decoding.scaling import Pipeline
from hf_tl.errors import DataError
from hf_tl.phase import ResizeMode

ELONGATION = 3
"""Ratio of the sides of the probe images."""
LEVELS = (60, 200)
SHOWN = 0.9
"""Smallest visible share of a side that counts as all of it; the first and last pixels are averages."""
SAMPLE = 200
"""Largest number of images whose size is read."""
PROBE_SIDE = 1024
"""Longest side of a probe image in pixels."""


def resize_mode_of(evaluation: Pipeline, input_size: tuple[int, int, int]) -> ResizeMode | None:
    """Measure whether an evaluation transform crops, squashes or pads images; None if it does neither."""
    channels, height, width = input_size
    wide = (width * ELONGATION, height)
    across, down = (_visible(evaluation, channels, wide, axis) for axis in (0, 1))
    if across < SHOWN:
        return "crop" if down >= SHOWN / 2 else None
    dark, bright = (_output(evaluation, channels, np.full(wide[::-1], level)) for level in LEVELS)
    same = np.isclose(dark, bright).all(axis=1)
    return "pad" if same[0] or same[-1] else "squash"


def visible_share(evaluation: Pipeline, input_size: tuple[int, int, int], size: tuple[int, int]) -> float:
    """Measure the share of an image's area that an evaluation transform shows.

    Args:
        evaluation: Evaluation transform.
        input_size: Channels, height and width of its output.
        size: Width and height of the image in pixels.
    """
    scale = min(1.0, PROBE_SIDE / max(size))
    width, height = (max(1, round(side * scale)) for side in size)
    across, down = (_visible(evaluation, input_size[0], (width, height), axis) for axis in (0, 1))
    return across * down


def _visible(evaluation: Pipeline, channels: int, size: tuple[int, int], axis: int) -> float:
    """Return the visible share of the width (axis 0) or height (axis 1), by an image whose levels rise along it."""
    width, height = size
    ramp = np.linspace(0, 255, size[axis])
    pixels = np.tile(ramp, (height, 1)) if axis == 0 else np.tile(ramp[:, None], (1, width))
    output = _output(evaluation, channels, pixels)
    low, high = (_output(evaluation, channels, np.full((height, width), level)) for level in (0, 255))
    # largest values, because parts of the output may be padding
    return float(min(1.0, np.ptp(output, axis=1 - axis).max() / np.abs(high - low).max()))


def _output(evaluation: Pipeline, channels: int, levels: np.ndarray) -> np.ndarray:
    """Return the first channel of the output for a gray image, (height, width)."""
    image = Image.fromarray(levels.round().astype(np.uint8))
    return evaluation(image if channels == 1 else image.convert("RGB"))[0].double().numpy()


@dataclass(frozen=True)
class WholeImage:
    """First step of an augmentation that shows whole images: squash or pad them to the shape of the input.

    >>> WholeImage("squash", (8, 8))(Image.new("RGB", (40, 10))).size
    (10, 10)
    >>> WholeImage("pad", (8, 8))(Image.new("RGB", (40, 10))).size
    (40, 40)
    """

    mode: ResizeMode
    size: tuple[int, int]
    """Height and width of the input."""
    fill: tuple[int, ...] = (0, 0, 0)
    """Color of the padding."""

    def __call__(self, image: Image.Image) -> Image.Image:
        """Return an image of the shape of the input, in at least its resolution."""
        height, width = self.size
        factors = image.width / width, image.height / height
        scale = max(factors) if self.mode == "pad" else max(1.0, min(factors))
        shape = (round(width * scale), round(height * scale))
        if self.mode == "squash":
            return image.resize(shape, Image.Resampling.BICUBIC)
        padded = Image.new(image.mode, shape, self.fill if len(self.fill) > 1 else self.fill[0])
        padded.paste(image, ((shape[0] - image.width) // 2, (shape[1] - image.height) // 2))
        return padded


def median_size(stored: Sequence[Any]) -> tuple[int, int] | None:
    """Return the width and height of the image whose sides have the median ratio; None if no image can be read.

    Args:
        stored: Stored images, of which at most 200 are opened, at equal distances.
    """
    rows = range(0, len(stored), max(1, len(stored) // SAMPLE))
    sizes = sorted((size for row in rows if (size := _size_of(stored[row])) is not None), key=_ratio)
    return sizes[len(sizes) // 2] if sizes else None


def _ratio(size: tuple[int, int]) -> float:
    return max(size) / min(size)


def _size_of(stored: Any) -> tuple[int, int] | None:
    try:
        return with_image(stored, "the image", lambda image: image.size)
    except DataError:
        return None
