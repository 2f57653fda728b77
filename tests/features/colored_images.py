"""Datasets of images in the color of their class, as shards of parquet files."""

from pathlib import Path

import numpy as np
from datasets import ClassLabel, Dataset, Features, Image

SHARDS, IMAGES, SIDE = 3, 30, 96


def colored(images: int, first: int = 0) -> Dataset:
    """Return noisy images in the color of their class; all images are distinct."""
    random = np.random.default_rng(first)
    colors = [(200, 40, 40), (40, 200, 40), (40, 40, 200)]
    noise = random.integers(-40, 40, (images, SIDE, SIDE, 3))
    pixels = [np.clip(np.array(colors[i % 3]) + noise[i], 0, 255).astype(np.uint8) for i in range(images)]
    features = Features(image=Image(), label=ClassLabel(names=["red", "green", "blue"]))
    return Dataset.from_dict({"image": pixels, "label": [i % 3 for i in range(images)]}, features=features)


def write_shards(folder: Path, shards: int = SHARDS, images: int = IMAGES) -> Path:
    folder.mkdir()
    for number in range(shards):
        colored(images, first=number).to_parquet(folder / f"train-{number}.parquet", batch_size=16)
    return folder
