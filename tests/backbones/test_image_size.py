"""Loading for another image size and another number of channels."""

from pathlib import Path

import pytest
import torch
from backbones.checkpoints import (
    LABELS,
    PETS,
    edit_config,
    photo,
    save_timm,
    save_transformers,
    timm_network,
    tiny_resnet,
    tiny_vit,
)
from torch import nn
from transformers import AutoModelForImageClassification

from hf_tl.backbones.load import load_backbone
from hf_tl.errors import ConfigError, ModelError


@pytest.mark.parametrize(
    ("name", "in_chans"), [("test_resnet", 1), ("test_resnet", 3), ("test_vit", 1), ("alexnet", 1)]
)
def test_gray_images_for_one_channel(name: str, in_chans: int) -> None:
    model, transforms = load_backbone(f"timm:{name}", PETS, in_chans=in_chans, pretrained=False)
    for transform in (transforms.eval, transforms.train):
        pixels = transform(photo(300, 300))
        assert pixels.shape[0] == in_chans
        assert model(pixel_values=pixels[None]).logits.shape == (1, 3)
    assert model.config.pretrained_cfg["input_size"][0] == in_chans
    assert len(model.config.pretrained_cfg["mean"]) == in_chans


@pytest.mark.parametrize("in_chans", [0, 2, 4])
def test_images_have_one_or_three_channels(in_chans: int) -> None:
    with pytest.raises(ConfigError, match=r"expected in_chans=3 \(color images\) or 1 \(gray images\)"):
        load_backbone("timm:test_resnet", PETS, in_chans=in_chans, pretrained=False)


@pytest.mark.parametrize(
    "name",
    [
        "test_resnet",
        "test_vit",
        "test_vit_relpos",
        "vit_tiny_patch16_224",
        "mixer_s32_224",
        "swin_tiny_patch4_window7_224",
    ],
)
def test_timm_models_are_built_for_another_image_size(name: str) -> None:
    model, transforms = load_backbone(f"timm:{name}", PETS, image_size=64, pretrained=False)
    pixels = transforms.eval(photo())
    assert pixels.shape == transforms.train(photo()).shape == (3, 64, 64)
    assert model(pixel_values=pixels[None]).logits.shape == (1, 3)


def test_position_embeddings_are_interpolated_as_timm_does(tmp_path: Path) -> None:
    network = timm_network("vit_tiny_patch16_224", depth=2, embed_dim=48, num_heads=2, img_size=96)
    nn.init.normal_(network.pos_embed)
    folder = save_timm(network, tmp_path, pretrained_cfg={"input_size": [3, 96, 96], "fixed_input_size": True})
    args = {"depth": 2, "embed_dim": 48, "num_heads": 2, "img_size": 96, "num_classes": 3}
    edit_config(folder, model_args=args)
    model, transforms = load_backbone(str(folder), LABELS, image_size=64)
    network.set_input_size(img_size=(64, 64))
    pixels = transforms.eval(photo())[None]
    assert pixels.shape[-2:] == (64, 64)
    torch.testing.assert_close(model(pixel_values=pixels).logits, network(pixels), rtol=0, atol=0)
    assert model.config.model_args["img_size"] == [64, 64]


def test_transformers_position_embeddings_are_interpolated(tmp_path: Path) -> None:
    vit = tiny_vit()
    nn.init.normal_(vit.vit.embeddings.position_embeddings)
    folder = save_transformers(vit, tmp_path)
    model, transforms = load_backbone(str(folder), LABELS, image_size=48)
    pixels = transforms.eval(photo())[None]
    assert pixels.shape[-2:] == (48, 48)
    expected = vit(pixel_values=pixels, interpolate_pos_encoding=True).logits
    torch.testing.assert_close(model(pixel_values=pixels).logits, expected)
    model.save_pretrained(tmp_path / "again")
    again = AutoModelForImageClassification.from_pretrained(tmp_path / "again").eval()
    torch.testing.assert_close(again(pixel_values=pixels).logits, expected)


def test_a_transformers_convolutional_net_takes_any_size(tmp_path: Path) -> None:
    model, transforms = load_backbone(str(save_transformers(tiny_resnet(), tmp_path)), LABELS, image_size=64)
    assert model(pixel_values=transforms.eval(photo())[None]).logits.shape == (1, 3)


@pytest.mark.parametrize("name", ["vit_small_patch14_dinov2", "convnext_atto", "test_resnet"])
def test_a_size_that_fits_the_patches_is_taken(name: str) -> None:
    _, transforms = load_backbone(f"timm:{name}", PETS, image_size=112, pretrained=False)
    assert transforms.eval(photo()).shape == (3, 112, 112)


def test_a_size_that_cuts_off_the_last_patches_is_an_error(tmp_path: Path) -> None:
    message = "that is a multiple of 14 pixels, the patch size of the backbone, found 100: choose 98 or 112"
    with pytest.raises(ConfigError, match=message):
        load_backbone("timm:vit_small_patch14_dinov2", PETS, image_size=100, pretrained=False)
    folder = save_transformers(tiny_vit(), tmp_path)
    with pytest.raises(ConfigError, match=r"a multiple of 8 pixels, .*: choose 40 or 48"):
        load_backbone(str(folder), LABELS, image_size=44)
    with pytest.raises(ConfigError, match=r"choose 4$"):
        load_backbone("timm:convnext_atto", PETS, image_size=3, pretrained=False)


def test_a_size_that_the_network_cannot_take_is_an_error(tmp_path: Path) -> None:
    folder = save_timm(timm_network("mixer_s32_224"), tmp_path)
    with pytest.raises(ModelError, match="supports images of 224 x 224 pixels only, found image_size=64"):
        load_backbone(str(folder), LABELS, image_size=64)
