"""`hf-tl compare` on small trained models: findings, files and errors."""

import json
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from backbones.checkpoints import save_transformers, tiny_vit
from cli.runs import COLORS, TINY, fails, write_images
from datasets import Dataset
from datasets import Image as ImageFeature
from hub.server import HubServer
from PIL import Image
from publish.test_plots import share_of
from safetensors.torch import load_file, save_file

import hf_tl
from hf_tl.cli import main
from hf_tl.comparison.compare import Comparison
from hf_tl.errors import ConfigError, DataError, ModelError
from hf_tl.record import read_record
from hf_tl.reporting.numbers import with_interval

RECIPE = ["--augmentation", "none", "--per_device_train_batch_size", "8"]


def train(folder: Path, dataset: Path | str, *more: str) -> Path:
    main(["train", *TINY, *RECIPE, "--dataset", str(dataset), "--output_dir", str(folder), *more])
    return folder


@pytest.fixture(scope="module")
def colors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "colors"
    write_images(folder / "train", 16)
    write_images(folder / "test", 8)
    return folder


@pytest.fixture(scope="module")
def runs(colors: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train one model that learned almost nothing, and one that learned the colors, with reordered classes."""
    folder = tmp_path_factory.mktemp("runs")
    train(folder / "short", colors, "--num_train_epochs", "1", "--learning_rate", "1e-5")
    rates = ["--learning_rate", "0.03", "--backbone_learning_rate", "0.003"]
    train(folder / "long", colors, "--strategy", "full", "--num_train_epochs", "6", *rates)
    return folder


def edited(folder: Path, copy: Path, file: str, change: Callable[[dict[str, Any]], None]) -> Path:
    """Copy a model and change one of its JSON files."""
    shutil.copytree(folder, copy)
    content = json.loads((copy / file).read_text())
    change(content)
    (copy / file).write_text(json.dumps(content))
    return copy


def turned(folder: Path, copy: Path) -> Path:
    """Save a model again with its classes, and everything that depends on them, in reverse order."""
    edited(folder, copy, "config.json", lambda config: config.update(label_names=config["label_names"][::-1]))
    weights = load_file(copy / "model.safetensors")
    for name in weights:
        if name.startswith("fc."):
            weights[name] = weights[name].flip(0).contiguous()
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    return copy


def test_the_better_model_is_named_with_the_metrics_of_both(
    runs: Path, colors: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pair = [str(runs / "short"), str(runs / "long")]
    main(["compare", *pair, "--dataset", str(colors), "--output_dir", str(tmp_path / "out")])
    text = capsys.readouterr().out
    record = json.loads((tmp_path / "out" / "comparison.json").read_text())
    for name, letter in (("short", "A"), ("long", "B")):
        recorded = read_record(runs / name).measured["test"]
        assert record["metrics"]["accuracy"][letter] == recorded.metrics["accuracy"]
        assert record["metrics"]["accuracy"][f"{letter}_interval"] == pytest.approx(
            list(recorded.intervals["accuracy"]), abs=1e-5
        )
        classes = recorded.classes
        assert [row[letter] for row in record["classes"]] == pytest.approx(classes["recall"])
        assert record["models"][letter]["name"] == name
    assert record["conclusion"].startswith("B is significantly better, by ")
    assert f"Conclusion  {record['conclusion']}" in text
    assert sum(record["right"].values()) == record["data"]["images"] == 24
    assert record["right"]["only_B"] == len(record["only_B"])
    image = record["only_B"][0]
    assert image["name"].startswith(f"{image['true'][0]}/")
    assert image["B"] == image["true"] != image["A"]
    assert f"{image['name']}: {image['true'][0]}; A predicts {image['A'][0]}" in text


def test_what_is_written_holds_the_same_and_no_path(runs: Path, colors: Path, tmp_path: Path) -> None:
    comparison = hf_tl.compare(runs / "short", runs / "long", str(colors), output_dir=tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"comparison.json", "comparison.md", "comparison.png"}
    page = (tmp_path / "comparison.md").read_text()
    assert "![Accuracy of A and B by class, and the difference](comparison.png)" in page
    assert "| Class | images | A (95% CI) | B (95% CI) |" in page
    assert comparison.difference == comparison.record["metrics"]["accuracy"]["difference"] > 0.3
    assert comparison.p_value < 0.05
    assert str(runs.parent) not in page + (tmp_path / "comparison.json").read_text() + str(comparison)
    for color in ("#e8743b", "#2b6ca3"):
        assert share_of(tmp_path / "comparison.png", color) > 0.01


def test_classes_are_matched_by_name(runs: Path, colors: Path, tmp_path: Path) -> None:
    backwards = turned(runs / "long", tmp_path / "backwards")
    assert hf_tl.load(backwards)[0].config.id2label == {0: "red", 1: "green", 2: "blue"}
    there = hf_tl.compare(runs / "long", backwards, str(colors))
    assert there.conclusion == "A and B make the same predictions for all images."
    back = hf_tl.compare(backwards, runs / "short", str(colors))
    straight = hf_tl.compare(runs / "long", runs / "short", str(colors))
    assert back.record["metrics"] == straight.record["metrics"]
    assert {json.dumps(row) for row in back.record["classes"]} == {
        json.dumps(row) for row in straight.record["classes"]
    }


def test_the_dataset_must_be_named_if_it_cannot_be_loaded_again(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pair = [str(runs / "short"), str(runs / "long")]
    error = fails(["compare", *pair, "--output_dir", str(tmp_path / "out")], capsys)
    assert "A and B were trained on colors, which cannot be loaded by its name; name the images to compare on" in error
    assert not list((tmp_path / "out").iterdir())
    data = {"name": "others", "revision": None, "fingerprint": "0123456789abcdef"}
    other = edited(runs / "long", tmp_path / "other", "run.json", lambda record: record["data"].update(data))
    error = fails(["compare", pair[0], str(other)], capsys)
    assert "A was trained on colors (fingerprint " in error
    assert "B on different images: others (fingerprint 0123456789ab)" in error


def test_models_of_digits_need_no_dataset(tmp_path: Path) -> None:
    """The test split of digits does not depend on the seed."""
    first = train(tmp_path / "0", "digits", "--num_train_epochs", "0.1")
    second = edited(first, tmp_path / "1", "run.json", lambda record: record["settings"].update(seed=1))
    comparison = hf_tl.compare(first, second)
    assert (comparison.record["data"]["name"], comparison.record["data"]["images"]) == ("digits", 360)
    data = {"name": "digits", "revision": None, "fingerprint": "0123456789abcdef"}
    other, another = (
        edited(folder, tmp_path / name, "run.json", lambda record: record["data"].update(data))
        for folder, name in ((first, "2"), (second, "3"))
    )
    with pytest.raises(
        DataError, match=r"expected the dataset digits .* \(fingerprint 0123456789ab\), found a changed one"
    ):
        hf_tl.compare(other, another)


def test_training_images_of_either_model_are_excluded(tmp_path: Path) -> None:
    """Without splits in the dataset, another seed draws other images, also from data that the user has loaded."""
    images = str(write_images(tmp_path / "images", 12))
    data = {seed: hf_tl.load_data(images, seed=seed) for seed in (0, 3)}
    first, second = (
        train(tmp_path / str(seed), images, "--num_train_epochs", "1", "--seed", str(seed)) for seed in data
    )
    held_out = {seed: {*each.digests["validation"], *each.digests["test"]} for seed, each in data.items()}
    clean = {seed: set(each.digests["test"]) & held_out[3 - seed] for seed, each in data.items()}
    for seed, each in data.items():
        compared = hf_tl.compare(first, second, each).record["data"]
        assert compared["images"] == len(clean[seed]) < 8
        [note] = compared["leakage"]["notes"]
        assert note.startswith(f"{8 - len(clean[seed])} of 8 test images are training images of ")
    again = hf_tl.compare(first, second, images).record["data"]  # training images of neither model come first
    assert again["images"] == min(8, len(held_out[0] & held_out[3]))
    included = hf_tl.compare(first, second, data[0], split="train", include_training_images=True)
    assert included.record["data"]["leakage"]["learned"] == 25
    assert "Leakage   25 of 25 train images are training images of A or B: not an estimate of" in str(included)
    with pytest.raises(DataError, match="25 of 25 train images are training images of A or B, and no other is there"):
        hf_tl.compare(first, second, data[0], split="train")


def test_training_images_of_a_single_model_are_excluded(tmp_path: Path) -> None:
    """A training with `--refit` learns from the validation images, too."""
    images = str(write_images(tmp_path / "images", 12))
    first = train(tmp_path / "first", images, "--num_train_epochs", "1")
    again = train(tmp_path / "again", images, "--num_train_epochs", "1", "--refit", "true")
    for dataset in (images, hf_tl.load_data(images)):
        with pytest.raises(DataError, match="3 of 3 validation images are training images of B, and no other is there"):
            hf_tl.compare(first, again, dataset, split="validation")
    assert hf_tl.compare(first, first, images, split="validation").record["data"]["images"] == 3
    assert hf_tl.compare(first, again, images).record["data"]["images"] == 8


def test_a_plain_checkpoint_of_transformers_is_compared_too(
    runs: Path, colors: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = save_transformers(tiny_vit(labels=list(COLORS)), tmp_path / "plain")
    comparison = hf_tl.compare(runs / "long", plain, str(colors))
    assert comparison.record["models"]["B"]["strategy"] is None
    assert "B is " not in comparison.conclusion
    error = fails(["compare", str(runs / "long"), str(plain)], capsys)
    assert "no record names the training dataset of B; name the images to compare on with --dataset" in error


def test_models_of_other_classes_are_refused(runs: Path, colors: Path, tmp_path: Path) -> None:
    other = save_transformers(tiny_vit(labels=["blue", "green", "pink"]), tmp_path / "other")
    with pytest.raises(ModelError, match="only A has red; only B has pink"):
        hf_tl.compare(runs / "long", other, str(colors))
    with pytest.raises(DataError, match="split val: the dataset has the splits train, validation, test"):
        hf_tl.compare(runs / "long", runs / "short", str(colors), split="val")


def test_streamed_images_are_refused(runs: Path, tmp_path: Path) -> None:
    images = [Image.new("RGB", (8, 8), COLORS[name]) for name in ("red", "green", "blue")] * 9
    rows = Dataset.from_dict({"image": images, "label": ["red", "green", "blue"] * 9}).cast_column(
        "image", ImageFeature()
    )
    rows.to_parquet(tmp_path / "train.parquet")
    data = hf_tl.load_data(str(tmp_path / "train.parquet"), streaming=True)
    with pytest.raises(DataError, match="expected images that can be read twice"):
        hf_tl.compare(runs / "long", runs / "short", data)


def made_record(labels: list[str], problem: str = "single_label_classification") -> dict[str, object]:
    random = np.random.default_rng(0)

    def difference(images: int) -> dict[str, object]:
        first, second = random.uniform(0.5, 0.9, 2)
        interval = [second - first - 0.2, second - first + 0.2]
        return {
            **{"A": first, "A_interval": None, "B": second, "B_interval": [second - 0.1, second + 0.1]},
            **{"difference": second - first, "interval": interval, "p_value": 0.3},
        }

    model = {"architecture": "vit", "strategy": None, "parameters": 10, "images_per_second": 7.0}
    image = {"image": 3, "name": labels[0], "true": [labels[0]], "A": [labels[1]], "B": [labels[0]]}
    metric = "accuracy" if problem.startswith("single") else "mean_average_precision"
    return {
        "conclusion": "B is better by 2.0 points (95% CI −1.0 to 5.0, p = 0.2), which is not significant; "
        + "and more text. " * 6,
        "models": {letter: {"name": labels[0], **model} for letter in "AB"},
        "data": {"name": labels[0], "split": "test", "images": 1234, "classes": len(labels)},
        "problem_type": problem,
        "metrics": {metric: difference(100)},
        "agreement": 0.9,
        "right": {"both": 900, "only_A": 100, "only_B": 34, "neither": 200},
        "classes": [
            {"label": label, "images": 9, **difference(9), "corrected_p_value": 0.4, "is_significant": index % 3 == 0}
            for index, label in enumerate(labels)
        ],
        "only_A": [],
        "only_B": [image] * 9,
    }


@pytest.mark.parametrize("problem", ["single_label_classification", "multi_label_classification"])
@pytest.mark.parametrize("count", [2, 12, 300])
def test_any_number_of_classes_is_shown(count: int, problem: str, tmp_path: Path) -> None:
    comparison = Comparison(made_record([f"class {index}" for index in range(count)], problem))
    text = str(comparison)
    assert text.count("\nclass ") == min(count, 30)
    assert ("The 30 classes that differ most are shown" in text) == (count > 30)
    assert "A and B make the same prediction for 90.0% (95% CI 88.2–91.6%) of the images." in text
    row = comparison.record["classes"][0]
    assert count > 30 or with_interval(row["B"], row["B_interval"], is_titled=True) in text
    assert "  and 4 more" in text
    comparison.save(tmp_path)
    width, height = Image.open(tmp_path / "comparison.png").size
    assert (width, height < 1800) == (1600, True)
    most = max(comparison.record["classes"], key=lambda row: abs(row["difference"]))
    assert most["label"] in text


def test_hostile_names_are_text(tmp_path: Path) -> None:
    hostile = ["$\\frac{", "| a | b |", "<script>", "\n\n# title", "[x](http://y)", "w" * 300, "a\ud800b", ""]
    comparison = Comparison(made_record(hostile))
    comparison.save(tmp_path)
    page = (tmp_path / "comparison.md").read_text()
    assert "<script>" not in page
    assert "\n# title" not in page
    assert "](http" not in page
    rows = [line for line in page.splitlines() if line.startswith("| ")]
    assert {line.count("|") for line in rows[-len(hostile) :]} == {8}
    assert "\n\n# title" not in str(comparison)


def test_a_folder_that_cannot_be_written_to(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    error = fails(["compare", str(runs / "short"), str(runs / "long"), "--output_dir", str(tmp_path / "file")], capsys)
    assert "--output_dir" in error
    assert "is a file; name a folder" in error


def test_models_of_the_hub(hub: HubServer, runs: Path, colors: Path) -> None:
    hf_tl.push(runs / "short", "user/short")
    hf_tl.push(runs / "long", "user/long")
    comparison = hf_tl.compare("user/short", "user/long", str(colors))
    local = hf_tl.compare(runs / "short", runs / "long", str(colors))
    assert comparison.record["models"]["B"]["name"] == "user/long"
    assert comparison.record["metrics"] == local.record["metrics"]


def test_an_interrupted_write_leaves_the_earlier_report(tmp_path: Path) -> None:
    first, second = (Comparison(made_record([name, "other", "third"])) for name in ("first", "second"))
    first.save(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))  # room for record and page, not for the figure
    try:
        with pytest.raises(ConfigError, match="cannot be written: File too large"):
            second.save(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    second.save(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == set(before)
    assert "second" in (tmp_path / "comparison.md").read_text()
