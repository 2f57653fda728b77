"""How a preprocessing maps the levels of an 8-bit image to the numbers that a model takes, measured on probe images.

Image processors express this map in many fields (`do_rescale`, `rescale_factor`, `rescale_offset`, `do_normalize`,
`image_mean`, `include_top`, `do_flip_channel_order`, ...), whose meaning differs by class. What they do to an image of
one color does not: a map of each channel that is linear, and an order of the channels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

Pipeline = Callable[[Image.Image], torch.Tensor]
"""From an RGB image, or a gray one, to (channels, height, width)."""

TOLERANCE = 1e-6
"""Largest difference that comes from rounding in float32, as a share of the largest number."""
ROUNDING = 3e-7
"""The same where mean and standard deviation are written with fewer digits."""
DECIMALS = range(1, 10)
COLORS = ((200, 40, 120), (13, 250, 101), (91, 90, 233), (7, 64, 1), (254, 128, 33))
"""Probes, whose levels differ by channel."""
SAMPLED = (5, 11)
"""The rows of a result that are compared, in sixteenths of its height."""
SMALLEST_HALVED = 32
"""Pixels in height from which the rows that are compared are far from the border between two colors."""


@dataclass(frozen=True)
class PixelScaling:
    """The map from an 8-bit image to a model's numbers: reorder the channels, scale to 0..1, minus `mean`, by `std`.

    As a callable, it turns an image into (channels, height, width), in the operations of torchvision's `ToTensor` and
    `Normalize`, so that their rounding is the same.

    >>> scaling = PixelScaling((2, 1, 0), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    >>> scaling(Image.new("RGB", (1, 1), (255, 51, 0))).flatten().tolist(), scaling.channel_order
    ([0.0, 0.20000000298023224, 1.0], 'BGR')
    """

    order: tuple[int, ...]
    """For each channel of the result, the channel of the image."""
    mean: tuple[float, ...]
    """By channel of the result."""
    std: tuple[float, ...]

    def __call__(self, image: Image.Image) -> torch.Tensor:
        """Turn an RGB image, or a gray one for one channel, into (channels, height, width), float32."""
        levels = np.asarray(image).reshape(image.height, image.width, -1)[..., list(self.order)]
        pixels = torch.from_numpy(np.ascontiguousarray(levels.transpose(2, 0, 1))).float().div_(255)
        mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (self.mean, self.std))
        return pixels.sub_(mean).div_(std)

    @property
    def channel_order(self) -> str:
        """The channels of the result by their letters: "RGB", "BGR", or "L" for gray."""
        return "L" if len(self.order) == 1 else "".join("RGB"[channel] for channel in self.order)

    def __repr__(self) -> str:
        mean, std = list(self.mean), list(self.std)
        return f"PixelScaling(channels={self.channel_order}, mean={mean}, std={std})"


def measure_scaling(evaluation: Pipeline, input_size: tuple[int, int, int]) -> PixelScaling | None:
    """Measure the map of an evaluation transform, and verify it on other images.

    Args:
        evaluation: from an image to a tensor of `input_size`.
        input_size: channels, height and width.

    Returns:
        The map, within rounding in float32; None where the transform is none (the levels are not mapped one by one, in
        a linear way, or channels are mixed).
    """
    channels = input_size[0]
    black, white = (_probe(evaluation, input_size, (level,) * channels) for level in (0, 255))
    span = white - black
    if black.shape != (channels,) or not np.isfinite(span).all() or not span.all():
        return None
    color = COLORS[0][:channels]
    levels = (_probe(evaluation, input_size, color) - black) / span * 255
    order = tuple(int(np.abs(np.subtract(color, level)).argmin()) for level in levels)
    if sorted(order) != list(range(channels)):
        return None
    std = 1 / span
    scaling = _rounded(order, -black * std, std)
    return scaling if _is_exact(scaling, evaluation, input_size) else None


def colors_of(scaling: PixelScaling | None, pixels: np.ndarray) -> np.ndarray:
    """Turn a model's numbers back into colors, to be looked at.

    Args:
        scaling: how they were made; None stretches them between their own extremes.
        pixels: (..., channels, height, width).

    Returns:
        Colors (..., height, width, 3) from 0 to 1.
    """
    if scaling is None:
        shown = (pixels - pixels.min()) / max(float(np.ptp(pixels)), 1e-30)
    else:
        mean, std = (np.reshape(values, (-1, 1, 1)) for values in (scaling.mean, scaling.std))
        shown = np.clip(pixels * std + mean, 0, 1)[..., list(np.argsort(scaling.order)), :, :]
    shown = np.moveaxis(shown, -3, -1)
    return np.repeat(shown, 3, axis=-1) if shown.shape[-1] == 1 else shown


def map_alike(pipeline: Pipeline, evaluation: Pipeline, input_size: tuple[int, int, int]) -> bool:
    """Return whether two transforms make the same numbers of the levels of an image of the input size."""
    images = _probes(input_size)
    found, expected = (np.stack([_samples(one(image)) for image in images]) for one in (pipeline, evaluation))
    return is_close(found, expected)


def _probe(evaluation: Pipeline, input_size: tuple[int, int, int], color: Sequence[int]) -> np.ndarray:
    """Return what a transform makes of an image of one color at its center, where nothing was padded: (channels,)."""
    pixels = evaluation(_plain(input_size, color))
    return pixels[:, pixels.shape[1] // 2, pixels.shape[2] // 2].double().numpy()


def is_close(found: np.ndarray, expected: np.ndarray, tolerance: float = TOLERANCE) -> bool:
    """Return whether numbers that a model takes are equal but for rounding in float32."""
    if found.shape != expected.shape:
        return False
    return bool(np.abs(found - expected).max() <= tolerance * np.abs(expected).max())


def _plain(input_size: tuple[int, int, int], color: Sequence[int]) -> Image.Image:
    """Make an image of one color, of the size that the model takes, which is resized and padded the least."""
    channels, height, width = input_size
    return Image.new("L" if channels == 1 else "RGB", (width, height), color[0] if channels == 1 else tuple(color))


def _probes(input_size: tuple[int, int, int]) -> list[Image.Image]:
    """Make images of one color, and one of two: whatever depends on the other pixels of an image shows there."""
    channels, height, _ = input_size
    images = [_plain(input_size, color[:channels]) for color in (*COLORS, (0, 0, 0), (255, 255, 255))]
    if height >= SMALLEST_HALVED:
        halved = _plain(input_size, COLORS[1])
        halved.paste(_plain(input_size, COLORS[3]), (0, height // 2))
        images.append(halved)
    return images


def _samples(pixels: torch.Tensor) -> np.ndarray:
    """Read a result above and below its center, far from its edges, which may be padded: (places, channels)."""
    rows = [SAMPLED[0] * pixels.shape[1] // 16, SAMPLED[1] * pixels.shape[1] // 16]
    return pixels[:, rows, pixels.shape[2] // 2].double().numpy().T


def _is_exact(scaling: PixelScaling, evaluation: Pipeline, input_size: tuple[int, int, int]) -> bool:
    def exactly(image: Image.Image) -> torch.Tensor:
        levels = np.asarray(image).reshape(image.height, image.width, -1)[..., list(scaling.order)]
        return torch.from_numpy(((levels / 255 - scaling.mean) / scaling.std).transpose(2, 0, 1))

    return map_alike(exactly, evaluation, input_size)


def _rounded(order: tuple[int, ...], mean: np.ndarray, std: np.ndarray) -> PixelScaling:
    """Write mean and std with as few digits as rounding in float32 leaves them: 0.485, not 0.48500001."""
    ends = np.array([0.0, 1.0])[:, None]
    measured = (ends - mean) / std
    for decimals in DECIMALS:
        shorter = [
            np.array([float(np.format_float_positional(value, decimals, fractional=False)) for value in values])
            for values in (mean, std)
        ]
        if is_close((ends - shorter[0]) / shorter[1], measured, ROUNDING):
            mean, std = shorter
            break
    return PixelScaling(order, tuple((mean + 0.0).tolist()), tuple(std.tolist()))
