"""BatchNorm folded into convolutions: equal outputs up to rounding, and restored weights."""

import pytest
import torch
from backbones import zoo
from torch import nn

from hf_tl.backbones.libraries.timm import create_timm_backbone
from hf_tl.backbones.prefix.folding import Folding
from hf_tl.backbones.stages.freezing import freeze

FOLDED = {"test_resnet": 9, "test_efficientnet": 1, "lcnet_035": 1, "vgg11": 0, "test_vit": 0}
"""Minimum number of folded norms when only the head trains, by architecture."""


def build(architecture: str) -> nn.Module:
    torch.manual_seed(0)
    model, _ = create_timm_backbone(architecture, zoo.LABELS, pretrained=False, model_args=zoo.TIMM.get(architecture))
    zoo.shake(model)
    with torch.no_grad():  # statistics and gains as after training
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
    freeze(model, 1)
    return model.eval()


def identities(model: nn.Module) -> dict[str, int]:
    return {name: id(tensor) for name, tensor in model.state_dict(keep_vars=True).items()}


@pytest.mark.parametrize("architecture", FOLDED)
def test_folding_keeps_the_output_and_restores_the_weights(architecture: str) -> None:
    model = build(architecture)
    pixels = torch.randn(2, 3, 64 if architecture != "test_vit" else 160, 64 if architecture != "test_vit" else 160)
    before, own = identities(model), {name: set(module.__dict__) for name, module in model.named_modules()}
    with torch.inference_mode():
        expected = model(pixels).logits
        folding = Folding(model, lambda: model(pixels))
        assert identities(model) == before
        with folding.applied():
            assert folding.count >= FOLDED[architecture]
            assert (folding.count > 0) == (identities(model) != before)
            torch.testing.assert_close(model(pixels).logits, expected, rtol=1e-3, atol=1e-4)
        assert torch.equal(model(pixels).logits, expected)
    assert identities(model) == before
    assert {name: set(module.__dict__) for name, module in model.named_modules()} == own


def test_an_exception_restores_the_weights() -> None:
    model = build("test_resnet")
    pixels, before = torch.randn(2, 3, 64, 64), identities(model)

    def stop_within() -> None:
        with torch.inference_mode(), Folding(model, lambda: model(pixels)).applied():
            assert identities(model) != before
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop_within()
    assert identities(model) == before
    assert not [name for name, module in model.named_modules() if "forward" in module.__dict__]


def test_norms_that_train_are_not_folded() -> None:
    model = build("test_resnet")
    freeze(model, "all")
    pixels = torch.randn(2, 3, 64, 64)
    assert Folding(model.eval(), lambda: model(pixels)).count == 0
