"""Low-rank adapters in every kind of backbone, in its last stages, in half of them and in all.

A step moves them and the head alone, merging keeps the outputs, and the merged model loads elsewhere.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from backbones import zoo
from backbones.checks import check_saved
from backbones.reload import Reloader
from backbones.test_every_backbone import CLASSICS, KINDS, build
from transformers import PreTrainedModel

import hf_tl
from hf_tl.backbones.stages.adapted import is_adapter
from hf_tl.backbones.stages.freezing import fix_unused, freeze, frozen_tensors
from hf_tl.backbones.stages.stage import list_stages
from hf_tl.backbones.weights.digest import digest
from hf_tl.errors import StageError
from hf_tl.lora.layers import adapt, merge, plain_tensors

REFUSED = {"BitForImageClassification": "none that an adapter can stand beside"}
"""Classes without a layer that an adapter can stand beside: BiT normalizes the weights of its convolutions."""


def adaptable() -> list[Any]:
    return [kind for kind in KINDS if kind.values[0] not in (*zoo.NOT_LOADED, *REFUSED)]


@pytest.mark.parametrize("name", adaptable())
def test_adapters_at_three_depths(name: str, plain: Reloader, with_classics: Reloader, tmp_path: Path) -> None:
    """Add adapters, take a step, merge them; then the model loads in transformers and timm alone."""
    model, preprocessing = build(name)
    inputs, count = zoo.batch(model, preprocessing), len(list_stages(model))
    fix_unused(model, inputs["pixel_values"][:2])
    model.train()(**inputs)  # gives the norms statistics of their own
    adapted = [check_adapters(model, inputs, depth) for depth in sorted({2, (count + 1) // 2, count})]
    assert adapted == sorted(adapted)
    assert adapted[-1] > 0
    freeze(model.eval(), 1)
    check_saved(model, preprocessing, inputs, with_classics if name in CLASSICS else plain, tmp_path)


def check_adapters(model: PreTrainedModel, inputs: dict[str, torch.Tensor], depth: int) -> int:
    """Take a step with adapters in the last stages, merge them, and return how many layers had one."""
    phase = hf_tl.Phase(depth, 1, tuning=hf_tl.LoRA(2))
    stages = [(stage.name, stage.plain_names) for stage in list_stages(model)]
    types = {name: type(module) for name, module in model.named_modules()}
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    model.eval()
    with torch.no_grad():
        before = model(**inputs).logits
        try:
            layers = adapt(model, phase, inputs["pixel_values"][:2])
        except StageError as error:
            assert "none that an adapter can stand beside in" in str(error)  # noqa: PT017  # most depths raise none
            return 0
        torch.testing.assert_close(model(**inputs).logits, before, atol=1e-5, rtol=1e-5)
    assert [(stage.name, stage.plain_names) for stage in list_stages(model)] == stages
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
    check_merge(model, inputs)
    assert {name: type(module) for name, module in model.named_modules()} == types
    assert {name: tensor.shape for name, tensor in model.state_dict().items()} == shapes
    model.zero_grad()
    return len(layers)


def check_merge(model: PreTrainedModel, inputs: dict[str, torch.Tensor]) -> None:
    """Merge adapters: the logits stay the same, and the tensors are those that `plain_tensors` returns."""
    model.eval().double()  # random weights amplify rounding
    doubled = {name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in inputs.items()}
    with torch.no_grad():
        adapted, merged = model(**doubled).logits, plain_tensors(model)
        merge(model)
        torch.testing.assert_close(model(**doubled).logits, adapted, atol=1e-5, rtol=1e-5)
    assert all(torch.equal(merged[name], tensor) for name, tensor in model.state_dict().items())
    model.float().train()  # LeViT drops what it cached in eval mode


@pytest.mark.parametrize("name", REFUSED)
def test_a_backbone_without_such_layers_is_refused(name: str) -> None:
    model, preprocessing = build(name)
    pixels = zoo.batch(model, preprocessing)["pixel_values"]
    with pytest.raises(StageError, match=REFUSED[name]):
        adapt(model, hf_tl.Phase("all", 1, tuning=hf_tl.LoRA(2)), pixels)
