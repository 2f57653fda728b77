"""`evaluate`, `compare` and `export` read hold-outs alike: any dataset, any number of classes and images."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from backbones.checkpoints import LABELS, save_timm, timm_network
from cli.runs import fails
from datasets import Dataset, DatasetDict, Features, List, Value
from datasets import Image as ImageFeature
from PIL import Image

import hf_tl
from hf_tl.backbones.weights.provenance import provenance_of
from hf_tl.errors import ConfigError, DataError, HfTlError, ModelError
from hf_tl.evaluation.holdout.images import open_holdout
from hf_tl.evaluation.holdout.loaded import LoadedClassifier

Read = Callable[..., tuple[str, int, list[str]]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_timm(timm_network(), tmp_path_factory.mktemp("model") / "saved")


def write_classes(folder: Path, **counts: int) -> Path:
    random = np.random.default_rng(0)
    for label, count in counts.items():
        (folder / label).mkdir(parents=True)
        for number in range(count):
            pixels = random.integers(0, 256, (24, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{number}.png")
    return folder


def evaluated(model: Any, dataset: Any, folder: Path, **settings: Any) -> tuple[str, int, list[str]]:
    evaluation = hf_tl.evaluate(model, dataset, **settings)
    return evaluation.split, evaluation.images, list(evaluation.data_notes)


def compared(model: Any, dataset: Any, folder: Path, **settings: Any) -> tuple[str, int, list[str]]:
    data = hf_tl.compare(model, model, dataset, **settings).record["data"]
    return data["split"], data["images"], data["notes"]


def exported(model: Any, dataset: Any, folder: Path, **settings: Any) -> tuple[str, int, list[str]]:
    record = hf_tl.export(model, "torchscript", folder / "exported", dataset=dataset, **settings).record
    return record["verified"]["split"], record["verified"]["images"], record["data"]["notes"]


@pytest.fixture(params=[evaluated, compared, exported])
def read(request: pytest.FixtureRequest) -> Read:
    return request.param


def test_one_class_and_few_images_are_enough(read: Read, model: Path, tmp_path: Path) -> None:
    split, images, notes = read(model, write_classes(tmp_path / "pets", ant=2), tmp_path)
    assert (split, images) == ("all", 2)
    assert notes == ([] if read is exported else ["2 of 3 classes have no image in all: zebra, moth"])


def test_one_image_is_enough(read: Read, model: Path, tmp_path: Path) -> None:
    assert read(model, write_classes(tmp_path / "pets", moth=1), tmp_path)[:2] == ("all", 1)


def test_all_images_of_a_dataset_without_splits_are_used(read: Read, model: Path, tmp_path: Path) -> None:
    pets = write_classes(tmp_path / "pets", ant=12, moth=11, zebra=13)
    assert read(model, pets, tmp_path)[:2] == ("all", 36)


def test_unknown_classes_are_stated(read: Read, model: Path, tmp_path: Path) -> None:
    """An export is verified on images of any class."""
    pets = write_classes(tmp_path / "pets", ant=2, yak=1)
    split, images, notes = read(model, pets, tmp_path)
    if read is exported:
        assert (images, notes) == (3, [])
    else:
        assert (split, images) == ("all", 2)
        assert notes[0] == "1 of 3 images of all are of classes that the model does not know: left out (yak)"


def forms(folder: Path) -> dict[str, Any]:
    rows = Dataset.from_dict(
        {
            "picture": [str(file) for file in sorted(folder.glob("*/*.png"))],
            "class": [file.parent.name for file in sorted(folder.glob("*/*.png"))],
        }
    ).cast_column("picture", ImageFeature())
    return {
        "text": str(folder),
        "path": folder,
        "dataset": rows,
        "splits": DatasetDict(train=rows, test=rows.select([0, 1, 2])),
        "loaded": hf_tl.load_data(folder, validation_fraction=0.2),
    }


@pytest.mark.parametrize("form", ["text", "path", "dataset", "splits", "loaded"])
def test_every_form_of_a_dataset_is_read(read: Read, form: str, model: Path, tmp_path: Path) -> None:
    pets = write_classes(tmp_path / "pets", ant=10, moth=9)
    expected = {"splits": ("test", 3), "loaded": ("test", 4)}.get(form, ("all", 19))
    assert read(model, forms(pets)[form], tmp_path)[:2] == expected


def test_a_loaded_model_is_read_like_its_folder(read: Read, model: Path, tmp_path: Path) -> None:
    pets = write_classes(tmp_path / "pets", ant=2, moth=3)
    assert read(hf_tl.load(model)[0], pets, tmp_path)[:2] == ("all", 5)


def test_labels_of_loaded_images_with_several_classes_keep_their_names(tmp_path: Path) -> None:
    folder = save_timm(timm_network(), tmp_path / "saved", problem_type="multi_label_classification")
    names = [["moth"], ["ant", "moth"], [], ["ant"], ["moth"]] * 8
    images = [Image.fromarray(np.full((8, 8, 3), number * 5, np.uint8)) for number in range(len(names))]
    features = Features(image=ImageFeature(), label=List(Value("string")))
    data = hf_tl.load_data(Dataset.from_dict({"image": images, "label": names}, features=features))
    classifier = LoadedClassifier.load(folder)
    holdout = open_holdout(data, {"the model": classifier}, None, {})
    assert holdout.data.problem_type == "multi_label_classification"
    expected = np.array(data.splits["test"]["label"][:])[:, [0, 1]]
    actual = np.array(holdout.images["label"][:])
    assert LABELS == ("zebra", "ant", "moth")
    assert (actual[:, 1:] == expected).all()
    assert not actual[:, 0].any()
    assert actual.any()


def test_a_model_that_was_changed_in_memory_has_unknown_training_images(model: Path, tmp_path: Path) -> None:
    loaded, _ = hf_tl.load(model)
    pets = write_classes(tmp_path / "pets", ant=2)
    assert hf_tl.evaluate(loaded, pets).notes == ()
    changed = copy.deepcopy(loaded)
    next(changed.parameters()).data += 1
    assert provenance_of(changed).origin.kind == "memory"
    assert "hf_tl cannot tell whether" in hf_tl.evaluate(changed, pets).notes[0]


@pytest.mark.parametrize(
    ("settings", "kind", "message"),
    [
        ({"split": "tset"}, DataError, "split tset: the dataset has the splits train, test; did you mean test?"),
        ({"labl_column": "x"}, ConfigError, "there is no argument labl_column about a dataset; did you mean label_col"),
        ({"label_column": "clas"}, DataError, "no column 'clas': the dataset has picture, class"),
    ],
)
def test_wrong_settings_name_the_nearest(
    read: Read, settings: dict[str, str], kind: type[HfTlError], message: str, model: Path, tmp_path: Path
) -> None:
    if read is exported and "label_column" in settings:
        return  # an export needs no labels
    dataset = forms(write_classes(tmp_path / "pets", ant=10, moth=9))["splits"]
    with pytest.raises(kind) as refused:
        read(model, dataset, tmp_path, **settings)
    assert message in str(refused.value)


def test_models_and_datasets_in_the_wrong_place_are_named(read: Read, model: Path, tmp_path: Path) -> None:
    dataset = forms(write_classes(tmp_path / "pets", ant=10, moth=9))["dataset"]
    with pytest.raises(ModelError, match=r"expected a model .*found Dataset: the model comes first, then the images"):
        read(dataset, model, tmp_path)
    with pytest.raises(ModelError, match=r"found tuple: load returns \(model, transforms\), give the first"):
        read(hf_tl.load(model), dataset, tmp_path)
    with pytest.raises(DataError, match=r"expected a dataset \(a name, .*, found TimmWrapperForImageClassification"):
        read(model, hf_tl.load(model)[0], tmp_path)


def test_int8_is_calibrated_on_half_of_images_without_splits(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pets = write_classes(tmp_path / "pets", ant=4, moth=3)
    int8 = hf_tl.export(model, "onnx", tmp_path / "out", dataset=pets, int8=True).record["int8"]
    assert (int8["calibration"], int8["images"]) == ({"split": "all", "images": 3}, 4)
    single = write_classes(tmp_path / "one", ant=1)
    with pytest.raises(DataError, match="int8=True needs images to calibrate on and others to measure, found 1"):
        hf_tl.export(model, "onnx", tmp_path / "one-out", dataset=single, int8=True)


def test_the_commands_read_them_too(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pets = write_classes(tmp_path / "pets", ant=2)
    for command in (["compare", str(model), str(model)], ["evaluate", str(model)]):
        text = fails([*command, "--dataset", str(pets), "--split", "test"], capsys)
        assert "--split test: pets has no splits; leave --split out to evaluate on all of its images" in text
