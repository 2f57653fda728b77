"""Tables of names: which column holds files and splits, which file a value means, and what is left out."""

import itertools
from collections.abc import Mapping, Sequence

import pytest

from hf_tl.data.layout.listing import Listing
from hf_tl.data.layout.plan import Plan, Reading
from hf_tl.data.layout.table_files import Table
from hf_tl.data.layout.tables import plan_tables
from hf_tl.errors import DataError

FILE_COLUMNS = (
    *("file_name", "filename", "file", "path", "file_path", "filepath", "image_path", "image", "image_name", "img"),
    *("image_id", "id", "name", "img_path", "image_file"),
)
"""Names of the column of files, from the surest to the least sure."""
SPLIT_COLUMNS = ("split", "subset", "partition", "set", "phase", "usage", "fold", "data_split", "dataset_split")
AB = ("a.jpg", "b.jpg")


def table(path: str = "labels.csv", /, **columns: Sequence[object]) -> Table:
    return Table(path, {name: tuple(values) for name, values in columns.items()})


def plan(images: Sequence[str], *tables: Table, **choices: object) -> Plan:
    return plan_tables(Listing.of(images), tables, Reading(**choices))  # type: ignore[arg-type]


def images_of(plan: Plan) -> dict[str, tuple[str, ...]]:
    return {split: planned.images for split, planned in plan.splits.items()}


@pytest.mark.parametrize("name", FILE_COLUMNS)
@pytest.mark.parametrize("spelling", [str.lower, str.upper, str.title])
def test_a_usual_name_of_the_column_of_files_counts_first(name: str, spelling: object) -> None:
    columns = {"other": ("b.jpg", "a.jpg"), spelling(name): AB, "label": ("x", "y")}  # type: ignore[operator]
    assert images_of(plan(AB, table(**columns))) == {"train": AB}


@pytest.mark.parametrize(("first", "second"), itertools.pairwise(FILE_COLUMNS))
def test_the_surer_of_two_usual_names_counts(first: str, second: str) -> None:
    read = plan(AB, table(**{second: ("b.jpg", "a.jpg"), first: AB, "label": ("x", "y")}))
    assert images_of(read) == {"train": AB}
    assert read.splits["train"].columns["label"] == ("x", "y")


def test_the_next_column_is_read_where_the_surest_names_no_image() -> None:
    read = plan(AB, table(file_name=("7", "8"), id=(1, 2), picture=AB, label=("x", "y")))
    assert images_of(read) == {"train": AB}
    assert read.splits["train"].columns == {
        "file_name": ("7", "8"), "id": (1, 2), "picture": (None, None), "label": ("x", "y"),
    }  # fmt: skip


def test_a_column_of_files_that_is_named() -> None:
    columns = {"file_name": AB, "thumb": ("b.jpg", "a.jpg"), "label": ("x", "y")}
    assert images_of(plan(AB, table(**columns), image_column="thumb")) == {"train": ("b.jpg", "a.jpg")}
    with pytest.raises(
        DataError, match=r"no column 'photo' in labels.csv: file_name, thumb, label; check image_column"
    ):
        plan(AB, table(**columns), image_column="photo")
    with pytest.raises(DataError, match=r"no column of labels.csv .* names images below its folder \(for example x, y"):
        plan(AB, table(**columns), image_column="label")


def test_a_table_that_names_no_images() -> None:
    message = r"^no column of labels.csv \(label, n\) names images below its folder \(for example x, y\); put the table"
    with pytest.raises(DataError, match=message):
        plan(AB, table(label=("x", "y", "z"), n=(7.5, 8.5, 9.5)))


