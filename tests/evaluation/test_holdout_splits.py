"""Images of a hold-out set: a split of the dataset, or the one that a training drew from it."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from backbones.checkpoints import save_timm, timm_network
from data.pictures import picture
from datasets import Dataset, DatasetDict, load_dataset
from publish.records import make_record

import hf_tl
from hf_tl.backbones.load import preprocessing_of
from hf_tl.data.datasets import load_data
from hf_tl.data.image_data import ImageData
from hf_tl.data.learned import learn
from hf_tl.errors import ConfigError, DataError
from hf_tl.evaluation.holdout.images import Holdout, open_holdout
from hf_tl.evaluation.holdout.loaded import LoadedClassifier
from hf_tl.evaluation.leakage import measurable
from hf_tl.publish.save import commit_model
from hf_tl.record import LearnedFrom, split_digest
from hf_tl.record.learned import LEARNED_FILE

CLASSES = ("ant", "moth", "zebra")


def write(folder: Path, first: int = 0, **counts: int) -> Path:
    """Write images of classes, all different; class `train__ant` lies in train/ant."""
    for name, count in counts.items():
        place = folder / name.replace("__", "/")
        place.mkdir(parents=True, exist_ok=True)
        for number in range(first, first + count):
            picture(number).save(place / f"{number}.png")
        first += count
    return folder


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> LoadedClassifier:
    """Return a model that hf_tl did not train."""
    network = timm_network(labels=CLASSES)
    return LoadedClassifier.load(save_timm(network, tmp_path_factory.mktemp("model") / "saved", labels=CLASSES))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("images") / "insects", ant=14, moth=13, zebra=15)


@pytest.fixture(scope="module")
def data(images: Path) -> ImageData:
    return load_data(images, seed=3, test_fraction=0.25, validation_fraction=0.2)


@pytest.fixture(scope="module")
def trained(data: ImageData, tmp_path_factory: pytest.TempPathFactory) -> LoadedClassifier:
    return save_trained(data, tmp_path_factory.mktemp("run") / "out")


def save_trained(data: ImageData, folder: Path, earlier: LearnedFrom | None = None) -> LoadedClassifier:
    """Save a model as a training on the split train of these data does."""
    model, transforms = hf_tl.load_backbone("timm:test_resnet", CLASSES, pretrained=False, image_size=32)
    learned = learn(earlier or LearnedFrom(), data, "train")
    record = replace(make_record(labels=CLASSES), status="trained", measured={}, temperature=None)
    record = replace(record, data=data.to_record(), learned_from=learned.splits)
    commit_model(model, preprocessing_of(model, transforms), record, learned, folder)
    return LoadedClassifier.load(folder)


def opened(dataset: object, *models: LoadedClassifier, split: str | None = None, **reading: object) -> Holdout:
    names = ["the model"] if len(models) == 1 else ["A", "B"]
    return open_holdout(dataset, dict(zip(names, models, strict=True)), split, reading)


def content(holdout: Holdout) -> set[bytes]:
    [digests] = holdout.data.digests.values()
    assert len(digests) == len(holdout.images)
    return set(digests)


def in_memory(folder: Path, **splits: range) -> DatasetDict:
    rows = load_dataset("imagefolder", data_dir=str(folder), split="train")
    return DatasetDict({name: rows.select(numbers) for name, numbers in splits.items()})


@pytest.mark.parametrize(
    ("splits", "wanted", "opened_split", "name", "has_train"),
    [
        (("train", "validation", "test"), None, "test", "test", True),
        (("train", "validation", "test"), "validation", "validation", "validation", True),
        (("train", "validation", "test"), "train", "train", "train", True),
        (("train", "validation"), None, "validation", "validation", True),
        (("training", "dev"), None, "validation", "dev", True),
        (("train", "test"), None, "test", "test", True),
        (("validation", "test"), None, "test", "test", False),
        (("validation", "test"), "validation", "validation", "validation", False),
    ],
)
def test_splits_of_a_dataset(
    fresh: LoadedClassifier, images: Path, splits: tuple[str, ...], wanted: str | None, opened_split: str, name: str,
    has_train: bool,
) -> None:  # fmt: skip
    dataset = in_memory(images, **{split: range(10 * place, 10 * place + 10) for place, split in enumerate(splits)})
    holdout = opened(dataset, fresh, split=wanted)
    place = splits.index(name)
    assert holdout.split == opened_split
    assert [image.tobytes() for image in holdout.images["image"]] == [
        image.tobytes() for image in dataset[name]["image"]
    ]
    assert (
        holdout.images["label"][:] == dataset[name]["label"][:] == ([0] * 14 + [1] * 13 + [2] * 15)[10 * place :][:10]
    )
    assert (holdout.train is not None) == has_train
    if holdout.train is not None:
        assert list(holdout.train.features) == ["image"]
        train = dataset["train" if "train" in dataset else "training"]
        assert [image.tobytes() for image in holdout.train["image"]] == [image.tobytes() for image in train["image"]]


def test_a_split_that_is_not_there(fresh: LoadedClassifier, images: Path) -> None:
    dataset = in_memory(images, train=range(10), validation=range(10, 20))
    with pytest.raises(DataError, match=r"split test: the dataset has the splits train, validation$"):
        opened(dataset, fresh, split="test")
    with pytest.raises(DataError, match=r"split valid: the dataset has the splits train, .*did you mean validation\?"):
        opened(dataset, fresh, split="valid")
    with pytest.raises(ConfigError, match=r"split test: insects has no splits; leave \S*split out to evaluate on all"):
        opened(images, fresh, split="test")


def test_a_dataset_without_splits_is_evaluated_as_a_whole(fresh: LoadedClassifier, images: Path) -> None:
    holdout = opened(images, fresh)
    assert (holdout.split, len(holdout.images), holdout.train) == ("all", 42, None)
    assert (holdout.data.name, holdout.data.source, holdout.data.labels) == ("insects", "folder", CLASSES)
    assert (holdout.data.problem_type, holdout.data.groups) == ("single_label_classification", {})
    assert list(holdout.data.splits) == list(holdout.data.digests) == ["all"]
    assert holdout.learned == {"the model": LearnedFrom()}


def test_arguments_about_the_dataset_are_followed(fresh: LoadedClassifier, images: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(images, tmp_path / "insects")
    write(folder, 500, others=3)
    assert opened(folder, fresh).notes[0].startswith("3 of 45 images of all are of classes that the model does not")
    holdout = opened(folder, fresh, exclude_folders=("others",))
    assert holdout.notes == holdout.data.notes == ("left out by exclude_folders: others",)
    divided = write(tmp_path / "divided", 600, a__ant=2, a__moth=2, b__ant=3, b__moth=3)
    holdout = opened(divided, fresh, split_folders={"train": ("a",), "test": ("b",)})
    assert (holdout.split, len(holdout.images)) == ("test", 6)
    assert holdout.train is not None
    assert len(holdout.train) == 4


def test_all_images_are_opened_where_none_is_measured(fresh: LoadedClassifier, tmp_path: Path) -> None:
    folder = write(tmp_path / "insects", ant=2, yak=3)
    holdout = open_holdout(folder, {"the model": fresh}, None, {}, needs_labels=False)
    assert (holdout.split, holdout.images["label"][:]) == ("all", [-1] * 5)
    (folder / "ant" / "0.png").write_bytes(b"no image")
    with pytest.raises(DataError, match="1 images cannot be used"):
        open_holdout(folder, {"the model": fresh}, None, {}, needs_labels=False)
    holdout = open_holdout(folder, {"the model": fresh}, None, {}, needs_labels=False, skip_bad_images=True)
    assert len(holdout.images) == 4
    assert len(open_holdout(folder, {"the model": fresh}, None, {}, skip_bad_images=True).images) == 1


@pytest.mark.parametrize("split", [None, "test", "validation"])
def test_the_splits_of_a_training_are_drawn_again(
    trained: LoadedClassifier, images: Path, data: ImageData, split: str | None
) -> None:
    holdout = opened(images, trained, split=split)
    name = split or "test"
    assert holdout.split == name
    assert content(holdout) == set(data.digests[name])
    assert holdout.learned["the model"].digests == learn(LearnedFrom(), data, "train").digests
    assert holdout.train is not None
    assert len(holdout.train) == len(data.splits["train"])
    kept, leakage = holdout.measurable()
    assert (leakage.learned, leakage.left_out, len(kept.images)) == (0, 0, len(holdout.images))
    with pytest.raises(DataError, match=r"split tset: the dataset has the splits .*train.*; did you mean test"):
        opened(images, trained, split="tset")


def test_added_images_change_no_training_image(
    trained: LoadedClassifier, images: Path, data: ImageData, tmp_path: Path
) -> None:
    more = write(shutil.copytree(images, tmp_path / "more"), 700, ant=3, moth=3)
    holdout = opened(more, trained)
    assert holdout.split == "test"
    assert not content(holdout) & set(data.digests["train"])
    assert len(content(holdout) - set(data.digests["test"])) <= 6


def test_other_images_are_evaluated_as_a_whole(trained: LoadedClassifier, tmp_path: Path) -> None:
    other = write(tmp_path / "other", 800, ant=20, moth=20, zebra=20)
    holdout = opened(other, trained)
    assert (holdout.split, len(holdout.images), holdout.train) == ("all", 60, None)
    single = write(tmp_path / "single", 900, ant=1)  # too few images for a training
    assert (opened(single, trained).split, len(opened(single, trained).images)) == ("all", 1)


def test_a_dataset_without_some_training_images(
    trained: LoadedClassifier, images: Path, data: ImageData, tmp_path: Path
) -> None:
    """Its test images tell that it is that of the training; without one of these, it is any other dataset."""
    fewer = shutil.copytree(images, tmp_path / "fewer")
    files = {split: Path(rows[0]["image"].filename).relative_to(images) for split, rows in data.splits.items()}
    (fewer / files["train"]).unlink()
    assert content(opened(fewer, trained)) == set(data.digests["test"])
    (fewer / files["test"]).unlink()
    holdout = opened(fewer, trained)
    assert (holdout.split, len(holdout.images)) == ("all", 40)
    kept, leakage = holdout.measurable()
    learned = len(data.splits["train"]) - 1
    assert (leakage.learned, leakage.left_out, leakage.measured) == (0, learned, 40 - learned)
    assert (kept.split, len(kept.images)) == ("all", 40 - learned)
    assert not content(kept) & set(data.digests["train"])
    counted, leakage = holdout.measurable(include_training_images=True)
    assert (leakage.learned, leakage.left_out, len(counted.images)) == (learned, 0, 40)


def test_a_split_of_the_dataset_itself_is_taken_as_it_is(
    trained: LoadedClassifier, images: Path, data: ImageData
) -> None:
    rows = in_memory(images, train=range(42))["train"]
    dataset = DatasetDict(train=rows.select(range(30)), test=rows.select(range(30, 42)))
    holdout = opened(dataset, trained)
    assert (holdout.split, len(holdout.images)) == ("test", 12)
    assert holdout.images["label"][:] == [2] * 12
    with pytest.raises(DataError, match="split validation: the dataset has the splits train, test"):
        opened(DatasetDict(train=rows.select(range(3)), test=rows.select(range(30, 42))), trained, split="validation")


def test_training_images_that_are_known_by_a_digest_alone(images: Path, data: ImageData, tmp_path: Path) -> None:
    """A published model comes without digests of images; the splits are recognized by their digests."""
    published = save_trained(data, tmp_path / "published")
    (tmp_path / "published" / LEARNED_FILE).unlink()
    published = LoadedClassifier.load(tmp_path / "published")
    assert published.learned.unknown
    holdout = opened(images, published)
    assert content(holdout) == set(data.digests["test"])
    assert holdout.learned["the model"].is_complete
    other = write(tmp_path / "other", 800, ant=3, moth=3)
    holdout = opened(other, published)
    assert holdout.split == "all"
    [note] = holdout.measurable()[1].describe()
    assert "cannot tell whether the images were among the " in note
    assert note.endswith("(published without image digests), which the model learned from")


def test_images_of_earlier_trainings_stay_in_train(images: Path, data: ImageData, tmp_path: Path) -> None:
    """A second training with another seed has kept them there; with all images learned, they fill the splits."""
    first = learn(LearnedFrom(), load_data(images, seed=7), "train")
    second = load_data(images, seed=5, learned=first)
    assert set(second.digests["test"]) != set(load_data(images, seed=5).digests["test"])
    classifier = save_trained(second, tmp_path / "second", first)
    assert content(opened(images, classifier)) == set(second.digests["test"])
    all_images = learn(learn(LearnedFrom(), data, "test"), data, "validation")
    knows_all = save_trained(data, tmp_path / "all", all_images)
    holdout = opened(images, knows_all)
    assert content(holdout) == set(data.digests["test"])
    with pytest.raises(DataError, match="11 of 11 test images are training images of the model, and no other is there"):
        holdout.measurable()


def test_groups_of_the_training_are_those_of_its_test_images(tmp_path: Path) -> None:
    folder = tmp_path / "insects"
    for place, label in enumerate(CLASSES):
        (folder / label).mkdir(parents=True)
        for number in range(24):
            picture(place * 24 + number).save(folder / label / f"{label}{number // 2}_{number % 2}.png")
    data = load_data(folder, test_fraction=0.25)
    trained = save_trained(data, tmp_path / "out")
    holdout = opened(folder, trained)
    assert data.groups
    assert holdout.data.groups["test"] == tuple(
        dict(zip(data.digests["test"], data.groups["test"], strict=True))[digest]
        for digest in holdout.data.digests["test"]
    )
    other = write(tmp_path / "other", 800, ant=3, moth=3)
    assert opened(other, trained).data.groups == {}


def test_training_images_of_two_models(
    trained: LoadedClassifier, images: Path, data: ImageData, tmp_path: Path
) -> None:
    """The splits hold out images of both; the one that learned from some is named."""
    second = load_data(write(tmp_path / "other", 800, ant=14, moth=14, zebra=14))
    other = save_trained(second, tmp_path / "out")
    holdout = opened(images, trained, other)
    assert content(holdout) == set(data.digests["test"])
    assert holdout.learned.keys() == {"A", "B"}
    rows = in_memory(images, train=range(42))["train"]
    own = opened(DatasetDict(train=rows, test=rows), trained, other)
    learned = len(data.splits["train"])
    assert own.measurable()[1].describe() == [f"{learned} of 42 test images are training images of A: left out"]
    both = opened(DatasetDict(train=rows, test=rows), trained, trained)
    assert both.measurable()[1].describe() == [f"{learned} of 42 test images are training images of A or B: left out"]


def test_a_dataset_that_cannot_be_opened_by_its_name_must_be_named(
    trained: LoadedClassifier, fresh: LoadedClassifier
) -> None:
    with pytest.raises(ConfigError, match=r"dataset of the training \('insects'\) cannot be opened by its name"):
        opened(None, trained)
    with pytest.raises(ConfigError, match="dataset of the training cannot be opened by its name"):
        opened(None, fresh)


def test_models_are_named_whose_training_images_may_be_there(data: ImageData) -> None:
    learned = learn(LearnedFrom(), data, "test")
    elsewhere = LearnedFrom().plus("others", "train", 1, [b"o" * 32])
    unknown = LearnedFrom().plus("streams", "train", 9, None)
    number = len(data.splits["test"])

    def named(**models: LearnedFrom) -> list[str]:
        leakage = measurable(data, models, ["test"], include_training_images=True)[1]["test"]
        return leakage.describe()

    assert named(A=learned, B=elsewhere, C=LearnedFrom()) == [
        f"{number} of {number} test images are training images of A: not an estimate of generalization"
    ]
    assert named(A=elsewhere, B=LearnedFrom()) == []
    assert [note.rpartition("which ")[2] for note in named(A=elsewhere, B=unknown)] == ["B learned from"]
    assert len(named(A=learned, B=unknown)) == 2
    assert all("A or B" in note for note in named(A=learned, B=unknown))
    assert measurable(data, {}, ["test"])[1]["test"].model == "the model"
    assert list(measurable(data, {})[1]) == ["validation", "test"]
    with pytest.raises(DataError, match=r"split.*tset.*: the dataset has the splits train, validation, test"):
        measurable(data, {}, ["test", "tset"])


def test_the_test_split_identifies_the_dataset_of_a_training(
    trained: LoadedClassifier, images: Path, data: ImageData
) -> None:
    assert trained.record is not None
    assert trained.record.data.splits["test"].digest == split_digest(data.digests["test"])
    rows = load_dataset("imagefolder", data_dir=str(images), split="train")
    assert isinstance(rows, Dataset)
    assert content(opened(rows, trained)) == set(data.digests["test"])  # whatever form it comes in
