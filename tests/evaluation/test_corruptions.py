"""Corruptions of images: their strengths, and what they depend on."""

import colorsys
import io

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from torchvision.transforms.v2.functional import to_pil_image

import hf_tl
from hf_tl.backbones.load import preprocessing_of
from hf_tl.data.decoding.images import ImageTransform
from hf_tl.errors import ModelError
from hf_tl.evaluation.robustness.corruptions import CORRUPTIONS, VARIANTS, Corruption, corrupt
from hf_tl.evaluation.robustness.views import corrupted

BY_KEY = {corruption.key: corruption for corruption in CORRUPTIONS}


def scene(side: int = 224, mode: str = "RGB", seed: int = 0) -> Image.Image:
    """Return smooth shapes, as photos have them."""
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC).convert(mode)


def difference(first: Image.Image, second: Image.Image) -> float:
    return float(np.abs(np.asarray(first, dtype=float) - np.asarray(second, dtype=float)).mean())


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("corruption", CORRUPTIONS, ids=lambda corruption: corruption.key)
def test_each_strength_changes_an_image_more(corruption: Corruption, mode: str) -> None:
    image = scene(mode=mode)
    copies = [corruption.apply(image, strength) for strength in corruption.strengths]
    assert {(copy.mode, copy.size) for copy in copies} == {(mode, image.size)}
    changes = [difference(image, copy) for copy in copies]
    assert 0 < changes[0] < changes[1] < changes[2]


@pytest.mark.parametrize("deviation", BY_KEY["gaussian_noise"].strengths[:2])
def test_noise_has_the_stated_deviation(deviation: float) -> None:
    gray = Image.new("RGB", (200, 200), (128, 128, 128))
    noise = np.asarray(BY_KEY["gaussian_noise"].apply(gray, deviation)) - 128.0
    expected = np.random.default_rng(0).normal(0, deviation * 255, 400_000).clip(-128, 127).std()
    assert noise.std() == pytest.approx(expected, rel=0.02)
    assert abs(noise.mean()) < 1


def test_noise_follows_from_the_content_alone() -> None:
    noisy = BY_KEY["gaussian_noise"]
    images = [scene(seed=seed) for seed in range(3)]
    first = [noisy.apply(image, 0.18) for image in images]
    second = [noisy.apply(image.copy(), 0.18) for image in reversed(images)][::-1]
    assert [image.tobytes() for image in first] == [image.tobytes() for image in second]
    changes = [np.asarray(after, dtype=int) - np.asarray(before) for before, after in zip(images, first, strict=True)]
    assert not np.array_equal(changes[0], changes[1])


def test_noise_is_that_of_published_figures() -> None:
    """Figures in cards are compared across versions: the same image gets the same noise in each."""
    noisy = BY_KEY["gaussian_noise"].apply(Image.new("L", (4, 2), 128), 0.18)
    assert np.asarray(noisy).tolist() == [[207, 142, 101, 228], [139, 132, 169, 76]]


@pytest.mark.parametrize("color", [(0, 0, 0), (255, 255, 255), (10, 200, 90), (200, 40, 40), (7, 7, 7)])
def test_brightness_is_added_to_the_value_of_hsv(color: tuple[int, int, int]) -> None:
    pixel = BY_KEY["brightness"].apply(Image.new("RGB", (1, 1), color), 0.3).getpixel((0, 0))
    hue, saturation, value = colorsys.rgb_to_hsv(*(level / 255 for level in color))
    expected = colorsys.hsv_to_rgb(hue, saturation, min(1.0, value + 0.3))
    assert pixel == pytest.approx([255 * level for level in expected], abs=0.51)


def test_contrast_shrinks_differences_from_the_mean_of_each_channel() -> None:
    image = Image.fromarray(np.array([[[0, 100, 50], [200, 100, 150]]], dtype=np.uint8))
    flat = BY_KEY["contrast"].apply(image, 0.2)
    assert np.asarray(flat).tolist() == [[[80, 100, 90], [120, 100, 110]]]


def test_blur_means_the_same_for_each_input_size() -> None:
    """A blurred image, made smaller, equals the smaller image blurred."""
    blur, large = BY_KEY["gaussian_blur"], scene(448)
    small = large.resize((112, 112), Image.Resampling.LANCZOS)
    expected = blur.apply(large, 6).resize((112, 112), Image.Resampling.LANCZOS)
    fixed = large.resize((112, 112)).filter(ImageFilter.GaussianBlur(6))
    assert difference(blur.apply(small, 6), expected) < 0.5
    assert difference(fixed, expected) > 3
    assert difference(scene(224).filter(ImageFilter.GaussianBlur(6)), blur.apply(scene(224), 6)) == 0


def test_jpeg_is_that_of_pillow() -> None:
    stream, image = io.BytesIO(), scene()
    image.save(stream, "JPEG", quality=15)
    assert BY_KEY["jpeg"].apply(image, 15).tobytes() == Image.open(stream).convert("RGB").tobytes()


@pytest.mark.parametrize(
    ("size", "options"),
    [((640, 480), {}), ((32, 32), {}), ((90, 300), {"resize_mode": "pad"}), ((50, 40), {"in_chans": 1})],
)
def test_what_the_network_sees_is_corrupted(size: tuple[int, int], options: dict[str, object]) -> None:
    """Photos and small images are corrupted after resizing, at the size of the input."""
    model, transforms = hf_tl.load_backbone(
        "timm:test_resnet", ["cat", "dog"], pretrained=False, image_size=64, **options
    )
    scaling = preprocessing_of(model).scaling
    image = scene(max(size)).crop((0, 0, *size))
    seen = transforms.eval(image)
    assert scaling is not None
    plain = to_pil_image(scaling.levels(seen))
    assert torch.allclose(scaling(plain), seen, atol=1e-2)
    views = corrupted(transforms.eval, scaling)(image)
    assert views.shape == (len(VARIANTS), *seen.shape)
    for view, copy in zip(views, corrupt(plain), strict=True):
        assert torch.equal(view, scaling(copy))


def test_a_preprocessing_that_is_not_linear_is_refused() -> None:
    with pytest.raises(ModelError, match=r"changes the pixels that the network sees, which needs .* leave out"):
        corrupted(ImageTransform(lambda image: torch.zeros(3, 8, 8)), None)
