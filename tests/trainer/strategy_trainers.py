"""Small data, models and runs of `StrategyTrainer`, and of the Accelerate loop beside it."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import ClassLabel, Dataset, Features, Image
from transformers import PreTrainedModel, TrainingArguments

import hf_tl
from hf_tl.data.datasets import ImageData, load_data
from hf_tl.data.decoding.images import Transforms

LABELS = ["blue", "green", "red"]
SIDE, BATCH = 32, 8
TIMM = "timm:test_resnet"


def make_data(images: int = 90) -> ImageData:
    """Draw images of noise with a tint that tells their class; 64 of 90 are training images, eight batches."""
    rng, labels = np.random.default_rng(0), [index % 3 for index in range(images)]
    tint = 90 * np.eye(3)[::-1]
    pixels = [np.clip(rng.integers(0, 160, (SIDE, SIDE, 3)) + tint[label], 0, 255).astype(np.uint8) for label in labels]
    features = Features(image=Image(), label=ClassLabel(names=LABELS))
    rows = Dataset.from_dict({"image": pixels, "label": labels}, features=features)
    return load_data(rows, dataset_name="tints", test_fraction=0.2, validation_fraction=8 / 72)


def make_model(name: str = TIMM, labels: list[str] | None = None) -> tuple[PreTrainedModel, Transforms]:
    torch.manual_seed(0)
    return hf_tl.load_backbone(name, labels or LABELS, pretrained=False, image_size=SIDE)


def make_args(output: Path, **settings: Any) -> TrainingArguments:
    defaults = {"report_to": "none", "disable_tqdm": True, "use_cpu": True, "seed": 0, "save_strategy": "no"}
    sizes = {"per_device_train_batch_size": BATCH, "eval_strategy": "epoch"}
    return TrainingArguments(str(output), **{**defaults, **sizes, **settings})


def make_trainer(
    output: Path, strategy: Any, data: ImageData, *, corruptions: bool = False, **settings: Any
) -> hf_tl.StrategyTrainer:
    model, transforms = make_model()
    args = make_args(output, **settings)
    return hf_tl.StrategyTrainer(
        model, args, strategy=strategy, data=data, transforms=transforms, corruptions=corruptions
    )
