"""Data that cannot be trained on are refused before training, with names and advice."""

from collections.abc import Callable
from pathlib import Path

import pytest
from data.pictures import WriteFolder
from datasets import ClassLabel, Dataset, DatasetDict, Image, Value
from PIL import Image as Pillow

from hf_tl.data.datasets import check_images, load_data
from hf_tl.errors import ConfigError, DataError, HfTlError

Rows = Callable[..., Dataset]
AB = ClassLabel(names=["a", "b"])


@pytest.fixture
def refuse(rows: Rows) -> Callable[..., str]:
    """Return a function that prepares a dataset, or its splits, and returns the error message."""

    def check(error: type[HfTlError] = DataError, **options: object) -> Callable[[object], str]:
        def message(dataset: object) -> str:
            with pytest.raises(error) as caught:
                load_data(dataset, **options)
            return str(caught.value)

        return message

    return check


@pytest.mark.parametrize("name", ["/no/such/folder", "./pets", "~/no/such/pets", "a/b/c", "C:\\pets", "no images"])
def test_unknown_name(name: str) -> None:
    with pytest.raises(DataError, match=r"no dataset .*: expected an existing folder, .*check dataset") as caught:
        load_data(name)
    assert repr(name) in str(caught.value)


@pytest.mark.parametrize("name", ["pets.parquet", "pets/*.parquet"])
def test_unknown_parquet(name: str) -> None:
    with pytest.raises(DataError, match=r"no file .*check dataset"):
        load_data(name)


def test_damaged_parquet(tmp_path: Path) -> None:
    (tmp_path / "pets.parquet").write_bytes(b"PAR1 this is no table")
    with pytest.raises(DataError, match=r"the parquet file pets\.parquet cannot be loaded"):
        load_data(str(tmp_path / "pets.parquet"))


def test_parquet_files_that_do_not_all_name_their_split(tmp_path: Path, rows: Rows) -> None:
    for name in ("train.parquet", "more.parquet"):
        rows([0, 1] * 5, AB).to_parquet(tmp_path / name)
    with pytest.raises(DataError, match=r"some files name their split and some do not: more\.parquet"):
        load_data(str(tmp_path))


@pytest.mark.parametrize("layout", [{}, {"cat": 0, "dog": 0}, {"train/cat": 0, "test/cat": 0}])
def test_folder_without_images(tmp_path: Path, write_folder: WriteFolder, layout: dict[str, int]) -> None:
    write_folder(layout)
    (tmp_path / "pets").mkdir(exist_ok=True)
    with pytest.raises(DataError, match=r"no images in .*pets.*expected one folder of images per class"):
        load_data(str(tmp_path / "pets"))


def test_images_without_a_class_folder(write_folder: WriteFolder) -> None:
    folder = write_folder({"": 7, "cat": 3})
    with pytest.raises(DataError, match=r"in no class folder of .*0\.png, .*4\.png and 2 more; expected one folder"):
        load_data(str(folder))


def test_class_folder_without_images(write_folder: WriteFolder) -> None:
    folder = write_folder({"train/cat": 3, "train/dog": 3, "test/dog": 1, "test/owl": 1, "train/emu": 0})
    with pytest.raises(DataError, match="classes missing from training: owl; add images"):
        load_data(str(folder))


def test_folder_with_one_class(write_folder: WriteFolder) -> None:
    with pytest.raises(DataError, match="expected at least two classes, found 1: cat"):
        load_data(str(write_folder({"cat": 9})))


def test_folder_with_splits_but_no_train(write_folder: WriteFolder) -> None:
    with pytest.raises(DataError, match="expected a split train, found validation, test; name the split"):
        load_data(str(write_folder({"test/cat": 2, "val/cat": 2})))


def test_two_splits_of_one_meaning(rows: Rows, refuse: Callable) -> None:
    message = refuse()(DatasetDict({split: rows([0, 1], AB) for split in ("train", "val", "dev")}))
    assert message == 'two splits mean validation: val and dev; name one: split_folders="validation=dev"'


def test_no_image_column(refuse: Callable) -> None:
    message = refuse()(Dataset.from_dict({"text": ["x"], "label": [0]}))
    assert message == "expected one column of images, found none among text, label; name it with image_column"


def test_several_image_columns(rows: Rows, refuse: Callable) -> None:
    dataset = rows([0, 1] * 5, AB)
    message = refuse()(dataset.add_column("mask", [b"1"] * 10).cast_column("mask", Image()))
    assert message == "expected one column of images, found 2: image, mask; name it with image_column"


