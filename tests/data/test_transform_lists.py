"""Lists of torchvision transforms as an augmentation: what they may hold, where they stand, what their errors say."""

import inspect
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import v2

from hf_tl.augmentation import FUNCTION, PRESETS, read_augmentation, steps_of
from hf_tl.backbones.libraries.preprocessing import Preprocessing
from hf_tl.data.decoding.own_augmentation import check_augmentation
from hf_tl.data.decoding.transform_names import FLAGS_INSTEAD, known_transforms
from hf_tl.errors import ConfigError, DataError
from hf_tl.strategy import Phase

SIDE = 48
EVALUATION = v2.Compose(
    [v2.Resize(56), v2.CenterCrop(SIDE), v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True),
     v2.Normalize([0.5] * 3, [0.5] * 3)]
)  # fmt: skip
REQUIRED = {
    "AutoAugment": {}, "GaussianBlur": {"kernel_size": 3}, "JPEG": {"quality": [20, 80]}, "Pad": {"padding": 4},
    "RandomAdjustSharpness": {"sharpness_factor": 2}, "RandomAffine": {"degrees": 10}, "RandomPosterize": {"bits": 3},
    "RandomResize": {"min_size": 40, "max_size": 60}, "RandomRotation": {"degrees": [-20, 20]},
    "RandomShortestSize": {"min_size": 50}, "RandomSolarize": {"threshold": 128},
    "ScaleJitter": {"target_size": [50, 60]}, "Grayscale": {"num_output_channels": 3}, "ToDtype": {"dtype": "uint8"},
}  # fmt: skip
"""Arguments of transforms without a default for all."""
REFUSED = {
    "FiveCrop", "TenCrop", "GaussianNoise", "Lambda", "LinearTransformation", "Normalize", "RandomIoUCrop",
    "SanitizeBoundingBoxes", "SanitizeKeyPoints", "ToTensor", *FLAGS_INSTEAD,
}  # fmt: skip
"""Transforms that take or give something other than one image."""
NESTED = ("Compose", "RandomApply", "RandomChoice", "RandomOrder")
USABLE = sorted(set(known_transforms()) - REFUSED - set(NESTED) - {"UniformTemporalSubsample"})


def preprocessing() -> Preprocessing:
    return Preprocessing((3, SIDE, SIDE), "bilinear", EVALUATION)


def photo(width: int = 90, height: int = 70) -> Image.Image:
    return Image.fromarray(np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8))


def train_transform(augmentation: Any, **options: Any) -> Any:
    text = Phase(1, epochs=1, augmentation=augmentation).augmentation
    check_augmentation(text)
    return preprocessing().transforms(text, **options).train


def entry(name: str) -> Any:
    return {name: REQUIRED[name]} if REQUIRED.get(name) else name


def drawn(transform: Any, image: Image.Image, seed: int) -> torch.Tensor:
    torch.manual_seed(seed)
    return transform(image)


@pytest.mark.parametrize("name", USABLE)
def test_every_transform_of_images_works_with_its_defaults(name: str) -> None:
    transform = train_transform([entry(name)])
    for seed in range(3):
        result = drawn(transform, photo(), seed)
        assert type(result) is torch.Tensor
        assert (result.shape, result.dtype) == ((3, SIDE, SIDE), torch.float32)


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_a_transform_of_something_else_is_refused(name: str) -> None:
    arguments = {"Normalize": {"mean": [0.5] * 3, "std": [0.5] * 3}}.get(name)
    with pytest.raises(ConfigError, match=rf"transform 1.*{name}"):
        train_transform([{name: arguments}])


# others change type or size so that not every transform can follow them
COMBINED = sorted(set(USABLE) - {"PILToTensor", "RandomCrop", "ScaleJitter", "ToImage"})
steps = st.recursive(
    st.sampled_from([entry(name) for name in COMBINED]),
    lambda inner: st.builds(
        lambda name, nested: {name: {"transforms": nested}},
        st.sampled_from(NESTED),
        st.lists(inner, min_size=1, max_size=2),
    ),
    max_leaves=4,
)


