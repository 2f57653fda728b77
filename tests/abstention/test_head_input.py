"""Features are the input of the last layer: for a linear one, the logits are their linear function."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from backbones.checkpoints import tiny_resnet, tiny_vit
from torch import nn
from transformers import Dinov2Config, Dinov2ForImageClassification, PreTrainedModel

import hf_tl
from hf_tl.abstention.head_input import HeadReader
from hf_tl.abstention.reading import scrambled

LABELS = ["cat", "dog", "owl"]
TIMM = (
    "test_resnet",
    "test_vit",
    "test_convnext",
    "test_efficientnet",
    "test_byobnet",
    "test_mambaout",
    "alexnet",
    "googlenet",
    "vgg11",
)


def tiny_dinov2() -> PreTrainedModel:
    config = Dinov2Config(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14, num_labels=3
    )
    return Dinov2ForImageClassification(config)


def load(name: str) -> PreTrainedModel:
    torch.manual_seed(0)
    size = 64 if name.startswith("test_") else 224
    return hf_tl.load_backbone(f"timm:{name}", LABELS, pretrained=False, image_size=size)[0]


def pixels_of(model: PreTrainedModel) -> torch.Tensor:
    size = model.config.to_dict().get("image_size") or model.config.pretrained_cfg["input_size"][1]
    return torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "make",
    [*(pytest.param(lambda name=name: load(name), id=name) for name in TIMM), tiny_vit, tiny_dinov2],
)
def test_logits_are_a_linear_function_of_the_features(make: Callable[[], PreTrainedModel]) -> None:
    model = make().eval()
    pixels = pixels_of(model)
    features, logits = HeadReader(model)(pixels)
    with torch.inference_mode():
        torch.testing.assert_close(logits, model(pixel_values=pixels).logits, atol=1e-5, rtol=1e-4)
        last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
        assert features.shape == (3, last.in_features)
        torch.testing.assert_close(last(features), logits, atol=1e-5, rtol=1e-4)


def test_the_mode_of_the_model_is_kept() -> None:
    model = tiny_resnet().train()
    HeadReader(model)(torch.randn(2, 3, 32, 32))
    assert model.training
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_inputs_of_convolutions_are_averaged_over_places() -> None:
    """A network whose last layer is a convolution, as SqueezeNet."""

    class Convolutional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head = nn.Conv2d(3, 5, 3), nn.Conv2d(5, 2, 1)

        def forward(self, pixel_values: torch.Tensor) -> object:
            maps = self.head(self.stem(pixel_values))
            return type("Output", (), {"logits": maps.mean(dim=(2, 3))})

    model, pixels = Convolutional(), torch.randn(4, 3, 8, 8)
    features, logits = HeadReader(model)(pixels)
    assert features.shape == (4, 5)
    torch.testing.assert_close(features, model.stem(pixels).mean(dim=(2, 3)))
    assert logits.shape == (4, 2)


@pytest.mark.parametrize("shape", [(2, 3, 32, 32), (1, 1, 7, 9), (2, 3, 1, 1)])
def test_scrambled_images_keep_mean_and_contrast(shape: tuple[int, ...]) -> None:
    images = torch.rand(shape, generator=torch.Generator().manual_seed(1))
    changed = scrambled(images)
    assert changed.shape == shape
    torch.testing.assert_close(changed.mean(dim=(2, 3)), images.mean(dim=(2, 3)))
    if shape[-1] > 8:
        torch.testing.assert_close(changed.std(dim=(2, 3)), images.std(dim=(2, 3)), rtol=0.05, atol=0)
        assert np.corrcoef(changed[0, 0].ravel(), images[0, 0].ravel())[0, 1] < 0.2
    torch.testing.assert_close(scrambled(images), changed)
