"""Rows of an exclude list: names, digests, counts in notes, and lists that cannot be used."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from data.pictures import picture
from datasets import Dataset, Features, Image

from hf_tl.data.decoding.stored import digest_image
from hf_tl.data.layout.exclusions import kept_rows, leave_out_listed
from hf_tl.errors import DataError


@pytest.fixture
def splits(tmp_path: Path) -> dict[str, Dataset]:
    """Return ten stored images of `train`, x/0.png to x/9.png, and two of `test`, y/0.png and y/1.png."""

    def stored(folder: str, count: int, first: int) -> Dataset:
        (tmp_path / folder).mkdir()
        paths = [str(tmp_path / folder / f"{number}.png") for number in range(count)]
        for number, path in enumerate(paths):
            picture(first + number).save(path)
        return Dataset.from_dict({"image": paths}, features=Features({"image": Image()}))

    return {"train": stored("x", 10, 0), "test": stored("y", 2, 10)}


def excluded(splits: dict[str, Dataset], file: Path, lines: Sequence[str]) -> tuple[dict[str, list[int]], list[str]]:
    """Return the rows that a list leaves out, and the notes."""
    file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    notes: list[str] = []
    kept = kept_rows(splits, str(file), notes)
    assert {split: len(rows) for split, rows in leave_out_listed(splits, str(file), []).items()} == {
        split: len(rows) for split, rows in kept.items()
    }
    return {split: sorted({*range(len(splits[split]))} - {*rows}) for split, rows in kept.items()}, notes


def digest(rows: Dataset, row: int) -> str:
    return digest_image({"path": rows.cast_column("image", Image(decode=False))["image"][row]["path"]}, "").hex()


def test_names(splits: dict[str, Dataset], tmp_path: Path) -> None:
    file = tmp_path / "list.csv"
    none = {"train": [], "test": []}
    assert excluded(splits, file, ["file", "x/3.png", "./x/4.png", f"{tmp_path}/x/5.png", " y/1.png "]) == (
        {"train": [3, 4, 5], "test": [1]},
        ["3 of 10 images of train left out by list.csv", "1 of 2 images of test left out by list.csv"],
    )
    assert excluded(splits, file, ["note,file", "a,/1.png"])[0] == {"train": [1], "test": [1]}
    assert excluded(splits, file, ["\ufefffile", "x/1.png"])[0] == {"train": [1], "test": []}
    assert excluded(splits, file, ["file", "png", "z/1.png", ".png", '""']) == (
        none, ["3 images of list.csv are not in the dataset, or have other content"],
    )  # fmt: skip
    assert excluded(splits, file, ["file,digest"]) == (none, [])


def test_digests(splits: dict[str, Dataset], tmp_path: Path) -> None:
    file = tmp_path / "list.csv"
    own, other = digest(splits["train"], 3), digest(splits["train"], 4)
    assert excluded(splits, file, ["file,digest", f"x/3.png, {own.upper()} "])[0] == {"train": [3], "test": []}
    assert excluded(splits, file, ["file,digest", f"x/3.png,{other}", f"x/3.png,{own}"]) == (
        {"train": [3], "test": []},
        [
            "1 of 10 images of train left out by list.csv",
            "1 images of list.csv are not in the dataset, or have other content",
        ],
    )
    assert excluded(splits, file, ["file,digest", f"x/3.png,{other}"])[0] == {"train": [], "test": []}
    assert excluded(splits, file, ["file,digest", "x/3.png"])[0] == {"train": [3], "test": []}
    # a longer name with other content does not hide a shorter one
    assert excluded(splits, file, ["file,digest", f"x/3.png,{other}", "3.png,"])[0] == {"train": [3], "test": []}


def test_images_without_names(tmp_path: Path) -> None:
    rows = Dataset.from_dict({"image": [picture(number) for number in range(4)]}, features=Features({"image": Image()}))
    assert excluded({"train": rows, "test": rows}, tmp_path / "list.csv", ["file", "row 2 of train"])[0] == {
        "train": [2],
        "test": [],
    }


def test_no_list(splits: dict[str, Dataset]) -> None:
    notes: list[str] = []
    assert kept_rows(splits, None, notes) == {"train": list(range(10)), "test": [0, 1]}
    assert leave_out_listed(splits, None, notes) == splits
    assert notes == []


def test_images_keep_their_order_and_columns(splits: dict[str, Dataset], tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("file\nx/0.png\n")
    train = splits["train"].add_column("label", list(range(10)))
    notes: list[str] = []
    result = leave_out_listed({"train": train, "test": splits["test"]}, str(tmp_path / "list.csv"), notes)
    assert result["train"]["label"][:] == list(range(1, 10))
    assert result["test"] is splits["test"]
    assert notes == ["1 of 10 images of train left out by list.csv"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a column 'file', found an empty file; use a list that hf-tl inspect wrote"),
        ("name,File\nx/0.png,\n", "expected a column 'file', found name, File; use a list that"),
        ("file\ny/0.png\ny/1.png\n", "^exclude_list=.list.csv. names all images of test: remove some of its rows"),
        ("file\n" + "a" * 200_000 + "\n", "expected a CSV file, found "),
    ],
)
def test_lists_that_cannot_be_used(splits: dict[str, Dataset], tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        kept_rows(splits, str(tmp_path / "list.csv"), [])


def test_a_list_in_the_home_folder(splits: dict[str, Dataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "list.csv").write_text("file\nx/0.png\n")
    assert kept_rows(splits, "~/list.csv", [])["train"] == list(range(1, 10))
