"""Datasets as an inspection opens them: all labeled images of the dataset's own splits."""

from pathlib import Path

import datasets
import numpy as np
import pytest
from scenes import scene, write_scenes

import hf_tl
from hf_tl.errors import DataError
from hf_tl.inspection.opening import open_images


def test_splits_are_those_of_the_dataset(tmp_path: Path) -> None:
    folder = write_scenes(tmp_path / "pets", {"test/cat": 2, "test/dog": 1, "train/cat": 3, "train/dog": 4})
    images = open_images(str(folder))
    assert images.splits == ("train", "test")
    assert [images.class_counts(split) for split in images.splits] == [[3, 4], [2, 1]]
    assert images.file(0) == "train/cat/0.png"
    assert (images.split(9), images.label(9)) == ("test", "dog")
    assert str(tmp_path) not in " ".join(images.reading)


@pytest.mark.parametrize("counts", [{"cat": 3}, {"cat": 1, "dog": 1}], ids=["one class", "two images"])
def test_nothing_is_too_small(counts: dict[str, int], tmp_path: Path) -> None:
    images = open_images(str(write_scenes(tmp_path / "pets", counts)))
    assert images.splits == ("train",)
    assert images.class_counts("train") == list(counts.values())


def in_memory(labels: list, feature: object) -> datasets.Dataset:
    rows = {"photo": [scene(number) for number in range(len(labels))], "label": labels}
    return datasets.Dataset.from_dict(rows).cast_column("photo", datasets.Image()).cast_column("label", feature)


def test_images_without_labels_are_left_out_and_noted() -> None:
    names = datasets.ClassLabel(names=["cat", "dog"])
    data = datasets.DatasetDict(train=in_memory([0, -1, 1], names), test=in_memory([-1, -1], names))
    images = open_images(data)
    assert images.labels.tolist() == [0, 1]
    assert images.file(1) == "row 2 of train"
    text = "\n".join(images.reading)
    assert "1 of 3 images of train have no label: left out" in text
    assert "2 of 2 images of test have no label: left out" in text
    with pytest.raises(DataError, match="no image has a label"):
        open_images(datasets.DatasetDict(train=data["test"]))


def test_classes_of_all_splits_are_named() -> None:
    data = datasets.DatasetDict(
        train=in_memory(["b", "a"], datasets.Value("string")), test=in_memory(["c"], datasets.Value("string"))
    )
    images = open_images(data)
    assert images.classes == ("a", "b", "c")
    assert images.labels.tolist() == [1, 0, 2]


def test_an_image_may_have_several_labels() -> None:
    feature = datasets.List(datasets.ClassLabel(names=["cat", "dog", "owl"]))
    images = open_images(in_memory([[0, 2], [], [1], [2, 0]], feature))
    assert [images.label(row) for row in range(4)] == ["cat, owl", "(no class)", "dog", "cat, owl"]
    assert images.class_counts("train") == [2, 1, 2]
    assert images.single_labels[0] == images.single_labels[3] != images.single_labels[2]


def test_loaded_data_keep_their_splits() -> None:
    data = hf_tl.load_data("digits")
    images = open_images(data)
    assert images.splits == ("train", "validation", "test")
    assert np.bincount(images.split_of).tolist() == [1293, 144, 360]
    assert any("test split of digits" in line for line in images.reading)
