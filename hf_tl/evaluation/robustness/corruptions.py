"""Common corruptions of images: five of ImageNet-C, each at its severities 1, 3 and 5.

Hendrycks and Dietterich 2019, https://arxiv.org/abs/1903.12261, which states the strengths for images of 224 pixels. A
corruption is applied to what the network sees: the image after resizing and cropping, as in ImageNet-C. So a strength
means the same for a photo of 4,000 pixels and for an image of 32 pixels. Blur is measured in shares of the side of the
image, so that it means the same for every input size.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256

import numpy as np
from PIL import Image, ImageFilter

REFERENCE_SIDE = 224
"""Side in pixels of the images that the strengths of ImageNet-C are stated for."""
LEVELS = 255


@dataclass(frozen=True)
class Corruption:
    """A kind of corruption, and its strengths."""

    key: str
    """Name in a record."""
    name: str
    """Name as shown to readers."""
    strengths: tuple[float, ...]
    """Strengths in ascending severity."""
    unit: str
    """Meaning of a strength, for the legend of a table."""
    apply: Callable[[Image.Image, float], Image.Image]
    """Function from an RGB or gray image and a strength to the corrupted image."""

    @property
    def legend(self) -> str:
        """Name with the meaning and the values of the strengths.

        >>> CORRUPTIONS[0].legend
        'Gaussian noise (standard deviation 0.08, 0.18, 0.38 of the range)'
        """
        return f"{self.name} ({self.unit.format(', '.join(f'{strength:g}' for strength in self.strengths))})"


def _add_noise(image: Image.Image, deviation: float) -> Image.Image:
    pixels = np.asarray(image)
    # drawn from the content: the same image gets the same noise in every order, batch and process
    seed = int.from_bytes(sha256(pixels.tobytes()).digest()[:8])
    noise = np.random.default_rng(seed).normal(0, deviation * LEVELS, pixels.shape)
    return _as_image(pixels + noise)


def _blur(image: Image.Image, deviation: float) -> Image.Image:
    side = min(image.size)
    return image.filter(ImageFilter.GaussianBlur(deviation * side / REFERENCE_SIDE))


def _compress(image: Image.Image, quality: float) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=round(quality))
    with Image.open(stream) as compressed:
        return compressed.convert(image.mode)


def _brighten(image: Image.Image, amount: float) -> Image.Image:
    """Add to the value of HSV, the largest of the channels; hue and saturation stay."""
    pixels = np.asarray(image).astype(np.float64)
    value = pixels if image.mode == "L" else pixels.max(axis=2, keepdims=True)
    brighter = np.minimum(value + amount * LEVELS, LEVELS)
    return _as_image(np.where(value > 0, pixels / np.maximum(value, 1) * brighter, brighter))


def _flatten(image: Image.Image, factor: float) -> Image.Image:
    """Reduce the contrast of each channel around its mean."""
    pixels = np.asarray(image).astype(np.float64)
    mean = pixels.mean(axis=(0, 1), keepdims=True)
    return _as_image((pixels - mean) * factor + mean)


def _as_image(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels.round().clip(0, LEVELS).astype(np.uint8))


CORRUPTIONS = (
    Corruption(
        "gaussian_noise", "Gaussian noise", (0.08, 0.18, 0.38), "standard deviation {} of the range", _add_noise
    ),
    Corruption("gaussian_blur", "Gaussian blur", (1, 3, 6), "standard deviation {} of 224 pixels", _blur),
    Corruption("jpeg", "JPEG", (25, 15, 7), "quality {}", _compress),
    Corruption("brightness", "Brightness", (0.1, 0.3, 0.5), "{} of the range added to the HSV value", _brighten),
    Corruption("contrast", "Contrast", (0.4, 0.2, 0.05), "differences from the mean times {}", _flatten),
)
NAMES = {corruption.key: corruption.name for corruption in CORRUPTIONS}
VARIANTS = tuple((corruption, strength) for corruption in CORRUPTIONS for strength in corruption.strengths)
"""All corruptions at all strengths, in the order of the results."""


def corrupt(image: Image.Image) -> list[Image.Image]:
    """Return a corrupted copy of an RGB or gray image for each of `VARIANTS`."""
    return [corruption.apply(image, strength) for corruption, strength in VARIANTS]
