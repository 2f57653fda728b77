"""Small labeled images, and a training on them, for tests of whole runs."""

from pathlib import Path
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, Features, Image, List, Value
from PIL import Image as Pillow

import hf_tl

LABELS = ["dark", "light"]
QUICK: dict[str, Any] = {"report_to": "none", "per_device_train_batch_size": 8, "feature_cache": "off"}


def make_dataset(images: int = 40, *, noise: int = 0, seed: int = 0) -> Dataset:
    """Return dark and light images of 32 px; `noise` of the labels are wrong."""
    values = np.random.default_rng(seed)
    pictures, labels = [], []
    for number in range(images):
        label = number % 2
        pixels = values.integers(0, 120, (32, 32, 3)) + 130 * label
        pictures.append(Pillow.fromarray(pixels.astype(np.uint8)))
        labels.append(1 - label if number < noise else label)
    features = Features({"image": Image(), "label": ClassLabel(names=LABELS)})
    return Dataset.from_dict({"image": pictures, "label": labels}, features=features)


def make_tags(images: int, seed: int) -> Dataset:
    """Return images with any number of three tags, often without one of them."""
    values = np.random.default_rng(seed)
    pictures = [Pillow.fromarray(values.integers(0, 255, (32, 32, 3)).astype(np.uint8)) for _ in range(images)]
    tags = [[name for name in "abc" if values.random() < 0.3] for _ in range(images)]
    tags[:3] = [["a"], ["b"], ["c"]]
    tags[3:6] = [["a"], ["b"], ["c"]]
    return Dataset.from_dict(
        {"image": pictures, "label": tags}, features=Features({"image": Image(), "label": List(Value("string"))})
    )


def write_folder(dataset: Dataset, folder: Path) -> Path:
    """Write a dataset as one folder of PNG files for each class."""
    for number, row in enumerate(dataset):
        place = folder / LABELS[row["label"]]
        place.mkdir(parents=True, exist_ok=True)
        row["image"].save(place / f"{number:03d}.png")
    return folder


def backbone(strategy: hf_tl.Strategy | None = None, **options: Any) -> tuple[Any, Any]:
    settings: dict[str, Any] = {"pretrained": False, "image_size": 32, **options}
    return hf_tl.load_backbone("timm:test_resnet", LABELS, strategy, **settings)
