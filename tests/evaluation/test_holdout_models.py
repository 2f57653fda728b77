"""Models of an evaluation: what they are called and described as, and the training images that they may share."""

import copy
from pathlib import Path

import pytest
from backbones.checkpoints import LABELS, save_timm, save_transformers, timm_network, tiny_vit
from data.pictures import picture
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image

import hf_tl
from hf_tl.data.datasets import load_data
from hf_tl.data.image_data import ImageData
from hf_tl.data.learned import learn
from hf_tl.errors import DataError, ModelError
from hf_tl.evaluation.holdout.images import Holdout, open_holdout
from hf_tl.evaluation.holdout.loaded import LoadedClassifier
from hf_tl.evaluation.leakage import measurable
from hf_tl.evaluation.metrics import MULTI_LABEL, SINGLE_LABEL
from hf_tl.record import LearnedFrom

FEATURES = Features({"image": Image(), "label": ClassLabel(names=list(LABELS))})


def rows(first: int, count: int) -> Dataset:
    numbers = range(first, first + count)
    return Dataset.from_dict(
        {"image": [picture(number) for number in numbers], "label": [number % 3 for number in numbers]}, FEATURES
    )


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_transformers(tiny_vit(), tmp_path_factory.mktemp("model") / "saved")


def test_a_model_of_transformers_is_described(model: Path) -> None:
    classifier = LoadedClassifier.load(model)
    parameters = sum(parameter.numel() for parameter in tiny_vit().parameters())
    expected = {"architecture": "vit", "strategy": None, "parameters": parameters, "runtime": "torch"}
    assert classifier.describe() == expected
    assert (classifier.name, classifier.source, classifier.labels) == ("saved", str(model), LABELS)
    assert (classifier.problem, classifier.input_size, classifier.record) == (SINGLE_LABEL, (32, 32), None)
    loaded = LoadedClassifier.load(hf_tl.load(model)[0])
    assert (loaded.name, loaded.source, loaded.describe()) == ("ViTForImageClassification", None, expected)
    assert loaded.weights_digest == classifier.weights_digest
    assert loaded.network is loaded.model
    pixels = [each.transform(picture(0, (40, 36))) for each in (classifier, loaded)]
    assert (pixels[0] == pixels[1]).all()
    changed = copy.deepcopy(loaded.model)
    next(changed.parameters()).data += 1
    assert LoadedClassifier.load(changed).weights_digest != classifier.weights_digest


def test_a_model_of_timm_is_described(tmp_path: Path) -> None:
    network = timm_network("test_resnet")
    folder = save_timm(network, tmp_path / "saved", problem_type="multi_label_classification")
    classifier = LoadedClassifier.load(folder)
    assert classifier.describe() == {
        "architecture": "test_resnet",
        "strategy": None,
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "runtime": "torch",
    }
    assert classifier.problem is MULTI_LABEL


