"""`--exclude_list`: which images a list leaves out, and where that is noted."""

import shutil
from pathlib import Path

import datasets
import pytest
from scenes import scene, write_scenes

import hf_tl
from hf_tl.data.datasets import ImageData, load_data
from hf_tl.data.decoding.stored import digest_image
from hf_tl.errors import DataError

COUNTS = {"train/cat": 6, "train/dog": 6, "test/cat": 3, "test/dog": 3}


def write_list(file: Path, rows: list[str], header: str = "file,digest") -> str:
    file.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return str(file)


def digest(file: Path) -> str:
    return digest_image({"path": str(file)}, "").hex()


def names(data: ImageData, split: str) -> set[str]:
    rows = data.splits[split].cast_column("image", datasets.Image(decode=False))["image"]
    return {"/".join(Path(image["path"]).parts[-2:]) for image in rows}


def test_images_are_left_out_by_name_and_content(tmp_path: Path) -> None:
    folder = write_scenes(tmp_path / "pets", COUNTS)
    shutil.copy(folder / "train/cat/0.png", folder / "train/cat/copy.png")
    rows = [
        f"train/cat/0.png,{digest(folder / 'train/cat/0.png')}",
        "test/dog/16.png,",
        f"train/dog/8.png,{digest(folder / 'train/dog/9.png')}",
    ]
    data = hf_tl.load_data(str(folder), exclude_list=write_list(tmp_path / "list.csv", rows), validation_fraction=0.2)
    everything = hf_tl.load_data(str(folder), validation_fraction=0.2)
    before, after = (names(each, "train") | names(each, "validation") for each in (everything, data))
    assert before - after == {"cat/0.png"}
    assert names(everything, "test") - names(data, "test") == {"dog/16.png"}
    assert "1 of 13 images of train left out by list.csv" in data.notes
    assert "1 of 6 images of test left out by list.csv" in data.notes
    assert "1 images of list.csv are not in the dataset, or have other content" in data.notes
    assert data.to_record().notes == data.notes
    assert data.fingerprint != everything.fingerprint


def test_a_list_serves_a_renamed_dataset(tmp_path: Path) -> None:
    folder = write_scenes(tmp_path / "pets", COUNTS)
    inspected = hf_tl.inspect(str(folder))
    assert not inspected.exclusions
    shutil.copy(folder / "train/cat/0.png", folder / "test/cat/leak.png")
    hf_tl.inspect(str(folder), output_dir=tmp_path / "out")
    moved = folder.rename(tmp_path / "animals")
    data = hf_tl.load_data(str(moved), exclude_list=str(tmp_path / "out" / "exclusions.csv"))
    assert "1 of 12 images of train left out by exclusions.csv" in data.notes
    assert not any("are also in train" in note for note in data.notes)
    again = hf_tl.inspect(str(moved), exclude_list=str(tmp_path / "out" / "exclusions.csv"))
    assert (again.images, again.leaks, again.exclusions) == (18, 0, ())


def test_rows_of_a_dataset_without_file_names() -> None:
    names_of_classes = datasets.ClassLabel(names=["cat", "dog"])
    rows = {"image": [scene(number) for number in range(12)], "label": [0, 1] * 6}
    dataset = datasets.Dataset.from_dict(rows).cast_column("label", names_of_classes)
    dataset = datasets.concatenate_datasets([dataset, dataset.select([4])]).cast_column("image", datasets.Image())
    inspection = hf_tl.inspect(dataset)
    assert inspection.copies == [["row 4 of train", "row 12 of train"]]
    [exclusion] = inspection.exclusions
    assert (exclusion.file, exclusion.reason, exclusion.detail) == ("row 12 of train", "copy", "of row 4 of train")


@pytest.mark.parametrize(
    ("rows", "header", "message"),
    [
        (["cat"], "name", "expected a column 'file', found name"),
        (
            [f"test/{kind}/{number}.png," for kind in ("cat", "dog") for number in range(12, 18)],
            "file,digest",
            "all images",
        ),
    ],
)
def test_lists_that_cannot_be_used(rows: list[str], header: str, message: str, tmp_path: Path) -> None:
    folder = write_scenes(tmp_path / "pets", COUNTS)
    with pytest.raises(DataError, match=message):
        hf_tl.load_data(str(folder), exclude_list=write_list(tmp_path / "list.csv", rows, header))
    with pytest.raises(DataError, match="expected a CSV file with a column 'file', found no such file"):
        hf_tl.load_data(str(folder), exclude_list=str(tmp_path / "missing.csv"))


def test_streams_cannot_leave_out_images(tmp_path: Path) -> None:
    rows = {"image": [scene(number) for number in range(8)], "label": [0, 1] * 4}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "pets.parquet")
    file = write_list(tmp_path / "list.csv", ["row 1 of train,"])
    with pytest.raises(DataError, match="streaming=True does not read"):
        hf_tl.load_data(str(tmp_path / "pets.parquet"), exclude_list=file, streaming=True)


def test_loaded_data_take_the_list_too() -> None:
    rows = {"image": [scene(number) for number in range(12)], "label": [0, 1] * 6}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    with pytest.raises(DataError, match=r"missing\.csv"):
        load_data(datasets.Dataset.from_dict(rows, features=features), exclude_list="missing.csv")
