import glob
import os
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from data.pictures import WriteFolder, picture
from datasets import ClassLabel, Dataset, DatasetDict, Image
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from hf_tl.data.datasets import ImageData, check_images, load_data
from hf_tl.data.decoding.images import ImageTransform, Transforms, collate
from hf_tl.errors import DataError

SPLITS = ("train", "validation", "test")
ROOT = Path(__file__).parents[2]
CLOTHING = ROOT.parent / "shared" / "data" / "clothing_tiny_96.zip"
Rows = Callable[..., Dataset]


def contents(data: ImageData) -> dict[str, set[bytes]]:
    """Return the images of each split, as a set of pixels."""
    return {split: {np.asarray(row["image"]).tobytes() for row in data.splits[split]} for split in SPLITS}


def check_splits(data: ImageData, total: int) -> None:
    """Check that no image is in two splits, none is lost, and all splits have the same classes."""
    parts = contents(data)
    assert sum(map(len, parts.values())) == len(set.union(*parts.values())) == total
    for split in SPLITS:
        assert data.splits[split].features["label"].names == list(data.labels)
        assert sum(data.class_counts(split)) == len(data.splits[split]) > 0


def test_digits() -> None:
    data, other = load_data("digits"), load_data("digits", seed=1)
    assert data.labels == tuple("0123456789")
    assert {split: len(rows) for split, rows in data.splits.items()} == {"train": 1293, "validation": 144, "test": 360}
    image = data.splits["train"][0]["image"]
    assert (image.mode, image.size, image.getextrema()) == ("L", (8, 8), (0, 255))
    assert contents(data)["test"] == contents(other)["test"]
    assert data.splits["test"]["label"][:12] == [3, 2, 3, 1, 4, 1, 1, 2, 9, 9, 1, 7]  # accuracies compare across runs
    assert contents(data)["validation"] != contents(other)["validation"]
    assert data.fingerprint == other.fingerprint == "0848952b1534bbdaa6b250055166a82e3250a63514d69683358f7496d1c7a53e"
    assert (data.name, data.revision, data.problem_type) == ("digits", None, "single_label_classification")
    assert max(data.class_counts("test")) - min(data.class_counts("test")) <= 2
    assert check_images(data).digests == data.digests


def test_folder_without_splits(write_folder: WriteFolder) -> None:
    folder = write_folder({"dog": 20, "cat": 40, "cat/more": 10, ".hidden": 3, "__MACOSX": 1})
    (folder / "dog" / "notes.txt").write_text("no image")
    data = load_data(f"{folder}/")
    check_splits(data, 70)
    assert data.labels == ("cat", "dog")
    assert {split: data.class_counts(split) for split in SPLITS} == {
        "train": [36, 14], "validation": [4, 2], "test": [10, 4],
    }  # fmt: skip
    assert data.name == "pets"
    assert data.notes == (
        "files that are not images were left out: 1 .txt",
        "images in subfolders count for their class folder: cat/more",
        "no test split: 14 of 70 training images (20%) were held out, stratified by class, seed 0",
        "no validation split: 6 of 56 training images (11%) were held out, stratified by class, seed 0",
    )
    assert str(folder.parent) not in repr((data.name, data.notes, data.labels))


@pytest.mark.parametrize("validation", ["val", "valid", "validation", "dev", "Eval"])
def test_folder_with_splits(write_folder: WriteFolder, validation: str) -> None:
    layout = {"train/cat": 5, "train/dog": 4, f"{validation}/dog": 2, f"{validation}/cat": 1, "test/dog": 3}
    folder = write_folder({**layout, "notes/old": 1})
    data = load_data(str(folder))
    check_splits(data, 15)
    assert [data.class_counts(split) for split in SPLITS] == [[5, 4], [1, 2], [0, 3]]
    assert "folders beside the splits were left out: notes/" in data.notes
    assert data.origins["validation"] == f"folder {validation}"
    assert len(os.listdir(folder)) == 4


def test_class_that_is_called_train(write_folder: WriteFolder) -> None:
    folder = str(write_folder({"train": 5, "bus": 5}))
    assert load_data(folder).labels == ("bus", "train")


