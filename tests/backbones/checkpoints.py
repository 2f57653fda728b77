"""Small real checkpoints on disk, in each form in which they occur."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import transformers
from backbones.processor_classes import pil, tv
from PIL import Image
from safetensors.torch import save_file
from timm.models import save_for_hf
from torch import nn
from transformers import (
    AutoImageProcessor,
    PreTrainedModel,
    ResNetConfig,
    ResNetForImageClassification,
    TimmWrapperConfig,
    TimmWrapperForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

LABELS = ("zebra", "ant", "moth")
PETS = ("cat", "dog", "owl")
"""Labels of another data set."""


def tiny_vit(labels: tuple[str, ...] = LABELS, image_size: int = 32) -> ViTForImageClassification:
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = ViTConfig(image_size=image_size, patch_size=8, id2label=dict(enumerate(labels)), **sizes)
    torch.manual_seed(0)
    return ViTForImageClassification(config).eval()


def tiny_resnet(labels: tuple[str, ...] = LABELS) -> ResNetForImageClassification:
    config = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1], layer_type="basic",
        id2label=dict(enumerate(labels)),
    )  # fmt: skip
    torch.manual_seed(0)
    return ResNetForImageClassification(config).eval()


def save_transformers(model: PreTrainedModel, folder: Path, *, fast: bool = True, size: int = 32) -> Path:
    model.save_pretrained(folder)
    name = (tv if fast else pil)("ViTImageProcessor")
    processor = getattr(transformers, name)(
        size={"height": size, "width": size}, image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.25, 0.3]
    )
    processor.save_pretrained(folder)
    return folder


def timm_network(architecture: str = "test_resnet", labels: tuple[str, ...] = LABELS, **arguments: Any) -> nn.Module:
    torch.manual_seed(0)
    network = timm.create_model(architecture, num_classes=len(labels), **arguments).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return network


def save_timm(network: nn.Module, folder: Path, labels: tuple[str, ...] = LABELS, **config: Any) -> Path:
    """Save like timm's own push: `num_classes` in `model_args`, which transformers passes twice."""
    folder.mkdir(parents=True, exist_ok=True)
    model_config = {"label_names": list(labels), **config}
    model_args = {"num_classes": len(labels)}
    save_for_hf(network, folder, model_config=model_config, model_args=model_args, safe_serialization=True)
    return folder


def save_wrapper(network: nn.Module, folder: Path, id2label: dict[int, str]) -> Path:
    """Save like transformers' wrapper: `model_args: null`, prefixed keys, names in the order of the dictionary."""
    config = TimmWrapperConfig(
        architecture=network.pretrained_cfg["architecture"],
        pretrained_cfg={k: v for k, v in network.pretrained_cfg.items() if k != "num_classes"},
        num_features=network.num_features,
        id2label=id2label,
    )
    model = TimmWrapperForImageClassification(config)
    model.timm_model.load_state_dict(network.state_dict())
    model.save_pretrained(folder)
    return folder


def edit_config(folder: Path, **changes: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def save_weights(network: nn.Module, file: Path) -> Path:
    save_file(network.state_dict(), file)
    return file


def photo(width: int = 90, height: int = 70) -> Image.Image:
    """Draw an image of random pixels."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def labels_of(model: PreTrainedModel) -> tuple[str, ...]:
    return tuple(model.config.id2label[index] for index in range(model.config.num_labels))


def own_transform(folder: Path) -> Callable[[Image.Image], torch.Tensor]:
    """Return the evaluation transform of a checkpoint, as transformers runs it."""
    processor = AutoImageProcessor.from_pretrained(folder)
    return lambda image: processor(image, return_tensors="pt")["pixel_values"][0]
