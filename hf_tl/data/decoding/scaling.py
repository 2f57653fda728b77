"""Mapping of 8-bit pixel levels to network inputs by a preprocessing, measured on probe images.

Image processors express this mapping in many fields (`do_rescale`, `rescale_factor`, `rescale_offset`, `do_normalize`,
`image_mean`, `include_top`, `do_flip_channel_order`, ...), whose meaning differs by class. Their effect on an image of
one color has one form: a linear map of each channel, and an order of the channels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

Pipeline = Callable[[Image.Image], torch.Tensor]
"""Function from an RGB or gray image to a tensor of shape (channels, height, width)."""

TOLERANCE = 1e-6
"""Largest float32 rounding difference, relative to the largest value."""
ROUNDING = 3e-7
"""Relative float32 tolerance for a mean and standard deviation with fewer digits."""
DECIMALS = range(1, 10)
COLORS = ((200, 40, 120), (13, 250, 101), (91, 90, 233), (7, 64, 1), (254, 128, 33))
"""Probe colors, whose levels differ by channel."""
SAMPLED = (5, 11)
"""Rows of the output to compare, in sixteenths of its height."""
SMALLEST_HALVED = 32
"""Minimum height in pixels at which the compared rows are far from the border between two colors."""


@dataclass(frozen=True)
class PixelScaling:
    """Mapping of an 8-bit image to network inputs: reorder channels, scale to 0..1, subtract `mean`, divide by `std`.

    Calling it converts an image to a tensor of shape (channels, height, width), with the operations of torchvision's
    `ToTensor` and `Normalize`, for the same rounding.

    >>> scaling = PixelScaling((2, 1, 0), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    >>> scaling(Image.new("RGB", (1, 1), (255, 51, 0))).flatten().tolist(), scaling.channel_order
    ([0.0, 0.20000000298023224, 1.0], 'BGR')
    """

    order: tuple[int, ...]
    """Input channel of each output channel."""
    mean: tuple[float, ...]
    """Mean of each output channel."""
    std: tuple[float, ...]

    def __call__(self, image: Image.Image) -> torch.Tensor:
        """Convert an RGB image, or a gray one for one channel, to a float32 tensor (channels, height, width)."""
        levels = np.asarray(image).reshape(image.height, image.width, -1)[..., list(self.order)]
        pixels = torch.from_numpy(np.ascontiguousarray(levels.transpose(2, 0, 1))).float().div_(255)
        mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (self.mean, self.std))
        return pixels.sub_(mean).div_(std)

    def levels(self, pixels: torch.Tensor) -> torch.Tensor:
        """Convert a tensor (channels, height, width) back to the nearest 8-bit image, RGB or gray.

        >>> scaling = PixelScaling((2, 1, 0), (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
        >>> scaling.levels(scaling(Image.new("RGB", (1, 1), (255, 51, 0)))).flatten().tolist()
        [255, 51, 0]
        """
        mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (self.mean, self.std))
        levels = pixels.mul(std).add_(mean).mul_(255).round_().clamp_(0, 255).to(torch.uint8)
        return levels[torch.tensor(self.order).argsort()]

    @property
    def channel_order(self) -> str:
        """Letters of the output channels: "RGB", "BGR", or "L" for gray."""
        return "L" if len(self.order) == 1 else "".join("RGB"[channel] for channel in self.order)

    def __repr__(self) -> str:
        mean, std = list(self.mean), list(self.std)
        return f"PixelScaling(channels={self.channel_order}, mean={mean}, std={std})"


def measure_scaling(evaluation: Pipeline, input_size: tuple[int, int, int]) -> PixelScaling | None:
    """Measure the mapping of an evaluation transform, and verify it on other images.

    Args:
        evaluation: Transform of an image to a tensor of shape `input_size`.
        input_size: Channels, height and width.

    Returns:
        Mapping, exact up to float32 rounding. None if the transform is not such a mapping: levels are not mapped one by
        one and linearly, or channels are mixed.
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
    """Convert network inputs back to colors, for display.

    Args:
        scaling: Mapping that produced them; None stretches the range of the values.
        pixels: Network inputs of shape (..., channels, height, width).

    Returns:
        Colors of shape (..., height, width, 3), from 0 to 1.
    """
    if scaling is None:
        shown = (pixels - pixels.min()) / max(float(np.ptp(pixels)), 1e-30)
    else:
        mean, std = (np.reshape(values, (-1, 1, 1)) for values in (scaling.mean, scaling.std))
        shown = np.clip(pixels * std + mean, 0, 1)[..., list(np.argsort(scaling.order)), :, :]
    shown = np.moveaxis(shown, -3, -1)
    return np.repeat(shown, 3, axis=-1) if shown.shape[-1] == 1 else shown


def map_alike(pipeline: Pipeline, evaluation: Pipeline, input_size: tuple[int, int, int]) -> bool:
    """Return whether two transforms map the levels of an image of the input size to the same values."""
    images = _probes(input_size)
    outputs, expected = (
        np.stack([_samples(transform(image)) for image in images]) for transform in (pipeline, evaluation)
    )
    return is_close(outputs, expected)


def _probe(evaluation: Pipeline, input_size: tuple[int, int, int], color: Sequence[int]) -> np.ndarray:
    """Return the output for an image of one color at its center, where there is no padding: (channels,)."""
    pixels = evaluation(_plain(input_size, color))
    return pixels[:, pixels.shape[1] // 2, pixels.shape[2] // 2].double().numpy()


def is_close(outputs: np.ndarray, expected: np.ndarray, tolerance: float = TOLERANCE) -> bool:
    """Return whether network inputs are equal up to float32 rounding."""
    if outputs.shape != expected.shape:
        return False
    return bool(np.abs(outputs - expected).max() <= tolerance * np.abs(expected).max())


def _plain(input_size: tuple[int, int, int], color: Sequence[int]) -> Image.Image:
    """Return an image of one color in the model's input size, which needs the least resizing and padding."""
    channels, height, width = input_size
    return Image.new("L" if channels == 1 else "RGB", (width, height), color[0] if channels == 1 else tuple(color))


def _probes(input_size: tuple[int, int, int]) -> list[Image.Image]:
    """Return images of one color, and one of two colors, which reveals any dependence on other pixels."""
    channels, height, _ = input_size
    images = [_plain(input_size, color[:channels]) for color in (*COLORS, (0, 0, 0), (255, 255, 255))]
    if height >= SMALLEST_HALVED:
        halved = _plain(input_size, COLORS[1])
        halved.paste(_plain(input_size, COLORS[3]), (0, height // 2))
        images.append(halved)
    return images


def _samples(pixels: torch.Tensor) -> np.ndarray:
    """Return the output above and below its center, far from edges that may be padded: (places, channels)."""
    rows = [SAMPLED[0] * pixels.shape[1] // 16, SAMPLED[1] * pixels.shape[1] // 16]
    return pixels[:, rows, pixels.shape[2] // 2].double().numpy().T


def _is_exact(scaling: PixelScaling, evaluation: Pipeline, input_size: tuple[int, int, int]) -> bool:
    def exactly(image: Image.Image) -> torch.Tensor:
        levels = np.asarray(image).reshape(image.height, image.width, -1)[..., list(scaling.order)]
        return torch.from_numpy(((levels / 255 - scaling.mean) / scaling.std).transpose(2, 0, 1))

    return map_alike(exactly, evaluation, input_size)


def _rounded(order: tuple[int, ...], mean: np.ndarray, std: np.ndarray) -> PixelScaling:
    """Round mean and std to the fewest digits within float32 rounding: 0.485, not 0.48500001."""
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
