"""Python functions as an augmentation: what they take and give, and how they are named."""

import copy
import pickle
import random
from typing import Any

import numpy as np
import pytest
import torch
from data.test_transform_lists import SIDE, drawn, photo, train_transform
from PIL import Image
from torchvision.transforms import v2

from hf_tl.augmentation import FunctionAugmentation, read_augmentation
from hf_tl.errors import ConfigError
from hf_tl.strategy import Phase, Strategy

GENERATOR = np.random.default_rng(0)


def rotated(image: Image.Image) -> Image.Image:
    return image.rotate(random.uniform(-9, 9) + np.random.uniform(-9, 9) + float(torch.rand(())))


def as_array(image: Image.Image) -> np.ndarray:
    return np.asarray(image)[::2]


def as_pixels(image: Image.Image) -> torch.Tensor:
    return v2.functional.pil_to_tensor(image)


def of_its_own_numbers(image: Image.Image) -> Image.Image:
    return image.rotate(float(GENERATOR.uniform(-90, 90)))


class Darker:
    """Callable object with the default representation."""

    def __call__(self, image: Image.Image) -> Image.Image:
        return image.point(lambda level: level // 2)


@pytest.mark.parametrize("function", [rotated, as_array, as_pixels, Darker(), v2.RandomRotation(9)])
def test_any_callable_of_an_image_is_an_augmentation(function: Any) -> None:
    transform = train_transform(function)
    assert drawn(transform, photo(), 0).shape == (3, SIDE, SIDE)


def test_random_numbers_of_all_libraries_follow_the_seed() -> None:
    transform = train_transform(rotated)
    random.seed(1)
    np.random.seed(1)
    first = drawn(transform, photo(), 5)
    after = random.random(), np.random.random()
    random.seed(1)
    np.random.seed(1)
    assert after == (random.random(), np.random.random()), "their states are restored"
    random.seed(2)
    assert torch.equal(first, drawn(transform, photo(), 5))
    assert not torch.equal(first, drawn(transform, photo(), 6))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (of_its_own_numbers, r"expected the same image for the same seed.*torch\.randint"),
        (lambda image: image.convert("L"), "expected a PIL image of mode RGB.*mode L"),
        (lambda image: {"image": image}, "found a dict"),
        (lambda image: torch.rand(3, 4, 4), r"found a Tensor of torch\.float32"),
        (lambda image: image.no_such_method(), "cannot be applied to a PIL image of mode RGB.*no_such_method"),
    ],
)
def test_a_function_that_does_not_fit_is_refused_before_training(function: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        train_transform(function)


def test_a_function_is_named_by_its_place_and_its_source() -> None:
    name = read_augmentation(rotated)
    assert str(name).startswith(f"python:{__name__}.rotated@")
    assert read_augmentation(rotated) == name != read_augmentation(as_array)
    assert str(read_augmentation(Darker())).startswith(f"python:{__name__}.Darker@")
    assert read_augmentation(v2.RandomRotation(9)) != read_augmentation(v2.RandomRotation(8))


def test_the_name_keeps_the_function_and_a_record_does_not() -> None:
    strategy = Strategy.full(augmentation=rotated)
    for same in (strategy, copy.deepcopy(strategy), pickle.loads(pickle.dumps(strategy)), strategy.resolve(500)):
        [phase] = same.phases
        assert isinstance(phase.augmentation, FunctionAugmentation)
        assert phase.augmentation.function is rotated
    record = strategy.to_record()
    assert type(record["phases"][0]["augmentation"]) is str
    again = Strategy.from_record(record)
    assert again == Strategy("full", strategy.phases)
    with pytest.raises(ConfigError, match="is the name of a Python function, which a record does not contain"):
        train_transform(again.phases[0].augmentation)
    assert Phase(1, epochs=1, augmentation=rotated) == Phase(1, epochs=1, augmentation=str(read_augmentation(rotated)))


def test_functions_of_the_same_source_are_not_confused() -> None:
    def turning(degrees: float) -> Any:
        return lambda image: image.rotate(degrees)

    quarter, half = (train_transform(turning(degrees)) for degrees in (90, 180))
    for transform, degrees in ((quarter, 90), (half, 180)):
        assert torch.equal(transform(photo()), train_transform("none")(photo().rotate(degrees)))
