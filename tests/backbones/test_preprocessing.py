"""Training uses the pixels of evaluation, for any image processor and any user transforms."""

import copy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from backbones.checkpoints import LABELS, save_transformers, tiny_resnet, tiny_vit
from backbones.processor_classes import pil, tv
from PIL import Image
from timm.data import create_transform
from torchvision.transforms import v2
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES

from hf_tl.backbones.libraries.preprocessing import Preprocessing
from hf_tl.backbones.libraries.processors import ProcessorPipeline, processor_preprocessing
from hf_tl.backbones.load import load_backbone, preprocessing_of
from hf_tl.data.decoding.augmentation import augmented_pipeline
from hf_tl.data.decoding.images import ImageTransform, Transforms
from hf_tl.data.decoding.scaling import colors_of
from hf_tl.errors import ConfigError, ModelError
from hf_tl.strategy import Strategy

COLORS = ((0, 0, 0), (255, 255, 255), (255, 0, 10), (31, 200, 77))
TAKES_NO_PLAIN_IMAGES = {"ImageGPT", "Gemma3", "Siglip2"}
"""Processors that return more than pixels, or need settings of a checkpoint; `processor_preprocessing` refuses them."""


def classifier_processors() -> Iterator[str]:
    for model in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES:
        names = IMAGE_PROCESSOR_MAPPING_NAMES.get(model) or {}
        yield from filter(None, names.values() if isinstance(names, dict) else names)


NAMES = sorted({*classifier_processors()} - {"TimmWrapperImageProcessor"})
EXOTIC: dict[str, tuple[str, dict[str, Any]]] = {
    "channels flipped": (tv("MobileViTImageProcessor"), {"do_flip_channel_order": True}),
    "channels flipped, padded": (pil("MobileViTImageProcessor"), {"size": {"shortest_edge": 200}}),
    "not normalized": (tv("ViTImageProcessor"), {"do_normalize": False}),
    "not rescaled": (
        pil("ViTImageProcessor"),
        {"do_rescale": False, "image_mean": [9.0] * 3, "image_std": [40.0] * 3},
    ),
    "another factor": (pil("ViTImageProcessor"), {"rescale_factor": 1 / 127.5}),
    "another factor, fast": (
        tv("ViTImageProcessor"),
        {"rescale_factor": 1 / 127.5, "do_normalize": False},
    ),
    "normalized once": (tv("EfficientNetImageProcessor"), {"include_top": False}),
    "normalized twice": (
        tv("EfficientNetImageProcessor"),
        {"include_top": True, "image_std": [0.2, 0.3, 0.4]},
    ),
    "offset": (pil("EfficientNetImageProcessor"), {"rescale_offset": True, "rescale_factor": 1 / 127.5}),
    "offset alone": (tv("EfficientNetImageProcessor"), {"rescale_offset": True, "do_normalize": False}),
    "not resized": (tv("ViTImageProcessor"), {"do_resize": False}),
    "no crop": (tv("ConvNextImageProcessor"), {"size": {"shortest_edge": 384}}),
    "channels flipped, normalized": (tv("PPLCNetImageProcessor"), {}),
}


def center(pixels: torch.Tensor) -> torch.Tensor:
    return pixels[:, pixels.shape[1] // 2, pixels.shape[2] // 2]


def check_training_sees_the_pixels_of_evaluation(preprocessing: Preprocessing) -> None:
    """Compare images of one color with augmentation, and a photo of the input size, where geometry changes nothing."""
    channels, height, width = preprocessing.input_size
    made = preprocessing.transforms("light")
    for color in COLORS:
        image = Image.new("RGB", (width + 7, height + 9), color)
        torch.testing.assert_close(center(made.train(image)), center(made.eval(image)), rtol=1e-6, atol=1e-6)
    smooth = Image.fromarray(np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8))
    photo = smooth.resize((width, height), Image.Resampling.BICUBIC)
    photo = photo.convert("L") if channels == 1 else photo
    seen = colors_of(preprocessing.scaling, preprocessing.finishing(photo).numpy())
    shown = np.asarray(photo.convert("RGB"), dtype=float) / 255
    np.testing.assert_allclose(seen, shown, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith(tuple(TAKES_NO_PLAIN_IMAGES))])
def test_every_image_processor_of_a_classifier(name: str) -> None:
    small = {"size": {"height": 64, "width": 48}} if name.startswith("Donut") else {}
    check_training_sees_the_pixels_of_evaluation(processor_preprocessing(getattr(transformers, name)(**small)))


