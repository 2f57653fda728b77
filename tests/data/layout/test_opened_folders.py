"""Folders with tables: which of them is read, what is noted, and the dataset that a plan becomes."""

from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Image, Value

from hf_tl.data.layout.carry_out import carry_out, plan_folder, plan_table, require_table
from hf_tl.data.layout.listing import Listing
from hf_tl.data.layout.plan import Plan, PlannedSplit, Reading
from hf_tl.data.layout.table_files import Table, read_table
from hf_tl.errors import DataError

CLASSES = [f"{name}/{number}.jpg" for name in ("cat", "dog") for number in range(2)]
FLAT = ["a.jpg", "b.jpg"]
LABELS = "file_name,label\na.jpg,u\nb.jpg,v\n"
WITHOUT = "file_name,width,height\na.jpg,1,2\nb.jpg,3,4\n"


def write(root: Path, images: list[str], tables: Mapping[str, str] | None = None) -> Path:
    """Write empty images, which a plan does not open, and tables."""
    for name, text in (dict.fromkeys(images, "") | dict(tables or {})).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return root


def plan_of(root: Path, **choices: object) -> Plan:
    return plan_folder(Listing.read(root), root, Reading(**choices))  # type: ignore[arg-type]


def test_a_table_of_metadata_comes_first(tmp_path: Path) -> None:
    text = "file_name,label\n" + "".join(f"{image},u\n" for image in CLASSES)
    for number, name in enumerate(("metadata.csv", "Metadata.CSV", "metadata.jsonl")):
        if name.endswith("jsonl"):
            text = "".join(f'{{"file_name": "{image}", "label": "u"}}\n' for image in CLASSES)
        plan = plan_of(write(tmp_path / str(number), CLASSES, {name: text, "other.csv": LABELS}))
        assert (plan.layout, plan.label_column, plan.classes) == ("table", "label", ())
        assert plan.splits["train"].origin == name
        assert plan.notes == ()


def test_class_folders_come_before_other_tables(tmp_path: Path) -> None:
    text = "file_name,label\n" + "".join(f"{image},u\n" for image in CLASSES)
    plan = plan_of(write(tmp_path / "a", CLASSES, {"b.csv": text, "a.csv": text}))
    assert (plan.layout, plan.classes) == ("class folders", ("cat", "dog"))
    assert plan.notes == (
        "files that are not images were left out: 2 .csv",
        "tables beside class folders were not used: a.csv, b.csv",
    )
    single = plan_of(write(tmp_path / "b", CLASSES[:2], {"labels.csv": text.replace("dog", "cat")}))
    assert (single.layout, single.label_column) == ("table", "label")
    no_other = plan_of(write(tmp_path / "c", CLASSES[:2], {"a.csv": "name,price\nx,99\n", "sizes.txt": ""}))
    assert (no_other.layout, no_other.classes) == ("class folders", ("cat",))
    assert not any("tables" in note for note in no_other.notes)


def test_tables_without_labels_are_noted(tmp_path: Path) -> None:
    tables = {"train/metadata.csv": LABELS, "test/metadata.csv": WITHOUT, "val/metadata.csv": WITHOUT}
    images = [f"{split}/{name}" for split in ("train", "test", "val") for name in FLAT]
    plan = plan_of(write(tmp_path / "a", images, tables))
    note = "tables without a label column were left out: test/{0}, val/{0}"
    assert list(plan.splits) == ["train"]
    assert plan.notes[-1] == note.format("metadata.csv")
    others = {name.replace("metadata", "list"): text for name, text in tables.items()}
    plan = plan_of(write(tmp_path / "b", images, others))
    assert (list(plan.splits), plan.notes[-1]) == (["train"], note.format("list.csv"))


