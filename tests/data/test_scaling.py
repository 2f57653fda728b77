"""The map from pixels to inputs: measured exactly, or found not to be linear."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision import transforms

from hf_tl.data.decoding.scaling import PixelScaling, colors_of, map_alike, measure_scaling

ORDERS = [(0, 1, 2), (2, 1, 0), (1, 2, 0), (0, 2, 1)]
STATISTIC = st.floats(0.01, 0.99)


def noise(height: int, width: int, mode: str = "RGB") -> Image.Image:
    levels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(levels).convert(mode)


@settings(max_examples=60, deadline=None)
@given(
    order=st.sampled_from(ORDERS),
    mean=st.tuples(STATISTIC, STATISTIC, STATISTIC),
    std=st.tuples(STATISTIC, STATISTIC, STATISTIC),
    factor=st.sampled_from([1.0, 255.0, -1.0, 1 / 255]),
    size=st.sampled_from([(8, 8), (33, 40), (224, 224)]),
)
def test_a_linear_map_of_each_channel_is_found(
    order: tuple[int, ...], mean: tuple[float, ...], std: tuple[float, ...], factor: float, size: tuple[int, int]
) -> None:
    def evaluation(image: Image.Image) -> torch.Tensor:
        pixels = transforms.functional.to_tensor(image.resize(size[::-1]))[list(order)]
        return transforms.functional.normalize(pixels, mean, std) * factor

    scaling = measure_scaling(evaluation, (3, *size))
    assert scaling is not None
    assert scaling.order == order
    image = noise(*size)
    expected = evaluation(image)
    torch.testing.assert_close(scaling(image), expected, rtol=0, atol=3e-6 * max(1.0, float(expected.abs().max())))
    colors = np.asarray(image).astype(float) / 255
    np.testing.assert_allclose(colors_of(scaling, expected.numpy()), colors, atol=1e-4)


def test_statistics_are_read_as_they_were_written_and_give_the_same_bits() -> None:
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    evaluation = transforms.Compose([transforms.ToTensor(), transforms.Normalize(mean, std)])
    scaling = measure_scaling(evaluation, (3, 32, 32))
    assert scaling == PixelScaling((0, 1, 2), mean, std)
    assert torch.equal(scaling(noise(32, 32)), evaluation(noise(32, 32)))


def test_gray() -> None:
    evaluation = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.3,), (0.4,))])
    scaling = measure_scaling(evaluation, (1, 32, 32))
    assert scaling == PixelScaling((0,), (0.3,), (0.4,))
    assert scaling.channel_order == "L"
    image = noise(32, 32, "L")
    assert torch.equal(scaling(image), evaluation(image))
    shown = colors_of(scaling, evaluation(image).numpy()[None])
    assert shown.shape == (1, 32, 32, 3)
    np.testing.assert_allclose(shown[0, ..., 1] * 255, np.asarray(image), atol=1e-3)


OTHER_MAPS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "gamma": lambda pixels: pixels**2.2,
    "steps": lambda pixels: (pixels * 16).floor() / 16,
    "channels are mixed": lambda pixels: pixels + 0.1 * pixels.roll(1, 0),
    "gray": lambda pixels: pixels.mean(0, keepdim=True).expand(3, -1, -1),
    "a channel is missing": lambda pixels: pixels * torch.tensor([1.0, 0.0, 1.0])[:, None, None],
    "by the image's mean": lambda pixels: pixels - pixels.mean(),
    "by the image's range": lambda pixels: pixels / pixels.max().clamp(min=0.1),
    "not finite": lambda pixels: pixels.log(),
}


@pytest.mark.parametrize("name", OTHER_MAPS)
def test_any_other_map_is_none(name: str) -> None:
    assert measure_scaling(lambda image: OTHER_MAPS[name](transforms.functional.to_tensor(image)), (3, 64, 64)) is None


def test_maps_are_compared_also_where_they_are_not_linear() -> None:
    gamma = transforms.Compose([transforms.ToTensor(), OTHER_MAPS["gamma"]])
    resized = transforms.Compose([transforms.Resize(40), transforms.CenterCrop(32), gamma])
    assert map_alike(gamma, resized, (3, 32, 32))
    assert not map_alike(transforms.ToTensor(), resized, (3, 32, 32))


def test_colors_without_a_map_are_stretched() -> None:
    shown = colors_of(None, np.array([-2.0, 0.0, 2.0]).reshape(3, 1, 1))
    np.testing.assert_allclose(shown, [[[0.0, 0.5, 1.0]]])