@settings(max_examples=25, deadline=None)
@given(st.lists(steps, min_size=1, max_size=3), st.integers(0, 99))
def test_any_list_is_read_back_from_its_text_and_follows_the_seed(entries: list[Any], seed: int) -> None:
    text = read_augmentation(entries)
    assert text is not None
    assert read_augmentation(text) == text
    assert Phase.from_record({"trainable_stages": 1, "epochs": 1, "augmentation": text}).augmentation == text
    first, second = (drawn(train_transform(value), photo(), seed) for value in (entries, text))
    assert torch.equal(first, second)


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=200, deadline=None)
@example({"no": None, "on": 1, "null": "yes", "y": "no"})  # words that YAML reads as something other than text
@given(st.dictionaries(st.from_regex(r"[a-z_]{1,9}", fullmatch=True).filter(lambda n: n != "transforms"), plain))
def test_any_plain_arguments_survive_their_text(arguments: dict[str, Any]) -> None:
    text = read_augmentation([{"RandomRotation": arguments}])
    assert steps_of(str(text))[0].arguments == arguments


def test_a_preset_equals_its_list() -> None:
    for preset, text in list(PRESETS.items())[1:]:
        for seed in range(5):
            expected = drawn(train_transform(preset), photo(), seed)
            assert torch.equal(drawn(train_transform(text), photo(), seed), expected), preset


def test_the_list_comes_before_resizing_and_normalization() -> None:
    result = drawn(train_transform(["RandomVerticalFlip", {"RandomInvert": {"p": 1}}]), photo(), 0)
    flip, invert = v2.RandomVerticalFlip(), v2.RandomInvert(p=1)
    torch.manual_seed(0)
    assert torch.equal(result, EVALUATION(invert(flip(photo()))))
    after = drawn(
        train_transform([{"RandomInvert": {"p": 1}}, "preprocessing", {"RandomErasing": {"p": 1}}]), photo(), 0
    )
    torch.manual_seed(0)
    assert torch.equal(after, v2.RandomErasing(p=1)(EVALUATION(invert(photo()))))


def test_a_crop_to_the_input_is_not_cropped_again() -> None:
    """A crop without `size` takes size and interpolation of the model; then images are only normalized."""
    result = drawn(train_transform([{"RandomResizedCrop": {"scale": [0.5, 1]}}]), photo(), 3)
    crop = v2.RandomResizedCrop((SIDE, SIDE), scale=(0.5, 1), interpolation=v2.InterpolationMode.BILINEAR)
    torch.manual_seed(3)
    assert torch.equal(result, preprocessing().finishing(crop(photo())))
    sometimes = train_transform([{"RandomApply": {"transforms": ["RandomResizedCrop"]}}])
    assert {drawn(sometimes, photo(), seed).shape for seed in range(8)} == {(3, SIDE, SIDE)}


def test_images_that_are_too_small_for_a_crop_are_named_with_their_size() -> None:
    transform = train_transform([{"RandomCrop": {"size": 300}}])
    assert transform(photo(400, 300)).shape == (3, SIDE, SIDE)
    with pytest.raises(DataError, match=r"transform 1 \(RandomCrop\) cannot be applied.*\(90 x 70 pixels\)"):
        transform(photo())


def test_nested_transforms_are_tried_even_if_they_are_rarely_applied() -> None:
    nested = {"RandomApply": {"p": 0.001, "transforms": [{"RandomApply": {"p": 0.001, "transforms": ["FiveCrop"]}}]}}
    with pytest.raises(ConfigError, match=r"needs size|cannot be applied|FiveCrop"):
        train_transform([nested, {"RandomPosterize": {"bits": 3}}, "GaussianNoise"])
    rare = {"RandomApply": {"p": 0.001, "transforms": [{"RandomPosterize": {"bits": "x", "p": 0.001}}]}}
    with pytest.raises(ConfigError, match=r"transform 1 \(RandomApply\), transform 1 \(RandomPosterize\) cannot be"):
        train_transform([rare])