@pytest.mark.parametrize("name", EXOTIC)
def test_unusual_settings_of_image_processors(name: str) -> None:
    kind, settings = EXOTIC[name]
    if not hasattr(transformers, kind):
        pytest.skip(f"this version of transformers has no {kind}")
    preprocessing = processor_preprocessing(getattr(transformers, kind)(**settings))
    check_training_sees_the_pixels_of_evaluation(preprocessing)
    size = preprocessing.input_size[:0:-1]
    photo = Image.fromarray(np.random.default_rng(1).integers(0, 256, (*size[::-1], 3), dtype=np.uint8))
    unresized = ProcessorPipeline(preprocessing.processor).without_resizing()
    expected = unresized(photo)
    scale = max(1.0, float(expected.abs().max()))
    torch.testing.assert_close(preprocessing.finishing(photo), expected, rtol=0, atol=2e-6 * scale)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"mean": (0.5,) * 3, "std": (0.5,) * 3, "crop_pct": 1.0},
        {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225), "crop_mode": "border"},
        {"input_size": (1, 64, 64), "mean": (0.3,), "std": (0.4,)},
        {"mean": (0.0,) * 3, "std": (1 / 255,) * 3, "crop_mode": "squash"},
    ],
    ids=str,
)
def test_settings_of_timm(settings: dict[str, Any], interpolation: str) -> None:
    size = settings.get("input_size", (3, 64, 64))
    evaluation = create_transform(**{"input_size": size, "interpolation": interpolation, **settings})
    preprocessing = Preprocessing(size, interpolation, evaluation)
    check_training_sees_the_pixels_of_evaluation(preprocessing)
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    photo = photo.convert("L") if size[0] == 1 else photo
    expected = v2.Compose(evaluation.transforms[-2:])(photo)
    torch.testing.assert_close(preprocessing.finishing(photo), expected, rtol=1e-6, atol=0)
    if settings.get("std") != (1 / 255,) * 3:  # the other ones are short decimals
        assert torch.equal(preprocessing.finishing(photo), expected), "the very bits of timm's own normalization"


@pytest.fixture
def mobile(tmp_path: Path) -> Path:
    """Build a tiny transformers model whose processor flips the channels, scales differently and does not normalize."""
    save_transformers(tiny_resnet(), tmp_path)
    processor = transformers.MobileViTImageProcessor(
        size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32}, rescale_factor=1 / 127.5
    )
    processor.save_pretrained(tmp_path)
    return tmp_path


def test_a_loaded_model_is_trained_on_the_pixels_that_it_is_evaluated_on(mobile: Path) -> None:
    strategy = Strategy.finetune(trainable_stages=2, epochs=1)
    model, made = load_backbone(str(mobile), LABELS, strategy)
    assert strategy.phases[-1].augmentation == "light"
    again = preprocessing_of(model, made).transforms("light")
    for color in COLORS:
        image = Image.new("RGB", (50, 60), color)
        expected = transformers.AutoImageProcessor.from_pretrained(mobile)(image, return_tensors="pt")["pixel_values"][
            0
        ]
        torch.testing.assert_close(made.eval(image), expected, rtol=0, atol=0)
        for train in (made.train, again.train):
            torch.testing.assert_close(train(image), expected, rtol=1e-6, atol=1e-6)


def test_an_image_processor_that_gives_bytes_is_refused() -> None:
    processor = transformers.ViTImageProcessor(do_rescale=False, do_normalize=False)
    with pytest.raises(ModelError, match=r"float32; found ViTImageProcessor.*uint8"):
        processor_preprocessing(processor)


def test_the_record_holds_the_measured_values(mobile: Path) -> None:
    _, made = load_backbone(str(mobile), LABELS)
    record = made.preprocessing.to_record()
    assert record["channel_order"] == "BGR"
    assert record["mean"] == [0.0] * 3
    assert record["std"] == [0.5] * 3


class Stretching(getattr(transformers, tv("ViTImageProcessor"))):  # type: ignore[misc]
    """Nonlinear processor, as a repository's own code may define."""

    def _preprocess(self, images: Any, **settings: Any) -> Any:
        features = super()._preprocess(images, **settings)
        features["pixel_values"] = features["pixel_values"] ** 3
        return features


def test_a_map_that_is_not_linear_is_done_by_the_processor_itself() -> None:
    preprocessing = processor_preprocessing(Stretching(size={"height": 32, "width": 32}))
    assert preprocessing.scaling is None
    made = preprocessing.transforms("light")
    for color in COLORS:
        image = Image.new("RGB", (50, 60), color)
        torch.testing.assert_close(made.train(image), made.eval(image), rtol=1e-6, atol=1e-6)
    assert preprocessing.to_record()["mean"] == []