def test_classes_that_are_called_like_splits(write_folder: WriteFolder) -> None:
    folder = str(write_folder({"train": 5, "bus": 5, "test": 5}))
    with pytest.raises(DataError, match="two readings of the folder"):
        load_data(folder)
    assert load_data(folder, split_folders="none").labels == ("bus", "test", "train")
    assert load_data(folder, exclude_folders="test").labels == ("bus", "train")


def test_folder_with_odd_names(write_folder: WriteFolder) -> None:
    folder = write_folder({"a [1]*?": 4, "train-test": 4})
    folder = folder.rename(folder.with_name("pets [final] *"))
    data = load_data(str(folder))
    assert (data.name, data.labels) == ("pets [final] *", ("a [1]*?", "train-test"))
    check_splits(data, 8)


def test_replaced_image_is_seen(write_folder: WriteFolder) -> None:
    folder = write_folder({"cat": 5, "dog": 5})
    before = load_data(str(folder))
    file = folder / "cat" / "0.png"
    status = file.stat()
    picture(99).save(file)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    after = load_data(str(folder))
    assert before.fingerprint != after.fingerprint
    assert np.asarray(picture(99)).tobytes() in set.union(*contents(after).values())


def test_folder_with_metadata(write_folder: WriteFolder) -> None:
    folder = write_folder({"train": 8})
    lines = [f"{number}.png,{'ab'[number % 2]}" for number in range(8)]
    (folder / "train" / "metadata.csv").write_text("\n".join(["file_name,label", *lines]))
    data = load_data(str(folder))
    check_splits(data, 8)
    assert data.labels == ("a", "b")


@pytest.mark.parametrize("how", ["file", "pattern", "several", "folder"])
def test_parquet(tmp_path: Path, rows: Rows, how: str) -> None:
    folder = tmp_path / "more [1]" / "pets"
    folder.mkdir(parents=True)
    label = ClassLabel(names=["dog", "cat"])
    for index in range(2):
        rows([0, 1] * 5, label, first=10 * index).to_parquet(folder / f"train-{index}.parquet")
    rows([0, 1], label, first=50).to_parquet(folder / "test-0.parquet")
    name = {
        "file": f"{folder}/train-0.parquet",
        "pattern": f"{glob.escape(str(folder))}/*.parquet",
        "several": f"{glob.escape(str(folder))}/train-*.parquet, {folder}/test-0.parquet",
        "folder": str(folder),
    }[how]
    data = load_data(name)
    check_splits(data, 10 if how == "file" else 22)
    assert data.labels == ("dog", "cat")
    assert data.name == ("train-0" if how == "file" else "pets")
    if how != "file":
        assert contents(data)["test"] == {np.asarray(picture(number)).tobytes() for number in (50, 51)}


def test_parquet_of_other_tools(tmp_path: Path, rows: Rows) -> None:
    stored = rows(["b", "a"] * 5).cast_column("image", Image(decode=False))
    frame = stored.to_pandas()
    frame["image"] = [image["bytes"] for image in frame["image"]]
    frame.to_parquet(tmp_path / "plain.parquet")
    check_splits(load_data(str(tmp_path / "plain.parquet")), 10)


def test_saved_to_disk(tmp_path: Path, rows: Rows) -> None:
    DatasetDict(train=rows(list("ab") * 5), test=rows(list("ab"), first=20)).save_to_disk(tmp_path / "saved")
    files = sorted((tmp_path / "saved").rglob("*"))
    data = load_data(str(tmp_path / "saved"))
    check_splits(data, 12)
    assert sorted((tmp_path / "saved").rglob("*")) == files
    assert data.name == "saved"


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["dog", "cat", "Cat"] * 4, ("Cat", "cat", "dog")),
        ([10, 9, 2] * 4, ("2", "9", "10")),
        ([True, False] * 5, ("False", "True")),
    ],
)
def test_raw_labels_become_classes(rows: Rows, labels: list, names: tuple[str, ...]) -> None:
    dataset = DatasetDict(train=rows(labels), test=rows(labels[1:3], first=50))
    data = load_data(dataset, dataset_name="user/pets")
    assert data.labels == names
    assert data.name == "user/pets"
    shown = [data.labels[row["label"]] for row in data.splits["test"]]
    assert shown == [str(label) for label in labels[1:3]]


