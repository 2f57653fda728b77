"""The frozen part run fast in training: the same logits and gradients, and a network that is left as it was."""

import contextlib

import pytest
import torch
from backbones import zoo
from backbones.test_every_backbone import build
from torch import Tensor, nn
from transformers import PreTrainedModel

from hf_tl.backbones.prefix.fast import FastPrefix
from hf_tl.backbones.prefix.search import find_boundary
from hf_tl.backbones.stages.freezing import fix_unused, freeze

BACKBONES = (
    *("test_resnet", "test_vit", "test_convnext", "lcnet_035", "test_nfnet", "vgg11"),
    *("SwinForImageClassification", "ResNetForImageClassification"),
)


def ready(name: str) -> tuple[PreTrainedModel, FastPrefix, dict[str, Tensor]]:
    model, preprocessing = build(name)
    inputs = zoo.batch(model, preprocessing)
    fix_unused(model, inputs["pixel_values"][:2])
    model.train()(**inputs)  # gives the norms statistics of their own
    freeze(model, 2)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    boundary = find_boundary(model, tuple(inputs["pixel_values"].shape[1:]))
    return model, FastPrefix(model, boundary, inputs["pixel_values"][:2], contextlib.nullcontext), inputs


def state(model: nn.Module) -> dict[str, tuple[int, bool]]:
    tensors = {name: (tensor.data_ptr(), True) for name, tensor in model.state_dict(keep_vars=True).items()}
    return tensors | {f"mode of {name}": (0, module.training) for name, module in model.named_modules()}


@pytest.mark.parametrize("name", BACKBONES)
def test_logits_and_gradients_are_those_of_the_whole_network(name: str) -> None:
    model, prefix, inputs = ready(name)
    model.eval()  # batch statistics would amplify rounding
    before = state(model)
    logits = prefix.logits(model, inputs)
    torch.testing.assert_close(logits, model(pixel_values=inputs["pixel_values"]).logits, atol=1e-4, rtol=1e-3)
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    gradients = torch.autograd.grad(logits.square().mean(), trained.values())
    expected = torch.autograd.grad(model(pixel_values=inputs["pixel_values"]).logits.square().mean(), trained.values())
    for gradient, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, other, atol=1e-4 * float(other.abs().max()) + 1e-7, rtol=1e-2)
    assert state(model) == before


@pytest.mark.parametrize("name", ["test_resnet", "lcnet_035"])
def test_statistics_are_updated_once_and_only_in_the_trained_part(name: str) -> None:
    model, prefix, inputs = ready(name)
    model.train()
    before, modes = {name: buffer.clone() for name, buffer in model.named_buffers()}, state(model)
    prefix.logits(model, inputs)
    assert state(model) == modes
    counts = {name: int(buffer - before[name]) for name, buffer in model.named_buffers() if "batches" in name}
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    norms = {name: name.replace("num_batches_tracked", "weight") in trained for name in counts}
    assert counts == {name: int(is_trained) for name, is_trained in norms.items()}


def test_the_precision_of_the_context_is_that_of_the_prefix_alone() -> None:
    model, prefix, inputs = ready("test_vit")
    half = FastPrefix(model, prefix.boundary, inputs["pixel_values"][:2], lambda: torch.autocast("cpu", torch.bfloat16))
    seen: set[torch.dtype] = set()
    first, last = model.timm_model.blocks[0].mlp.fc1, model.timm_model.head
    for layer in (first, last):
        layer.register_forward_hook(lambda _, __, output: seen.add(output.dtype))
    exact, rough = prefix.logits(model, inputs), half.logits(model, inputs)
    assert exact.dtype == rough.dtype == torch.float32
    assert seen == {torch.float32, torch.bfloat16}
    assert 0 < float((exact - rough).abs().max()) < 0.1 * float(exact.abs().max())