@pytest.mark.parametrize("name", SPLIT_COLUMNS)
@pytest.mark.parametrize("spelling", [str.lower, str.upper, str.title])
def test_usual_names_of_the_column_of_splits(name: str, spelling: object) -> None:
    column = spelling(name)  # type: ignore[operator]
    read = plan(AB, table(file=AB, label=("x", "y"), **{column: ("train", "val")}))
    assert images_of(read) == {"train": ("a.jpg",), "validation": ("b.jpg",)}
    assert read.splits["validation"].origin == f"column {column} of labels.csv"


def test_a_column_is_no_split_where_a_value_is_none() -> None:
    for values in (("train", "7"), ("1", "2"), ("train", None)):
        assert images_of(plan(AB, table(file=AB, label=("x", "y"), fold=values))) == {"train": AB}
    read = plan(AB, table(file=AB, label=("x", "y"), other=("train", "test")))
    assert images_of(read) == {"train": AB}
    assert images_of(plan(AB, table(file=AB, label=("x", "y"), split=("train", "test")), split_folders={})) == {
        "train": AB
    }


def test_a_column_of_splits_that_is_named() -> None:
    columns = {"file": AB, "label": ("x", "y"), "split": ("train", "test"), "part": ("b", "a")}
    chosen = {"train": ("a",), "validation": ("b",)}
    read = plan(AB, table(**columns), split_column="part", split_folders=chosen)
    assert images_of(read) == {"train": ("b.jpg",), "validation": ("a.jpg",)}
    with pytest.raises(DataError, match="no column 'piece': file, label, split, part; check split_column"):
        plan(AB, table(**columns), split_column="piece")
    with pytest.raises(DataError, match="values of the column 'part' that are no split: a, b; name the values"):
        plan(AB, table(**columns), split_column="part")
    with pytest.raises(DataError, match="values of the column 'part' that are no split: b; name the values"):
        plan(AB, table(**columns), split_column="part", split_folders={"train": ("a",)})
    twice = table(file=AB, label=("x", "y"), split=("val", "dev"))
    with pytest.raises(DataError, match="several values of the column 'split' mean validation: dev, val; name"):
        plan(AB, twice)


VALUES: dict[str, tuple[Sequence[str], str, Sequence[object]]] = {
    "paths": (["x/1.jpg", "x/2.jpg"], "t.csv", ["x/1.jpg", "x/2.jpg"]),
    "paths from the table": (["x/1.jpg", "x/2.jpg", "1.jpg"], "x/t.csv", ["1.jpg", "2.jpg"]),
    "paths with a dot and slashes": (["x/1.jpg", "x/2.jpg"], "t.csv", ["./x//1.jpg", "/x/2.jpg"]),
    "paths of another machine": (["x/1.jpg", "x/2.jpg"], "t.csv", ["C:\\me\\x\\1.jpg", " /home/me/x/2.jpg "]),
    "names": (["x/1.jpg", "y/2.jpg"], "t.csv", ["1.jpg", "2.jpg"]),
    "names below other folders": (["x/1.jpg", "y/2.jpg"], "t.csv", ["z/1.jpg", "z/2.jpg"]),
    "names below the table": (["x/a/1.jpg", "x/a/2.jpg", "y/1.jpg", "y/2.jpg"], "x/t.csv", ["1.jpg", "2.jpg"]),
    "names of the table's split": (
        ["train/a/1.jpg", "train/a/2.jpg", "test/a/1.jpg", "test/a/2.jpg"], "train.csv", ["1.jpg", "2.jpg"],
    ),
    "names with a folder of their own": (["a/x/1.jpg", "a/y/2.jpg", "a/z/1.jpg"], "t.csv", ["x/1.jpg", "2.jpg"]),
    "stems": (["x/1.jpg", "x/2.png"], "t.csv", ["1", "2"]),
    "numbers": (["x/1.jpg", "x/2.png"], "t.csv", [1, 2]),
    "stems with a folder": (["x/1.JPG", "x/2.jpg", "y/1.jpg"], "t.csv", ["x/1", "2"]),
    "stems with folders": (["a/x/1.jpg", "a/y/1.jpg"], "t.csv", ["x/1", "y/1"]),
}  # fmt: skip


