"""Transforms and preprocessing that come with a loaded model."""

import dataclasses
import pickle
from pathlib import Path

import pytest
import timm
import torch
from backbones.checkpoints import (
    LABELS,
    PETS,
    own_transform,
    photo,
    save_timm,
    save_transformers,
    timm_network,
    tiny_vit,
)
from timm.data import create_transform, resolve_data_config
from transformers import AutoImageProcessor, BaseImageProcessor, pipeline

from hf_tl.backbones.load import load_backbone, preprocessing_of
from hf_tl.data.decoding.images import Transforms
from hf_tl.errors import ConfigError
from hf_tl.phase import ResizeMode
from hf_tl.strategy import Strategy

pytestmark = pytest.mark.long


def test_scratch_keeps_a_timm_checkpoint_s_own_preprocessing(tmp_path: Path) -> None:
    network = timm_network()
    network.pretrained_cfg |= {"mean": (0.1, 0.2, 0.3), "std": (0.7, 0.8, 0.9), "input_size": (3, 96, 96)}
    _, transforms = load_backbone(str(save_timm(network, tmp_path)), PETS, Strategy.scratch())
    expected = create_transform(**resolve_data_config(pretrained_cfg=network.pretrained_cfg), is_training=False)
    assert torch.equal(transforms.eval(photo()), expected(photo()))


SETTINGS = [
    {"input_size": (3, 64, 64), "crop_pct": 0.875, "interpolation": "bicubic"},
    {"input_size": (3, 64, 64), "crop_pct": 1.0, "interpolation": "bilinear", "mean": (0.5,) * 3, "std": (0.5,) * 3},
    {"input_size": (3, 48, 64), "crop_pct": 0.9, "crop_mode": "squash", "interpolation": "bicubic"},
    {"input_size": (3, 64, 64), "crop_pct": 0.95, "crop_mode": "border", "interpolation": "nearest"},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: settings.get("crop_mode", "center"))
@pytest.mark.parametrize("size", [(90, 70), (70, 90), (64, 64), (30, 200)], ids=str)
def test_evaluation_pixels_are_timm_s(settings: dict[str, object], size: tuple[int, int], tmp_path: Path) -> None:
    network = timm_network()
    network.pretrained_cfg |= settings
    _, transforms = load_backbone(str(save_timm(network, tmp_path)), LABELS)
    data = resolve_data_config(pretrained_cfg=network.pretrained_cfg)
    expected = create_transform(**data, is_training=False)(photo(*size))
    assert torch.equal(transforms.eval(photo(*size)), expected)
    assert torch.equal(own_transform(tmp_path)(photo(*size)), expected)


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv3_small_050", "test_vit", "tf_efficientnet_lite0", "alexnet"])
def test_evaluation_pixels_of_timm_names_are_timm_s(name: str) -> None:
    _, transforms = load_backbone(f"timm:{name}", LABELS, pretrained=False)
    data = resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
    assert torch.equal(transforms.eval(photo(300, 260)), create_transform(**data, is_training=False)(photo(300, 260)))


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("size", [(90, 70), (32, 32)], ids=str)
def test_evaluation_pixels_are_the_image_processor_s(fast: bool, size: tuple[int, int], tmp_path: Path) -> None:
    folder = save_transformers(tiny_vit(), tmp_path, fast=fast)
    _, transforms = load_backbone(str(folder), LABELS)
    assert torch.equal(transforms.eval(photo(*size)), own_transform(folder)(photo(*size)))


def test_preprocessing_of_a_model_is_that_of_its_transforms(checkpoint: tuple[Path, dict[str, torch.Tensor]]) -> None:
    model, transforms = load_backbone(str(checkpoint[0]), LABELS)
    for preprocessing in (preprocessing_of(model, transforms), preprocessing_of(model)):
        assert torch.equal(preprocessing.evaluation(photo()), transforms.eval(photo()))
        assert preprocessing.input_size == tuple(transforms.eval(photo()).shape)


def test_preprocessing_follows_another_image_size(checkpoint: tuple[Path, dict[str, torch.Tensor]]) -> None:
    model, transforms = load_backbone(str(checkpoint[0]), LABELS, image_size=64)
    preprocessing = preprocessing_of(model, transforms)
    assert preprocessing.input_size == (3, 64, 64)
    assert preprocessing.to_record()["input_size"] == [3, 64, 64]


@pytest.mark.parametrize("mode", [None, "squash"])
@pytest.mark.parametrize("library", ["timm", "transformers"])
def test_the_processor_of_transforms_gives_the_evaluation_pixels(
    library: str, mode: ResizeMode | None, tmp_path: Path
) -> None:
    name = "timm:test_resnet" if library == "timm" else str(save_transformers(tiny_vit(), tmp_path))
    _, transforms = load_backbone(name, LABELS, pretrained=False, image_size=64, resize_mode=mode)
    for processor in (transforms.processor, pickle.loads(pickle.dumps(transforms.processor))):
        assert isinstance(processor, BaseImageProcessor)
        for image in (photo(90, 70), photo(64, 64), photo(30, 200)):
            pixels = processor(image, return_tensors="pt")["pixel_values"]
            assert torch.equal(pixels[0], transforms.eval(image))


def test_the_processor_that_is_saved_beside_a_transformers_model_serves_a_pipeline(tmp_path: Path) -> None:
    model, transforms = load_backbone(str(save_transformers(tiny_vit(), tmp_path / "base")), LABELS, image_size=64)
    model.save_pretrained(tmp_path / "saved")
    transforms.processor.save_pretrained(tmp_path / "saved")
    answers = pipeline("image-classification", str(tmp_path / "saved"))(photo())
    expected = model(pixel_values=transforms.eval(photo())[None]).logits.softmax(-1)[0]
    assert [answer["score"] for answer in answers] == pytest.approx(sorted(expected.tolist(), reverse=True), abs=1e-6)


def test_the_processor_of_a_timm_backbone_is_that_of_its_saved_folder(tmp_path: Path) -> None:
    _, transforms = load_backbone(str(save_timm(timm_network(), tmp_path)), LABELS)
    saved = AutoImageProcessor.from_pretrained(tmp_path)
    assert type(transforms.processor) is type(saved)
    assert transforms.processor.data_config == saved.data_config


def test_transforms_of_ones_own_have_no_processor() -> None:
    _, transforms = load_backbone("timm:test_resnet", LABELS, pretrained=False)
    assert dataclasses.replace(transforms, train=transforms.eval).processor is transforms.processor
    with pytest.raises(ConfigError, match=r"expected the transforms that load_backbone or load returned.*replace"):
        _ = Transforms(transforms.train, transforms.eval).processor
