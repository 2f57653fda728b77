"""A stream has the splits of the downloaded dataset, and each of its images reaches one process."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Image, List, Value
from PIL import Image as Pillow

import hf_tl
from hf_tl.data.datasets import ImageData, check_images, load_data
from hf_tl.data.streaming.streams import Stream, StreamedImages, streams_of
from hf_tl.errors import ConfigError, DataError

Rows = Callable[..., Dataset]
NAMES = ClassLabel(names=["dog", "cat", "owl"])
SHARDS = {"train-0": 17, "train-1": 4, "train-2": 21}


@pytest.fixture
def shards(rows: Rows, tmp_path: Path) -> Path:
    """Write three files with several row groups each; all images are distinct."""
    folder, first = tmp_path / "pets", 0
    folder.mkdir()
    for name, count in SHARDS.items():
        labels = [number % 3 for number in range(count)]
        rows(labels, NAMES, first=first).to_parquet(folder / f"{name}.parquet", batch_size=8)
        first += count
    return folder


def content(data: ImageData) -> dict[str, list[tuple[bytes, object]]]:
    """Return the encoded images and labels of each split, in order."""
    reads = {}
    for split, images in data.splits.items():
        if isinstance(images, StreamedImages):
            stored = dict(images.stream.read())
            encoded = [stored[place]["bytes"] for place in images.places.tolist()]
        else:
            column = images.cast_column("image", Image(decode=False))["image"]
            encoded = [image["bytes"] or Path(image["path"]).read_bytes() for image in column]
        reads[split] = list(zip(encoded, images["label"][:], strict=True))
    return reads


def check_alike(streamed: ImageData, whole: ImageData) -> None:
    """Check that splits of the dataset itself are equal, and that all images have the same labels.

    Drawn splits may differ: images of a dataset are drawn by content, those of an unread stream by position.
    """
    by_stream, other = content(streamed), content(whole)
    assert by_stream.keys() == other.keys()
    assert streamed.draws == whole.draws
    for split in by_stream.keys() - streamed.draws.keys() - {"train"}:
        assert by_stream[split] == other[split]
    everything = [
        sorted((image, str(label)) for rows in each.values() for image, label in rows) for each in (by_stream, other)
    ]
    assert everything[0] == everything[1]
    assert {split: len(rows) for split, rows in by_stream.items()} == {
        split: len(rows) for split, rows in other.items()
    }


def only_stream(data: ImageData) -> Stream:
    [stream] = streams_of(data.splits)
    return stream


def test_the_images_are_those_of_the_whole_dataset(shards: Path) -> None:
    streamed, whole = hf_tl.load_data(str(shards), streaming=True), hf_tl.load_data(str(shards))
    check_alike(streamed, whole)
    assert content(streamed) == content(hf_tl.load_data(str(shards), streaming=True))
    assert content(streamed) != content(hf_tl.load_data(str(shards), streaming=True, seed=1))
    assert {split: len(images) for split, images in streamed.splits.items()} == {
        "train": 29,
        "validation": 4,
        "test": 9,
    }
    assert (streamed.labels, streamed.name, streamed.license) == (whole.labels, whole.name, whole.license)
    assert streamed.class_counts("train") == whole.class_counts("train")
    assert streamed.notes == (*whole.notes, "images were streamed, not downloaded")
    assert check_images(streamed) is streamed


def test_splits_of_several_streams(rows: Rows, tmp_path: Path) -> None:
    """Validation becomes test, a split with hidden labels is left out, and text classes are found."""
    texts = ["cat", "dog"] * 10
    rows(texts).to_parquet(tmp_path / "train-0.parquet")
    rows(texts, first=20).to_parquet(tmp_path / "validation-0.parquet")
    rows([""] * 3, first=40).to_parquet(tmp_path / "test-0.parquet")
    pattern = str(tmp_path / "*.parquet")
    streamed, whole = load_data(pattern, streaming=True), load_data(pattern)
    assert streamed.labels == ("cat", "dog")
    check_alike(streamed, whole)
    assert [stream.name for stream in streams_of(streamed.splits)] == ["train", "validation"]


def test_labels_of_any_number(rows: Rows, tmp_path: Path) -> None:
    lists = [[0], [1], [0, 1], []] * 6
    rows(lists, List(NAMES)).map(lambda row: {"label": [*row["label"], 2]}).to_parquet(tmp_path / "train.parquet")
    streamed, whole = (load_data(str(tmp_path / "train.parquet"), streaming=choice) for choice in (True, False))
    assert streamed.problem_type == "multi_label_classification"
    check_alike(streamed, whole)


def test_columns_of_zeros_and_ones_and_encoded_images(rows: Rows, tmp_path: Path) -> None:
    flags = {"cat": [0, 1, 1, 0] * 6, "dog": [1, 0, 1, 0] * 6}
    table = rows([0] * 24, **flags).remove_columns("label").cast_column("image", Image(decode=False))
    encoded = [image["bytes"] for image in table["image"]]
    table = table.remove_columns("image").add_column("photo", encoded, feature=Value("binary"))
    table.to_parquet(tmp_path / "train.parquet")
    name, columns = str(tmp_path / "train.parquet"), "cat,dog"
    streamed, whole = (load_data(name, streaming=choice, label_column=columns) for choice in (True, False))
    check_alike(streamed, whole)


@pytest.mark.parametrize("processes", [1, 2, 3, 5])
def test_each_image_comes_to_one_process(shards: Path, processes: int) -> None:
    """Image by image where the shards cannot be distributed evenly; at the position of its label."""
    stream = only_stream(load_data(str(shards), streaming=True))
    parts = [list(stream.read(process, processes)) for process in range(processes)]
    assert sorted(place for part in parts for place, _ in part) == list(range(42))
    alone = dict(stream.read())
    assert all(image == alone[place] for part in parts for place, image in part)
    assert len({image["bytes"] for image in alone.values()}) == 42


def test_shards_are_shared_out_where_that_is_fair(rows: Rows, tmp_path: Path) -> None:
    for number, count in enumerate([8, 9, 9, 8]):
        table = rows([row % 3 for row in range(count)], NAMES, first=10 * number)
        table.to_parquet(tmp_path / f"train-{number}.parquet")
    stream = only_stream(load_data(str(tmp_path), streaming=True))
    parts = [[place for place, _ in stream.read(process, 2)] for process in range(2)]
    assert parts == [[*range(8), *range(17, 26)], [*range(8, 17), *range(26, 34)]]
    assert [place for place, _ in stream.read(1, 3)] == list(range(1, 34, 3))


def test_the_fingerprint_follows_files_labels_and_splits(shards: Path, rows: Rows) -> None:
    first = load_data(str(shards), streaming=True)
    assert load_data(str(shards), streaming=True).fingerprint == first.fingerprint
    assert load_data(str(shards), streaming=True, seed=1).fingerprint != first.fingerprint
    rows([number % 3 for number in range(4)], NAMES, first=100).to_parquet(shards / "train-1.parquet")
    changed = load_data(str(shards), streaming=True)
    assert changed.fingerprint != first.fingerprint
    assert only_stream(changed).fingerprint != only_stream(first).fingerprint


@pytest.mark.parametrize("count", [3, 5])
def test_files_that_change_after_the_labels_were_read(shards: Path, rows: Rows, count: int) -> None:
    stream = only_stream(load_data(str(shards), streaming=True))
    rows([0] * count, NAMES).to_parquet(shards / "train-1.parquet")
    with pytest.raises(DataError, match="does not hold the 42 images whose labels were read"):
        list(stream.read())


def test_a_file_that_is_gone(shards: Path) -> None:
    stream = only_stream(load_data(str(shards), streaming=True))
    (shards / "train-2.parquet").unlink()
    images = stream.read()
    assert [next(images)[0] for _ in range(21)] == list(range(21))
    with pytest.raises(DataError, match=r"the stream of train broke off .*train-2\.parquet"):
        next(images)


def test_bad_images_are_left_out_if_asked_for(shards: Path, rows: Rows) -> None:
    table = rows([number % 3 for number in range(4)], NAMES, first=17).cast_column("image", Image(decode=False))
    buffer = io.BytesIO()
    Pillow.fromarray(np.zeros((64, 64, 3), dtype=np.uint8)).save(buffer, "PNG")
    bad = [*table["image"][:2], {"bytes": b"no image", "path": "broken.png"}, {"bytes": buffer.getvalue()[:60]}]
    table = table.remove_columns("image").add_column("image", bad, feature=Image())
    table.to_parquet(shards / "train-1.parquet")
    data = load_data(str(shards), streaming=True)
    assert check_images(data) is data
    good = check_images(data, skip_bad_images=True)
    assert good.notes[-1] == "2 images of train that cannot be read were left out: broken.png, row 20 of train"
    assert sum(map(len, good.splits.values())) == 40
    stream = only_stream(good)
    assert {place for place, _ in stream.read()} == set(range(42)) - {19, 20}
    kept = np.concatenate([images.places for images in good.splits.values()])
    assert sorted(kept) == sorted(set(range(42)) - {19, 20})
    assert good.fingerprint != data.fingerprint
    assert stream.fingerprint != only_stream(data).fingerprint


def test_what_lies_here_is_not_streamed(write_folder: Callable[..., Path]) -> None:
    folder = write_folder({"cat": 4, "dog": 4})
    for name in ("digits", str(folder)):
        with pytest.raises(DataError, match="leave out streaming=True"):
            load_data(name, streaming=True)
    with pytest.raises(DataError, match="expected an existing folder"):
        load_data("no dataset/at/all", streaming=True)


def test_images_of_a_stream_are_not_had_one_by_one(shards: Path) -> None:
    data = load_data(str(shards), streaming=True)
    with pytest.raises(ConfigError, match="leave out streaming=True"):
        data.splits["train"].with_transform(lambda row: row)
