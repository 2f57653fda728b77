"""Generated photos: smooth random colors, distinct for each number, and altered copies of them."""

import io
from pathlib import Path

import numpy as np
from PIL import Image


def scene(number: int, size: tuple[int, int] = (96, 72), mean: int = 128) -> Image.Image:
    """Return a photo that is distinct for each number."""
    random = np.random.default_rng(number)
    coarse = np.clip(random.normal(mean, 50, (7, 9, 3)), 0, 255).astype(np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def recompressed(image: Image.Image, quality: int = 40) -> Image.Image:
    """Return an image after saving it as a JPEG of low quality."""
    output = io.BytesIO()
    image.save(output, "JPEG", quality=quality)
    return Image.open(io.BytesIO(output.getvalue()))


def cropped(image: Image.Image, x: float = 0.03, y: float = 0.01, share: float = 0.95) -> Image.Image:
    """Return a part of an image, which begins at shares x and y of its sides."""
    width, height = image.size
    corner = round(x * width), round(y * height)
    return image.crop((*corner, corner[0] + round(share * width), corner[1] + round(share * height)))


def write_scenes(folder: Path, counts: dict[str, int], first: int = 0) -> Path:
    """Write photos into class folders: {"train/cat": 3} sets the number of images of each.

    Files are numbered through all folders.
    """
    number = first
    for place, (name, count) in enumerate(counts.items()):
        (folder / name).mkdir(parents=True)
        for _ in range(count):
            scene(number, mean=90 + 70 * (place % 2)).save(folder / name / f"{number}.png")
            number += 1
    return folder
