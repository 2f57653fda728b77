"""Multi-label data: every supported form, and refused ones."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from data.pictures import WriteFolder
from datasets import ClassLabel, Dataset, DatasetDict, LargeList, List, Value
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms.v2.functional import pil_to_tensor

from hf_tl.data.datasets import ImageData, check_images, load_data
from hf_tl.data.decoding.images import ImageTransform, collate
from hf_tl.data.multi_label import flags_of, match_classes
from hf_tl.errors import DataError

Rows = Callable[..., Dataset]
NAMES = ["cat", "dog", "owl"]
SEEN = [[0], [], [2, 1], [0, 2], [1], [0, 1, 2], [2], [1, 0]] * 5
"""Classes of each image."""
FLAGS = [[int(number in seen) for number in range(3)] for seen in SEEN]
SPLITS = ("train", "validation", "test")


def by_image(data: ImageData) -> dict[bytes, tuple[str, ...]]:
    """Return the class names of each image, by its pixels."""
    return {
        np.asarray(row["image"]).tobytes(): tuple(
            name for name, flag in zip(data.labels, row["label"], strict=True) if flag
        )
        for split in data.splits.values()
        for row in split
    }


def in_columns(rows: Rows, kind: type, names: list[str] = NAMES, flags: list[list] = FLAGS, first: int = 0) -> Dataset:
    columns = {name: [flag[number] for flag in flags] for number, name in enumerate(names)}
    columns = {name: [None if flag is None else kind(flag) for flag in column] for name, column in columns.items()}
    return rows([0] * len(flags), None, first, **columns).remove_columns("label")


@pytest.fixture
def forms(rows: Rows) -> dict[str, tuple[Dataset, str | None]]:
    """Return the same labeled images in every form, with the value of `--label_column`."""
    names = [[NAMES[number] for number in seen] for seen in SEEN]
    return {
        "indices": (rows(SEEN, List(ClassLabel(names=NAMES))), None),
        "large lists": (rows(SEEN, LargeList(ClassLabel(names=NAMES))), None),
        "names": (rows(names), None),
        "columns of 0 and 1": (in_columns(rows, int), "cat,dog,owl"),
        "columns of true and false": (in_columns(rows, bool), "cat, dog, owl"),
        "columns of floats": (in_columns(rows, float), "cat,dog,owl"),
    }


FORMS = ["indices", "large lists", "names", "columns of 0 and 1", "columns of true and false", "columns of floats"]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_data(form: str, forms: dict[str, tuple[Dataset, str | None]]) -> None:
    dataset, column = forms[form]
    data = load_data(dataset, label_column=column)
    assert (data.labels, data.problem_type) == (tuple(NAMES), "multi_label_classification")
    assert {
        row["image"].tobytes(): tuple(NAMES[i] for i in sorted(s)) for row, s in zip(dataset, SEEN, strict=True)
    } == (by_image(data))
    assert sum(len(split) for split in data.splits.values()) == len(SEEN)
    assert np.sum([data.class_counts(split) for split in SPLITS], axis=0).tolist() == [20, 20, 20]
    assert data.fingerprint == load_data(forms["indices"][0]).fingerprint
    assert "5 of 40 images of train show none of the classes" in data.notes


@pytest.mark.parametrize(
    "feature", [List(Value("int64")), List(Value("int8"), length=3), List(Value("bool")), List(Value("float32"))]
)
def test_lists_of_zeros_and_ones_have_their_places_as_names(rows: Rows, feature: object) -> None:
    data = load_data(rows(FLAGS, feature))
    assert data.labels == ("0", "1", "2")
    assert sorted(by_image(data).values()) == sorted(tuple(str(i) for i in sorted(seen)) for seen in SEEN)


def test_lists_of_numbers_are_class_names(rows: Rows) -> None:
    data = load_data(rows([[10], [], [9, 10], [9]] * 5))
    assert data.labels == ("9", "10")
    assert sorted(set(by_image(data).values())) == [(), ("10",), ("9",), ("9", "10")]


def test_an_object_that_is_there_twice_counts_once(rows: Rows) -> None:
    data = load_data(rows([["cat", "cat"], ["dog"], ["cat", "dog", "cat"]] * 4))
    assert set(by_image(data).values()) == {("cat",), ("dog",), ("cat", "dog")}


def test_labels_become_a_batch_for_the_binary_loss(rows: Rows) -> None:
    data = load_data(rows(SEEN, List(ClassLabel(names=NAMES))))
    transform = ImageTransform(pil_to_tensor, "image", "label")
    split = data.splits["train"].with_transform(transform)
    batch = collate([split[index] for index in range(8)])
    assert (batch["labels"].dtype, batch["labels"].shape) == (torch.float32, (8, 3))
    assert batch["labels"].tolist() == flags_of(data.splits["train"])[:8].tolist()


def test_rows_that_load_data_did_not_write_are_refused(rows: Rows) -> None:
    transform = ImageTransform(pil_to_tensor)
    with pytest.raises(DataError, match=r"expected 0 or 1 for each class in the column 'label', found \[2, 1\]"):
        rows(SEEN).with_transform(transform)[2]
    views = rows([[0, 1], [1]]).with_transform(transform)
    with pytest.raises(DataError, match="expected labels of one shape"):
        collate([views[0], views[1]])


@pytest.mark.long
@settings(deadline=None, max_examples=25)
@given(st.lists(st.sets(st.integers(0, 5)), min_size=12, max_size=60), st.integers(0, 9))
def test_every_class_stays_in_train(seen: list[set[int]], seed: int) -> None:
    """Including classes with a single image; each image is in one split."""
    seen = [*seen, {0, 1}, {2, 3}, {4, 5}, {0, 3}, {0}, {0}, {0}]
    images = [{"bytes": b"P5 1 1 255\n" + bytes([number]), "path": None} for number in range(len(seen))]
    features = {"image": images, "label": [sorted(classes) for classes in seen]}
    dataset = Dataset.from_dict(features).cast_column("label", List(ClassLabel(names=list("abcdef"))))
    data = load_data(dataset, image_column="image", seed=seed)
    assert all(data.class_counts("train"))
    assert all(sum(data.class_counts(split)) for split in SPLITS)
    assert len(by_bytes(data)) == len(seen) == sum(len(split) for split in data.splits.values())
    again = load_data(dataset, image_column="image", seed=seed)
    assert [split["label"][:] for split in again.splits.values()] == [s["label"][:] for s in data.splits.values()]


def by_bytes(data: ImageData) -> set[int]:
    return {np.asarray(row["image"]).item() for split in data.splits.values() for row in split}


def test_splits_are_drawn_at_random(rows: Rows) -> None:
    dataset = rows(SEEN, List(ClassLabel(names=NAMES)))
    data, other = load_data(dataset), load_data(dataset, seed=1)
    assert [len(data.splits[split]) for split in SPLITS] == [28, 4, 8]
    how = "at random, all classes kept in train, seed 0"
    assert f"no test split: 8 of 40 training images (20%) were held out, {how}" in data.notes
    assert by_image(data) == by_image(other)
    assert data.splits["test"]["image"][:] != other.splits["test"]["image"][:]


def test_splits_of_the_authors_are_kept(rows: Rows) -> None:
    feature = List(ClassLabel(names=NAMES))
    splits = {"train": rows(SEEN, feature), "dev": rows([[0], [1]], feature, 50), "test": rows([[2, 0]], feature, 60)}
    data = load_data(DatasetDict(splits))
    assert [data.class_counts(split) for split in SPLITS] == [[20, 20, 20], [1, 1, 0], [1, 0, 1]]


@pytest.mark.parametrize("hidden", [[[], []], [None, None], [[-1], [-1]]])
def test_a_test_split_without_labels_is_left_out(rows: Rows, hidden: list) -> None:
    test = Dataset.from_dict({"image": rows([0, 0], None, 50)["image"][:], "label": hidden})
    test = test.cast_column("label", List(Value("int64"))).cast_column("image", rows([0]).features["image"])
    data = load_data(DatasetDict(train=rows([[4], [5, 6], [6]] * 6, List(Value("int64"))), test=test))
    assert "split test was left out: it has no labels" in data.notes
    assert sum(len(split) for split in data.splits.values()) == 18


def test_hidden_columns_are_left_out(rows: Rows) -> None:
    splits = {"train": in_columns(rows, int), "test": rows([0, 0], None, 50).remove_columns("label")}
    data = load_data(DatasetDict(splits), label_column="cat,dog,owl")
    assert "split test was left out: it has no labels" in data.notes


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([[0], None, [1], [0]], "1 of 4 images of train have no label (None or -1): row 1 of train"),
        ([["a"], ["b", None], ["b"]], "1 of 3 images of train have no label (None or -1): row 1 of train"),
        ([["a"], [], ["a"]], "expected at least two classes, found 1: a"),
        ([[0, 1, 1], [1, 0], [1, 1, 0]], "expected lists of labels in the column 'label' (of a ClassLabel, names,"),
        ([[0.5, 1.0], [1.0, 0.0]], "found List(Value('float64')), for example [0.5, 1.0], [1.0, 0.0]; mend them"),
        ([[0, 1, 0], [1, 0, 0]], "classes missing from training: 2; add images"),
        ([[[0]], [[1]]], "expected lists of labels in the column 'label'"),
        ([[0], [1]] + [[]] * 8, "too few images with labels to draw test and keep every class in train"),
    ],
)
def test_lists_that_cannot_be_used(rows: Rows, labels: list, message: str) -> None:
    with pytest.raises(DataError) as caught:
        load_data(rows(labels), label_column="label")
    assert message in str(caught.value)


def test_classes_that_train_lacks_are_named(rows: Rows) -> None:
    with pytest.raises(DataError, match="test has classes missing from training: bee; add images"):
        load_data(DatasetDict(train=rows([["cat"], ["dog"]] * 4), test=rows([["cat", "bee"]], None, 50)))
    with pytest.raises(DataError, match="classes missing from training: owl; add images"):
        load_data(rows([[0], [1]] * 9, List(ClassLabel(names=NAMES))))
    with pytest.raises(DataError, match="expected 2 zeros and ones for each image of test in the column 'label'"):
        load_data(DatasetDict(train=rows([[0, 1], [1, 0]] * 4), test=rows([[0, 1, 1]], None, 50)))
    with pytest.raises(DataError, match="holds lists in train but not in test"):
        load_data(DatasetDict(train=rows([["cat"], ["dog"]] * 4), test=rows(["cat"], None, 50)))


def test_columns_that_cannot_be_used(rows: Rows) -> None:
    dataset = in_columns(rows, int, flags=[*FLAGS, [0, 2, 3]])
    with pytest.raises(DataError, match="expected 0 or 1 in the column 'dog' of train, found 2; with several names"):
        load_data(dataset, label_column="cat,dog,owl")
    with pytest.raises(DataError, match="no column 'emu': the dataset has image, cat, dog, owl; change label_column"):
        load_data(dataset, label_column="cat,emu")
    with pytest.raises(DataError, match="names a column twice: cat"):
        load_data(dataset, label_column="cat,dog,cat")
    dataset = in_columns(rows, int, flags=[*FLAGS, [0, None, 1]])
    with pytest.raises(
        DataError,
        match=r"1 of 41 rows of train have values that are blank or -1 .*uncertain_labels",
    ):
        load_data(dataset, label_column="cat,dog,owl")
    dataset = in_columns(rows, int, flags=[[0, 1, 0], [1, 0, 0]] * 6)
    with pytest.raises(DataError, match="classes missing from training: owl;"):
        load_data(dataset, label_column="cat,dog,owl")


def test_one_column_of_zeros_and_ones_is_a_class_an_image(rows: Rows) -> None:
    data = load_data(in_columns(rows, int), label_column="cat")
    assert (data.labels, data.problem_type) == (("0", "1"), "single_label_classification")


def test_parquet_and_folders_with_metadata(rows: Rows, write_folder: WriteFolder, tmp_path: Path) -> None:
    in_columns(rows, bool).to_parquet(tmp_path / "animals.parquet")
    data = load_data(str(tmp_path / "animals.parquet"), label_column="cat,dog,owl")
    assert (data.labels, data.name) == (tuple(NAMES), "animals")
    folder = write_folder({"images": 20})
    lines = [
        {"file_name": f"images/{number}.png", "labels": [NAMES[i] for i in SEEN[number]], "cat": number % 2, "owl": 1}
        for number in range(20)
    ]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    data = load_data(str(folder))
    assert (data.labels, data.problem_type) == (tuple(NAMES), "multi_label_classification")
    assert load_data(str(folder), label_column="cat,owl").labels == ("cat", "owl")


def test_classes_are_matched_by_name(rows: Rows) -> None:
    data = load_data(rows(SEEN, List(ClassLabel(names=NAMES))))
    train = data.splits["train"]
    matched = match_classes(train, data.labels, ["owl", "emu", "cat", "dog"])
    flags, expected = flags_of(matched), flags_of(train)
    assert (flags[:, [2, 3, 0]] == expected).all()
    assert not flags[:, 1].any()


def test_bad_images_may_not_take_the_last_label_of_a_split(write_folder: WriteFolder) -> None:
    folder = write_folder({"train": 8, "test": 3})
    for split, labels in {"train": [["a"], ["b"], ["a", "b"], []] * 2, "test": [["a"], [], []]}.items():
        lines = [{"file_name": f"{number}.png", "labels": names} for number, names in enumerate(labels)]
        (folder / split / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    data = load_data(str(folder))
    (folder / "test" / "0.png").write_bytes(b"")
    with pytest.raises(DataError, match="no image of the split test can be read, or none with a label"):
        check_images(data, skip_bad_images=True)
