"""A small trained teacher, and students that it teaches."""

from pathlib import Path
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as Pillow

import hf_tl

LABELS = ["dark", "light"]
QUICK: dict[str, Any] = {"report_to": "none", "per_device_train_batch_size": 12, "feature_cache": "off"}
TEACHER = "teacher"


def make_dataset(images: int = 48, seed: int = 0, names: list[str] | None = None, *, random: bool = False) -> Dataset:
    """Return dark and light images of 32 px; with `random` labels, half of each class has the wrong one."""
    values = np.random.default_rng(seed)
    pictures, labels = [], []
    for number in range(images):
        is_light = number % 2
        pixels = values.integers(0, 120, (32, 32, 3)) + 130 * is_light
        pictures.append(Pillow.fromarray(pixels.astype(np.uint8)))
        labels.append(LABELS[number // 2 % 2 if random else is_light])
    names = names or LABELS
    rows = {"image": pictures, "label": [names.index(label) for label in labels]}
    return Dataset.from_dict(rows, features=Features({"image": Image(), "label": ClassLabel(names=names)}))


def backbone(labels: list[str] | None = None, **options: Any) -> tuple[Any, Any]:
    return hf_tl.load_backbone("timm:test_resnet", labels or LABELS, pretrained=False, **{"image_size": 32, **options})


LEARNING = hf_tl.Phase("all", 4, 0.003, augmentation="none", batch_norm="keep")
"""Phase that tells dark from light: 20 steps, too few for statistics of BatchNorm."""


def train_teacher(folder: Path, dataset: Any = None, **options: Any) -> hf_tl.RunResult:
    """Train a teacher on images of its own; its classes are in the other order, and its input is larger."""
    names = LABELS[::-1]
    model, transforms = backbone(names, **{"image_size": 48, **options})
    dataset = make_dataset(80, 100, names) if dataset is None else dataset
    return hf_tl.train(model, dataset, [LEARNING], transforms=transforms, output_dir=str(folder), **QUICK)


def train_student(
    folder: Path, teacher: Any, strategy: Any = None, dataset: Any = None, **settings: Any
) -> hf_tl.RunResult:
    model, transforms = backbone()
    strategy = hf_tl.Strategy.full(epochs=1) if strategy is None else strategy
    dataset = make_dataset() if dataset is None else dataset
    return hf_tl.train(
        model,
        dataset,
        strategy,
        transforms=transforms,
        teacher=teacher,
        output_dir=str(folder),
        **{**QUICK, **settings},
    )


def losses(result: hf_tl.RunResult) -> list[float]:
    return [entry["train_loss"] for entry in result.record.history]
