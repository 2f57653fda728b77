"""Layouts x spellings of splits x sources: each plan is right, or an error asks; none is wrong in silence."""

from itertools import product
from pathlib import PurePosixPath

import pytest
from data.layout.test_field_folders import PAIRS

from hf_tl.data.layout.folders import plan_folders
from hf_tl.data.layout.listing import Listing
from hf_tl.data.layout.plan import Plan
from hf_tl.data.layout.table_files import Table
from hf_tl.data.layout.tables import plan_tables
from hf_tl.data.sources.files import name_files
from hf_tl.errors import DataError

CLASSES = ("cat", "dog")
TRUTH = [(split, name, number) for split in ("train", "test") for name in CLASSES for number in range(4)]
JUNK = ["readme.txt", ".DS_Store", "__MACOSX/train/cat/._0.jpg", "docs/paper.pdf", "Thumbs.db"]

FOLDERS = {
    "split over class": "{split}/{name}/{number}.jpg",
    "class over split": "{name}/{split}/{number}.jpg",
    "split twice": "{split}/{split}/{name}/{number}.jpg",
    "images folder above": "images/{split}/{name}/{number}.jpg",
    "images folder below": "{split}/images/{name}/{number}.jpg",
    "images folder in each class": "{split}/{name}/images/{number}.jpg",
    "flat": "{split}/{name}_{number}.jpg",
    "prefix": "data/v1/{split}/{name}/{number}.jpg",
}


def paths_of(layout: str, spelling: tuple[str, str]) -> dict[str, tuple[str, str]]:
    """Return the split and the class of each path of a layout."""
    spelled = dict(zip(("train", "test"), spelling, strict=True))
    return {
        FOLDERS[layout].format(split=spelled[split], name=name, number=f"{split[0]}{number}"): (split, name)
        for split, name, number in TRUTH
    }


def reading_of(plan: Plan, column: str) -> dict[str, tuple[str, str]]:
    return {
        image: (split, str(label))
        for split, planned in plan.splits.items()
        for image, label in zip(planned.images, planned.columns[column], strict=True)
    }


@pytest.mark.parametrize("junk", [False, True], ids=["clean", "junk"])
@pytest.mark.parametrize("layout", FOLDERS)
@pytest.mark.parametrize("spelling", PAIRS, ids="/".join)
def test_folders(layout: str, spelling: tuple[str, str], junk: bool) -> None:
    truth = paths_of(layout, spelling)
    listing = Listing.of([*truth, *(JUNK if junk else [])])
    if layout == "flat":
        with pytest.raises(DataError, match="labels"):
            plan_folders(listing)
    else:
        assert reading_of(plan_folders(listing), "label") == truth


@pytest.mark.parametrize("source", ["table in the root", "table in each split", "table of each split", "split column"])
@pytest.mark.parametrize("layout", ["flat", "split over class", "prefix"])
@pytest.mark.parametrize("spelling", PAIRS, ids="/".join)
def test_tables(layout: str, spelling: tuple[str, str], source: str) -> None:
    truth = paths_of(layout, spelling)
    spelled = dict(zip(("train", "test"), spelling, strict=True))
    groups = [["train", "test"]] if source in ("table in the root", "split column") else [["train"], ["test"]]
    tables = []
    for group in groups:
        rows = [(path, split, name) for path, (split, name) in truth.items() if split in group]
        columns: dict[str, tuple[object, ...]] = {"label": tuple(name for _, _, name in rows)}
        if source == "table in each split":
            where = str(PurePosixPath(rows[0][0]).parents[0 if layout == "flat" else 1])
            columns["file_name"] = tuple(str(PurePosixPath(path).relative_to(where)) for path, _, _ in rows)
            tables.append(Table(f"{where}/metadata.csv", columns))
            continue
        columns["file_name"] = tuple(path for path, _, _ in rows)
        if source == "split column":
            columns["subset"] = tuple(spelled[split] for _, split, _ in rows)
        tables.append(Table(f"{spelled[group[0]]}.csv" if source == "table of each split" else "labels.csv", columns))
    plan = plan_tables(Listing.of([*truth, *JUNK]), tables)
    assert reading_of(plan, "label") == truth


@pytest.mark.parametrize("where", ["{split}-00000-of-00002.parquet", "{split}.parquet", "pets_{split}_1.parquet"])
@pytest.mark.parametrize("spelling", PAIRS, ids="/".join)
def test_parquet_files(spelling: tuple[str, str], where: str) -> None:
    files = [where.format(split=name) for name in spelling]
    assert name_files(files)[1] == {"train": [files[0]], "test": [files[1]]}


def test_the_matrix_is_large_enough() -> None:
    cells = len(list(product(PAIRS, FOLDERS, (False, True)))) + len(PAIRS) * 3 * 4 + len(PAIRS) * 3
    assert cells >= 300
