"""`preprocessing.json` describes the same pixels as the model's own preprocessing."""

from typing import Any

import numpy as np
import pytest
import transformers
from backbones.checkpoints import tiny_vit
from backbones.processor_classes import pil, tv
from exporting.models import SIZES
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from timm.data import create_transform

from hf_tl.backbones.libraries.preprocessing import Preprocessing
from hf_tl.backbones.libraries.processors import processor_preprocessing
from hf_tl.errors import ModelError
from hf_tl.exporting.checks import model_logits, verify_steps
from hf_tl.exporting.preprocessing import describe
from hf_tl.runtime.preprocessing import apply

PROCESSORS: dict[str, dict[str, Any]] = {
    "BitImageProcessor": {},
    "CLIPImageProcessor": {},
    "ConvNextImageProcessor": {"size": {"shortest_edge": 224}},
    "DeiTImageProcessor": {},
    "EfficientNetImageProcessor": {},
    "LevitImageProcessor": {},
    "MobileNetV2ImageProcessor": {},
    "MobileViTImageProcessor": {"size": {"shortest_edge": 288}},
    "PoolFormerImageProcessor": {},
    "SegformerImageProcessor": {},
    "SiglipImageProcessor": {},
    "ViTImageProcessor": {"do_normalize": False},
}
"""Processors of image classifiers, with settings of each kind."""


def noise(height: int, width: int) -> Image.Image:
    random = np.random.default_rng(height * width)
    return Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8))


def timm_like(size: int, crop_pct: float, crop_mode: str = "center", interpolation: str = "bicubic") -> Preprocessing:
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    shape = (3, size, size)
    evaluation = create_transform(
        shape, interpolation=interpolation, mean=mean, std=std, crop_pct=crop_pct, crop_mode=crop_mode
    )
    return Preprocessing(shape, interpolation, evaluation)


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 150),
    width=st.integers(1, 150),
    size=st.sampled_from([24, 37]),
    crop_pct=st.sampled_from([0.875, 0.9, 1.0]),
    crop_mode=st.sampled_from(["center", "squash"]),
    interpolation=st.sampled_from(["bilinear", "bicubic"]),
)
def test_the_pixels_are_those_of_timm(
    height: int, width: int, size: int, crop_pct: float, crop_mode: str, interpolation: str
) -> None:
    preprocessing, image = timm_like(size, crop_pct, crop_mode, interpolation), noise(height, width)
    pixels = apply(describe(preprocessing), image)
    np.testing.assert_allclose(pixels, preprocessing.evaluation(image).numpy(), atol=1e-5)


@pytest.mark.parametrize("name", PROCESSORS)
def test_the_pixels_are_those_of_transformers(name: str) -> None:
    """Classes that use Pillow give the same pixels; the others resize with torchvision, which rounds differently."""
    for kind, levels in ((pil(name), 1e-3), (tv(name), 0.5)):
        preprocessing = processor_preprocessing(getattr(transformers, kind)(**PROCESSORS[name]))
        steps = describe(preprocessing)
        for size in SIZES:
            image = noise(*(3 * side for side in size))
            expected, pixels = preprocessing.evaluation(image).numpy(), apply(steps, image)
            difference = np.abs(pixels - expected) * 255 * np.array(steps["std"])[:, None, None]
            assert difference.mean() < levels, (kind, size)
            low, high = steps["value_range"]
            assert low - 1e-5 <= pixels.min() <= pixels.max() <= high + 1e-5
            assert pixels.dtype == np.float32


def test_transparent_and_turned_images_are_made_upright_and_white() -> None:
    steps = describe(timm_like(24, 1.0))
    image = noise(30, 40)
    transparent = image.convert("RGBA")
    transparent.putalpha(0)
    np.testing.assert_allclose(apply(steps, transparent), apply(steps, Image.new("RGB", (40, 30), "white")))


@pytest.mark.parametrize(
    ("processor", "message"),
    [
        (transformers.PerceiverImageProcessor(), r"images of \(3, 256, 256\) for \(3, 224, 224\)"),
        (transformers.DonutImageProcessor(size={"height": 64, "width": 48}), "levels of 255"),
    ],
)
def test_a_preprocessing_that_does_more_is_refused(processor: Any, message: str) -> None:
    preprocessing, model, image = processor_preprocessing(processor), tiny_vit(), noise(30, 90)
    pixels = preprocessing.evaluation(image).numpy()[None]
    with pytest.raises(ModelError, match=f"expected that resize, crop, rescale and normalize .*{message}"):
        verify_steps(describe(preprocessing), [image], pixels, lambda x: model_logits(model, x), model)


def test_steps_that_the_file_cannot_describe_are_refused() -> None:
    with pytest.raises(ModelError, match="found the steps ResizeKeepRatio, CenterCropOrPad"):
        describe(timm_like(24, 0.875, "border"))
    sizes = {"shortest_edge": 64, "longest_edge": 96}
    processor = getattr(transformers, tv("ViTImageProcessor"))(size=sizes)
    with pytest.raises(ModelError, match="a resize of longest_edge, shortest_edge"):
        describe(processor_preprocessing(processor))