def test_metadata_needs_a_column_with_a_usual_name_and_other_tables_any(tmp_path: Path) -> None:
    text = "file_name,breed\na.jpg,u\nb.jpg,v\n"
    assert plan_of(write(tmp_path / "a", FLAT, {"metadata.csv": text})).label_column == "breed"
    folders = "file_name,breed\n" + "".join(f"{image},u\n" for image in CLASSES)
    plan = plan_of(write(tmp_path / "b", CLASSES, {"metadata.csv": folders}))
    assert (plan.layout, plan.notes[-1]) == (
        "class folders", "tables beside class folders were not used: metadata.csv",
    )  # fmt: skip
    assert plan_of(tmp_path / "b", label_column="breed").layout == "table"
    assert plan_of(tmp_path / "b", label_column="breed, width").layout == "class folders"
    with pytest.raises(DataError, match="images in no class folder"):
        plan_of(write(tmp_path / "c", FLAT, {"list.csv": WITHOUT}))
    grouped = LABELS.replace("label", "patient")
    with pytest.raises(DataError, match="images in no class folder"):
        plan_of(write(tmp_path / "d", FLAT, {"list.csv": grouped}), group_column="patient")
    labeled = "file_name,label,other\na.jpg,u,1\nb.jpg,v,2\n"
    assert plan_of(write(tmp_path / "e", FLAT, {"list.csv": labeled}), group_column="label").label_column == "other"


def test_tables_that_are_not_read(tmp_path: Path) -> None:
    """Answers of a competition, deep tables, and tables of other things are no labels."""
    other = {"Sample_Submission.csv": LABELS, "x/y/z/labels.csv": LABELS, "prices.csv": "thing,price\nx,1\n"}
    plan = plan_of(write(tmp_path / "a", FLAT, {"x/y/labels.csv": LABELS, **other}))
    assert plan.splits["train"].origin == "x/y/labels.csv"
    with pytest.raises(DataError, match=r"images in no class folder of the folder: a\.jpg, b\.jpg"):
        plan_of(write(tmp_path / "b", FLAT, other))


def test_a_table_itself(tmp_path: Path) -> None:
    root = write(tmp_path, [*FLAT, "c.jpg", "deep/d.jpg"], {"t.csv": LABELS, "x/ids.csv": "id,label\n1,u\n2,v\n"})
    plan, base = plan_table(root / "t.csv", Reading())
    assert (base, plan.splits["train"].images, plan.notes) == (root, ("a.jpg", "b.jpg"), ())
    absolute = f"file_name,label\n{root / 'a.jpg'},u\n{root}\\deep\\d.jpg,v\n,w\n"
    plan, base = plan_table(write(root, [], {"t.csv": absolute}) / "t.csv", Reading())
    assert plan.splits["train"].images == ("a.jpg", "deep/d.jpg")
    assert plan.notes == ("1 rows of t.csv were left out, whose files are missing: ",)
    write(root, ["x/1.jpg", "x/2.jpg", "x/3.jpg"])
    plan, base = plan_table(root / "x" / "ids.csv", Reading())
    assert (base, plan.splits["train"].images) == (root / "x", ("1.jpg", "2.jpg"))
    assert plan.notes == ("1 images that no table names were left out: 3.jpg",)
    elsewhere = write(tmp_path / "other", [], {"t.csv": f"path,label\n{root / 'a.jpg'},u\n{root / 'b.jpg'},v\n"})
    plan, base = plan_table(elsewhere / "t.csv", Reading())
    [split] = carry_out(plan, base).values()
    assert [image["path"] for image in split.cast_column("image", Image(decode=False))["image"]] == [
        str(root / "a.jpg"), str(root / "b.jpg"),
    ]  # fmt: skip
    with pytest.raises(DataError, match=r"t\.csv has no header line: its first line names an image \(a\.jpg\)"):
        plan_table(write(root, [], {"t.csv": "a.jpg,u\nb.jpg,v\n"}) / "t.csv", Reading())


def test_the_dataset_of_class_folders(tmp_path: Path) -> None:
    root = write(tmp_path, [f"{split}/{image}" for split in ("train", "test") for image in CLASSES])
    splits = carry_out(plan_of(root), root)
    rows = splits["train"].cast_column("image", Image(decode=False))
    assert splits["train"].features == {"image": Image(), "label": ClassLabel(names=["cat", "dog"])}
    assert rows["label"][:] == [0, 0, 1, 1]
    assert rows["image"][:] == [{"bytes": None, "path": str(root / "train" / image)} for image in CLASSES]
    prints = {split: rows._fingerprint for split, rows in splits.items()}
    assert len({*prints.values()}) == 2
    assert {split: rows._fingerprint for split, rows in carry_out(plan_of(root), root).items()} == prints
    (root / "train/dog/0.jpg").rename(root / "train/cat/9.jpg")
    assert carry_out(plan_of(root), root)["train"]._fingerprint != prints["train"]


