"""Count of the images of a split that a plain pipeline converts differently."""

from pathlib import Path

import numpy as np
import pytest
import torch
from data.test_colors import BROKEN, encoded, opened, random_image
from datasets import Dataset, Image
from torchvision.transforms.v2.functional import pil_to_tensor
from transformers.image_utils import load_image

from hf_tl.augmentation import identify
from hf_tl.data.decoding.conversions import Conversions, examine, gather
from hf_tl.data.decoding.images import ImageTransform
from hf_tl.data.fingerprint import map_images
from hf_tl.errors import DataError

FILES = [
    encoded(random_image("RGB", 20, 10, 0), "JPEG"),
    encoded(random_image("RGBA", 20, 10, 1, 0), "PNG"),
    encoded(random_image("RGBA", 20, 10, 2, 255), "PNG"),
    encoded(random_image("I;16", 20, 10, 3), "PNG"),
    encoded(random_image("RGB", 20, 10, 4), "PNG", exif=BROKEN["no TIFF header"]),
    encoded(random_image("LA", 20, 10, 5), "PNG"),
    encoded(random_image("CMYK", 20, 10, 6), "JPEG"),
    encoded(random_image("LAB", 20, 10, 7), "TIFF"),
]
EXPECTED = {"transparency": [1, 5], "deep gray": [3], "unreadable EXIF": [4]}


def count_conversions(images: Dataset) -> Conversions:
    return gather(map_images(images, "test", examine))


@pytest.fixture
def images() -> Dataset:
    rows = {"image": [{"bytes": file, "path": None} for file in FILES]}
    return Dataset.from_dict(rows).cast_column("image", Image())


def test_images_are_counted_by_kind(images: Dataset) -> None:
    conversions = count_conversions(images)
    assert conversions.rows == EXPECTED
    assert conversions.images == {"transparency": 2, "deep gray": 1, "unreadable EXIF": 1}
    assert conversions.all_rows == [1, 3, 4, 5]
    assert list(conversions.unreadable) == [4]
    assert conversions.notes("test", len(images))[0] == (
        "2 of 8 test images have transparent pixels: hf_tl lays them on white; "
        "a plain pipeline() drops the alpha channel"
    )


def test_plain_images_need_no_note(images: Dataset) -> None:
    conversions = count_conversions(images.select([0, 2, 6]))
    assert (conversions.images, conversions.all_rows, conversions.notes("test", 3)) == ({}, [], [])
    assert conversions == Conversions({}, [])


def test_the_conversions_of_chosen_rows_are_numbered_anew(images: Dataset) -> None:
    conversions = count_conversions(images).select([4, 0, 5, 3])
    assert conversions == Conversions({"transparency": [2], "deep gray": [3], "unreadable EXIF": [0]}, [0])


def test_the_plain_transform_reads_as_a_pipeline_does(images: Dataset) -> None:
    """Images that are not counted are the same with and without conversion."""
    ours = ImageTransform(pil_to_tensor)
    plain = ImageTransform(pil_to_tensor, plain=True)
    conversions = count_conversions(images)
    for row, file in enumerate(FILES):
        if row in conversions.unreadable:
            continue
        expected = np.asarray(load_image(opened(file))).transpose(2, 0, 1)
        by_pipeline = plain.over(images)[row]["pixel_values"]
        np.testing.assert_array_equal(by_pipeline, expected)
        assert torch.equal(by_pipeline, ours.over(images)[row]["pixel_values"]) == (row not in conversions.all_rows), (
            row
        )
    with pytest.raises(DataError, match="damaged"):
        plain.over(images)[4]
    assert ours.over(images)[4]["pixel_values"].shape == (3, 10, 20)
    name = identify(pil_to_tensor)
    assert (ours.describe(), plain.describe()) == (f"RGB, {name}", f"RGB, plain, {name}")


def test_a_damaged_image_is_named(images: Dataset, tmp_path: Path) -> None:
    (tmp_path / "cut.png").write_bytes(FILES[1][:100])
    rows = Dataset.from_dict({"image": [str(tmp_path / "cut.png")]}).cast_column("image", Image())
    with pytest.raises(DataError, match=r"cut\.png"):
        count_conversions(rows)
