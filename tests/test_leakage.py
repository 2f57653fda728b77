"""Data leakage end to end, through the command line and from Python: training images are not evaluated."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from cli.printed import as_printed, metrics_of
from cli.runs import SMALL, TINY, fails
from hub.server import HubServer
from PIL import Image

import hf_tl
from hf_tl.cli import main
from hf_tl.data.datasets import ImageData, load_data
from hf_tl.evaluation.leakage import open_again
from hf_tl.predicting.evaluate import evaluate
from hf_tl.record import LearnedFrom, read_record, split_digest
from hf_tl.record.learned import DIGEST_BYTES, LEARNED_FILE

NAMES = ("a", "b", "c")
QUICK = ["--num_train_epochs", "1", "--augmentation", "none", *SMALL]


def write_noise(folder: Path, count: int, seed: int = 0) -> Path:
    """Write images of noise: their labels are random, so an accuracy above chance comes from training images."""
    random = np.random.default_rng(seed)
    for name in NAMES:
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            pixels = random.integers(0, 256, (12, 12, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{seed}-{number:03}.png")
    return folder


def rename_and_add(folder: Path, copy: Path) -> Path:
    """Copy a dataset with its files in another order, under other names, and two more images."""
    random = np.random.default_rng(7)
    for name in NAMES:
        (copy / name).mkdir(parents=True)
        for file in (folder / name).iterdir():
            shutil.copyfile(file, copy / name / f"{random.integers(1 << 60):x}.png")
    for name in NAMES[:2]:
        Image.fromarray(random.integers(0, 256, (12, 12, 3), dtype=np.uint8)).save(copy / name / "new.png")
    return copy


def cut(data: ImageData, *splits: str) -> set[bytes]:
    return {digest[:DIGEST_BYTES] for split in splits for digest in data.digests[split]}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_noise(tmp_path_factory.mktemp("data") / "noise", 18)


@pytest.fixture(scope="module")
def made_in_python(images: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ImageData]:
    """Train a model on splits with another seed and fraction than those of the command line."""
    data = load_data(str(images), seed=5, test_fraction=0.3)
    strategy = hf_tl.Strategy.transfer(epochs=1)
    model, transforms = hf_tl.load_backbone("timm:test_resnet", NAMES, strategy, pretrained=False, image_size=32)
    folder = tmp_path_factory.mktemp("python") / "out"
    hf_tl.train(model, data, strategy, transforms=transforms, output_dir=str(folder), report_to="none")
    return folder, data


def test_splits_made_in_python_are_restored(
    made_in_python: tuple[Path, ImageData], images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, data = made_in_python
    record = read_record(folder)
    assert LearnedFrom.read(record.learned_from, folder).digests == cut(data, "train")
    main(["evaluate", str(folder), "--dataset", str(images)])
    first, *values = capsys.readouterr().out.splitlines()
    assert first == f"test: {len(data.splits['test'])} images"
    recorded = record.measured["test"].metrics
    assert metrics_of(values) == as_printed(recorded)
    again = open_again(record, LearnedFrom.read(record.learned_from, folder), str(images))
    assert {split: split_digest(digests) for split, digests in again.digests.items()} == {
        name: split.digest for name, split in record.data.splits.items()
    }


def test_renamed_and_added_files_change_nothing(
    made_in_python: tuple[Path, ImageData], images: Path, tmp_path: Path
) -> None:
    folder, data = made_in_python
    renamed = rename_and_add(images, tmp_path / "renamed")
    record = read_record(folder)
    again = open_again(record, LearnedFrom.read(record.learned_from, folder), str(renamed))
    assert not cut(again, "validation", "test") & cut(data, "train")
    assert len(cut(again, "test") - cut(data, "test")) <= 2
    result = evaluate(str(folder), str(renamed))
    assert (result.images, result.learned, result.left_out, result.notes) == (len(again.splits["test"]), 0, 0, ())
    result = evaluate(str(folder), str(renamed), split="train", include_training_images=True)
    assert result.learned == len(data.splits["train"])


def test_training_images_under_other_names_are_refused(
    made_in_python: tuple[Path, ImageData], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder of training images alone, as its test split."""
    folder, data = made_in_python
    for split in ("train", "test"):
        for number, row in enumerate(data.splits["train"]):
            target = tmp_path / "others" / split / data.labels[row["label"]]
            target.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(row["image"].filename, target / f"{split}-{number}.png")
    images = len(data.splits["train"])
    error = fails(["evaluate", str(folder), "--dataset", str(tmp_path / "others")], capsys)
    assert f"{images} of {images} test images are training images of the model, and no other is there" in error
    assert "--include_training_images" in error
    write_noise(tmp_path / "others" / "test", 2, seed=9)
    main(["evaluate", str(folder), "--dataset", str(tmp_path / "others")])
    first, note, *_ = capsys.readouterr().out.splitlines()
    assert first == "test: 6 images"
    assert note == f"leakage: {images} of {images + 6} test images are training images of the model: left out"


