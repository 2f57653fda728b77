"""Images in the color of their class."""

from pathlib import Path
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, Features, Image

NAMES = ["red", "green", "blue"]


def colored(labels: Any, spread: float = 30, shown: Any = None, seed: int = 0) -> Dataset:
    """Return noisy images in the color of their class, or of the classes in `shown`."""
    random = np.random.default_rng(seed)
    colors = np.array([[160, 110, 110], [110, 160, 110], [110, 110, 160]])[labels if shown is None else shown]
    offsets = random.normal(0, spread, (len(labels), 1, 1, 3))
    pixels = colors[:, None, None] + offsets + random.normal(0, 10, (len(labels), 24, 24, 3))
    features = Features(image=Image(), label=ClassLabel(names=NAMES))
    pixels = np.clip(pixels, 0, 255).astype(np.uint8)
    return Dataset.from_dict({"image": list(pixels), "label": list(map(int, labels))}, features=features)


def write_colored(folder: Path, counts: dict[str, int], spread: float = 30) -> Path:
    """Write noisy images into a folder for each class."""
    rows = colored(np.repeat(np.arange(len(counts)), list(counts.values())), spread)
    number = 0
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for index in range(count):
            rows[number]["image"].save(folder / name / f"{index}.png")
            number += 1
    return folder
