"""Gradient checkpointing changes memory alone: the same loss, gradients and BatchNorm statistics."""

import copy

import pytest
import timm
import torch
from torch import nn

from hf_tl.backbones.stages.freezing import freeze
from hf_tl.backbones.stages.stage import Stage, list_stages
from hf_tl.optimization.recompute import recomputed_activations


def train_step(model: nn.Module, pixels: torch.Tensor) -> float:
    model.train()
    torch.manual_seed(0)
    loss = nn.functional.cross_entropy(model(pixels), torch.arange(len(pixels)) % 3)
    loss.backward()
    return loss.item()


def freeze_all_but(model: nn.Module, trainable_stages: int | str) -> list[Stage]:
    """Freeze the other stages of a model, and return those that train."""
    frozen = freeze(model, trainable_stages)
    return [stage for stage in list_stages(model) if stage not in frozen]


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_vit", "test_convnext", "test_vit3"])
@pytest.mark.parametrize("trainable_stages", [2, "all"])
def test_a_step_is_the_same_with_and_without(name: str, trainable_stages: int | str) -> None:
    torch.manual_seed(0)
    plain = timm.create_model(name, num_classes=3, drop_rate=0.2, drop_path_rate=0.2)
    trained = freeze_all_but(plain, trainable_stages)
    recomputed = copy.deepcopy(plain)
    pixels = torch.randn(4, 3, 160, 160)
    loss = train_step(plain, pixels)
    with recomputed_activations(recomputed, trained) as names:
        assert names
        assert train_step(recomputed, pixels) == loss
    for (key, expected), parameter in zip(plain.named_parameters(), recomputed.parameters(), strict=True):
        if expected.grad is None:
            assert parameter.grad is None, key
        else:
            torch.testing.assert_close(parameter.grad, expected.grad, msg=key)
    for (key, tensor), other in zip(plain.named_buffers(), recomputed.buffers(), strict=True):
        assert torch.equal(tensor, other), key


def test_only_trained_segments_are_recomputed_in_the_backward_pass() -> None:
    model = timm.create_model("test_resnet", num_classes=3)
    trained = freeze_all_but(model, 2)
    calls = {"layer3": 0, "layer4": 0}
    for layer in calls:
        model.get_submodule(layer)[0].conv1.register_forward_hook(
            lambda *_, layer=layer: calls.__setitem__(layer, calls[layer] + 1)
        )
    with recomputed_activations(model, trained):
        train_step(model, torch.randn(2, 3, 64, 64))
    assert calls == {"layer3": 1, "layer4": 2}
    assert "forward" not in model.layer4.__dict__
