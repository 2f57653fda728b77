"""Low-rank adapters in every kind of backbone: a step moves them and the head alone, and merging keeps the outputs."""

from typing import Any

import pytest
import torch
from backbones import zoo
from backbones.test_every_backbone import KINDS, build

import hf_tl
from hf_tl.backbones.stages.adapted import is_adapter
from hf_tl.backbones.stages.freezing import fix_unused, freeze, frozen_tensors
from hf_tl.backbones.weights.digest import digest
from hf_tl.errors import StageError
from hf_tl.lora.layers import adapt, merge, plain_tensors

REFUSED = {"BitForImageClassification": "none that an adapter can stand beside"}
"""Classes without a layer that an adapter can stand beside: BiT normalizes the weights of its convolutions."""


def adaptable() -> list[Any]:
    return [kind for kind in KINDS if kind.values[0] not in (*zoo.NOT_LOADED, *REFUSED)]


@pytest.mark.parametrize("name", adaptable())
def test_a_step_with_adapters(name: str) -> None:
    model, preprocessing = build(name)
    inputs, phase = zoo.batch(model, preprocessing), hf_tl.Phase("all", 1, tuning=hf_tl.LoRA(2))
    plain = {name: type(module) for name, module in model.named_modules()}
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    fix_unused(model, inputs["pixel_values"][:2])
    model.train()(**inputs)  # gives the norms statistics of their own
    model.eval()
    with torch.no_grad():
        before = model(**inputs).logits
        layers = adapt(model, phase, inputs["pixel_values"][:2])
        torch.testing.assert_close(model(**inputs).logits, before, atol=1e-5, rtol=1e-5)
    freeze(model, phase)
    frozen = digest(frozen_tensors(model))
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert sum(is_adapter(name) for name in trained) == 2 * len(layers)
    optimizer = torch.optim.SGD(trained.values(), lr=0.01)
    model.train()(**inputs).logits.square().mean().backward()
    assert [name for name, parameter in trained.items() if parameter.grad is None] == []
    torch.nn.utils.clip_grad_norm_(trained.values(), 1.0)
    optimizer.step()
    assert digest(frozen_tensors(model)) == frozen
    model.eval().double()  # random weights amplify rounding
    inputs = {name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in inputs.items()}
    with torch.no_grad():
        adapted, merged = model(**inputs).logits, plain_tensors(model)
        merge(model)
        torch.testing.assert_close(model(**inputs).logits, adapted, atol=1e-5, rtol=1e-5)
    assert {name: type(module) for name, module in model.named_modules()} == plain
    assert {name: tensor.shape for name, tensor in model.state_dict().items()} == shapes
    assert all(torch.equal(merged[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("name", REFUSED)
def test_a_backbone_without_such_layers_is_refused(name: str) -> None:
    model, preprocessing = build(name)
    pixels = zoo.batch(model, preprocessing)["pixel_values"]
    with pytest.raises(StageError, match=REFUSED[name]):
        adapt(model, hf_tl.Phase("all", 1, tuning=hf_tl.LoRA(2)), pixels)
