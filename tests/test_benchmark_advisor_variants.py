"""scripts/advisor_grid/variants.py: difficult variants of the digits, and controls that nothing can be learned from."""

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import ImageChops

sys.path.append(str(Path(__file__).parents[1] / "scripts"))

from advisor_grid.backbones import candidates
from advisor_grid.cells import Cell
from advisor_grid.runs import REFUSED, recommend_for
from advisor_grid.sources import load_source
from advisor_grid.variants import (
    ALTERATIONS,
    GROUP,
    IMBALANCE,
    SHUFFLED,
    VARIANTS,
    Splits,
    alter,
    make_grouped_series,
)


def small_splits(images: int = 40) -> Splits:
    splits = load_source("digits", None)
    return splits["train"].select(range(images)), splits["test"].select(range(10))


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_changes_only_what_it_names(variant: str) -> None:
    train, test = small_splits()
    changed, changed_test = VARIANTS[variant].apply(train, test)
    assert changed_test["label"][:] == test["label"][:]
    assert (list(changed_test["image"]) == list(test["image"])) is (variant != "shift")
    is_same = list(changed["image"]) == list(train["image"]) and changed["label"][:] == train["label"][:]
    assert is_same is (variant in ("plain", "shift"))
    assert changed.features["label"] == train.features["label"]
    again, _ = VARIANTS[variant].apply(train, test)
    assert list(again["image"]) == list(changed["image"])
    assert again["label"][:] == changed["label"][:]


def test_a_series_has_an_image_and_its_light_alterations() -> None:
    train, test = small_splits(8)
    series, changed_test = make_grouped_series(train, test)
    assert len(series) == (1 + len(ALTERATIONS)) * len(train)
    assert series["label"][:] == [label for label in train["label"] for _ in range(4)]
    assert series[0]["image"] == train[0]["image"]
    assert len({image.tobytes() for image in series["image"][:4]}) == 4
    assert len(set(series[GROUP][:])) == len(train)
    assert not set(series[GROUP][:]) & set(changed_test[GROUP][:])
    ungrouped, _ = VARIANTS["series"].apply(train, test)
    assert GROUP not in ungrouped.column_names


@pytest.mark.parametrize("alteration", ALTERATIONS)
def test_an_altered_image_is_nearer_to_its_original_than_any_other(alteration: str) -> None:
    images = [image.convert("RGB").resize((64, 64)) for image in small_splits()[0]["image"]]
    altered = alter(images[0], alteration)
    assert (altered.size, altered.mode) == (images[0].size, images[0].mode)
    first, *others = (np.asarray(ImageChops.difference(image, altered)).mean() for image in images)
    assert 0 < first < min(others)


def test_imbalance_falls_from_the_first_class_to_the_last() -> None:
    train, test = (rows for rows in load_source("digits", None).values())
    changed, _ = VARIANTS["imbalance"].apply(train, test)
    before, after = (np.bincount(rows["label"][:]) for rows in (train, changed))
    assert after[0] == before[0]
    assert after[-1] == round(before[-1] / IMBALANCE)
    assert (np.diff(after / before) < 0).all()


def test_wrong_labels_are_a_twentieth() -> None:
    train, test = small_splits(200)
    changed, _ = VARIANTS["wrong labels"].apply(train, test)
    assert np.sum(np.array(changed["label"][:]) != np.array(train["label"][:])) == 10


def test_shuffled_labels_keep_their_counts() -> None:
    train, test = small_splits()
    changed, _ = VARIANTS[SHUFFLED].apply(train, test)
    assert sorted(changed["label"][:]) == sorted(train["label"][:])


def test_duplicates_have_an_image_for_each_class() -> None:
    train, test = small_splits()
    copies, altered = (VARIANTS[name].apply(train, test)[0]["image"] for name in ("duplicates", "near-duplicates"))
    assert len({image.tobytes() for image in copies}) == 10
    assert len({image.tobytes() for image in altered}) > 20  # the lightest alterations change no pixel of 64


def test_a_control_that_is_refused_is_a_result() -> None:
    cell = Cell("digits", 5, variant="duplicates")
    [task] = cell.tasks("recommend")
    result = recommend_for(cell, task)
    assert (result["rule"], result["strategy"]) == (REFUSED, None)
    assert "images" in result["error"]


def test_controls_are_not_trained() -> None:
    for name, variant in VARIANTS.items():
        cell = Cell("digits", 5, variant=name)
        assert bool(list(cell.tasks("train"))) is not variant.is_control
        assert len(list(cell.tasks("recommend"))) == 1


def test_the_input_of_a_vision_transformer_has_whole_patches(tmp_path: Path) -> None:
    named = candidates(96, tmp_path)
    assert (named["vit"].image_size, named["lite0"].image_size) == (84, 96)
    assert "vit" not in candidates(96)


def test_a_known_series_lies_on_one_side_of_the_split() -> None:
    data = Cell("digits", 5, variant="series in groups").images()
    train, validation = (set(data.groups[split]) for split in ("train", "validation"))
    assert validation
    assert not train & validation
    assert len(train | validation) == 50
    assert not Cell("digits", 5, variant="series").images().groups
