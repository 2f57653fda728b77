"""The dataset of a training is opened again as a record states it: by name, with the splits that hf_tl drew."""

from pathlib import Path
from typing import Any

import pytest
from data.pictures import picture
from publish.records import make_record, put

import hf_tl
from hf_tl.data.datasets import ImageData
from hf_tl.errors import ConfigError, DataError
from hf_tl.evaluation.leakage import drawn_by, open_again, recorded_dataset, split_again
from hf_tl.record import DataRecord, LearnedFrom, RunRecord
from hf_tl.record.parts import GroupRecord

ON_HUB = put(make_record(), data__name="user/pets", data__source="hub", data__revision="90b755f")
PETS = {"dataset": "user/pets", "dataset_revision": "90b755f"}


@pytest.mark.parametrize(
    ("record", "arguments"),
    [
        (None, None),
        (make_record(), None),  # a folder
        (put(make_record(), data__source="built-in", data__name="digits"), {"dataset": "digits"}),
        (put(make_record(), data__source="folder", data__revision="90b755f"), None),
        (put(ON_HUB, data__revision=None), None),
        (put(ON_HUB, settings={"streaming": True}), None),
        (put(ON_HUB, settings={"streaming": False}), PETS),
        (put(ON_HUB, settings=None), PETS),
        (
            put(ON_HUB, settings={"dataset_config": "large", "label_column": "kind", "seed": 3, "dataset": "here"}),
            {**PETS, "dataset_config": "large", "label_column": "kind"},
        ),
    ],
)
def test_a_dataset_is_loaded_by_name_only_where_the_name_fixes_its_content(
    record: RunRecord | None, arguments: dict[str, Any] | None
) -> None:
    assert recorded_dataset(record) == arguments


def drawn(**settings: Any) -> DataRecord:
    data = put(make_record().data, **settings)
    return put(data, splits__validation__seed=5, splits__validation__share=0.1)


UNGROUPED = {"group_column": None, "group_pattern": "none", "group_near_duplicates": False}


@pytest.mark.parametrize(
    ("data", "arguments"),
    [
        (None, {}),
        (make_record().data, {}),
        (put(make_record().data, splits__test__seed=5), {}),
        (put(make_record().data, splits__test__share=0.2), {}),
        (drawn(), {"validation_fraction": 0.1, "seed": 5, **UNGROUPED}),
        (
            put(drawn(), splits__test__seed=5, splits__test__share=0.2),
            {"validation_fraction": 0.1, "test_fraction": 0.2, "seed": 5, **UNGROUPED},
        ),
        (
            drawn(groups=GroupRecord("the column patient", 9, 3, column="patient")),
            {"validation_fraction": 0.1, "seed": 5, **UNGROUPED, "group_column": "patient"},
        ),
        (
            drawn(groups=GroupRecord("series", 9, 3, pattern="auto", near_duplicates=True)),
            {
                "validation_fraction": 0.1,
                "seed": 5,
                **UNGROUPED,
                "group_pattern": "auto",
                "group_near_duplicates": True,
            },
        ),
    ],
)
def test_splits_are_drawn_as_recorded(data: DataRecord | None, arguments: dict[str, Any]) -> None:
    assert drawn_by(data) == arguments


@pytest.mark.parametrize(
    ("record", "name"), [(None, "training cannot"), (make_record(), r"training \('pets'\) cannot")]
)
def test_a_dataset_that_has_no_name_must_be_named(record: RunRecord | None, name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        open_again(record, LearnedFrom(), None)


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    for number in range(40):
        folder = tmp_path / "pets" / ("cat" if number % 2 else "dog")
        folder.mkdir(parents=True, exist_ok=True)
        picture(number).save(folder / f"{number}.png")
    return tmp_path / "pets"


def digests(data: ImageData) -> dict[str, set[bytes]]:
    return {split: set(images) for split, images in data.digests.items()}


def test_a_folder_is_split_as_in_the_training(pets: Path) -> None:
    data = hf_tl.load_data(str(pets), seed=3, test_fraction=0.3, validation_fraction=0.2)
    record = put(make_record(), data=data.to_record())
    assert digests(open_again(record, LearnedFrom(), str(pets))) == digests(data)
    assert digests(open_again(None, LearnedFrom(), str(pets))) == digests(hf_tl.load_data(str(pets))) != digests(data)
    assert open_again(record, LearnedFrom(), data) is data
    inside = open_again(None, LearnedFrom(), str(pets), group_pattern=r"(\d)\.png")
    assert inside.groups  # flags about how to read it are followed


def test_training_images_fill_gaps_only_where_the_training_filled_them(pets: Path) -> None:
    """Splits of the training's data are drawn without them if that gives its test images."""
    data, other = hf_tl.load_data(str(pets), seed=0), hf_tl.load_data(str(pets), seed=1)
    loads: list[bool] = []

    def load(include: bool) -> ImageData:
        loads.append(include)
        return other if include else data

    mine = data.to_record()
    for kept in (None, other.to_record(), put(mine, splits__test__digest="0" * 64, fingerprint="of other images")):
        assert split_again(load, kept) is other
        assert loads == [True]
        loads.clear()
    for kept, splits in ((mine, data), (put(mine, splits__test__digest="0" * 64), other)):
        assert split_again(load, kept) is splits
        assert loads == [True, False]
        loads.clear()

    def refuse(include: bool) -> ImageData:
        if not include:
            raise DataError("too few images")
        return other

    assert split_again(refuse, mine) is other