def test_labels_are_aligned_by_name(rows: Rows) -> None:
    train = rows([0, 1, 2] * 5, ClassLabel(names=["A", "a", "b"]))
    test = rows([0, 1], ClassLabel(names=["b", "a"]), first=50)
    data = load_data(DatasetDict(train=train, test=test))
    assert [data.labels[row["label"]] for row in data.splits["test"]] == ["b", "a"]
    assert np.asarray(data.splits["test"][0]["image"]).tobytes() == np.asarray(picture(50)).tobytes()


def test_columns_by_name(rows: Rows) -> None:
    dataset = rows([0, 1] * 5, ClassLabel(names=["a", "b"]), other=["x", "y"] * 5)
    dataset = dataset.rename_columns({"image": "img", "label": "fine"}).add_column("thumb", [b"1"] * 10)
    data = load_data(dataset, label_column="other")
    assert data.labels == ("x", "y")
    assert all(rows.column_names == ["image", "label"] for rows in data.splits.values())


def test_columns_that_are_called_like_each_other(rows: Rows) -> None:
    dataset = rows(list("ab") * 5).rename_columns({"image": "label", "label": "image"})
    data = load_data(dataset, label_column="image")
    assert data.labels == ("a", "b")
    assert contents(data) == contents(load_data(rows(list("ab") * 5)))


def test_validation_is_tested_on_where_test_has_no_labels(rows: Rows) -> None:
    names = ClassLabel(names=["a", "b"])
    held_out = rows([0, 1], names, first=50)
    dataset = DatasetDict(train=rows([0, 1] * 10, names), validation=held_out, test=rows([-1, -1], names, first=80))
    data = load_data(dataset)
    check_splits(data, 22)
    assert contents(data)["test"] == {np.asarray(row["image"]).tobytes() for row in held_out}
    assert data.notes[:2] == (
        "split test was left out: it has no labels",
        "no test split: validation was used as test, and validation was drawn from train",
    )


def test_test_split_is_not_trained_on(rows: Rows) -> None:
    test = rows([0, 1] * 5, ClassLabel(names=["a", "b"]), first=50)
    data = load_data(DatasetDict(train=rows([0, 1] * 20, test.features["label"]), test=test))
    assert contents(data)["test"] == {np.asarray(row["image"]).tobytes() for row in test}
    check_splits(data, 50)


def test_only_split_and_other_splits(rows: Rows) -> None:
    data = load_data(DatasetDict(test=rows(list("ab") * 10)))
    assert data.notes[0] == "the only split, test, was used as train"
    data = load_data(DatasetDict(train=rows(list("ab") * 10), extra=rows(list("ab"))))
    assert data.notes[0] == "split extra was left out"


def test_splits_follow_the_seed(rows: Rows) -> None:
    dataset = rows(list("aab") * 20)
    first, again, other = (load_data(dataset, seed=seed) for seed in (0, 0, 1))
    assert contents(first) == contents(again) != contents(other)
    assert first.fingerprint == other.fingerprint
    assert first.class_counts("test") == [8, 4]


