"""Activation maps: against closed forms, and on every kind of network."""

import copy

import pytest
import torch
from backbones import zoo
from backbones.checkpoints import tiny_resnet, tiny_vit
from torch import Tensor, nn
from torch.nn import functional

from hf_tl.backbones.stages.freezing import freeze
from hf_tl.errors import ModelError
from hf_tl.evaluation.activation_maps import _as_grid, class_activation_maps

CLASSES = [0, 1, 2, 0]


def scaled(maps: Tensor, size: int) -> Tensor:
    maps = functional.interpolate(maps.relu()[:, None], (size, size), mode="bilinear")[:, 0].detach()
    return maps / maps.amax((1, 2), keepdim=True).clamp_min(1e-12)


@pytest.mark.parametrize("frozen", [False, True])
def test_with_pooling_and_one_layer_it_is_the_weighted_sum_of_the_last_maps(frozen: bool) -> None:
    """CAM (Zhou et al. 2016) is the special case of Grad-CAM; frozen stages do not block the gradient."""
    model, images = tiny_resnet(), torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    if frozen:
        freeze(model, 1)
    features, weights = model.resnet(images).last_hidden_state, model.classifier[1].weight[CLASSES]
    expected = scaled((features * weights[:, :, None, None]).sum(1), 64)
    assert expected.amax() == 1
    torch.testing.assert_close(class_activation_maps(model, images, CLASSES), expected, rtol=1e-4, atol=1e-4)


def test_where_only_the_class_token_is_read_the_block_before_it_is_taken() -> None:
    model, images = tiny_vit(), torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    before_last = model.vit(images, output_hidden_states=True).hidden_states[1].detach().requires_grad_()
    states = (
        model.vit.layers[1](before_last) if hasattr(model.vit, "layers") else model.vit.encoder.layer[1](before_last)
    )
    states = states[0] if isinstance(states, tuple) else states
    logits = model.classifier(model.vit.layernorm(states)[:, 0])
    (slopes,) = torch.autograd.grad(logits[range(4), CLASSES].sum(), before_last)
    maps = (slopes[:, 1:].mean(1, keepdim=True) * before_last[:, 1:]).sum(-1).reshape(4, 4, 4)
    torch.testing.assert_close(class_activation_maps(model, images, CLASSES), scaled(maps, 32), rtol=1e-3, atol=1e-4)


def test_the_model_stays_as_it_was() -> None:
    model = tiny_resnet().train()
    before = copy.deepcopy(model.state_dict())
    class_activation_maps(model, torch.randn(4, 3, 64, 64), CLASSES)
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not [module for module in model.modules() if module._forward_hooks]


@pytest.mark.parametrize(
    ("shape", "size", "expected"),
    [
        ((2, 8, 7, 7), (224, 224), (2, 8, 7, 7)),
        ((2, 7, 7, 8), (224, 224), (2, 8, 7, 7)),
        ((2, 197, 8), (224, 224), (2, 8, 14, 14)),
        ((2, 201, 8), (224, 224), (2, 8, 14, 14)),
        ((2, 196, 8), (224, 224), (2, 8, 14, 14)),
        ((2, 29, 8), (64, 112), (2, 8, 4, 7)),
        ((2, 21, 8), (64, 64), (2, 8, 4, 4)),
        ((2, 22, 8), (64, 64), (2, 8, 4, 4)),
        ((2, 36, 8), (64, 112), (2, 8, 4, 7)),
        ((2, 37, 8), (64, 112), None),
        ((2, 205, 8), (224, 224), None),
        ((2, 8, 4, 7), (64, 112), (2, 8, 4, 7)),
        ((2, 8, 1, 1), (224, 224), None),
        ((2, 3, 197, 64), (224, 224), None),
        ((2, 8), (224, 224), None),
        ((2, 1, 8), (224, 224), None),
    ],
)
def test_outputs_are_viewed_as_a_grid_of_the_image(
    shape: tuple[int, ...], size: tuple[int, int], expected: tuple[int, ...] | None
) -> None:
    grid = _as_grid(torch.zeros(shape), size)
    assert (None if grid is None else tuple(grid.shape)) == expected


SOME = (
    "coat_tiny",
    "levit_128s",
    "test_convnext",
    "test_vit",
    "tnt_s_legacy_patch16_224",
    "SwinForImageClassification",
)
"""Models with all kinds of outputs: maps, tokens with and without extra ones, windows within patches, channels last."""


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in SOME else pytest.mark.slow)
        for name in (*zoo.TIMM, *zoo.TRANSFORMERS)
        if name not in zoo.NOT_LOADED and not name.startswith("Perceiver")
    ],
)
def test_every_kind_of_network_has_maps(name: str) -> None:
    torch.manual_seed(0)
    model, preprocessing = zoo.build_timm(name) if name in zoo.TIMM else zoo.build_transformers(name)
    images = zoo.batch(model, preprocessing, 2)["pixel_values"]
    maps = class_activation_maps(model, images, [0, 1])
    assert maps.shape == (2, *preprocessing.input_size[1:])
    assert maps.min() >= 0
    assert all(float(values.max()) in (0.0, pytest.approx(1.0)) for values in maps)


def test_class_tokens_are_not_part_of_the_grid() -> None:
    tokens = torch.arange(5.0)[None, :, None]
    assert _as_grid(tokens, (32, 32)).flatten().tolist() == [1, 2, 3, 4]


def test_a_network_without_maps_is_an_error() -> None:
    model = tiny_resnet()
    model.resnet.encoder.stages[0].layers[0].layer[0].convolution.stride = (64, 64)
    model.resnet.encoder.stages[0].layers[0].shortcut = nn.AdaptiveAvgPool2d(1)
    model.resnet.embedder = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(3, 8, 1))
    with pytest.raises(ModelError, match="no activation map: expected a stage"):
        class_activation_maps(model, torch.randn(1, 3, 64, 64), [0])
