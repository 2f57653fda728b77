"""Small trained and calibrated model, and images unlike those that it was trained on."""

from pathlib import Path

import numpy as np
from cli.runs import TINY, write_images
from PIL import Image

from hf_tl.cli import main

ENOUGH = ["--accept", "0.8", "--coverage", "0.7"]
"""Shares that few validation images allow."""


def write_foreign(folder: Path) -> Path:
    """Write four images of stripes, where the model knows plain colors."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = 255 * (np.arange(24)[:, None] // 2 % 2) * np.ones((24, 30))
    for number in range(4):
        Image.fromarray(np.roll(lines, number, axis=0).astype(np.uint8)).save(folder / f"{number}.png")
    return folder


def train(folder: Path, *words: str) -> Path:
    """Train on the new folder `photos`, and return the folder of the model beside it."""
    photos = write_images(folder / "photos", 30)
    main(["train", "--dataset", str(photos), "--output_dir", str(folder / "model"), *words, *TINY])
    return folder / "model"


def calibrate(model: Path) -> None:
    """Calibrate a model that `train` made, or a copy beside the same images."""
    main(["calibrate", str(model), "--dataset", str(model.parent / "photos"), *ENOUGH])
