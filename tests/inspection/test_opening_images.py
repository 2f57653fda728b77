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
    assert images.file(0) == "train/cat/3.png"
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
    with pytest.raises(DataError, match="no image of train has a label"):
        open_images(datasets.DatasetDict(train=data["test"]))


def test_datasets_are_read_as_in_training(tmp_path: Path) -> None:
    folder = write_scenes(tmp_path / "pets", {"a/training_set/cat": 3, "a/training_set/dog": 3, "a/test_set/dog": 2})
    images = open_images(str(folder))
    data = hf_tl.load_data(str(folder), validation_fraction=0.34)
    assert images.classes == data.labels
    assert images.class_counts("test") == data.class_counts("test") == [0, 2]
    assert any("test_set" in line for line in images.reading)
    text = in_memory([" cat", "cat ", "dog"], datasets.Value("string"))
    assert open_images(text).classes == ("cat", "dog")
    several = open_images(in_memory(["a|b", "b"], datasets.Value("string")), label_separator="|")
    assert several.is_multi_label


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
