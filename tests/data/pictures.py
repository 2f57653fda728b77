"""Small pictures, and the type of the fixture that writes folders of them."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

WriteFolder = Callable[[Mapping[str, int]], Path]


def picture(number: int, size: tuple[int, int] = (12, 10)) -> Image.Image:
    """Return an image that is distinct for each number."""
    rng = np.random.default_rng(number)
    return Image.fromarray(rng.integers(0, 256, (*size[::-1], 3), dtype=np.uint8))


def palette_with_alpha(size: tuple[int, int], alpha: int) -> Image.Image:
    """Make an image of mode PA; older versions of Pillow lose the alpha when they convert to that mode."""
    image = Image.new("RGB", size).convert("PA")
    image.putalpha(alpha)
    return image
