"""Batches decoded by threads equal the transform of each image, number by number."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from datasets import Dataset, Features, Image
from PIL import ExifTags
from PIL import Image as Pillow
from timm.data import create_transform, resolve_data_config
from torchvision.transforms import v2
from transformers import ConvNextImageProcessor, ViTImageProcessor

from hf_tl.backbones.libraries.processors import ProcessorPipeline
from hf_tl.data.decoding.images import ImageTransform
from hf_tl.data.decoding.pixels import pixel_batches, resized_side
from hf_tl.errors import DataError

CPU = torch.device("cpu")


def encoded(mode: str, number: int, kind: str = "PNG", orientation: int | None = None) -> bytes:
    """Encode noise of a size that depends on the number."""
    width, height = 30 + number, 20 + 3 * number
    values = {"L": 1, "RGB": 3, "RGBA": 4, "LA": 2, "CMYK": 4, "I;16": 2}[mode] * width * height
    image = Pillow.frombytes(mode, (width, height), np.random.default_rng(number).bytes(values))
    exif = Pillow.Exif()
    if orientation is not None:
        exif[ExifTags.Base.Orientation] = orientation
    stream = io.BytesIO()
    image.save(stream, kind, exif=exif)
    return stream.getvalue()


@pytest.fixture(scope="module")
def images() -> Dataset:
    files = [encoded(mode, number) for number, mode in enumerate(("RGB", "L", "RGBA", "LA", "I;16"))]
    files += [encoded("RGB", 5, "JPEG"), encoded("L", 6, "JPEG"), encoded("CMYK", 7, "JPEG")]
    files += [encoded("RGB", 8 + turn, "JPEG", turn) for turn in (3, 6, 8)]
    rows = {"photo": [{"bytes": file, "path": None} for file in files], "label": [0] * len(files)}
    return Dataset.from_dict(rows).cast_column("photo", Image())


def timm_pipeline(architecture: str, **settings: Any) -> Callable[[Any], torch.Tensor]:
    model = timm.create_model(architecture)
    return create_transform(**resolve_data_config(model.pretrained_cfg | settings))


PIPELINES = {
    "timm": lambda: timm_pipeline("test_resnet"),
    "timm bicubic, ImageNet's mean": lambda: timm_pipeline("resnet18"),
    "transformers": lambda: ProcessorPipeline(ViTImageProcessor(size={"height": 24, "width": 32})),
    "transformers cropped": lambda: ProcessorPipeline(ConvNextImageProcessor(size={"shortest_edge": 32})),
    "timm, gray": lambda: timm_pipeline("test_resnet", input_size=(1, 160, 160), mean=(0.3,), std=(0.4,)),
    "v2": lambda: v2.Compose([v2.Resize((24, 32)), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]),
}


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_batches_equal_the_transform_of_each_image(images: Dataset, pipeline: str) -> None:
    channels = 1 if "gray" in pipeline else 3
    transform = ImageTransform(PIPELINES[pipeline](), image_column="photo", channels=channels)
    rows = range(1, len(images))
    batches = list(pixel_batches(images, transform, rows, 4, CPU))
    assert [len(batch) for batch in batches] == [4, 4, 2]
    batches_read = torch.cat(batches)
    assert batches_read.dtype == torch.float32
    assert batches_read.shape[1] == channels
    assert batches[0].is_contiguous(memory_format=torch.channels_last)
    for row, pixels in zip(rows, batches_read, strict=True):
        assert torch.equal(pixels, transform(images[row]["photo"])), row


@pytest.mark.parametrize("ahead", [1, 5])
def test_batches_decoded_ahead_are_the_same(images: Dataset, ahead: int) -> None:
    transform = ImageTransform(PIPELINES["timm"](), image_column="photo")
    expected = list(pixel_batches(images, transform, range(len(images)), 4, CPU))
    batches_read = list(pixel_batches(images, transform, range(len(images)), 4, CPU, ahead=ahead))
    assert len(batches_read) == len(expected) == 3
    assert all(torch.equal(a, b) for a, b in zip(batches_read, expected, strict=True))


def test_an_image_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(encoded("RGB", 1)[:100])
    rows = Dataset.from_dict({"image": [str(tmp_path / "bad.png")]}, features=Features(image=Image()))
    with pytest.raises(DataError, match=r"bad\.png"):
        list(pixel_batches(rows, ImageTransform(PIPELINES["timm"]()), range(1), 4, CPU))


SIDES = {
    "timm": 168, "timm, gray": 168, "timm bicubic, ImageNet's mean": 235, "v2": 32, "transformers": 32,
    "transformers cropped": 37,
}  # fmt: skip


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_the_size_that_images_are_resized_to_is_read(pipeline: str) -> None:
    assert resized_side(ImageTransform(PIPELINES[pipeline]())) == SIDES[pipeline]


def test_no_size_is_read_from_a_transform_without_one() -> None:
    assert resized_side(ImageTransform(v2.Compose([v2.CenterCrop(32), v2.ToImage()]))) == 0


@pytest.fixture(scope="module")
def large() -> Dataset:
    """Return smooth images like photos, the last one rotated by its EXIF data."""
    noise = Pillow.frombytes("RGB", (15, 10), np.random.default_rng(0).bytes(450))
    files = []
    for side, kind, orientation in ((600, "JPEG", 1), (150, "JPEG", 1), (600, "PNG", 1), (600, "JPEG", 6)):
        stream = io.BytesIO()
        exif = Pillow.Exif()
        exif[ExifTags.Base.Orientation] = orientation
        noise.resize((3 * side // 2, side), Pillow.Resampling.BICUBIC).save(stream, kind, exif=exif, quality=95)
        files.append(stream.getvalue())
    return Dataset.from_dict({"photo": [{"bytes": file, "path": None} for file in files]}).cast_column("photo", Image())


def test_reduced_images_are_nearly_the_same(large: Dataset) -> None:
    """Only JPEGs much larger than the input change, by less than one of 256 levels on average."""
    transform = ImageTransform(v2.Compose([v2.Resize(64), v2.CenterCrop(56), v2.PILToTensor()]), image_column="photo")
    (whole,) = pixel_batches(large, transform, range(4), 4, CPU)
    (reduced,) = pixel_batches(large, transform, range(4), 4, CPU, 2 * 64)
    difference = (whole.float() - reduced.float()).abs().mean((1, 2, 3)).tolist()
    assert [value > 0 for value in difference] == [True, False, False, True]
    assert max(difference) < 1


def test_reduced_images_keep_the_side_asked_for(large: Dataset) -> None:
    shapes: list[tuple[int, int]] = []

    def note(image: Pillow.Image) -> torch.Tensor:
        shapes.append(image.size)
        return torch.zeros(3, 1, 1)

    list(pixel_batches(large, ImageTransform(note, image_column="photo"), range(4), 1, CPU, 150))
    assert shapes == [(225, 150), (225, 150), (900, 600), (150, 225)]