@pytest.mark.parametrize("case", VALUES)
def test_the_image_that_a_value_means(case: str) -> None:
    images, path, values = VALUES[case]
    read = plan(images, table(path, key=values, label=("u", "v")))
    assert images_of(read) == {"train": tuple(images[:2])}


def test_a_path_counts_before_a_name_and_a_name_before_a_stem() -> None:
    read = plan(["1.jpg", "x/1.jpg", "x/2.jpg"], table(key=("1.jpg", "2.jpg"), label=("u", "v")))
    assert images_of(read) == {"train": ("1.jpg",)}
    assert read.notes == (
        "1 rows of labels.csv were left out, whose files are missing: 2.jpg",
        "2 images that no table names were left out: x/1.jpg, x/2.jpg",
    )
    read = plan(["x/1.jpg", "x/2.jpg"], table(key=("1.jpg", "2"), label=("u", "v")))
    assert images_of(read) == {"train": ("x/1.jpg",)}


def test_stems_count_where_half_of_the_values_are_some() -> None:
    images = ["x/1.jpg", "x/2.jpg", "x/3.jpg"]
    read = plan(images, table(key=("1", "2", "8", "9"), label="uvuv"))
    assert images_of(read) == {"train": ("x/1.jpg", "x/2.jpg")}
    with pytest.raises(DataError, match="names images below its folder"):
        plan(images, table(key=("1", "2", "7", "8", "9"), label="uvuvu"))
    with pytest.raises(DataError, match="names images below its folder"):
        plan(images, table(label=("1", "2", "3"), price=(1.5, 2.5, 3.5)))


def test_values_that_fit_several_images() -> None:
    images = ["x/1.jpg", "y/1.jpg", "x/2.jpg"]
    with pytest.raises(DataError, match=r"'1.jpg' of labels.csv fits 2 images: x/1.jpg, y/1.jpg; write their paths"):
        plan(images, table(key=("1.jpg", "2.jpg"), label=("u", "v")))
    with pytest.raises(DataError, match=r"'1' of labels.csv fits 2 images"):
        plan(images, table(key=("1", "2"), label=("u", "v")))


def test_values_that_name_nothing() -> None:
    read = plan(AB, table(file=("a.jpg", "", None, "b.jpg"), label="uvuv"))
    assert read.splits["train"].columns == {"file": (None, None), "label": ("u", "v")}
    assert read.notes == ("2 rows of labels.csv were left out, whose files are missing: , None",)


FOLDERS = ("train/a.jpg", "test/b.jpg")


def test_splits_of_folders_and_tables() -> None:
    columns = {"file": FOLDERS, "label": ("u", "v")}
    read = plan(FOLDERS, table(**columns))
    assert {split: planned.origin for split, planned in read.splits.items()} == {
        "train": "labels.csv, folder train", "test": "labels.csv, folder test",
    }  # fmt: skip
    read = plan(FOLDERS, table(**columns), split_folders={})
    assert images_of(read) == {"train": FOLDERS}
    read = plan(FOLDERS, table(**columns), split_folders={"train": ("test/",), "validation": ("/train",)})
    assert images_of(read) == {"train": ("test/b.jpg",), "validation": ("train/a.jpg",)}
    read = plan(FOLDERS, table("test.csv", **columns))
    assert {split: (planned.images, planned.origin) for split, planned in read.splits.items()} == {
        "test": (FOLDERS, "test.csv"),
    }
    read = plan(FOLDERS, table("val/labels.csv", **columns))
    assert images_of(read) == {"train": ("train/a.jpg",), "test": ("test/b.jpg",)}


