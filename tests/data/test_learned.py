"""Training images of weights: found in a dataset again, and left out of evaluations."""

from collections.abc import Callable
from pathlib import Path

import pytest
from data.pictures import WriteFolder, picture
from datasets import Dataset, DatasetDict

from hf_tl.data.datasets import check_images, load_data
from hf_tl.data.decoding.stored import digest_image
from hf_tl.data.fingerprint import map_images
from hf_tl.data.learned import learn, leave_out_learned, resolve
from hf_tl.errors import DataError, ModelError
from hf_tl.evaluation.leakage import measurable
from hf_tl.record import LearnedFrom, split_digest
from hf_tl.record.learned import LEARNED_FILE

Rows = Callable[..., Dataset]
LABELS = ["a", "b"] * 20


def test_a_record_states_where_the_splits_come_from(write_folder: WriteFolder) -> None:
    data = load_data(str(write_folder({"train/a": 20, "train/b": 20, "test/a": 3, "test/b": 3})), seed=4)
    record = data.to_record()
    assert (record.name, record.source, record.fingerprint) == ("pets", "folder", data.fingerprint)
    assert {name: (split.source, split.seed, split.share) for name, split in record.splits.items()} == {
        "train": ("dataset", None, None),
        "validation": ("drawn", 4, 0.1),
        "test": ("dataset", None, None),
    }
    assert {name: split.digest for name, split in record.splits.items()} == {
        name: split_digest(digests) for name, digests in data.digests.items()
    }
    assert sum(record.splits["train"].classes) == record.splits["train"].images == 36


@pytest.mark.parametrize("kind", ["hub", "files", "memory", "built-in"])
def test_sources(rows: Rows, tmp_path: Path, kind: str) -> None:
    rows(LABELS).to_parquet(tmp_path / "pets.parquet")
    learned_by_kind = {
        "files": lambda: load_data(str(tmp_path / "pets.parquet")),
        "memory": lambda: load_data(rows(LABELS), dataset_name="user/pets"),
        "built-in": lambda: load_data("digits"),
    }
    if kind in learned_by_kind:
        record = learned_by_kind[kind]().to_record()
        assert record.source == kind
        assert not record.is_on_hub  # even with a slash in its name


def test_streams_have_no_digests(rows: Rows, tmp_path: Path) -> None:
    """The training images of a stream are unknown, and so is any overlap with one; both are stated."""
    rows(LABELS).to_parquet(tmp_path / "pets.parquet")
    name = str(tmp_path / "pets.parquet")
    streamed, whole = load_data(name, streaming=True), load_data(name)
    assert (streamed.digests, streamed.source) == ({}, "files")
    assert {split.digest for split in streamed.to_record().splits.values()} == {None}
    learned = learn(LearnedFrom(), streamed, "train")
    assert learned.unknown == learned.splits
    _, leakage = measurable(whole, {"the model": resolve(learned, whole)})
    assert leakage["test"].describe() == [
        "hf_tl cannot tell whether the test images were among the 28 training images of split train of pets (recorded "
        "without image digests), which the model learned from"
    ]
    _, leakage = measurable(streamed, {"the model": learn(LearnedFrom(), whole, "train")})
    assert "(streamed images are not compared)" in leakage["test"].describe()[0]
    assert not measurable(streamed, {"the model": LearnedFrom()})[1]["test"].describe()


def test_own_splits_lose_what_was_learned(rows: Rows) -> None:
    train = rows(LABELS[:16])
    data = load_data(DatasetDict(train=rows(LABELS[:12], first=100), test=train))
    seen = load_data(DatasetDict(train=train.select(range(7)), validation=train.select([9, 10]), test=train))
    learned = learn(LearnedFrom(), seen, "train")
    remaining, leakage = leave_out_learned(data, learned)
    leak = leakage["test"]
    assert (leak.images, leak.left_out, leak.learned, leak.measured) == (16, 7, 0, 9)
    assert "7 of 16 test images are training images of the starting model: left out" in remaining.notes
    assert len(remaining.digests["test"]) == len(remaining.splits["test"]) == 9
    assert remaining.fingerprint != data.fingerprint
    kept, leakage = leave_out_learned(data, learned, keep=True)
    assert (leakage["test"].left_out, leakage["test"].learned) == (0, 7)
    assert kept.digests == data.digests


