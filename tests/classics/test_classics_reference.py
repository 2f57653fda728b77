"""The classics against their references: torchvision's networks, and the numbers of ZFNet's paper."""

import logging
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from PIL import Image
from timm.data import create_transform, resolve_data_config
from timm.models import adapt_input_conv
from torch import Tensor, nn
from torchvision.models import WeightsEnum

from hf_tl.classics import AlexNet, GoogLeNet
from hf_tl.classics.alexnet import checkpoint_filter_fn as filter_alexnet
from hf_tl.classics.googlenet import checkpoint_filter_fn as filter_googlenet
from hf_tl.errors import ModelError

pytestmark = pytest.mark.long


def with_lively_weights(model: nn.Module) -> nn.Module:
    """Draw weights and statistics that give logits of order 1 (GoogLeNet's initial ones give 1e-10)."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
    with torch.no_grad():
        model.train()(torch.randn(4, 3, 128, 128))
    return model.eval()


@pytest.fixture(scope="module")
def tv_googlenet() -> nn.Module:
    torch.manual_seed(0)
    return with_lively_weights(torchvision.models.GoogLeNet(num_classes=7, aux_logits=True, init_weights=False))


@pytest.fixture(scope="module")
def tv_alexnet() -> nn.Module:
    torch.manual_seed(0)
    return torchvision.models.AlexNet(num_classes=7).eval()


def assert_same_logits(ours: nn.Module, reference: nn.Module, size: int) -> None:
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        expected = reference(images)
        assert expected.std() > 1e-3
        assert torch.equal(ours(images), expected)


@pytest.mark.parametrize("size", [224, 97])
def test_alexnet_gives_torchvisions_logits_with_torchvisions_weights(tv_alexnet: nn.Module, size: int) -> None:
    ours = AlexNet(num_classes=7).eval()
    ours.load_state_dict(filter_alexnet(tv_alexnet.state_dict(), ours))
    assert_same_logits(ours, tv_alexnet, size)


def test_torchvisions_alexnet_gives_our_logits_with_our_weights(tv_alexnet: nn.Module) -> None:
    ours = AlexNet(num_classes=7).eval()
    renamed = {
        name.replace("pre_logits.", "classifier.").replace("head.", "classifier.6."): tensor
        for name, tensor in ours.state_dict().items()
    }
    tv_alexnet.load_state_dict(renamed)
    assert_same_logits(ours, tv_alexnet, 96)


@pytest.mark.parametrize("size", [224, 61])
def test_googlenet_gives_torchvisions_logits_with_torchvisions_weights(tv_googlenet: nn.Module, size: int) -> None:
    ours = GoogLeNet(num_classes=7).eval()
    ours.load_state_dict(filter_googlenet(tv_googlenet.state_dict(), ours))
    assert_same_logits(ours, tv_googlenet, size)


def test_torchvisions_googlenet_gives_our_logits_with_our_weights() -> None:
    ours = with_lively_weights(GoogLeNet(num_classes=7))
    reference = torchvision.models.GoogLeNet(num_classes=7, aux_logits=False, init_weights=False).eval()
    reference.load_state_dict(ours.state_dict())
    assert_same_logits(ours, reference, 96)


def test_dropped_auxiliary_heads_are_logged(tv_googlenet: nn.Module, caplog: pytest.LogCaptureFixture) -> None:
    weights, ours = tv_googlenet.state_dict(), GoogLeNet(num_classes=7)
    count = sum(name.startswith("aux") for name in weights)
    assert count > 0
    log = logging.getLogger("hf_tl.classics.googlenet")
    log.addHandler(caplog.handler)  # messages of hf_tl do not reach the root logger
    with caplog.at_level("INFO", logger=log.name):
        plain = filter_googlenet(weights, ours)
        assert f"Dropping the auxiliary heads of the GoogLeNet weights ({count} tensors)" in caplog.text
        caplog.clear()
        assert filter_googlenet(plain, ours) == plain
    log.removeHandler(caplog.handler)
    assert not caplog.messages


@pytest.mark.parametrize(
    ("name", "weights", "transform_input"),
    [
        ("alexnet.tv_in1k", torchvision.models.AlexNet_Weights.IMAGENET1K_V1, False),
        ("googlenet.tv_in1k", torchvision.models.GoogLeNet_Weights.IMAGENET1K_V1, True),
        ("inception_v1.tv_in1k", torchvision.models.GoogLeNet_Weights.IMAGENET1K_V1, True),
    ],
)
def test_the_preprocessing_is_torchvisions(name: str, weights: WeightsEnum, transform_input: bool) -> None:
    image = Image.fromarray(torch.randint(0, 256, (260, 330, 3), dtype=torch.uint8).numpy())
    cfg = timm.get_pretrained_cfg(name)
    ours = create_transform(**resolve_data_config(pretrained_cfg=cfg.to_dict()))(image)
    with torch.device("meta"):
        reference = torchvision.models.GoogLeNet(transform_input=transform_input, aux_logits=False, init_weights=False)
    expected = reference._transform_input(weights.transforms()(image)[None])[0]
    torch.testing.assert_close(ours, expected, atol=1e-6, rtol=0)
    assert cfg.url == weights.url


# ZFNet, from the shapes in figure 3 of arXiv 1311.2901 (weights + biases):
#   conv1   96 x   3 x 7 x 7 +   96 =     14,208
#   conv2  256 x  96 x 5 x 5 +  256 =    614,656
#   conv3  384 x 256 x 3 x 3 +  384 =    885,120
#   conv4  384 x 384 x 3 x 3 +  384 =  1,327,488
#   conv5  256 x 384 x 3 x 3 +  256 =    884,992
#   fc6   4096 x 256 x 6 x 6 + 4096 = 37,752,832
#   fc7   4096 x 4096        + 4096 = 16,781,312
#   fc8   1000 x 4096        + 1000 =  4,097,000
#   sum                               62,357,608
@pytest.mark.parametrize(
    ("name", "parameters"),
    [("alexnet", 61_100_840), ("zfnet", 62_357_608), ("googlenet", 6_624_904), ("inception_v1", 6_624_904)],
)
def test_the_parameter_count_is_the_published_one(name: str, parameters: int) -> None:
    with torch.device("meta"):
        model = timm.create_model(name)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


def test_zfnets_maps_have_the_published_sizes() -> None:
    with torch.device("meta"):
        model = timm.create_model("zfnet")
        x = torch.empty(1, 3, 224, 224)
    shapes = []
    for layer in model.features:
        x = layer(x)
        if isinstance(layer, nn.Conv2d | nn.MaxPool2d):
            shapes.append((x.shape[1], x.shape[2], x.shape[3]))
    widths = [(96, 110), (96, 55), (256, 26), (256, 13), (384, 13), (384, 13), (256, 13), (256, 6)]
    assert shapes == [(channels, width, width) for channels, width in widths]


def test_zfnet_normalizes_contrast_as_krizhevsky_et_al_write_it() -> None:
    norm = timm.create_model("zfnet", num_classes=1).features[3]
    maps = torch.randn(1, 96, 2, 2)
    squares = maps.square()
    expected = torch.stack(
        [maps[:, i] / (2 + 1e-4 * squares[:, max(0, i - 2) : i + 3].sum(1)) ** 0.75 for i in range(96)], dim=1
    )
    torch.testing.assert_close(norm(maps), expected)


def test_zfnet_without_public_weights_is_an_error() -> None:
    with pytest.raises(ModelError, match=r"zfnet.*published none.*pretrained=False.*pretrained_cfg_overlay"):
        timm.create_model("zfnet", pretrained=True)


def test_torchvisions_file_loads_through_timm_for_other_channels_and_classes(
    tv_googlenet: nn.Module, tmp_path: Path
) -> None:
    file = tmp_path / "googlenet.pth"
    reference: dict[str, Tensor] = tv_googlenet.state_dict()
    torch.save(reference, file)
    model = timm.create_model(
        "googlenet",
        pretrained=True,
        pretrained_cfg_overlay={"file": str(file), "num_classes": 7},
        num_classes=3,
        in_chans=1,
    )
    state = model.state_dict()
    assert state["fc.weight"].shape == (3, 1024)
    assert torch.equal(state["conv1.conv.weight"], adapt_input_conv(1, reference["conv1.conv.weight"]))
    same = [name for name in state if name not in {"conv1.conv.weight", "fc.weight", "fc.bias"}]
    assert all(torch.equal(state[name], reference[name]) for name in same)
