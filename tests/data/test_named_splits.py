"""Splits of a dataset by their names or a column of names, those that are drawn, and overlaps that are noted."""

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Value

from hf_tl.data.drawing import Draw, Pool
from hf_tl.data.layout.plan import Reading
from hf_tl.data.splits import (
    choose_test,
    draw_missing,
    missing_fractions,
    name_splits,
    shared_groups,
    splits_by_meaning,
)
from hf_tl.errors import ConfigError, DataError


def rows(*values: object, **columns: Sequence[object]) -> Dataset:
    return Dataset.from_dict({"value": list(values), **columns})


def named(splits: Mapping[str, Dataset], **choices: object) -> tuple[dict[str, list], dict[str, str], list[str]]:
    """Return the values of each split, where each came from, and the notes."""
    notes: list[str] = ["earlier"]
    result, origins = name_splits(splits, Reading(**choices), notes)  # type: ignore[arg-type]
    return {split: rows["value"][:] for split, rows in result.items()}, origins, notes[1:]


def test_several_splits() -> None:
    splits = {"dev": rows(2), "train": rows(1), "unlabeled": rows(3), "testing": rows(4)}
    assert named(splits) == (
        {"validation": [2], "train": [1], "test": [4]},
        {"validation": "split dev", "train": "split train", "test": "split testing"},
        ["split unlabeled was left out", "split dev was used as validation", "split testing was used as test"],
    )
    assert named(splits, split_folders={"train": ["unlabeled"], "test": ["dev"]})[0] == {"train": [3], "test": [2]}
    with pytest.raises(DataError, match=r"^expected a split train, found dev, unlabeled; .*split_folders=.train=NAME"):
        named({"dev": rows(2), "unlabeled": rows(3)})
    with pytest.raises(DataError, match=r"^expected a split train, found no split; "):
        named({})


def test_a_single_split() -> None:
    assert named({"train": rows(1)}) == ({"train": [1]}, {"train": "the only split, train"}, [])
    assert named({"test": rows(1)}) == (
        {"train": [1]}, {"train": "the only split, test"}, ["the only split, test, was used as train"],
    )  # fmt: skip
    assert named({"pets": rows(1)})[2] == ["the only split, pets, was used as train"]
    assert named({"my_train": rows(1)})[2] == []
    for splits in ({"pets": rows(1)}, {"train": rows(1), "test": rows(2)}):
        origins = dict.fromkeys(splits, "a table")
        assert name_splits(splits, Reading(), [], origins)[1] == dict.fromkeys(
            ["train", "test"][: len(splits)], "a table"
        )


def test_a_single_split_is_divided_by_a_column_of_names() -> None:
    names = ["val", "train", "test", "train"]
    expected = {"train": [2, 4], "validation": [1], "test": [3]}
    origins = dict.fromkeys(expected, "column Split")
    assert named({"train": rows(1, 2, 3, 4, Split=names)}) == (
        expected,
        origins,
        ["the column 'Split' names the splits"],
    )
    assert list(named({"train": rows(1, 2, 3, 4, Split=names)})[0]) == ["train", "validation", "test"]
    large = rows(1, 2, 3, 4, Split=names).cast_column("Split", Value("large_string"))
    assert named({"pets": large})[0] == expected
    assert named({"pets": rows(1, 2, 3, 4, place=names)})[0] == {"train": [1, 2, 3, 4]}
    assert named({"pets": rows(1, 2, 3, 4, place=names)}, split_column="place")[0] == expected
    assert named({"pets": rows(1, 2, 3, 4, Split=names)}, split_folders={})[0] == {"train": [1, 2, 3, 4]}
    numbers = rows(1, 2, 3, 4, fold=[1, 2, 3, 2])
    assert named({"pets": numbers})[0] == {"train": [1, 2, 3, 4]}
    chosen = {"train": ["2"], "validation": ["1"], "test": ["3"]}
    assert named({"pets": numbers}, split_column="fold", split_folders=chosen)[0] == expected
    classes = rows(1, 2, 3, 4, split=[0, 1, 0, 1]).cast_column("split", ClassLabel(names=["train", "test"]))
    assert named({"pets": classes})[0] == {"train": [1, 2, 3, 4]}


def test_columns_that_do_not_divide() -> None:
    with pytest.raises(DataError, match=r"^no column 'place': value; check split_column"):
        named({"pets": rows(1, 2)}, split_column="place")
    with pytest.raises(DataError, match=r"^no column 'place': value, split; check split_column"):
        named({"pets": Dataset.from_dict({"value": [], "split": []})}, split_column="place")
    with pytest.raises(DataError, match=r"^the column 'split' names no training image, but validation, test; check"):
        named({"pets": rows(1, 2, split=["test", "val"])})
    assert named({"pets": rows(1, 2, split=["train", "no"])})[0] == {"train": [1, 2]}