def test_too_little_is_left(rows: Rows) -> None:
    three = rows(["a", "b", "b"], first=90)
    data = load_data(DatasetDict(train=rows(LABELS), test=three))
    seen = load_data(DatasetDict(train=three.select([0, 1]), validation=three, test=three))
    said = "2 of 3 test images are training images of the starting model, and the 1 others show one class"
    with pytest.raises(DataError, match=said):
        leave_out_learned(data, learn(LearnedFrom(), seen, "train"))


def test_drawn_splits_keep_it_in_train(rows: Rows) -> None:
    first = load_data(rows(LABELS), seed=5)
    learned = learn(LearnedFrom(), first, "train")
    for seed in range(5):
        data = load_data(rows(LABELS), seed=seed, learned=learned)
        assert not learned.mask(data.digests["test"]).any()
        assert not learned.mask(data.digests["validation"]).any()
        assert "28 of 40 images of train were learned from in an earlier training" in data.notes
        assert leave_out_learned(data, learned)[0] == data


def test_a_published_split_is_drawn_again(rows: Rows) -> None:
    """Match by its digest alone, in a chain of models, each of which kept earlier training images in train."""
    first = load_data(rows(LABELS), seed=5, test_fraction=0.4)
    learned = learn(LearnedFrom(), first, "train")
    second = load_data(rows(LABELS), seed=2, learned=learned)
    both = learn(learn(learned, second, "train"), second, "validation")
    published = LearnedFrom.read(both.splits, None)
    assert (published.digests, published.unknown) == (frozenset(), both.splits)
    for seed in (0, 2, 7):
        assert resolve(published, load_data(rows(LABELS), seed=seed)).digests == both.digests
    third = load_data(rows(LABELS), seed=0, learned=published)
    assert not both.mask(third.digests["test"]).any()
    others = load_data(rows(LABELS, first=50))
    assert resolve(published, others).unknown == both.splits


def test_what_is_unknown_stays_so_through_saving(rows: Rows, tmp_path: Path) -> None:
    """A model trained from a published one has digests of its own images, and none of the other's."""
    first, second = load_data(rows(LABELS)), load_data(rows(LABELS, first=50))
    published = LearnedFrom.read(learn(LearnedFrom(), first, "train").splits, None)
    learned = learn(published, second, "train")
    learned.save(tmp_path)
    again = LearnedFrom.read(learned.splits, tmp_path)
    assert again == learned
    assert again.unknown == published.splits
    [leak] = measurable(first, {"it": again}, ["test"])[1].values()
    assert not leak.describe()  # the digest of the split identified them
    [leak] = measurable(second, {"it": again}, ["test"])[1].values()
    assert "hf_tl cannot tell whether the test images were among the 28 training images" in leak.describe()[0]
    (tmp_path / LEARNED_FILE).write_bytes(b"PK damaged")
    with pytest.raises(ModelError, match="is damaged"):
        LearnedFrom.read(learned.splits, tmp_path)


def test_bad_images_are_left_out_everywhere(write_folder: WriteFolder) -> None:
    folder = write_folder({"a": 12, "b": 12})
    for name in ("a/3.png", "b/5.png", "b/6.png"):
        (folder / name).write_bytes(picture(0).tobytes()[:20] + name.encode())
    data = load_data(str(folder))
    checked = check_images(data, skip_bad_images=True)
    assert sum(map(len, checked.splits.values())) == 21
    for split, images in checked.splits.items():
        assert len(checked.digests[split]) == len(images) == checked.to_record().splits[split].images
        assert tuple(map_images(images, split, digest_image)) == checked.digests[split]
    assert checked.fingerprint != data.fingerprint
    assert set(checked.orders) == {rows._fingerprint for rows in checked.splits.values()}