def test_no_label_column(rows: Rows, refuse: Callable) -> None:
    message = refuse()(rows([0, 1]).rename_column("label", "price"))
    assert message == (
        "expected one column of labels, found none among image, price; "
        "name it with label_column (several columns of 0 and 1 with commas)"
    )


def test_several_label_columns(rows: Rows, refuse: Callable) -> None:
    dataset = rows([0, 1], AB, coarse=[0, 1]).cast_column("coarse", AB)
    assert "found 2: label, coarse; name it with label_column" in refuse()(dataset)
    assert "found 2: label, category;" in refuse()(rows([0, 1], category=["x", "y"]))


@pytest.mark.parametrize("flag", ["image_column", "label_column"])
def test_unknown_column(rows: Rows, refuse: Callable, flag: str) -> None:
    message = refuse(**{flag: "picture"})(rows([0, 1], AB))
    assert message == f"no column 'picture': the dataset has image, label; change {flag}"


def test_labels_that_are_no_classes(rows: Rows, refuse: Callable) -> None:
    message = refuse()(rows([0.5, 1.5], Value("float32")))
    assert message.startswith("expected one class per image in the column 'label'")
    assert "label_column" in message


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_empty_split(rows: Rows, refuse: Callable, split: str) -> None:
    splits = {name: rows([0, 1], AB) for name in ("train", "validation", "test")}
    splits[split] = splits[split].select([])
    assert refuse()(DatasetDict(splits)) == f"the split {split} is empty; add images to it, or remove it"


def test_no_rows(rows: Rows, refuse: Callable) -> None:
    assert refuse()(rows([0, 1], AB).select([])) == "the split train is empty; add images to it, or remove it"
    assert (
        refuse()(DatasetDict())
        == 'expected a split train, found no split; name the split to train on: split_folders="train=NAME"'
    )


@pytest.mark.parametrize("labels", [["a"] * 5, [3] * 5, [True] * 5])
def test_one_class(rows: Rows, refuse: Callable, labels: list) -> None:
    assert f"expected at least two classes, found 1: {labels[0]};" in refuse()(rows(labels))


def test_class_missing_from_training(rows: Rows, refuse: Callable) -> None:
    feature = ClassLabel(names=list("abcdefgh"))
    message = refuse()(DatasetDict(train=rows([0, 1] * 5, feature), test=rows([2, 3, 4, 5, 6, 7], feature)))
    assert message.startswith("classes missing from training: c, d, e, f, g and 1 more; add images")
    message = refuse()(DatasetDict(train=rows(list("ab") * 5), test=rows(list("bdc"))))
    assert message.startswith("test has classes missing from training: c, d; add images")
    message = refuse()(DatasetDict(train=rows([0, 1] * 5, AB), test=rows([0, 1], ClassLabel(names=["a", "A"]))))
    assert message.startswith("test has classes missing from training: A;")


@pytest.mark.parametrize(
    ("labels", "feature"),
    [(["a", None, "b", ""], None), ([0, -1, 1, None], AB), ([4, -1, 3, None], None), ([None, None, 0, 1], AB)],
)
def test_unlabeled_rows(rows: Rows, refuse: Callable, labels: list, feature: object) -> None:
    bad = [row for row, label in enumerate(labels) if label in (None, -1, "")]
    message = refuse()(rows(labels, feature))
    assert message == (
        f"2 of 4 images of train have no label (None or -1): row {bad[0]} of train, row {bad[1]} of train; "
        "label or remove them"
    )


def test_many_unlabeled_rows_and_an_unlabeled_train(rows: Rows, refuse: Callable) -> None:
    message = refuse()(rows([-1] * 9, AB))
    assert "9 of 9 images of train have no label (None or -1): row 0 of train, " in message
    assert "row 4 of train and 4 more;" in message


def test_classes_too_small_to_split(rows: Rows, refuse: Callable) -> None:
    message = refuse()(rows(["a"] * 9 + ["b", "b", "c"]))
    assert message == (
        "classes with fewer than 3 different images, too few for train, test and validation: b (2), c (1); "
        "add images, remove the class, or provide the splits"
    )
    data = load_data(DatasetDict(train=rows(["a"] * 9 + ["b"] * 2), test=rows(["a"], first=50)))
    assert data.class_counts("train")[1] >= 1


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 2])
def test_fraction_out_of_range(rows: Rows, refuse: Callable, fraction: float) -> None:
    message = refuse(ConfigError, test_fraction=fraction)(rows([0, 1] * 5, AB))
    assert message == f"expected a fraction between 0 and 1, found test_fraction={fraction}"