def test_names_of_classes_and_columns_change_the_fingerprint(tmp_path: Path) -> None:
    """Results of `map` are cached by the fingerprint."""
    root = write(tmp_path, ["x/p/1.jpg", "y/q/2.jpg"])
    plans = [plan_of(root, class_folder=choice) for choice in ("outer", "inner")]
    plans += [
        Plan("table", {"train": PlannedSplit(plans[0].splits["train"].images, {name: ("x", "y")}, "t.csv")})
        for name in ("label", "kind")
    ]
    assert len({carry_out(plan, root)["train"]._fingerprint for plan in plans}) == 4


def test_the_dataset_of_a_table(tmp_path: Path) -> None:
    columns = {
        "label": ("u", None), "none": (None, None), "number": (1, 2), "mixed": (1, "x"), "image": ("p", "q"),
        "list": (["u"], []),
    }  # fmt: skip
    plan = Plan("table", {"train": PlannedSplit(("x/a.jpg", "b.jpg"), columns, "t.csv")})
    rows = carry_out(plan, tmp_path)["train"].cast_column("image", Image(decode=False))
    assert rows.column_names == ["image", "label", "none", "number", "list"]
    assert [image["path"] for image in rows["image"]] == [str(tmp_path / "x" / "a.jpg"), str(tmp_path / "b.jpg")]
    assert [rows[name][:] for name in rows.column_names[1:]] == [["u", None], [None, None], [1, 2], [["u"], []]]
    assert [rows.features[name] for name in ("label", "none", "number")] == [
        Value("string"), Value("string"), Value("int64"),
    ]  # fmt: skip


def test_names_that_are_no_text(tmp_path: Path) -> None:
    names = [f"{letter}\udcff.jpg" for letter in "abc"]
    plan = Plan("table", {"train": PlannedSplit((*names, "caf\u00e9.jpg"), {}, "t.csv")})
    with pytest.raises(DataError, match=r"^names of files that are not UTF-8 text: 'a\\udcff.jpg', .* and 1 more; ren"):
        carry_out(plan, tmp_path)
    plan = Plan("class folders", {"train": PlannedSplit((), {}, "")}, classes=("cat", "\ud800"))
    with pytest.raises(DataError, match="not UTF-8 text"):
        carry_out(plan, tmp_path)


@pytest.mark.parametrize("name", ["a.csv", "a.TSV", "a.jsonl", "a.Parquet"])
def test_files_that_are_tables(name: str) -> None:
    require_table(Path(name))
    assert Listing.of(["1.jpg", name, "b.json"]).tables() == [name]


@pytest.mark.parametrize("name", ["a.json", "a.xlsx", "csv", "a.csv.bak"])
def test_files_that_are_no_tables(name: str) -> None:
    with pytest.raises(DataError, match=f"^{name} is no dataset: expected a folder, a table "):
        require_table(Path(name))
    assert Listing.of(["1.jpg", name]).others() == [name]


TEXTS = {
    "spaces": (b" file , label \n a.jpg , u \n", {"file": ("a.jpg",), "label": ("u",)}),
    "empty lines": (b"\n \nfile,label\n\na.jpg,u\n , \n", {"file": ("a.jpg",), "label": ("u",)}),
    "a mark of the byte order": (b"\xef\xbb\xbffile,label\na,u\n", {"file": ("a",), "label": ("u",)}),
    "UTF-16": ("file,label\na,\u00e9\n".encode("utf-16"), {"file": ("a",), "label": ("\u00e9",)}),
    "UTF-16, big end first": (b"\xfe\xff" + "f,l\na,u\n".encode("utf-16-be"), {"f": ("a",), "l": ("u",)}),
    "an index of pandas": (b",file,label\n0,a,u\n1,b,v\n", {"file": ("a", "b"), "label": ("u", "v")}),
    "empty columns at the end": (b"file,label,,\na,u,,\nb,v\n", {"file": ("a", "b"), "label": ("u", "v")}),
    "two columns without a name": (b",,file\n1,2,a\n", {"file": ("a",)}),
    "quoted line breaks": (b'file,label\n"a","u\nv"\n', {"file": ("a",), "label": ("u\nv",)}),
    "quoted separators": (b'file;"la;bel"\na;u,v\n', {"file": ("a",), "la;bel": ("u,v",)}),
    "the most frequent separator": (b"a;b,c;d\n1;2;3\n", {"a": ("1",), "b,c": ("2",), "d": ("3",)}),
    "one column": (b"file\na.jpg\n", {"file": ("a.jpg",)}),
    "bars": (b"file|label\na|u\n", {"file": ("a",), "label": ("u",)}),
}  # fmt: skip


