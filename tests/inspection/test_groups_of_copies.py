"""Copies and near-duplicates: groups, leakage, and which image stays."""

import shutil
from pathlib import Path

import numpy as np
from PIL import Image
from scenes import cropped, recompressed, scene, write_scenes

from hf_tl.inspection.analysis.copies import Copies, find_copies
from hf_tl.inspection.opening import LabeledImages, open_images
from hf_tl.inspection.reading import read_images


def groups_of(folder: Path, scratch: Path) -> tuple[LabeledImages, tuple[Copies, ...]]:
    images = open_images(str(folder))
    scratch.mkdir()
    facts = read_images(images, scratch)
    groups = find_copies(images, facts)
    facts.close()
    return images, groups


def test_copies_are_grouped_by_content_and_by_picture(tmp_path: Path) -> None:
    pets = write_scenes(
        tmp_path / "pets", {"train/cat": 12, "train/dog": 12, "validation/dog": 2, "test/cat": 3, "test/dog": 3}
    )
    shutil.copy(pets / "train/cat/1.png", pets / "train/cat/renamed.png")
    shutil.copy(pets / "train/cat/2.png", pets / "train/dog/other.png")
    recompressed(scene(3, mean=90)).save(pets / "test/cat/three.jpg")
    cropped(scene(3, mean=90)).save(pets / "train/cat/part.png")
    images, groups = groups_of(pets, tmp_path / "scratch")
    by_name = {frozenset(Path(images.file(row)).name for row in group.rows): group for group in groups}
    assert set(by_name) == {
        frozenset({"1.png", "renamed.png"}),
        frozenset({"2.png", "other.png"}),
        frozenset({"3.png", "three.jpg", "part.png"}),
    }
    leak = by_name[frozenset({"3.png", "three.jpg", "part.png"})]
    assert groups[0] == leak
    assert (leak.is_exact, leak.is_across_splits, leak.has_different_labels) == (False, True, False)
    assert leak.kept is not None
    assert images.file(leak.kept) == "test/cat/three.jpg"
    conflict = by_name[frozenset({"2.png", "other.png"})]
    assert (conflict.is_exact, conflict.is_across_splits, conflict.has_different_labels) == (True, False, True)
    assert conflict.kept is None


def test_the_larger_of_two_copies_stays(tmp_path: Path) -> None:
    pets = write_scenes(tmp_path / "pets", {"cat": 3, "dog": 3})
    scene(0, (192, 144), mean=90).save(pets / "cat" / "large.png")
    images, groups = groups_of(pets, tmp_path / "scratch")
    [kept] = [group.kept for group in groups]
    assert kept is not None
    assert images.file(kept) == "cat/large.png"


def test_tiny_images_are_compared_byte_for_byte_only(tmp_path: Path) -> None:
    for number in range(4):
        folder = tmp_path / "pets" / ("cat" if number % 2 else "dog")
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.full((8, 8), 40, np.uint8)
        pixels[:, 4:] = 200 + number
        Image.fromarray(pixels).save(folder / f"{number}.png")
    shutil.copy(tmp_path / "pets/cat/1.png", tmp_path / "pets/cat/again.png")
    images, groups = groups_of(tmp_path / "pets", tmp_path / "scratch")
    assert [[images.file(row) for row in group.rows] for group in groups] == [["cat/1.png", "cat/again.png"]]


def test_unreadable_files_are_no_copies(tmp_path: Path) -> None:
    pets = write_scenes(tmp_path / "pets", {"cat": 3, "dog": 3})
    for name in ("cat/a.png", "dog/b.png"):
        (pets / name).write_bytes(b"no image")
    _, groups = groups_of(pets, tmp_path / "scratch")
    assert groups == ()
