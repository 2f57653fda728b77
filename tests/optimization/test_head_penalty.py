"""The penalty on the distance of a head from its starting weights: its value, its effect, and what it replaces."""

import itertools

import pytest
import torch
from torch import nn

import hf_tl
from hf_tl.backbones.stages.freezing import freeze
from hf_tl.backbones.stages.stage import list_stages
from hf_tl.errors import ConfigError
from hf_tl.optimization.head_penalty import HeadPenalty, check_head_penalty
from hf_tl.optimization.optim import parameter_groups
from hf_tl.strategy import Phase

LABELS = ["ant", "moth", "zebra"]


@pytest.fixture
def model() -> nn.Module:
    return hf_tl.load_backbone("timm:test_resnet", LABELS, pretrained=False, image_size=32)[0]


def layer_of(model: nn.Module) -> nn.Linear:
    return model.timm_model.fc  # type: ignore[union-attr,return-value]


def penalty_of(model: nn.Module) -> HeadPenalty:
    return HeadPenalty(model, list_stages(model)[-1])


@pytest.mark.parametrize("scale", [1e-3, 1.0, 50.0])
def test_the_value_is_the_sum_of_relative_squared_distances(model: nn.Module, scale: float) -> None:
    """The scale of the logits cancels out."""
    layer = layer_of(model)
    layer.weight.data *= scale
    penalty, start = penalty_of(model), layer.weight.detach().clone()
    assert float(penalty(model, 2.0)) == 0
    layer.weight.data[0] *= 1.5
    layer.weight.data[1] *= 3
    layer.bias.data += 7  # free
    assert float(penalty(model, 2.0)) == pytest.approx(2 * (0.5**2 + 2**2), rel=1e-5)
    assert penalty(model, 0.0) == 0.0
    layer.weight.data.copy_(start)
    assert float(penalty(model, 2.0)) == 0


def test_a_stronger_penalty_keeps_a_fitted_head_nearer(model: nn.Module) -> None:
    layer, labels = layer_of(model), torch.arange(60) % 3
    torch.manual_seed(0)
    features = torch.randn(60, layer.in_features)
    start, distances = layer.weight.detach().clone(), []
    for strength in (0.0, 0.01, 1.0, 100.0):
        layer.weight.data.copy_(start)
        penalty = penalty_of(model)
        optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=200)

        def closure(
            strength: float = strength, penalty: HeadPenalty = penalty, optimizer: torch.optim.LBFGS = optimizer
        ) -> torch.Tensor:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(layer(features), labels) + penalty(model, strength)
            loss.backward()
            return loss

        optimizer.step(closure)
        distances.append(float((layer.weight - start).norm()))
    assert all(near < 0.7 * far for far, near in itertools.pairwise(distances))
    assert distances[-1] > 0


@pytest.mark.parametrize(("strength", "decay"), [(0.0, 0.05), (1.0, 0.0)])
def test_the_penalty_replaces_the_weight_decay_of_the_head(model: nn.Module, strength: float, decay: float) -> None:
    phase = Phase(2, 1, head_penalty=strength)
    freeze(model, phase)
    groups = parameter_groups(model, list_stages(model), phase)
    [head] = [group for group in groups for tensor in group["params"] if tensor is layer_of(model).weight]
    assert head["weight_decay"] == decay
    assert any(group["weight_decay"] == 0.05 for group in groups if group is not head)  # of the backbone


def test_a_penalty_towards_random_weights_is_refused(model: nn.Module) -> None:
    check_head_penalty(model, [Phase(1, 1)])
    with pytest.raises(ConfigError, match="those of a new head are random"):
        check_head_penalty(model, [Phase(1, 1), Phase(2, 1, head_penalty=0.5)])