def test_streaming_dataset(rows: Rows, refuse: Callable) -> None:
    message = refuse()(rows([0, 1], AB).to_iterable_dataset())
    assert message == (
        "expected a dataset (a name, a folder, a table, a datasets.Dataset or DatasetDict, or the result of "
        "hf_tl.load_data), found IterableDataset; a stream is opened by the dataset's name: "
        "hf_tl.load_data(name, streaming=True)"
    )


@pytest.fixture
def damaged(write_folder: WriteFolder) -> Path:
    folder = write_folder({"train/cat": 9, "train/dog": 9, "validation/cat": 2, "test/dog": 3, "test/cat": 1})
    cut = folder / "train" / "cat" / "0.png"
    cut.write_bytes(cut.read_bytes()[:-100])
    (folder / "train" / "cat" / "1.png").write_bytes(b"")
    for number in range(2, 6):
        (folder / "train" / "dog" / f"{number}.png").write_text("<html>404 not found</html>")
    Pillow.new("1", (10_000, 10_000)).save(folder / "test" / "dog" / "2.png")
    return folder


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_damaged_images_are_named(damaged: Path) -> None:
    data = load_data(str(damaged))
    with pytest.raises(DataError) as caught:
        check_images(data)
    first, *lines = str(caught.value).splitlines()
    assert first == "7 images cannot be used; replace or remove them, or leave them out with skip_bad_images=True:"
    assert len(lines) == 6
    assert lines[-1] == "  and 2 more"
    assert lines[0].startswith(f"  {damaged}/train/cat/0.png: the image is truncated or damaged")
    assert lines[1] == f"  {damaged}/train/cat/1.png: no image that Pillow can read; replace or remove it"


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_damaged_images_are_left_out(damaged: Path) -> None:
    data = load_data(str(damaged))
    checked = check_images(data, skip_bad_images=True, verbose=True)
    assert [len(rows) for rows in checked.splits.values()] == [12, 2, 3]
    assert checked.notes == (
        *data.notes,
        "6 images of train that cannot be read were left out: 0.png, 1.png, 2.png, 3.png, 4.png and 1 more",
        "1 images of test that cannot be read were left out: 2.png",
    )
    assert check_images(checked).digests == checked.digests
    for name in ("cat/0", "cat/1", "dog/2", "dog/3", "dog/4", "dog/5"):
        (damaged / "train" / f"{name}.png").unlink()
    (damaged / "test" / "dog" / "2.png").unlink()
    assert checked.fingerprint == load_data(str(damaged)).fingerprint != data.fingerprint


def test_nothing_readable_is_left(write_folder: WriteFolder) -> None:
    folder = write_folder({"train/cat": 3, "train/dog": 3, "validation/cat": 1, "test/cat": 1})
    (folder / "test" / "cat" / "0.png").write_bytes(b"")
    with pytest.raises(DataError, match="no image of the split test can be read"):
        check_images(load_data(str(folder)), skip_bad_images=True)
    (folder / "test" / "cat" / "0.png").write_bytes((folder / "train" / "cat" / "0.png").read_bytes())
    for file in (folder / "train" / "dog").iterdir():
        file.write_bytes(b"")
    with pytest.raises(DataError, match="classes missing from training: dog"):
        check_images(load_data(str(folder)), skip_bad_images=True)


def test_images_that_are_missing(rows: Rows, tmp_path: Path) -> None:
    good = rows([0, 1] * 5, AB).cast_column("image", Image(decode=False))["image"][:]
    stored = [*good[:8], None, {"bytes": None, "path": str(tmp_path / "gone.png")}]
    train = Dataset.from_dict({"image": stored, "label": [0, 1] * 5}).cast_column("image", Image())
    train = train.cast_column("label", AB)
    data = load_data(DatasetDict(train=train, validation=rows([0], AB), test=rows([1], AB)))
    with pytest.raises(DataError, match=r"row 8 of train: expected an image(.|\n)*gone\.png: the image cannot be read"):
        check_images(data)
    assert len(check_images(data, skip_bad_images=True).splits["train"]) == 8
