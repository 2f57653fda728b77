"""Metrics on corrupted images, their means and their intervals."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from job.small_data import LABELS, make_dataset
from torchvision.transforms.v2.functional import to_pil_image

import hf_tl
from hf_tl.backbones.load import preprocessing_of
from hf_tl.evaluation.measure import Predictions, predict_split
from hf_tl.evaluation.metrics import MULTI_LABEL, SINGLE_LABEL
from hf_tl.evaluation.robustness.corruptions import CORRUPTIONS, VARIANTS, corrupt
from hf_tl.evaluation.robustness.measure import measure_robustness, predict_corrupted
from hf_tl.evaluation.robustness.views import corrupted

KEYS = [corruption.key for corruption in CORRUPTIONS for _ in corruption.strengths]


def drawn(images: int, accuracies: Any, seed: int = 0, of_image: float = 0.0) -> tuple[Predictions, Predictions]:
    """Draw predictions, clean and corrupted, which are right with these shares; images differ in difficulty."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 3, images)
    difficulty = random.normal(0, of_image, (images, 1))
    is_right = random.random((images, len(accuracies))) < np.clip(np.array(accuracies) + difficulty, 0, 1)
    decided = np.where(is_right, labels[:, None], (labels[:, None] + 1) % 3)
    logits = 5.0 * np.eye(3)[decided]
    return Predictions(logits[:, 0], labels), Predictions(logits[:, 1:], labels)


def test_means_are_over_all_corruptions_and_strengths() -> None:
    accuracies = np.linspace(0.9, 0.2, len(VARIANTS))
    clean, views = drawn(400, [0.95, *accuracies])
    robustness = measure_robustness(SINGLE_LABEL, clean, views, (32, 32))
    assert [result.corruption for result in robustness.results] == KEYS
    shares = [result.metrics["accuracy"] for result in robustness.results]
    for number, share in enumerate(shares):
        assert share == SINGLE_LABEL.compute(views.logits[:, number], views.labels)["accuracy"]
    assert robustness.mean["accuracy"] == pytest.approx(np.mean(shares))
    at_once = SINGLE_LABEL.compute(clean.logits, clean.labels)["accuracy"]
    assert robustness.drop == {"accuracy": pytest.approx(at_once - np.mean(shares))}
    assert all(result.intervals.keys() >= {"accuracy", "macro_f1"} for result in robustness.results)


def test_intervals_cover_the_truth_of_other_images() -> None:
    """Images are the unit: copies of a hard image are all hard, which makes the interval wider."""
    accuracies, size = [0.9, *np.linspace(0.8, 0.3, len(VARIANTS))], 150
    clean, views = drawn(60_000, accuracies, of_image=0.2)
    truth = measure_robustness(SINGLE_LABEL, clean, views, (32, 32))
    results = [
        measure_robustness(SINGLE_LABEL, *drawn(size, accuracies, seed, of_image=0.2), (32, 32))
        for seed in range(1, 121)
    ]
    for value, intervals in (
        (truth.mean["accuracy"], [result.intervals["accuracy"] for result in results]),
        (truth.drop["accuracy"], [result.drop_intervals["accuracy"] for result in results]),
    ):
        assert value is not None
        covered = np.mean([low <= value <= high for low, high in intervals])
        assert 0.89 <= covered <= 0.99


def test_equal_predictions_have_no_interval_of_a_drop() -> None:
    clean, _ = drawn(50, [1.0, *[1.0] * len(VARIANTS)])
    views = Predictions(np.repeat(clean.logits[:, None], len(VARIANTS), axis=1), clean.labels)
    robustness = measure_robustness(SINGLE_LABEL, clean, views, (8, 8))
    assert robustness.drop == {"accuracy": 0.0}
    assert not robustness.drop_intervals
    assert not robustness.intervals


def test_multi_label_images_have_the_mean_average_precision() -> None:
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, (80, 3)).astype(np.float32)
    clean = Predictions(4 * labels - 2 + random.normal(size=labels.shape), labels)
    noise = np.linspace(1, 6, len(VARIANTS))[:, None] * random.normal(size=(80, len(VARIANTS), 3))
    robustness = measure_robustness(MULTI_LABEL, clean, Predictions((4 * labels - 2)[:, None] + noise, labels), (8, 8))
    key = "mean_average_precision"
    assert set(robustness.drop) == set(robustness.drop_intervals) == {key, "subset_accuracy"}
    for name in robustness.drop:
        mean, (low, high) = robustness.mean[name], robustness.drop_intervals[name]
        assert mean is not None
        assert robustness.intervals[name][0] < mean < robustness.intervals[name][1]
        assert 0 < low < robustness.drop[name] < high


@pytest.fixture(scope="module")
def network() -> tuple[Any, Any]:
    torch.manual_seed(0)
    return hf_tl.load_backbone("timm:test_resnet", LABELS, pretrained=False, image_size=32)


def test_each_copy_is_predicted_as_an_image_of_its_own(network: tuple[Any, Any]) -> None:
    model, transforms = network
    scaling, images = preprocessing_of(model).scaling, make_dataset(6)
    assert scaling is not None
    accelerator = Accelerator(cpu=True)
    views = corrupted(transforms.eval, scaling).over(images)
    predictions = predict_corrupted(accelerator, model, views, 64)
    assert predictions.logits.shape == (6, len(VARIANTS), 2)
    assert predictions.labels.tolist() == images["label"]
    copies = [corrupt(to_pil_image(scaling.levels(transforms.eval(row["image"])))) for row in images]
    for variant in range(len(VARIANTS)):
        rows = [{"pixel_values": scaling(copy[variant]), "labels": 0} for copy in copies]
        expected = predict_split(accelerator, model, rows, 64).logits
        np.testing.assert_allclose(predictions.logits[:, variant], expected, atol=1e-5)


@pytest.mark.parametrize("flip", [False, True])
def test_order_and_batches_do_not_matter(network: tuple[Any, Any], flip: bool) -> None:
    model, transforms = network
    transform = corrupted(transforms.eval, preprocessing_of(model).scaling)
    images, accelerator, order = make_dataset(6), Accelerator(cpu=True), [4, 0, 5, 2, 1, 3]
    first = predict_corrupted(accelerator, model, transform.over(images), 64, flip=flip)
    second = predict_corrupted(accelerator, model, transform.over(images.select(order)), 1, flip=flip)
    np.testing.assert_allclose(second.logits, first.logits[order], atol=1e-5)


def test_evaluation_and_files(tmp_path: Path, network: tuple[Any, Any]) -> None:
    model, _ = network
    evaluation = hf_tl.evaluate(model, make_dataset(12, seed=3), corruptions=True, output_dir=tmp_path)
    assert evaluation.robustness is not None
    clean, robustness = evaluation.measured.metrics["accuracy"], evaluation.robustness
    assert robustness.drop["accuracy"] == pytest.approx(clean - robustness.mean["accuracy"])
    assert robustness.input_size == (32, 32)
    assert (tmp_path / "robustness.png").is_file()
    assert "## Robustness" in (tmp_path / "evaluation.md").read_text("utf-8")
    assert "  Gaussian noise " in str(evaluation)
    assert "Robustness" in [title for title, _ in evaluation.pictures()]
    hf_tl.evaluate(model, make_dataset(12, seed=3), output_dir=tmp_path)
    assert not (tmp_path / "robustness.png").exists()
    assert "Robustness" not in (tmp_path / "evaluation.md").read_text("utf-8")