def test_preprocessing_that_augmented_images_cannot_have_is_refused() -> None:
    def evaluation(image: Image.Image) -> torch.Tensor:
        pixels = v2.functional.to_dtype(v2.functional.to_image(image.resize((32, 32))), scale=True)
        return pixels.as_subclass(torch.Tensor) - pixels.mean()

    preprocessing = Preprocessing((3, 32, 32), "bicubic", evaluation)
    assert preprocessing.transforms("none").train(Image.new("RGB", (9, 9))).shape == (3, 32, 32)
    with pytest.raises(ModelError, match=r"not a linear map of each channel.*augmentation=.none"):
        preprocessing.transforms("light")


def user_transform(size: int = 32) -> ImageTransform:
    return ImageTransform(v2.Compose([v2.RandomCrop(size), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]))


@pytest.fixture(params=["timm", "transformers"])
def loaded(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Any, Transforms]:
    if request.param == "timm":
        return load_backbone("timm:test_resnet", LABELS, pretrained=False, image_size=64)
    return load_backbone(str(save_transformers(tiny_vit(), tmp_path)), LABELS, image_size=64)


def test_a_model_remembers_its_preprocessing(loaded: tuple[Any, Transforms]) -> None:
    model, made = loaded
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8))
    for known in (preprocessing_of(model), preprocessing_of(copy.deepcopy(model)), preprocessing_of(model, made)):
        assert known.input_size == (3, 64, 64)
        assert torch.equal(known.evaluation(image), made.eval(image))


def test_a_training_transform_of_the_users_own_is_used(loaded: tuple[Any, Transforms]) -> None:
    model, made = loaded
    own = user_transform(64)
    for transforms in (Transforms(own, made.eval), replace(made, train=own)):
        preprocessing = preprocessing_of(model, transforms)
        assert preprocessing.transforms("light").train is own
        image = Image.new("RGB", (70, 80), COLORS[-1])
        assert torch.equal(preprocessing.transforms("light").eval(image), made.eval(image))
        assert torch.equal(preprocessing.transforms("none").train(image), made.eval(image))
        preprocessing.check_training_is_used(["none", "light"])
        with pytest.raises(ConfigError, match=r"transforms\.train.*augmentation 'none' in all phases"):
            preprocessing.check_training_is_used(["none", "none"])
    assert preprocessing_of(model, made).training is None
    assert preprocessing_of(model, Transforms(made.eval, made.eval)).training is None
    preprocessing_of(model, made).check_training_is_used(["none"])


def test_an_evaluation_transform_that_is_not_saved_is_refused(loaded: tuple[Any, Transforms]) -> None:
    model, made = loaded
    for other in (user_transform(64), replace(made.eval, channels=1), user_transform(32)):
        with pytest.raises(ConfigError, match=r"found a `transforms\.eval` that gives other pixels.*image_size"):
            preprocessing_of(model, Transforms(made.train, other))
    same = ImageTransform(lambda image: made.eval.pipeline(image))
    assert torch.equal(
        preprocessing_of(model, Transforms(made.train, same)).evaluation(Image.new("RGB", (9, 9))),
        made.eval(Image.new("RGB", (9, 9))),
    )


def test_an_image_processor_of_the_users_own_is_saved_with_a_transformers_model(tmp_path: Path) -> None:
    model, made = load_backbone(str(save_transformers(tiny_vit(), tmp_path)), LABELS)
    processor = transformers.ViTImageProcessor(size={"height": 32, "width": 32}, image_mean=[0.1] * 3)
    own = ImageTransform(ProcessorPipeline(processor))
    for transforms in (Transforms(own, own), replace(made, eval=own)):
        assert preprocessing_of(model, transforms).processor is processor


def test_the_transforms_of_a_model_of_another_size_are_refused_for_timm() -> None:
    model, _ = load_backbone("timm:test_resnet", LABELS, pretrained=False)
    _, others = load_backbone("timm:test_resnet", LABELS, pretrained=False, image_size=64)
    with pytest.raises(ConfigError, match="other pixels"):
        preprocessing_of(model, others)


def test_a_users_own_compose_is_not_taken_for_a_preset(loaded: tuple[Any, Transforms]) -> None:
    model, made = loaded
    preset = augmented_pipeline("strong", size=(64, 64), finishing=preprocessing_of(model).finishing)
    assert preprocessing_of(model, replace(made, train=ImageTransform(preset))).training is None
    own = replace(made, train=ImageTransform(v2.Compose(preset.transforms)))
    assert preprocessing_of(model, own).training is own.train
