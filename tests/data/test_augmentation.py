"""Augmentation presets: what they change, what they keep, and that they follow torch's seed."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hf_tl import augmentation
from hf_tl.data.decoding.augmentation import PairMixer, augmented_pipeline
from hf_tl.data.decoding.scaling import Pipeline, PixelScaling
from hf_tl.errors import ConfigError

PRESETS = ("light", "medium", "strong")
PLAIN = {"finishing": PixelScaling((0, 1, 2), (0.0,) * 3, (1.0,) * 3)}


def photo(width: int = 60, height: int = 40, mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def draw(pipeline: Pipeline, image: Image.Image, count: int) -> list[torch.Tensor]:
    return [pipeline(image) for _ in range(count)]


def test_every_preset_of_a_phase_is_known() -> None:
    assert set(PRESETS) == set(augmentation.PRESETS) - {"none"}


@settings(max_examples=40, deadline=None)
@given(
    preset=st.sampled_from(PRESETS),
    width=st.integers(1, 300),
    height=st.integers(1, 300),
    size=st.tuples(st.integers(1, 80), st.integers(1, 80)),
    mode=st.sampled_from(["RGB", "L"]),
)
def test_any_image_gives_a_tensor_of_the_size(
    preset: str, width: int, height: int, size: tuple[int, int], mode: str
) -> None:
    channels = len(mode) if mode == "RGB" else 1
    finishing = PixelScaling(tuple(range(channels)), (0.5,) * channels, (0.5,) * channels)
    pipeline = augmented_pipeline(preset, size=size, finishing=finishing)
    result = pipeline(photo(width, height, mode))
    assert type(result) is torch.Tensor
    assert result.shape == (channels, *size)
    assert result.dtype == torch.float32
    assert result.isfinite().all()


@pytest.mark.parametrize("preset", PRESETS)
def test_results_follow_the_seed(preset: str) -> None:
    pipeline = augmented_pipeline(preset, size=(32, 32), **PLAIN)
    runs = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        runs.append(torch.stack(draw(pipeline, photo(), 4)))
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def mirrored(pipeline: Pipeline, count: int = 60) -> int:
    """Count the mirrored among `count` draws of an image that is dark on its left."""
    ramp = Image.fromarray(np.tile(np.linspace(0, 255, 64, dtype=np.uint8), (64, 1))).convert("RGB")
    torch.manual_seed(0)
    results = draw(pipeline, ramp, count)
    return sum(float(result[0, :, 0].mean()) > float(result[0, :, -1].mean()) for result in results)


def test_digits_are_not_mirrored() -> None:
    assert mirrored(augmented_pipeline("light", size=(32, 32), horizontal_flip=False, **PLAIN)) == 0
    assert 15 < mirrored(augmented_pipeline("light", size=(32, 32), **PLAIN)) < 45


@pytest.mark.parametrize(("preset", "smallest"), [("light", 0.25), ("medium", 0.25), ("strong", 0.08)])
def test_crops_are_no_smaller_than_said(preset: str, smallest: float) -> None:
    crop = augmented_pipeline(preset, size=(32, 32), **PLAIN).transforms[0]
    assert (crop.scale, tuple(crop.size)) == ((smallest, 1.0), (32, 32))


def test_a_light_crop_holds_a_quarter_of_the_image() -> None:
    """Pixels encode their position: the range of the codes in a crop gives its area."""
    width, height = 200, 200
    across, down = np.meshgrid(np.arange(width), np.arange(height))
    image = Image.fromarray(np.stack([across, down, across * 0], -1).astype(np.uint8))
    pipeline = augmented_pipeline("light", size=(50, 50), interpolation="nearest", **PLAIN)
    torch.manual_seed(0)
    areas = []
    for crop in draw(pipeline, image, 100):
        spans = [float(crop[axis].max() - crop[axis].min()) * 255 for axis in (0, 1)]
        areas.append(spans[0] * spans[1] / (width * height))
    assert min(areas) > 0.22
    assert max(areas) > 0.8


def test_pixels_are_normalized_by_channel() -> None:
    image = Image.new("RGB", (20, 20), (255, 0, 51))
    finishing = PixelScaling((0, 1, 2), (0.5, 0.5, 0.2), (0.5, 0.25, 0.1))
    result = augmented_pipeline("light", size=(8, 8), finishing=finishing)(image)
    expected = torch.tensor([1.0, -2.0, 0.0])
    torch.testing.assert_close(result.mean(dim=(1, 2)), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(result.amax(dim=(1, 2)), expected, rtol=0, atol=1e-5)


def test_light_leaves_colors_and_medium_does_not() -> None:
    image = Image.new("RGB", (40, 40), (200, 100, 50))
    torch.manual_seed(0)
    colors = {}
    for preset in ("light", "medium"):
        pipeline = augmented_pipeline(preset, size=(8, 8), **PLAIN)
        colors[preset] = {tuple((result[:, 4, 4] * 255).round().int().tolist()) for result in draw(pipeline, image, 40)}
    assert colors["light"] == {(200, 100, 50)}
    assert len(colors["medium"]) > 3


def test_strong_erases_in_a_quarter_of_the_images() -> None:
    """Erased pixels are zero after normalization; a white image has no other zeros, except where it is shifted out."""
    pipeline = augmented_pipeline("strong", size=(32, 32), **PLAIN)
    erasing = pipeline.transforms[-1]
    torch.manual_seed(0)
    erased = sum(bool((erasing(torch.ones(3, 32, 32)) == 0).any()) for _ in range(400))
    assert 60 < erased < 140


@pytest.mark.parametrize("preset", ["none", "heavy", ""])
def test_unknown_presets(preset: str) -> None:
    with pytest.raises(ConfigError, match=rf"unknown augmentation '{preset}'; augmentation takes .*'light'"):
        augmented_pipeline(preset, size=(8, 8), **PLAIN)


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"])
def test_every_interpolation_of_a_checkpoint_works(interpolation: str) -> None:
    pipeline = augmented_pipeline("strong", size=(16, 16), interpolation=interpolation, **PLAIN)
    assert pipeline(photo()).shape == (3, 16, 16)


@settings(max_examples=40, deadline=None)
@given(
    mixup=st.just(0.0) | st.floats(0.01, 5), cutmix=st.floats(0.01, 5), seed=st.integers(0, 99),
    classes=st.integers(2, 9), side=st.integers(2, 40),
)  # fmt: skip
def test_mixed_labels_are_probabilities_of_both_images(
    mixup: float, cutmix: float, seed: int, classes: int, side: int
) -> None:
    torch.manual_seed(seed)
    images = torch.stack([torch.zeros(3, side, side), torch.ones(3, side, side)])
    mixed, labels = PairMixer(mixup, cutmix, classes)(images, torch.tensor([0, 1]))
    assert (mixed.shape, labels.shape) == (images.shape, (2, classes))
    torch.testing.assert_close(labels.sum(1), torch.ones(2))
    # the images are 0 and 1: the mean of their mixture is the share of the second
    torch.testing.assert_close(mixed.mean(dim=(1, 2, 3)), labels[:, 1], rtol=0, atol=1e-4)
    torch.testing.assert_close(labels[0, 1], labels[1, 0])


@pytest.mark.parametrize(("mixup", "cutmix", "values"), [(1.0, 0.0, 1), (0.0, 1.0, 2)])
def test_mixup_blends_and_cutmix_pastes(mixup: float, cutmix: float, values: int) -> None:
    torch.manual_seed(1)
    images = torch.stack([torch.zeros(3, 16, 16), torch.ones(3, 16, 16)])
    mixed, _ = PairMixer(mixup, cutmix, 2)(images, torch.tensor([0, 1]))
    assert len(mixed[0].unique()) == values
    assert (set(mixed[0].unique().tolist()) <= {0.0, 1.0}) == (cutmix > 0)