WRONG = {
    "an unknown transform": ("- RandomRotaton: {degrees: 5}", r"no transform of images RandomRotaton; did you mean"),
    "a path to code": ("- os.system: {command: ls}", "torchvision.transforms.v2 has no transform of images os.system"),
    "an unknown argument": ("- RandomRotation: {degree: 5}", r"has no argument degree; did you mean degrees\?"),
    "a missing argument": ("- RandomRotation", r"needs degrees: write RandomRotation: \{degrees: …\}"),
    "an argument out of range": ("- RandomSolarize: {threshold: 9, p: 3}", "RandomSolarize.*interval"),
    "a wrong word": ("- RandomRotation: {degrees: 5, interpolation: cubic}", "takes one of nearest, .*found cubic"),
    "a bare argument": ("- RandomRotation: 15", r"write|by name, such as RandomRotation: \{argument: value\}"),
    "two transforms in an entry": ("- RandomRotation:\n  ColorJitter:", "expected one transform, found 2.*dash"),
    "a mapping": ("RandomRotation: {degrees: 5}", "expected a list of transforms.*found dict"),
    "nothing": ("# later", "expected a list of transforms.*found nothing"),
    "an empty list": ("[]", "found none in it; choose the preset none"),
    "no YAML": ("- [", "expected YAML"),
    "a number": ("- 5", "transform 1: expected the name of a transform.*found 5"),
    "a name twice": ("- RandomRotation: {degrees: 5, degrees: 9}", "found degrees twice in line 1"),
    "a date": ("- Pad: {padding: 2026-01-01}", "padding takes numbers, texts"),
    "code": ("- !!python/object/apply:os.system [ls]", "expected YAML.*could not determine a constructor"),
    "preprocessing twice": ("[preprocessing, RandomInvert, preprocessing]", "preprocessing at most once"),
    "nested preprocessing": ("- RandomApply: {transforms: [preprocessing]}", "at most once, in the outer list"),
    "no list of transforms": ("- RandomApply: {transforms: RandomInvert}", "expected a list of transforms in"),
    "mixing": ("- CutMix", "mixes images with their labels.*set cutmix"),
    "another size at the end": ("[preprocessing, CenterCrop: {size: 9}]", r"expected a Tensor .*\(3, 9, 9\)"),
    "fewer channels": ("- Grayscale", "expected a PIL image of mode RGB.*found a PIL image of mode L"),
}


@pytest.mark.parametrize("mistake", WRONG)
def test_a_mistake_in_a_file_is_named(tmp_path: Path, mistake: str) -> None:
    content, message = WRONG[mistake]
    (tmp_path / "mine.yaml").write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=message) as error:
        train_transform(tmp_path / "mine.yaml")
    assert "\n" not in str(error.value)


def test_a_file_that_is_missing_is_no_unknown_preset(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone\.yaml cannot be read: No such file"):
        Phase(1, epochs=1, augmentation=str(tmp_path / "gone.yaml"))
    with pytest.raises(ConfigError, match=r"takes one of none, light.*YAML file.*found 'lihgt'; did you mean light\?"):
        Phase(1, epochs=1, augmentation="lihgt")


def test_mirroring_is_refused_where_a_mirrored_image_changes_its_class() -> None:
    for text in ("[RandomHorizontalFlip]", "[RandomApply: {transforms: [RandomHorizontalFlip]}]"):
        with pytest.raises(ConfigError, match=r"without RandomHorizontalFlip.*horizontal_flip=False"):
            train_transform(text, horizontal_flip=False)
    assert "Flip" not in train_transform("strong", horizontal_flip=False).describe()


def test_a_transform_of_the_users_own_and_a_list_exclude_each_other() -> None:
    both = replace(preprocessing(), training=train_transform("light"))
    with pytest.raises(ConfigError, match=r"expected one augmentation, found your `transforms\.train`"):
        both.check_training_is_used(["none", "[RandomInvert, preprocessing]"])
    both.check_training_is_used(["none", "light"])


def test_a_list_is_described_with_its_arguments() -> None:
    """The description enters the key of cached features."""
    first, second = (train_transform([{"RandomPerspective": {"fill": value}}]).describe() for value in (0, 9))
    assert "RandomPerspective: {fill: 9}" in second
    assert first != second
    assert train_transform([{"RandomPerspective": {"fill": 0}}]).describe() == first


def test_every_name_is_looked_up_in_torchvision_alone() -> None:
    for name, kind in known_transforms().items():
        assert kind.__module__.startswith("torchvision.transforms.v2"), name
        assert inspect.isclass(kind)
    assert not any(name.startswith(FUNCTION) for name in known_transforms())
