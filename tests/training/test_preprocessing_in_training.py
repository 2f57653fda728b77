"""A whole training uses the pixels that its model is evaluated and saved with."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from backbones.checkpoints import save_transformers, tiny_resnet, tiny_vit
from data.test_colors import BROKEN
from PIL import Image
from torchvision.transforms import v2

import hf_tl
from hf_tl.data.decoding.images import ImageTransform, Transforms
from hf_tl.errors import ConfigError

pytestmark = pytest.mark.long

COLORS = {"blue": (40, 40, 200), "red": (200, 40, 40)}
LABELS = tuple(COLORS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write red and blue images, one of them with broken EXIF data."""
    folder, random = tmp_path_factory.mktemp("colors"), np.random.default_rng(0)
    for split, count in (("train", 24), ("test", 10)):
        for name, color in COLORS.items():
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = np.clip(np.array(color) + random.integers(-40, 40, (40, 50, 3)), 0, 255).astype(np.uint8)
                exif = BROKEN["no TIFF header"] if number == 3 else None
                Image.fromarray(pixels).save(folder / split / name / f"{number}.png", exif=exif)
    return folder


def settings(tmp_path: Path) -> dict[str, object]:
    return {
        "output_dir": str(tmp_path / "out"),
        "report_to": "none",
        "cpu_threads": 1,
        "per_device_train_batch_size": 8,
    }


def test_a_processor_that_flips_channels_is_trained_for(folder: Path, tmp_path: Path) -> None:
    """A training on RGB with an evaluation on BGR would confuse red and blue images."""
    source = save_transformers(tiny_resnet(), tmp_path / "source")
    transformers.MobileViTImageProcessor(
        size={"shortest_edge": 36}, crop_size={"height": 32, "width": 32}, rescale_factor=1 / 127.5
    ).save_pretrained(source)
    strategy = hf_tl.Strategy.full(epochs=6, learning_rate=0.01, augmentation="light")
    model, _ = hf_tl.load_backbone(str(source), LABELS, strategy, pretrained=False)
    result = hf_tl.train(model, str(folder), strategy, **settings(tmp_path))
    assert result.record.measured["test"].metrics["accuracy"] == 1.0
    assert "PixelScaling(channels=BGR" in result.record.transforms["train"]


@pytest.mark.parametrize("library", ["timm", "transformers"])
def test_the_image_size_is_kept_without_transforms(library: str, folder: Path, tmp_path: Path) -> None:
    source = "timm:test_resnet"
    if library == "transformers":
        source = str(save_transformers(tiny_vit(LABELS), tmp_path / "source"))
    strategy = hf_tl.Strategy.transfer(epochs=1)
    model, made = hf_tl.load_backbone(source, LABELS, strategy, pretrained=library != "timm", image_size=64)
    result = hf_tl.train(model, str(folder), strategy, **settings(tmp_path))
    assert tuple(result.record.model.preprocessing.input_size) == (3, 64, 64)
    image = Image.open(folder / "test" / "red" / "0.png")
    assert torch.equal(hf_tl.load(result.output_dir)[1].eval(image), made.eval(image))


@pytest.mark.parametrize("library", ["timm", "transformers"])
def test_a_users_own_training_transform_is_used(library: str, folder: Path, tmp_path: Path) -> None:
    source = "timm:test_resnet"
    if library == "transformers":
        source = str(save_transformers(tiny_vit(LABELS), tmp_path / "source"))
    strategy = hf_tl.Strategy.transfer(epochs=2, augmentation="light")
    model, made = hf_tl.load_backbone(source, LABELS, strategy, pretrained=library != "timm", image_size=32)
    seen = []

    def own(image: Image.Image) -> torch.Tensor:
        seen.append(image.size)
        return made.eval.pipeline(v2.functional.horizontal_flip(image))

    transforms = Transforms(ImageTransform(own), made.eval)
    result = hf_tl.train(model, str(folder), strategy, transforms=transforms, **settings(tmp_path))
    train = json.loads((Path(result.output_dir) / "run.json").read_text())["data"]["splits"]["train"]["images"]
    assert len(seen) >= 2 * train
    assert "own" in result.record.transforms["train"]


def refused(folder: Path, tmp_path: Path, make: Callable[[Transforms], Transforms], augmentation: str) -> str:
    strategy = hf_tl.Strategy.transfer(epochs=1, augmentation=augmentation)
    model, made = hf_tl.load_backbone("timm:test_resnet", LABELS, strategy, pretrained=False, image_size=32)
    with pytest.raises(ConfigError) as caught:
        hf_tl.train(model, str(folder), strategy, transforms=make(made), **settings(tmp_path))
    assert not (tmp_path / "out" / "run.json").exists()
    return str(caught.value)


def test_transforms_that_would_be_ignored_are_refused(folder: Path, tmp_path: Path) -> None:
    own = ImageTransform(v2.Compose([v2.Resize((32, 32)), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]))
    text = refused(folder, tmp_path, lambda made: Transforms(made.train, own), "light")
    assert "`transforms.eval` that gives other pixels" in text
    text = refused(folder, tmp_path, lambda made: Transforms(own, made.eval), "none")
    assert "augmentation 'none' in all phases" in text


@pytest.fixture(scope="module")
def icons(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write images of one color, half of them with transparent pixels that hide another color."""
    folder = tmp_path_factory.mktemp("icons")
    for split, count in (("train", 24), ("test", 16)):
        for name, color in COLORS.items():
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                image = Image.new("RGBA", (40, 40), (*color, 255))
                if number % 2:
                    hidden = COLORS["red" if name == "blue" else "blue"]
                    image.paste((*hidden, 0), (0, 0, 40, 30))
                image.putpixel((0, 0), (number, 0, 0, 255))  # makes all images distinct
                image.save(folder / split / name / f"{number}.png")
    return folder


def test_the_record_states_what_a_plain_pipeline_gets(icons: Path, tmp_path: Path) -> None:
    strategy = hf_tl.Strategy.full(epochs=10, learning_rate=0.01, augmentation="none")
    model, _ = hf_tl.load_backbone("timm:test_resnet", LABELS, strategy, pretrained=False, image_size=32)
    result = hf_tl.train(model, str(icons), strategy, **settings(tmp_path))
    measured = result.record.measured["test"]
    assert measured.metrics["accuracy"] > 0.9
    assert dict(measured.plain.conversions) == {"transparency": 16}
    classifier = transformers.pipeline("image-classification", model=str(result.output_dir))
    files = sorted((icons / "test").glob("*/*.png"))
    right = sum(classifier(str(file))[0]["label"] == file.parent.name for file in files)
    assert measured.plain.metrics["accuracy"] == pytest.approx(right / len(files))
    assert right / len(files) < measured.metrics["accuracy"]
    card = (Path(result.output_dir) / "README.md").read_text(encoding="utf-8")
    assert "def to_rgb(image):" in card
    assert "by a plain pipeline()" in card


def test_nothing_is_stated_of_a_pipeline_that_cannot_be_used(icons: Path, tmp_path: Path) -> None:
    strategy = hf_tl.Strategy.transfer(epochs=1)
    model, _ = hf_tl.load_backbone("timm:test_resnet", LABELS, strategy, pretrained=False, image_size=32, in_chans=1)
    result = hf_tl.train(model, str(icons), strategy, **settings(tmp_path))
    assert result.record.measured["test"].plain is None
    card = (Path(result.output_dir) / "README.md").read_text(encoding="utf-8")
    assert "A pipeline cannot be used" in card