def test_many_small_classes_are_stratified(rows: Rows) -> None:
    data = load_data(rows([number // 3 for number in range(60)]))
    check_splits(data, 60)
    assert min(data.class_counts("train")) >= 1
    assert len(data.splits["test"]) == len(data.splits["validation"]) == 20


def test_repeated_images_are_noted(rows: Rows) -> None:
    dataset = DatasetDict(train=rows(list("ab") * 5), test=rows(list("ab"), first=8))
    assert load_data(dataset).notes[-1] == "2 images of test are also in train or validation"


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_loader_with_workers(write_folder: WriteFolder) -> None:
    data = pickle.loads(pickle.dumps(load_data(str(write_folder({"cat": 12, "dog": 12})))))
    to_tensor = v2.Compose([v2.Resize((8, 8)), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
    transforms = Transforms(ImageTransform(to_tensor), ImageTransform(to_tensor)).with_columns("image", "label")
    train = data.splits["train"].with_transform(transforms.train)
    batches = list(DataLoader(train, batch_size=8, num_workers=2, collate_fn=collate))
    assert [batch["pixel_values"].shape[1:] for batch in batches] == [(3, 8, 8)] * len(batches)
    assert torch.cat([batch["labels"] for batch in batches]).tolist() == data.splits["train"]["label"][:]
    expected = to_tensor(data.splits["train"][0]["image"])
    torch.testing.assert_close(batches[0]["pixel_values"][0], expected)


@pytest.mark.skipif(not CLOTHING.exists(), reason="the photos of clothes are not here")
def test_photos(tmp_path: Path) -> None:
    with zipfile.ZipFile(CLOTHING) as archive:
        archive.extractall(tmp_path / "photos")
    [root] = {path.parent.parent.parent for path in (tmp_path / "photos").rglob("*.jpg")}
    data = load_data(str(root))
    assert check_images(data).digests == data.digests
    assert len(data.labels) == 10
    assert sum(map(len, data.splits.values())) == 280
    assert data.class_counts("test") == [8] * 10
    check_splits(data, 280)


HUB = """
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image
from huggingface_hub import DatasetCard, HfApi
from hf_tl.data.datasets import load_data
from hf_tl.errors import DataError
from PIL import Image as Pillow

features = Features({"image": Image(), "label": ClassLabel(names=["dog", "cat"])})
def rows(first):
    images = [Pillow.new("RGB", (4, 4), (first + number, 0, 0)) for number in range(10)]
    return Dataset.from_dict({"image": images, "label": [0, 1] * 5}, features=features)

commit = DatasetDict(train=rows(0), validation=rows(20)).push_to_hub("user/pets")
card = DatasetCard.load("user/pets")
card.data.license = "cc0-1.0"
# DatasetCard.push_to_hub of huggingface_hub 1 asks huggingface.co, whatever Hub is in use
place = {"path_in_repo": "README.md", "repo_id": "user/pets", "repo_type": "dataset"}
HfApi().upload_file(path_or_fileobj=str(card).encode(), **place)
data = load_data("user/pets")
assert data.revision and len(data.revision) == 40, data.revision
assert (data.name, data.license, data.labels) == ("user/pets", "cc0-1.0", ("dog", "cat")), data
assert [len(data.splits[split]) for split in data.splits] == [8, 2, 10]
assert load_data("user/pets", dataset_revision=commit.oid).license is None
for name in ("user/unknown", "user/pets"):
    try:
        load_data(name, dataset_revision="no-such-branch" if name == "user/pets" else None)
    except DataError as error:
        assert error.__cause__ is not None
        print(error)
print(commit.oid, data.revision)
"""
OFFLINE = """
import sys
from hf_tl.data.datasets import load_data
from hf_tl.errors import DataError

for revision in sys.argv[1:]:
    try:
        assert load_data("user/pets", dataset_revision=revision).revision == revision
        print("loaded")
    except DataError as error:
        print(error)
"""


def test_hub(tmp_path: Path) -> None:
    from hub.client import TOKEN, environment
    from hub.server import HubServer

    def run(code: str, *words: str, **variables: str) -> str:
        command = [sys.executable, "-c", code, *words]
        done = subprocess.run(command, env=env | variables, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    with HubServer(tmp_path / "hub", tokens={TOKEN: {"name": "user", "role": "write"}}) as server:
        env = environment(server.url, tmp_path / "home") | {"PYTHONPATH": str(ROOT)}
        printed = run(HUB)
    assert "'user/unknown' of the Hub does not exist, nor does a local folder" in printed
    assert "no-such-branch" in printed
    *_, first, second = printed.split()
    loaded, refused = sorted(run(OFFLINE, first, second, HF_HUB_OFFLINE="1").splitlines())
    assert loaded == "loaded"
    assert "cannot be downloaded, and the cache has another one" in refused
