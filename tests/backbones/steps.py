"""Small models, and training steps that change every parameter with a gradient."""

import timm
import torch
from torch import nn

from hf_tl.backbones.stages.stage import list_stages

SIZE = 64


def build(architecture: str = "test_resnet", **arguments: object) -> nn.Module:
    """Build a model in which every parameter gets a gradient: initial gains of zero block gradients."""
    torch.manual_seed(0)
    model = timm.create_model(architecture, num_classes=3, **arguments)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def images(count: int = 4, size: int = SIZE) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


def train_step(model: nn.Module, pixels: torch.Tensor) -> None:
    """Take one step of SGD at a learning rate at which every parameter with a gradient changes."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    model.train()
    logits = model(pixels)
    logits = getattr(logits, "logits", logits)
    nn.functional.cross_entropy(logits, torch.arange(len(pixels)) % 3).backward()
    optimizer.step()


def frozen_modules_in_training(model: nn.Module, trainable_stages: int) -> list[str]:
    modules = dict(model.named_modules())
    frozen = list_stages(model)[:-trainable_stages]
    return [name for stage in frozen for name in stage.module_names if modules[name].training]


def snapshot(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}
