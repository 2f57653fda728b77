"""Groups of stored images: names within the dataset, values of a column, matches of a pattern, and what is noted."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Image, List, Value

from hf_tl.data.columns import GROUP, IMAGE, LABEL
from hf_tl.data.grouping.groups import Origin, Stored, group_images, unite
from hf_tl.data.layout.plan import Reading
from hf_tl.errors import ConfigError, DataError
from hf_tl.record import GroupRecord

LABELS = ("cat", "dog")


def stored(paths: Sequence[str | None], labels: Sequence[object] | None = None, **columns: object) -> Dataset:
    images = [None if path is None else {"bytes": None, "path": path} for path in paths]
    rows = Dataset.from_dict({IMAGE: images}, features=Features({IMAGE: Image()}))
    rows = rows.add_column(LABEL, list(labels or [number % 2 for number in range(len(paths))]))
    for name, (values, feature) in columns.items():  # type: ignore[misc]
        rows = rows.add_column(GROUP if name == "group" else name, values, feature=feature)  # type: ignore[has-type]
    return rows


def grouped(images: Stored, **choices: object) -> tuple[dict[str, tuple[str, ...]], GroupRecord | None, list[str]]:
    draws = bool(choices.pop("draws", True))
    notes: list[str] = []
    groups, record = group_images(images, Reading(**choices), notes, draws=draws)  # type: ignore[arg-type]
    return groups, record, notes


def test_names_within_the_dataset(tmp_path: Path) -> None:
    inside = [str(tmp_path / "cat" / "1.jpg"), str(tmp_path / "2.jpg"), "/else/where/3.jpg", "4.jpg"]
    splits = {"train": stored(inside), "test": stored([str(tmp_path / "a" / "b" / "5.jpg")])}
    assert Stored(splits, LABELS, tmp_path).names() == {
        "train": ["cat/1.jpg", "2.jpg", "/else/where/3.jpg", "4.jpg"], "test": ["a/b/5.jpg"],
    }  # fmt: skip
    assert Stored(splits, LABELS).names() == {"train": inside, "test": [str(tmp_path / "a" / "b" / "5.jpg")]}
    for missing in (None, ""):
        assert Stored({"train": stored(inside), "test": stored(["a.jpg", missing])}, LABELS).names() == {}
    assert Stored({"train": stored(["/1.jpg"])}, LABELS, Path("/")).names() == {"train": ["1.jpg"]}


def test_classes_and_contents() -> None:
    splits = {"train": stored(["a", "b"], [1, 0]), "test": stored(["c"], [1])}
    images = Stored(splits, LABELS)
    assert images.classes() == {"train": [("dog",), ("cat",)], "test": [("dog",)]}
    assert len({*images.contents()}) == 3
    digests = {"test": [b"z"], "train": [b"x", b"y"]}
    assert Stored(splits, LABELS, digests=digests).contents() == [b"x", b"y", b"z"]
    flags = stored(["a", "b", "c"], [0, 0, 0]).remove_columns(LABEL)
    flags = flags.add_column(LABEL, [[1, 0], [1, 1], [0, 0]], feature=List(Value("int8")))
    assert Stored({"train": flags}, LABELS).classes() == {"train": [("cat",), ("cat", "dog"), ()]}


COLUMNS: dict[str, tuple[list[object], object, list[str]]] = {
    "texts": (["p", "q", "p", None, ""], Value("string"), ["p", "q", "p"]),
    "numbers": ([0, 7, 0, None, None], Value("int64"), ["0", "7", "0"]),
    "fractions": ([0.5, 7.0, 0.5, None, float("nan")], Value("float64"), ["0.5", "7.0", "0.5"]),
    "classes": ([0, 1, 0, -1, None], ClassLabel(names=["p", "q"]), ["p", "q", "p"]),
}


@pytest.mark.parametrize("case", COLUMNS)
def test_a_column(case: str) -> None:
    values, feature, expected = COLUMNS[case]
    splits = {
        "train": stored(["", "", ""], group=(values[:3], feature)),
        "test": stored(["", ""], group=(values[3:], feature)),
    }
    groups, record, notes = grouped(Stored(splits, LABELS), group_column="patient")
    assert list(groups["train"]) == expected
    assert len({*groups["test"]}) == 2
    assert not {*groups["test"]} & {*expected}
    assert notes == [
        "the column 'patient' names 2 groups, the largest of 2 images; 2 images without a value are groups of their own"
    ]
    assert record == GroupRecord("the column patient", 4, 2, "patient", "none", near_duplicates=False)


def test_a_column_with_every_value_and_with_none() -> None:
    images = Stored({"train": stored([""] * 3, group=(["p", "q", "p"], Value("string")))}, LABELS)
    assert grouped(images, group_column="g")[2] == ["the column 'g' names 2 groups, the largest of 2 images"]
    images = Stored({"train": stored([""] * 2, group=([None, ""], Value("string")))}, LABELS)
    with pytest.raises(DataError, match=r"^the column 'g' holds no value, so it names no groups; "):
        grouped(images, group_column="g")


def test_a_column_and_names() -> None:
    """A column alone counts, unless a pattern is given too: then both do."""
    names = [f"s{number // 2}_{number % 2}.jpg" for number in range(12)]
    images = Stored({"train": stored(names, group=(["p"] * 4 + ["q"] * 8, Value("string")))}, LABELS)
    groups, record, notes = grouped(images, group_column="g")
    assert (groups["train"], len(notes)) == (("p",) * 4 + ("q",) * 8, 1)
    groups, record, notes = grouped(images, group_column="g", group_pattern="s[0-5]")
    assert len({*groups["train"]}) == 2
    assert record == GroupRecord(
        "the column g and the pattern s[0-5] of file names", 2, 8, "g", "s[0-5]", near_duplicates=False
    )
    assert grouped(images, group_pattern="none") == ({}, None, [])


PATTERNS = [
    (r"^s(\d)", ["0", "0", "1", "1"], 2, 2, 0),
    (r"s\d", ["s0", "s0", "s1", "s1"], 2, 2, 0),
    ("s1", [None, None, "s1", "s1"], 1, 2, 2),
    (r"_(\d)|x", ["0", "1", "0", "1"], 2, 2, 0),
    (r"(s1)?", [None, None, "s1", "s1"], 1, 2, 2),
    (r"(?:s)(\d)_(\d)", ["0", "0", "1", "1"], 2, 2, 0),
]


@pytest.mark.parametrize(("pattern", "expected", "number", "largest", "alone"), PATTERNS)
def test_a_pattern(pattern: str, expected: list[str | None], number: int, largest: int, alone: int) -> None:
    images = Stored({"train": stored(["s0_0.jpg", "s0_1.jpg"]), "test": stored(["s1_0.jpg", "s1_1.jpg"])}, LABELS)
    groups, record, notes = grouped(images, group_pattern=pattern)
    names = [*groups["train"], *groups["test"]]
    assert [group if group in expected else None for group in names] == expected
    own = f"; {alone} images that it does not match are groups of their own" if alone else ""
    assert notes == [f"the pattern {pattern} of file names names {number} groups, the largest of {largest} images{own}"]
    assert record == GroupRecord(
        f"the pattern {pattern} of file names", number + alone, largest, None, pattern, near_duplicates=False
    )


def test_patterns_that_do_not_serve() -> None:
    images = Stored({"train": stored(["a.jpg", "b.jpg"])}, LABELS)
    with pytest.raises(DataError, match=r"^group_pattern='x.' matches no file name, such as 'a.jpg'; change the"):
        grouped(images, group_pattern="x+")
    with pytest.raises(ConfigError, match=r"group_pattern to be auto, none or a regular expression, found '\(' "):
        grouped(images, group_pattern="(")
    with pytest.raises(DataError, match=r"^group_pattern needs the names of files, which this dataset does not have; "):
        grouped(Stored({"train": stored([None, None])}, LABELS), group_pattern="x")
    assert grouped(Stored({"train": stored([None, None])}, LABELS)) == ({}, None, [])


def test_series_are_noted_by_whether_a_split_is_drawn() -> None:
    names = [f"s{number // 2}_{number % 2}.jpg" for number in range(20)]
    images = Stored({"train": stored(names, [0, 0, 1, 1] * 5)}, LABELS)
    start = "file names form 10 series, such as s9 (2 images)"
    assert grouped(images)[2] == [f"{start}: each stays in one split; --group_pattern none draws image by image"]
    groups, record, notes = grouped(images, draws=False)
    assert notes == [start]
    assert groups["train"][:3] == ("s0", "s0", "s1")
    assert record == GroupRecord("series of file names", 10, 2, None, "auto", near_duplicates=False)
    small = Stored({"train": stored(names[:16], [0, 0, 1, 1] * 4)}, LABELS)
    groups, record, notes = grouped(small)
    assert (groups, record) == ({}, None)
    assert notes[0].startswith("file names look like 8 series, such as s7 (2 images), but too few of them, or mostly ")
    assert notes[0].endswith(
        "the training images of cat, dog: images were drawn one by one, and a series may be in several splits; name "
        "groups with --group_pattern PATTERN or --group_column"
    )
    assert grouped(small, draws=False) == ({}, None, [])


def test_names_of_united_groups() -> None:
    digests = [bytes([number]) * 20 for number in range(6)]
    first = [None, "b", "a", None, None, None]
    second = [None, "x", None, "x", "x", None]
    assert unite(digests, [Origin("p", first)]) == ["00" * 8, "b", "a", "03" * 8, "04" * 8, "05" * 8]
    both = unite(digests, [Origin("p", first), Origin("q", second)])
    assert both == ["00" * 8, "p: b", "p: a", "p: b", "p: b", "05" * 8]
    pairs = np.array([[0, 5], [5, 2]])
    assert unite(digests, [Origin("near", pairs=pairs)]) == ["00" * 8, *(f"0{n}" * 8 for n in (1,)), "00" * 8,
                                                             "03" * 8, "04" * 8, "00" * 8]  # fmt: skip
    assert unite(digests, [Origin("p", first), Origin("near", pairs=pairs)])[0] == "a"
    assert unite(digests[:1] * 2, [Origin("p", ["z", "y"])]) == ["y", "y"]