def test_some_images_in_folders_of_splits() -> None:
    images = ("train/a.jpg", "test/b.jpg", "more/c.jpg", "d.jpg")
    with pytest.raises(DataError, match=r"named like splits and 2 are not \(more/c.jpg, d.jpg\); add a column split"):
        plan(images, table(file=images, label="uvuv"))
    read = plan(images, table(file=images, label="uvuv", split=("train", "train", "test", "test")))
    assert images_of(read) == {"train": images[:2], "test": images[2:]}


def test_several_tables() -> None:
    first, second = table("train.csv", file=["a.jpg"], label=["u"]), table("val.csv", file=["b.jpg"], label=["v"])
    read = plan(AB, second, first)
    assert list(read.splits) == ["train", "validation"]
    assert {split: planned.origin for split, planned in read.splits.items()} == {
        "train": "train.csv", "validation": "val.csv",
    }  # fmt: skip
    more = table("more.csv", file=["b.jpg"], label=["v"])
    with pytest.raises(
        DataError, match=r"2 tables name images \(train.csv, more.csv\), and of more.csv the name means"
    ):
        plan(AB, first, more)
    read = plan(AB, first, more, split_folders={"train": ("more.csv",), "test": ("train.csv",)})
    assert images_of(read) == {"train": ("b.jpg",), "test": ("a.jpg",)}
    again = table("x/train.csv", file=["b.jpg"], label=["v"])
    with pytest.raises(
        DataError, match=r"several tables mean train: train.csv, x/train.csv; give one table: dataset=.train.c"
    ):
        plan(AB, first, again)
    both = table("val.csv", file=AB, label=("v", "u"))
    with pytest.raises(DataError, match=r"1 images are in two splits: a.jpg; keep one row of each"):
        plan(AB, first, both)


def test_several_rows_of_an_image() -> None:
    read = plan(AB, table(file=(*AB, "a.jpg", "a.jpg", "b.jpg"), label="uvuuv", width=(1, 2, 3, 4, 5)))
    assert read.splits["train"].columns["width"] == (1, 2)
    assert read.notes == ("2 images with several rows of the same label were read once",)
    read = plan((*AB, "c.jpg"), table(file=(*AB, "a.jpg", "b.jpg", "c.jpg"), label="uvwwu"))
    assert images_of(read) == {"train": ("c.jpg",)}
    assert read.notes[0].startswith("2 images with several rows of different labels were left out: a.jpg, b.jpg (for")
    assert read.notes[1:] == ("2 images that no table names were left out: a.jpg, b.jpg",)
    assert len(plan(AB, table(file=(*AB, "a.jpg"), p="101", q="010"), label_column="p,q").splits["train"].images) == 2
    assert images_of(plan(AB, table(file=(*AB, "a.jpg"), p="101", q="011"), label_column="p,q"))["train"] == ("b.jpg",)
    with pytest.raises(DataError, match=r"no image of labels.csv was found; check its file names"):
        plan(AB, table(file=("a.jpg", "a.jpg"), label="uv"))


LABELS: list[tuple[Mapping[str, Sequence[object]], Mapping[str, object], str | None]] = [
    ({"breed": "uv"}, {}, "breed"),
    ({"Label": "uv", "breed": "uv"}, {}, "Label"),
    ({"label": "uv", "CLASS": "uv"}, {}, None),
    ({"breed": "uv", "width": "12"}, {}, None),
    ({"breed": "uv", "split": ("train", "test")}, {"split_column": "split"}, "breed"),
    ({"breed": "uv", "patient": "12"}, {"group_column": "patient"}, "breed"),
    ({"label": "12", "class": "uv"}, {"group_column": "label"}, "class"),
    ({"label": "uv", "breed": "uv"}, {"label_column": "breed"}, "breed"),
]


@pytest.mark.parametrize(("columns", "choices", "label"), LABELS)
def test_the_column_of_labels(
    columns: Mapping[str, Sequence[object]], choices: Mapping[str, object], label: str | None
) -> None:
    assert plan(AB, table(file=AB, **columns), **choices).label_column == label