def test_the_name_of_a_folder_that_is_named_by_a_relative_path(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(model)
    assert LoadedClassifier.load(".").name == "saved"


@pytest.mark.parametrize(
    ("value", "advice"),
    [
        (3, "found int$"),
        (Dataset.from_dict({"a": [1]}), "found Dataset: the model comes first"),
        ((1, 2), "found tuple"),
    ],
)
def test_values_that_are_no_model(value: object, advice: str) -> None:
    with pytest.raises(ModelError, match=advice):
        LoadedClassifier.load(value)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def data() -> ImageData:
    return load_data(DatasetDict(train=rows(0, 12), validation=rows(12, 6), test=rows(18, 9)))


def learned(first: int, count: int, name: str = "pets") -> LearnedFrom:
    """Return the training images of a model that was trained on some of the images."""
    more = load_data(
        DatasetDict(train=rows(first, count), validation=rows(100, 3), test=rows(200, 3)), dataset_name=name
    )
    return learn(LearnedFrom(), more, "train")


def test_models_are_named_that_learned_from_the_images(data: ImageData) -> None:
    models = {"A": learned(0, 12), "B": learned(24, 6), "C": learned(10, 4)}
    kept, leakage = measurable(data, models)
    assert {split: (leak.images, leak.left_out, leak.learned) for split, leak in leakage.items()} == {
        "validation": (6, 2, 0), "test": (9, 3, 0),
    }  # fmt: skip
    assert leakage["test"].describe() == ["3 of 9 test images are training images of B or C: left out"]
    assert {split: len(images) for split, images in kept.splits.items()} == {"train": 12, "validation": 4, "test": 6}
    assert kept.notes[len(data.notes) :] == (
        "2 of 6 validation images are training images of B or C: left out",
        "3 of 9 test images are training images of B or C: left out",
    )
    kept, leakage = measurable(data, models, ["test"])
    assert list(leakage) == ["test"]
    assert leakage["test"].describe() == ["3 of 9 test images are training images of B: left out"]
    kept, leakage = measurable(data, models, ["test"], include_training_images=True)
    assert (len(kept.splits["test"]), leakage["test"].learned, leakage["test"].measured) == (9, 3, 9)
    assert leakage["test"].describe() == [
        "3 of 9 test images are training images of B: not an estimate of generalization"
    ]


def test_models_that_learned_from_none_of_the_images(data: ImageData) -> None:
    for models in ({}, {"A": learned(0, 12)}, {"A": LearnedFrom(), "B": learned(50, 6)}):
        kept, leakage = measurable(data, models)
        assert (kept.notes, kept.splits) == (data.notes, data.splits)
        assert leakage["test"].describe() == leakage["validation"].describe() == []
        assert leakage["test"].model == "the model"


def test_models_whose_training_images_are_unknown(data: ImageData) -> None:
    unknown = learned(50, 6, "birds")
    unknown = LearnedFrom(unknown.splits, unknown=unknown.splits)
    _, leakage = measurable(data, {"A": learned(0, 12), "B": unknown, "C": LearnedFrom()})
    assert leakage["test"].describe() == [
        "hf_tl cannot tell whether the test images were among the 6 training images of split train of birds (published "
        "without image digests), which B learned from"
    ]


def test_a_split_that_does_not_exist(data: ImageData) -> None:
    with pytest.raises(DataError, match=r"^split tset: the dataset has the splits train, validation, test$"):
        measurable(data, {}, ["test", "tset"])


def holdout(dataset: object, model: Path, split: str | None = None, **reading: object) -> Holdout:
    return open_holdout(dataset, {"the model": LoadedClassifier.load(model)}, split, reading)  # type: ignore[arg-type]


def test_the_split_of_a_hold_out(model: Path) -> None:
    splits = DatasetDict(train=rows(0, 12), val=rows(12, 6), testing=rows(18, 9))
    opened = holdout(splits, model)
    assert (opened.split, len(opened.images), list(opened.data.splits)) == ("test", 9, ["test"])
    assert opened.train is not None
    assert (len(opened.train), opened.train.column_names) == (12, ["image"])
    assert len(holdout(splits, model, "validation").images) == 6
    assert len(holdout(splits, model, "train").images) == 12
    del splits["testing"]
    opened = holdout(splits, model)
    assert (opened.split, len(opened.images)) == ("validation", 6)
    del splits["val"]
    opened = holdout(splits, model)
    assert (opened.split, len(opened.images), opened.train) == ("all", 12, None)
    with pytest.raises(DataError, match=r"split tets: the dataset has the splits train, test; did you mean test"):
        holdout(DatasetDict(train=rows(0, 12), test=rows(12, 6)), model, "tets")
    with pytest.raises(DataError, match=r"^split test: the dataset has the splits train$"):
        holdout(DatasetDict(train=rows(0, 12), unlabeled=rows(12, 6)), model)


def test_a_hold_out_states_its_data(model: Path) -> None:
    opened = holdout(rows(0, 9), model)
    assert (opened.data.source, opened.data.labels) == ("memory", LABELS)
    assert (opened.data.groups, opened.data.problem_type, opened.notes) == ({}, "single_label_classification", ())
    assert len({*opened.data.digests["all"]}) == 9
    whole = load_data(DatasetDict(train=rows(50, 9), test=rows(0, 9)))
    assert whole.digests["test"] == opened.data.digests["all"]
    divided = rows(0, 12).add_column("split", ["train"] * 8 + ["test"] * 4)
    assert (holdout(divided, model).split, len(holdout(divided, model).images)) == ("test", 4)
