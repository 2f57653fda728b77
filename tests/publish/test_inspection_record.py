"""Counts of an inspection are used only for the images and labels that were inspected."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from hf_tl.errors import DataError
from hf_tl.record.codec import encode
from hf_tl.record.inspection import InspectionRecord, default_folder, find_inspection

COUNTS = InspectionRecord(
    created="2026-11-28T10:00:00Z", version="0.1.0", model=None, images=1200, unreadable=9, exact_copies=2,
    near_duplicates=3, different_labels=4, across_splits=5, label_errors=6, outliers=7,
)  # fmt: skip
SPLITS = {"train": "a1", "validation": "b2", "test": "c3"}
DATA = {
    "nothing": {"fingerprint": "all", "splits": SPLITS},
    "unreadable": {"fingerprint": "readable", "splits": SPLITS},
    "suggested": {"fingerprint": "good", "splits": {"train": "a1"}},
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    folder = default_folder("user/pets")
    folder.mkdir(parents=True)
    (folder / "inspection.json").write_text(json.dumps({"counts": encode(COUNTS), "data": DATA}), encoding="utf-8")
    return folder


def test_an_inspection_of_the_same_images_is_looked_up(folder: Path) -> None:
    assert folder == Path("runs/pets-inspection")
    assert find_inspection(None, "user/pets", "all", SPLITS) == COUNTS
    assert find_inspection(folder, "other", "readable", SPLITS) == replace(COUNTS, left_out="unreadable")
    assert find_inspection(None, "user/pets", "of other images", SPLITS) is None
    assert find_inspection(None, "other", "all", SPLITS) is None
    with pytest.raises(DataError, match="is of other images or labels than those of pets"):
        find_inspection(folder, "pets", "of other images", SPLITS)


def test_leaks_are_stated_only_for_the_splits_that_were_inspected(folder: Path) -> None:
    """Train may differ: images that were held out of it are the same."""
    other_train, other_test = {**SPLITS, "train": "d4"}, {**SPLITS, "test": "d4"}
    no_leaks = replace(COUNTS, across_splits=None)
    assert find_inspection(None, "pets", "all", other_train) == COUNTS
    assert find_inspection(None, "pets", "all", other_test) == no_leaks
    assert find_inspection(None, "pets", "good", SPLITS) == replace(no_leaks, left_out="suggested")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"counts": {}, "data": {}}', '{"counts": 3, "data": 4}'])
def test_a_damaged_inspection_is_an_error_where_it_was_named(folder: Path, text: str) -> None:
    (folder / "inspection.json").write_text(text, encoding="utf-8")
    assert find_inspection(None, "pets", "all", SPLITS) is None
    with pytest.raises(DataError, match=r"expected a folder with the inspection\.json of hf-tl inspect"):
        find_inspection(folder, "pets", "all", SPLITS)


def test_counts_in_words() -> None:
    listed = (
        "2 groups of exact copies, 3 groups of near-duplicates, 5 groups across splits (data leakage), 4 groups with "
        "different labels, 6 suspected label errors, 7 outliers, 9 unreadable files among 1,200 images"
    )
    assert COUNTS.describe() == listed
    assert replace(COUNTS, left_out="suggested").describe() == f"{listed}; of these, the suggested images are left out"
    unjudged = replace(COUNTS, label_errors=None, outliers=None, across_splits=None).describe()
    assert unjudged.endswith("4 groups with different labels, 9 unreadable files among 1,200 images; label errors were "
                             "not looked for")  # fmt: skip
    single = replace(COUNTS, exact_copies=1, label_errors=1, unreadable=1).describe()
    assert single.startswith("1 group of exact copies, 3 groups of near-duplicates")
    assert "1 suspected label error, 7 outliers, 1 unreadable file among" in single
    assert COUNTS.method == "2026-11-28, perceptual hashes"
    assert replace(COUNTS, model="demo").method == "2026-11-28, perceptual hashes and features of demo"
