"""A small Trainer, and a callback that records its weights."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import ClassLabel, Dataset, Features, Image
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback, TrainingArguments

from hf_tl.backbones.load import load_backbone
from hf_tl.backbones.stages.freezing import frozen_tensors
from hf_tl.data.decoding.images import collate
from hf_tl.strategy import Phase, Strategy

LABELS = ["cat", "dog", "owl"]
SIDE, IMAGES, BATCH = 32, 16, 4
STEPS_PER_EPOCH = IMAGES // BATCH
HEAD = Phase(1, 1, 0.05, warmup_ratio=0.25)
DEEP = Phase(3, 1.5, 0.02, backbone_learning_rate=0.01, layer_decay=0.5, warmup_ratio=0.2, weight_decay=0.1)
TWO_PHASES = Strategy("two phases", (HEAD, DEEP))  # steps 0 to 4 and 4 to 10
REFREEZING = Strategy("refreezing", (DEEP, HEAD, Phase(("layer2",), 0.5, 0.02), Phase(1, 0.5, 0.02, norm="adapt")))


def to_tensors(rows: dict[str, list[Any]]) -> dict[str, Any]:
    pixels = [torch.tensor(np.array(image)).permute(2, 0, 1) / 255 for image in rows["image"]]
    return {"pixel_values": pixels, "labels": rows["label"]}


def make_images() -> Dataset:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (IMAGES, SIDE, SIDE, 3), dtype=np.uint8)
    features = Features(image=Image(), label=ClassLabel(names=LABELS))
    rows = {"image": list(pixels), "label": [index % len(LABELS) for index in range(IMAGES)]}
    return Dataset.from_dict(rows, features=features).with_transform(to_tensors)


class Recorder(TrainerCallback):
    """Callback that records the weights and frozen tensors after each step, and the learning rates of the step."""

    def __init__(self) -> None:
        self.weights: list[dict[str, Tensor]] = []
        self.frozen: list[set[str]] = []
        self.rates: list[dict[str, float]] = []
        self.decays: list[dict[str, float]] = []

    def on_step_begin(self, args: Any, state: Any, control: Any, model: nn.Module, **kwargs: Any) -> None:
        if not self.weights:
            self.weights.append(snapshot(model))

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, optimizer: Any, **kwargs: Any) -> None:
        groups = [group for group in optimizer.param_groups if "name" in group]
        self.rates.append({group["name"].split("/")[0]: group["lr"] for group in groups})
        self.decays.append({group["name"]: group["weight_decay"] for group in groups})

    def on_step_end(self, args: Any, state: Any, control: Any, model: nn.Module, **kwargs: Any) -> None:
        self.weights.append(snapshot(model))
        self.frozen.append(set(frozen_tensors(model)))


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def moved(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


def make_trainer(
    output: Path, images: Dataset, callbacks: list[TrainerCallback], seed: int = 0, **arguments: Any
) -> Trainer:
    torch.manual_seed(seed)
    model, _ = load_backbone("timm:test_resnet", LABELS, Strategy.transfer(), pretrained=False, seed=seed)
    defaults = {"save_strategy": "no", "logging_steps": 1, "per_device_train_batch_size": BATCH, "use_cpu": True}
    arguments = {**defaults, "report_to": "none", "disable_tqdm": True, **arguments}
    evaluated = arguments.pop("eval_dataset", None)
    args = TrainingArguments(str(output), **arguments)
    datasets = {"train_dataset": images, "eval_dataset": evaluated}
    return Trainer(model, args, **datasets, data_collator=collate, callbacks=callbacks)


def module_of(name: str) -> str:
    return name.removeprefix("timm_model.").split(".")[0]
