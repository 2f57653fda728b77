"""Image files that are damaged, unreadable, or of unusual formats, each with its right answer."""

import io
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict
from datasets import Image as ImageFeature
from PIL import Image

from hf_tl.data.datasets import check_images, load_data
from hf_tl.data.decoding.opening import decode
from hf_tl.errors import DataError

WriteFolder = Callable[[Mapping[str, int]], Path]
BAD_DISK = Path("/proc/self/mem")
"""File that opens and whose first bytes cannot be read: EIO, as on a failing disk."""
CUT = b"MM\0*\0\0\0\x08\0\x05\x01\x12\0\x03"
BROKEN_EXIF = (b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b"\0" * 40, b"Exif\0\0" + CUT)


def picture(number: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(number).integers(0, 256, (20, 30, 3), dtype=np.uint8))


def splits_of(paths: list[str]) -> DatasetDict:
    def rows(images: list[str]) -> Dataset:
        columns = {"image": images, "label": [number % 2 for number in range(len(images))]}
        dataset = Dataset.from_dict(columns).cast_column("image", ImageFeature())
        return dataset.cast_column("label", ClassLabel(names=["a", "b"]))

    return DatasetDict(train=rows(paths), validation=rows(paths[:2]), test=rows(paths[2:4]))


@pytest.fixture
def paths(tmp_path: Path) -> list[str]:
    for number in range(8):
        picture(number).save(tmp_path / f"{number}.png")
    return [str(tmp_path / f"{number}.png") for number in range(8)]


@pytest.mark.skipif(not BAD_DISK.exists(), reason="needs /proc")
def test_a_file_that_the_disk_cannot_read_is_named_and_skipped(paths: list[str]) -> None:
    data = load_data(splits_of([*paths, str(BAD_DISK)]))
    with pytest.raises(DataError, match=r"1 images .*skip_bad_images=True:\n  /proc/self/mem: .*Errno 5"):
        check_images(data)
    checked = check_images(data, skip_bad_images=True)
    assert len(checked.splits["train"]) == 8
    assert "1 images of train that cannot be read were left out: mem" in checked.notes


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="the administrator may read all files")
def test_a_file_without_permission_is_named_and_skipped(paths: list[str]) -> None:
    Path(paths[5]).chmod(0)
    data = load_data(splits_of(paths))
    with pytest.raises(DataError, match=r"5\.png: .*Permission denied"):
        check_images(data)
    assert len(check_images(data, skip_bad_images=True).splits["train"]) == 7


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG"])
@pytest.mark.parametrize("exif", BROKEN_EXIF)
@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_an_intact_image_with_broken_exif_is_used(kind: str, exif: bytes) -> None:
    stored, plain = io.BytesIO(), io.BytesIO()
    picture().save(stored, kind, exif=exif)
    picture().save(plain, kind)
    np.testing.assert_array_equal(np.asarray(decode(stored.getvalue())), np.asarray(decode(plain.getvalue())))


@pytest.mark.skipif(".avif" not in Image.registered_extensions(), reason="this version of Pillow reads no AVIF")
def test_avif_in_class_folders_is_read(write_folder: WriteFolder) -> None:
    folder = write_folder({"cat": 10, "dog": 10})
    for number, file in enumerate(sorted(folder.rglob("*.png"))):
        picture(100 + number).save(file.with_suffix(".AVIF" if number % 2 else ".avif"))
        file.unlink()
    data = check_images(load_data(str(folder)))
    assert sum(map(len, data.splits.values())) == 20
    assert not [note for note in data.notes if "not images" in note]


def heic(size: int = 200) -> bytes:
    return b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(size)


def test_heic_in_class_folders_names_the_package(write_folder: WriteFolder) -> None:
    folder = write_folder({"cat": 10, "dog": 10})
    (folder / "cat" / "phone.HEIC").write_bytes(heic())
    data = load_data(str(folder))
    with pytest.raises(DataError, match=r"phone\.HEIC: HEIC images need a package: pip install pillow-heif"):
        check_images(data)
    assert sum(map(len, check_images(data, skip_bad_images=True).splits.values())) == 20
