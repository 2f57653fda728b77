"""`--resize_mode`: recorded, saved, and the same in plain transformers and timm."""

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from backbones.checkpoints import LABELS, save_transformers, tiny_vit
from PIL import Image
from publish.records import make_record
from publish.saving import save_model
from timm.data import create_transform, resolve_data_config
from transformers import AutoImageProcessor, CLIPImageProcessor

import hf_tl
from hf_tl.backbones.libraries.preprocessing import Preprocessing
from hf_tl.backbones.libraries.processors import processor_preprocessing
from hf_tl.backbones.load import load_backbone, preprocessing_of
from hf_tl.errors import ConfigError
from hf_tl.exporting.preprocessing import describe
from hf_tl.phase import ResizeMode
from hf_tl.runtime.preprocessing import apply
from hf_tl.strategy import Strategy
from hf_tl.views.framing import WholeImage, median_size, resize_mode_of, visible_share
from hf_tl.views.notes import flip_notes

MODES: tuple[ResizeMode, ...] = ("crop", "squash", "pad")
SIZES = ((400, 100), (90, 300), (64, 64))


def photo(size: tuple[int, int]) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype=np.uint8))


@pytest.fixture(params=["timm", "transformers"])
def name(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return "timm:test_resnet" if request.param == "timm" else str(save_transformers(tiny_vit(), tmp_path / "vit"))


@pytest.mark.parametrize("mode", MODES)
def test_a_saved_model_does_the_same_in_plain_transformers(name: str, mode: ResizeMode, tmp_path: Path) -> None:
    model, transforms = load_backbone(name, LABELS, Strategy.transfer(), pretrained=False, resize_mode=mode)
    preprocessing = preprocessing_of(model)
    assert preprocessing.resize_mode == mode
    assert preprocessing.to_record()["resize_mode"] == mode
    assert resize_mode_of(transforms.eval.pipeline, preprocessing.input_size) == mode
    folder = tmp_path / "saved"
    save_model(model, transforms, make_record(), folder)
    processor = AutoImageProcessor.from_pretrained(folder)
    _, again = hf_tl.load(folder)
    for size in SIZES:
        expected = transforms.eval(photo(size))
        torch.testing.assert_close(processor(photo(size), return_tensors="pt")["pixel_values"][0], expected)
        torch.testing.assert_close(again.eval(photo(size)), expected)
    steps = describe(preprocessing)
    for size in SIZES:
        # torchvision, with which transformers resizes, rounds differently from Pillow: by one level of 255
        tolerance = 1e-5 if name.startswith("timm:") else 1.01 / 255 / min(steps["std"])
        np.testing.assert_allclose(apply(steps, photo(size)), transforms.eval(photo(size)).numpy(), atol=tolerance)
    if name.startswith("timm:"):
        alone = timm.create_model(f"local-dir:{folder}", pretrained=True)
        transform = create_transform(**resolve_data_config(alone.pretrained_cfg), is_training=False)
        torch.testing.assert_close(transform(photo(SIZES[0])), transforms.eval(photo(SIZES[0])))


@pytest.mark.parametrize("mode", MODES)
def test_the_edges_of_a_wide_image_are_seen_unless_it_is_cropped(name: str, mode: ResizeMode) -> None:
    _, transforms = load_backbone(name, LABELS, pretrained=False, resize_mode=mode)
    wide = Image.new("RGB", (400, 100))
    marked = wide.copy()
    marked.paste((255, 255, 255), (0, 0, 60, 100))
    is_seen = not torch.equal(transforms.eval(wide), transforms.eval(marked))
    assert is_seen == (mode != "crop")
    if mode != "crop":
        preprocessing = transforms.preprocessing
        assert isinstance(preprocessing, Preprocessing)
        share = visible_share(preprocessing.evaluation, preprocessing.input_size, wide.size)
        assert share == pytest.approx(1, abs=0.2)
        torch.manual_seed(0)
        views = [transforms.train(marked).unique().numel() > 2 for _ in range(20)]
        assert sum(views) > 10


def test_augmentation_pads_with_the_color_that_becomes_zero() -> None:
    model, _ = load_backbone("timm:test_resnet", LABELS, pretrained=False, resize_mode="pad")
    preprocessing = preprocessing_of(model)
    whole = preprocessing._whole_image()
    assert whole is not None
    padded = whole(Image.new("RGB", (40, 10), "white"))
    corner = preprocessing.finishing(padded)[:, 0, 0]
    assert corner.abs().max() < 0.01


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(ConfigError, match="resize_mode takes one of crop, squash, pad, found 'stretch'"):
        load_backbone("timm:test_resnet", LABELS, pretrained=False, resize_mode="stretch")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("size", "share"), [((400, 100), 1 / 4), ((100, 400), 1 / 4), ((300, 200), 2 / 3), ((64, 64), 1)]
)
def test_the_visible_share_is_measured(size: tuple[int, int], share: float) -> None:
    preprocessing = processor_preprocessing(CLIPImageProcessor())
    assert visible_share(preprocessing.evaluation, preprocessing.input_size, size) == pytest.approx(share, abs=0.02)


def test_the_median_size_is_that_of_the_median_ratio(tmp_path: Path) -> None:
    for number, size in enumerate([(10, 10), (40, 10), (20, 10)]):
        Image.new("RGB", size).save(tmp_path / f"{number}.png")
    stored = [{"path": str(tmp_path / f"{number}.png"), "bytes": None} for number in range(3)]
    assert median_size([*stored, {"path": "gone.png", "bytes": None}]) == (20, 10)
    assert median_size([]) is None


@pytest.mark.parametrize("mode", ["squash", "pad"])
@pytest.mark.parametrize("size", SIZES)
def test_whole_images_have_the_shape_of_the_input(mode: ResizeMode, size: tuple[int, int]) -> None:
    whole = WholeImage(mode, (32, 64))(photo(size))
    assert whole.width == pytest.approx(2 * whole.height, abs=2)
    assert whole.height >= 32


@pytest.mark.parametrize(
    ("labels", "is_noted"),
    [
        (("left", "right"), True),
        (("Left hand", "right hand", "none"), True),
        (("left", "up"), False),
        (tuple("abcdef"), True),
        (("0", "1"), False),
        (tuple("猫狗鳥魚馬"), True),
        (("cat", "dog"), False),
    ],
)
def test_classes_that_flips_may_change_are_noted(labels: tuple[str, ...], is_noted: bool) -> None:
    assert bool(flip_notes(labels)) == is_noted
