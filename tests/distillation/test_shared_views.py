"""Inputs of a student as inputs of its teacher: what the teacher's own preprocessing gives for the same pixels."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from hf_tl.backbones.libraries.preprocessing import Preprocessing
from hf_tl.backbones.load import load_backbone, preprocessing_of
from hf_tl.data.decoding.augmentation import PairMixer
from hf_tl.data.decoding.scaling import PixelScaling
from hf_tl.distillation.views import SharedView
from hf_tl.errors import ModelError

IMAGENET = PixelScaling((0, 1, 2), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
INCEPTION = PixelScaling((0, 1, 2), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
BGR = PixelScaling((2, 1, 0), (0.1, 0.2, 0.3), (0.7, 0.8, 0.9))
SCALINGS = [IMAGENET, INCEPTION, BGR]
SIDE = 8


def pictures(count: int = 4) -> list[Image.Image]:
    values = np.random.default_rng(0)
    return [Image.fromarray(values.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)) for _ in range(count)]


def inputs(scaling: PixelScaling) -> torch.Tensor:
    return torch.stack([scaling(picture) for picture in pictures()])


@pytest.mark.parametrize("student", SCALINGS)
@pytest.mark.parametrize("teacher", SCALINGS)
def test_the_teacher_gets_its_own_normalization_of_the_same_pixels(
    student: PixelScaling, teacher: PixelScaling
) -> None:
    view = SharedView(student, teacher, (SIDE, SIDE))
    torch.testing.assert_close(view(inputs(student)), inputs(teacher), rtol=1e-5, atol=1e-5)


def test_the_same_normalization_changes_no_bit() -> None:
    assert torch.equal(SharedView(IMAGENET, IMAGENET, (SIDE, SIDE))(inputs(IMAGENET)), inputs(IMAGENET))


@pytest.mark.parametrize("method", ["mixup", "cutmix"])
def test_mixed_views_are_those_of_the_teacher_mixed_in_the_same_way(method: str) -> None:
    settings = {"mixup": 0.0, "cutmix": 0.0, method: 1.0}
    mixer, labels = PairMixer(**settings, classes=2), torch.tensor([0, 1])

    def mixed(scaling: PixelScaling) -> torch.Tensor:
        torch.manual_seed(3)
        return mixer(inputs(scaling)[:2], labels)[0]

    assert not torch.equal(mixed(BGR), inputs(BGR)[:2])
    view = SharedView(IMAGENET, BGR, (SIDE, SIDE))
    torch.testing.assert_close(view(mixed(IMAGENET)), mixed(BGR), rtol=1e-5, atol=1e-5)


def test_views_of_another_size_are_resized_after_normalization() -> None:
    view = SharedView(IMAGENET, INCEPTION, (2 * SIDE, SIDE))
    resized = view(inputs(IMAGENET))
    assert resized.shape == (4, 3, 2 * SIDE, SIDE)
    plain = torch.full((1, 3, SIDE, SIDE), 0.5)
    expected = SharedView(IMAGENET, INCEPTION, (SIDE, SIDE))(plain)[..., :1, :1].expand(-1, -1, 2 * SIDE, SIDE)
    torch.testing.assert_close(view(plain), expected)


def made(**options: object) -> Preprocessing:
    model, _ = load_backbone("timm:test_resnet", ["cat", "dog"], pretrained=False, **options)  # type: ignore[arg-type]
    return preprocessing_of(model)


def test_the_conversion_follows_both_preprocessings() -> None:
    student, teacher = made(image_size=32), made(image_size=48)
    view = SharedView.of(student, teacher)
    assert (view.student, view.teacher, view.size) == (student.scaling, teacher.scaling, (48, 48))


def test_other_channels_are_refused() -> None:
    with pytest.raises(ModelError, match="teacher with 3 input channels"):
        SharedView.of(made(), made(in_chans=1))


def test_a_preprocessing_that_is_not_linear_is_refused() -> None:
    plain = made(image_size=32)
    squared = dataclasses.replace(plain, evaluation=lambda image: plain.evaluation(image) ** 2)
    for pair in ((plain, squared), (squared, plain)):
        with pytest.raises(ModelError, match="same views"):
            SharedView.of(*pair)
