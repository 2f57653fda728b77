"""Small saved models of both libraries, and images in folders of their classes."""

from pathlib import Path

import numpy as np
from backbones.checkpoints import LABELS
from PIL import Image

SIZES = ((40, 52), (64, 33), (57, 57), (90, 41))


def write_images(folder: Path, train: int = 8, test: int = 6) -> Path:
    """Write noisy images of three colors and different sizes, in `train` and `test` folders of the labels."""
    random = np.random.default_rng(0)
    for split, count in (("train", train), ("test", test)):
        for place, label in enumerate(LABELS):
            (folder / split / label).mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 120, (*SIZES[number % len(SIZES)], 3))
                pixels[..., place] += 120
                Image.fromarray(pixels.astype(np.uint8)).save(folder / split / label / f"{number}.png")
    return folder