def test_training_on_with_another_seed_measures_on_no_training_image(images: Path, tmp_path: Path) -> None:
    """The first training memorizes its images; further training with another seed stays at chance."""
    first, second, third = (tmp_path / name for name in ("first", "second", "third"))
    learn = ["--strategy", "full", "--num_train_epochs", "30", "--learning_rate", "0.01", "--augmentation", "none"]
    batch = ["--per_device_train_batch_size", "8", "--label_smoothing", "0"]
    main(["train", *TINY, "--dataset", str(images), *learn, *batch, "--output_dir", str(first)])
    more = ["--strategy", "full", "--learning_rate", "1e-6", *QUICK]
    main(["train", "--model", str(first), "--dataset", str(images), "--seed", "5", *more, "--output_dir", str(second)])
    main(["train", "--model", str(second), "--dataset", str(images), "--seed", "6", *more, "--output_dir", str(third)])
    records = [read_record(folder) for folder in (first, second, third)]
    learned = [LearnedFrom.read(record.learned_from, folder) for record, folder in
               zip(records, (first, second, third), strict=True)]  # fmt: skip
    data = load_data(str(images))
    assert learned[0].digests == cut(data, "train")
    for before, record in zip(learned, records[1:], strict=False):
        opened = load_data(str(images), seed=5 if record is records[1] else 6, learned=before)
        assert not cut(opened, "validation", "test") & before.digests
        for split in ("validation", "test"):
            assert record.data.splits[split].digest == split_digest(opened.digests[split])
            assert record.measured[split].learned == 0
        assert before.digests <= cut(opened, "train")
    by_heart = evaluate(str(first), str(images), split="train", include_training_images=True).metrics["accuracy"]
    assert by_heart > 0.9
    accuracies = [record.measured["test"].metrics["accuracy"] for record in records]
    assert max(value for value in accuracies if value is not None) < 0.75, accuracies


def test_measuring_on_training_images_is_stated(made_in_python: tuple[Path, ImageData], tmp_path: Path) -> None:
    folder, data = made_in_python
    for split in ("train", "test"):
        write_noise(tmp_path / "own" / split, 4, seed=11 if split == "train" else 12)
    for number, row in enumerate(data.splits["train"].select(range(5))):
        shutil.copyfile(row["image"].filename, tmp_path / "own" / "test" / data.labels[row["label"]] / f"{number}.png")
    command = ["train", "--model", str(folder), "--dataset", str(tmp_path / "own"), *QUICK]
    main([*command, "--output_dir", str(tmp_path / "left out")])
    main([*command, "--include_training_images", "--output_dir", str(tmp_path / "included")])
    out, included = (read_record(tmp_path / name).measured["test"] for name in ("left out", "included"))
    assert (out.images, out.left_out, out.learned) == (12, 5, 0)
    assert (included.images, included.left_out, included.learned) == (17, 0, 5)
    notes = read_record(tmp_path / "left out").data.notes
    assert "5 of 17 test images are training images of the starting model: left out" in notes


def test_a_model_of_the_hub_is_known_by_a_digest_per_split(
    hub: HubServer, made_in_python: tuple[Path, ImageData], images: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    folder, data = made_in_python
    hf_tl.push(folder, "user/noise")
    pulled = hf_tl.pull("user/noise", tmp_path / "pulled")
    assert (folder / LEARNED_FILE).is_file()
    assert not (pulled / LEARNED_FILE).exists()
    main(["evaluate", str(pulled), "--dataset", str(images)])
    assert capsys.readouterr().out.splitlines()[0] == f"test: {len(data.splits['test'])} images"
    main(["train", "--model", "user/noise", "--dataset", str(images), *QUICK, "--output_dir", str(tmp_path / "more")])
    record = read_record(tmp_path / "more")
    held_out = {record.data.splits[split].digest for split in ("validation", "test")}
    opened = load_data(str(images), learned=LearnedFrom.read(read_record(folder).learned_from, folder))
    assert held_out == {split_digest(opened.digests[split]) for split in ("validation", "test")}
    assert cut(data, "train") < LearnedFrom.read(record.learned_from, tmp_path / "more").digests
    other = write_noise(tmp_path / "other", 8, seed=3)  # images of no known split digest
    main(["evaluate", str(pulled), "--dataset", str(other)])
    count = len(data.splits["train"])
    assert (
        f"hf_tl cannot tell whether the images were among the {count} training images of split train of noise "
        "(published without image digests), which the model learned from"
    ) in capsys.readouterr().out


def test_a_folder_that_is_called_digits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has no settings of the built-in digits, and is not confused with scikit-learn's images."""
    write_noise(tmp_path / "digits", 8)
    monkeypatch.chdir(tmp_path)
    main(["train", *TINY, "--dataset", "./digits", *QUICK, "--output_dir", "out"])
    data, builtin = load_data("./digits"), load_data("digits")
    assert (data.name, data.source, data.defaults) == ("digits", "folder", {})
    assert (builtin.name, builtin.source) == ("digits", "built-in")
    assert builtin.defaults == {"image_size": 112, "horizontal_flip": False}
    assert read_record("out").data.source == "folder"
    with pytest.raises(hf_tl.errors.ConfigError, match=r"\('digits'\) cannot be opened by its name: .*dataset"):
        hf_tl.export("out", "torchscript")