def test_meanings_of_names() -> None:
    assert splits_by_meaning(["a", "val", "train"], Reading()) == {"validation": "val", "train": "train"}
    chosen = Reading(split_folders={"train": ["a"], "test": ["b"]})
    assert splits_by_meaning(["a", "test"], chosen) == {"train": "a", "test": "test"}
    assert splits_by_meaning(["a", "val", "c"], chosen) == {"train": "a"}
    assert splits_by_meaning(["train", "a", "b", "test"], chosen) == {"train": "a", "test": "b"}
    assert splits_by_meaning(["test", "train"], Reading(split_folders={"train": ["test"], "test": ["train"]})) == {
        "train": "test",
        "test": "train",
    }
    with pytest.raises(DataError, match=r"^two splits mean test: b and c; name one: split_folders=.test=c"):
        splits_by_meaning(["a", "b", "c"], Reading(split_folders={"train": ["a"], "test": ["b", "c"]}))


def test_validation_is_the_test_split_where_there_is_none() -> None:
    notes: list[str] = []
    splits = {"train": rows(1), "validation": rows(2)}
    chosen, origins = choose_test(splits, {"train": "x", "validation": "y"}, notes)
    assert ({split: of["value"][:] for split, of in chosen.items()}, origins) == (
        {"train": [1], "test": [2]}, {"train": "x", "test": "y"},
    )  # fmt: skip
    assert notes == ["no test split: validation was used as test, and validation was drawn from train"]
    assert list(splits) == ["train", "validation"]
    assert choose_test(splits, {}, notes)[1] == {"test": "split validation"}
    for own in (["train"], ["train", "test"], ["train", "test", "validation"]):
        assert list(choose_test(dict.fromkeys(own, rows(1)), {}, [])[0]) == own


@pytest.mark.parametrize(
    ("own", "missing"),
    [(["train"], ["test", "validation"]), (["train", "test"], ["validation"]), (["validation", "test"], [])],
)
def test_fractions_of_missing_splits(own: list[str], missing: list[str]) -> None:
    fractions = missing_fractions(own, validation_fraction=0.125, test_fraction=0.25)
    assert list(fractions.items()) == [(split, {"validation": 0.125, "test": 0.25}[split]) for split in missing]
    for split in missing:
        for fraction in (0, 1, -0.5, 1.5):
            wrong = {"validation_fraction": 0.1, "test_fraction": 0.1, f"{split}_fraction": fraction}
            with pytest.raises(ConfigError, match=f"between 0 and 1, found {split}_fraction={fraction}$"):
                missing_fractions(own, **wrong)


def pool(*, flags: bool = False, groups: Sequence[str] = ()) -> Pool:
    numbers = np.arange(1200) % 3
    labels = np.eye(3, dtype=np.int64)[numbers] if flags else numbers
    return Pool([number.to_bytes(32, "little") for number in range(1200)], labels, ("a", "b", "c"), groups)


def test_what_is_drawn_is_noted() -> None:
    notes: list[str] = []
    drawn, draws = draw_missing(pool(), {"test": 0.25, "validation": 0.1}, 7, notes)
    assert {split: len(rows) for split, rows in drawn.items()} == {"test": 300, "validation": 90, "train": 810}
    assert draws == {"test": Draw(0.25, 7), "validation": Draw(0.1, 7)}
    assert notes == [
        "no test split: 300 of 1,200 training images (25%) were held out, stratified by class, seed 7",
        "no validation split: 90 of 900 training images (10%) were held out, stratified by class, seed 7",
    ]
    draw_missing(pool(flags=True), {"test": 0.25}, 7, notes)
    assert notes[2].endswith("(25%) were held out, at random, all classes kept in train, seed 7")
    groups = [f"group {number // 30}" for number in range(1200)]
    draw_missing(pool(groups=groups), {"test": 0.25}, 7, notes, criterion="the column patient")
    assert notes[3].endswith("(25%, 10 groups) were held out, stratified by class, by the column patient, seed 7")
    assert draw_missing(pool(), {}, 7, notes) == ({"train": list(range(1200))}, {})
    assert len(notes) == 4


def test_groups_in_several_splits() -> None:
    groups = {"train": ["a", "b"], "validation": ["b", "c", "c"], "test": ["c", "a", "d"]}
    assert shared_groups(groups) == [
        "2 groups of test are also in train or validation (2 images)",
        "1 group of validation is also in train (1 image)",
    ]
    assert shared_groups({"validation": ["c"], "test": ["c", "c"]}) == [
        "1 group of test is also in validation (2 images)"
    ]
    assert shared_groups({"train": ["a"], "validation": ["b"], "test": ["c"]}) == shared_groups({}) == []
