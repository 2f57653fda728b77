"""Search for the boundary: networks that cannot be cut, what the search leaves unchanged, every backbone."""

import pytest
import torch
from backbones import zoo
from backbones.parts import (
    IMAGE,
    assert_unchanged,
    build_timm,
    build_transformers,
    close,
    draw,
    features_of,
    find,
    state_of,
)
from torch import Tensor, nn

from hf_tl.backbones.prefix.search import find_boundary
from hf_tl.backbones.stages.freezing import freeze
from hf_tl.backbones.stages.stage import list_stages
from hf_tl.errors import StageError


@pytest.mark.parametrize("mode", [True, False])
def test_the_search_restores_the_mode_of_the_network(mode: bool) -> None:
    model = build_timm("test_resnet")
    freeze(model, 2)
    find(model.train(mode), IMAGE)
    assert model.training is mode


class Noise(nn.Module):
    """Module that draws random numbers in any mode."""

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.randn_like(x)


class Changeable(nn.Module):
    """Frozen module whose output depends on whether the network trains."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.network = (model,)

    def forward(self, x: Tensor) -> Tensor:
        return 2 * x if self.network[0].training else x


@pytest.mark.parametrize("kind", [Noise, Changeable])
def test_frozen_parts_that_are_random_or_depend_on_the_mode_are_refused(kind: type[nn.Module]) -> None:
    model = build_timm("test_resnet")
    block = model.timm_model.layer2[0]
    block.act2 = nn.Sequential(block.act2, kind() if kind is Noise else kind(model))
    freeze(model, 2)
    before = state_of(model)
    with pytest.raises(StageError, match=r"random or depends on the training mode|not outputs of frozen modules"):
        find_boundary(model, IMAGE)
    assert_unchanged(model, before)


def test_a_network_without_frozen_stages_is_not_cut() -> None:
    model = build_timm("test_resnet")
    freeze(model, "all")
    with pytest.raises(StageError, match="no frozen module precedes all trained modules"):
        find_boundary(model, IMAGE)


def test_an_input_of_an_unsupported_size_is_an_error() -> None:
    model = build_transformers("ViTForImageClassification")
    freeze(model, 1)
    before = state_of(model)
    with pytest.raises(StageError, match=r"cannot be run in parts .*ValueError"):
        find_boundary(model, (3, 48, 80))
    assert_unchanged(model, before)


def test_boundaries_have_different_digests() -> None:
    model = build_timm("test_resnet")
    digests = []
    for depth in (1, 2, 3):
        freeze(model, depth)
        digests.append(find(model, IMAGE).digest())
        assert find(model, IMAGE).digest() == digests[-1]
    freeze(model, 1)
    digests.append(find(model, (3, 96, 96)).digest())  # pooled features have the same shape for all sizes
    assert len(set(digests)) == 4


CANNOT = {
    "ImageGPTForImageClassification": "either input_ids or inputs_embeds",
    "PPLCNetForImageClassification": "no attribute 'logits'",
    "Siglip2ForImageClassification": "shapes cannot be multiplied",
}
"""Reason why each of these models of the zoo is not cut at its head. Models without images or logits: see
`zoo.NOT_LOADED`."""


def try_all_depths(name: str) -> dict[str, str]:
    """Try to cut a model of the zoo before each stage, and to run both parts; return the errors by depth."""
    model, preprocessing = zoo.build_timm(name) if name in zoo.TIMM else zoo.build_transformers(name)
    image = preprocessing.input_size
    pixel_values = draw(image, 3)
    outcomes = {}
    for depth in range(1, len(list_stages(model))):
        frozen = freeze(model, depth)
        try:
            boundary = find_boundary(model, image)
        except StageError as error:
            outcomes[str(depth)] = str(error)
            continue
        features = features_of(boundary, model, pixel_values)
        with torch.no_grad():
            expected = model(pixel_values=pixel_values).logits
            same = close(boundary.logits(model, [rows.clone() for rows in features]), expected, 1e-3)
        outcomes[str(depth)] = "" if same and len(frozen) == len(list_stages(model)) - depth else "other logits"
    return outcomes


@pytest.mark.slow
@pytest.mark.parametrize("name", [*zoo.TIMM, *zoo.TRANSFORMERS])
def test_every_backbone_is_cut(name: str) -> None:
    outcomes = try_all_depths(name)
    print(f"{name}: {sum(not text for text in outcomes.values())} of {len(outcomes)} boundaries", outcomes)
    if name in CANNOT:
        assert CANNOT[name] in outcomes["1"]
        return
    assert outcomes["1"] == ""
    assert "other logits" not in outcomes.values()
