"""Real image files in common dataset layouts."""

from collections.abc import Callable, Mapping
from pathlib import Path

import datasets
import pytest
from data.pictures import WriteFolder, picture


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def write_folder(tmp_path: Path) -> WriteFolder:
    """Write a folder `pets`: a mapping such as {"train/cat": 3} sets the number of images of each subfolder."""

    def write(counts: Mapping[str, int]) -> Path:
        number = 0
        for folder, count in counts.items():
            (tmp_path / "pets" / folder).mkdir(parents=True)
            for index in range(count):
                picture(number).save(tmp_path / "pets" / folder / f"{index}.png")
                number += 1
        return tmp_path / "pets"

    return write


@pytest.fixture
def rows() -> Callable[..., datasets.Dataset]:
    """Return a function that builds a dataset in memory from labels and other columns; all images are distinct."""

    def build(labels: list, feature: object = None, first: int = 0, **columns: list) -> datasets.Dataset:
        images = [picture(first + number) for number in range(len(labels))]
        dataset = datasets.Dataset.from_dict(
            {"image": images, "label": labels, **columns},
        ).cast_column("image", datasets.Image())
        return dataset if feature is None else dataset.cast_column("label", feature)

    return build