@pytest.mark.parametrize("case", TEXTS)
def test_texts_of_tables(case: str, tmp_path: Path) -> None:
    data, columns = TEXTS[case]
    (tmp_path / "t.csv").write_bytes(data)
    assert read_table(tmp_path, "t.csv") == Table("t.csv", columns)
    assert len(read_table(tmp_path, "t.csv")) == len(next(iter(columns.values())))


LINES = {
    "values that are missing": ('{"a": 1}\n\n{"b": "x"}\n', {"a": (1, None), "b": (None, "x")}),
    "a separator of lines in a text": ('{"a": "x\u2028y"}\n', {"a": ("x\u2028y",)}),
    "a mark of the byte order": ('\ufeff{"a": [1, 2]}', {"a": ([1, 2],)}),
}


@pytest.mark.parametrize("case", LINES)
def test_lines_of_json(case: str, tmp_path: Path) -> None:
    text, columns = LINES[case]
    (tmp_path / "t.JSONL").write_text(text, encoding="utf-8")
    assert read_table(tmp_path, "t.JSONL").columns == columns


def test_parquet(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1, None], "b": ["x", "y"]}), tmp_path / "t.PARQUET")
    table = read_table(tmp_path, "t.PARQUET")
    assert table.columns == {"a": (1, None), "b": ("x", "y")}


DAMAGED = {
    "t.csv": [
        (b"", "^the table t.csv has no rows; "),
        (b"file,label\n", "^the table t.csv has no rows; "),
        (b"a,b,a,b,a,c\n1,2,3,4,5,6\n", "^the header of t.csv repeats a, b; "),
        (
            b"file,label\na,u\nb\nc,u,v\nd,u,\n",
            "^2 rows of t.csv have another number of values than its header .2, separated by ','.: rows 3, 4; mend ",
        ),
        (b"f,l\na,\xe9\n", "^t.csv is not UTF-8 text"),
        (b"PK\x03\x04", "^t.csv is an Excel workbook; "),
        (b"file,label\n" + b"a" * 200_000 + b",u\n", "^the table t.csv cannot be read: "),
    ],
    "t.jsonl": [
        (b"", "^expected one JSON object a line in t.jsonl, "),
        (b"[1]\n", "^expected one JSON object a line in t.jsonl, "),
        (b'{"a": 1}\n[1]\n', "^expected one JSON object a line in t.jsonl, "),
        (b"{", "^the table t.jsonl cannot be read: "),
        (b'{"a": "\xe9"}', "^t.jsonl is not UTF-8 text"),
        (b'{"a": ' + b"[" * 100_000, "^the table t.jsonl cannot be read: "),
    ],
    "t.parquet": [(b"PAR1", "^the table t.parquet cannot be read: ")],
}


@pytest.mark.parametrize(("name", "number"), [(name, n) for name, cases in DAMAGED.items() for n in range(len(cases))])
def test_tables_that_cannot_be_read(name: str, number: int, tmp_path: Path) -> None:
    data, message = DAMAGED[name][number]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=message):
        read_table(tmp_path, name)
    with pytest.raises(DataError, match=r"^the table none\.csv cannot be read: "):
        read_table(tmp_path, "none.csv")


def test_names_of_a_table() -> None:
    assert [(Table(path, {}).name, Table(path, {}).folder) for path in ("t.csv", "a/b/t.csv")] == [
        ("t.csv", ""), ("t.csv", "a/b"),
    ]  # fmt: skip
    assert len(Table("t.csv", {})) == 0
