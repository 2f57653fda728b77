"""Images that a recommendation is measured on, and its warnings about them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from advisor.colored_images import NAMES, colored, write_colored
from datasets import Dataset, DatasetDict, Features, Image, List, Value, concatenate_datasets
from hypothesis import given
from hypothesis import strategies as st

import hf_tl
from hf_tl.advisor.deciding.rules import find_rule
from hf_tl.advisor.measuring.sample import stratified_order
from hf_tl.data.datasets import load_data
from hf_tl.errors import DataError
from hf_tl.record import LearnedFrom, read_record

pytestmark = pytest.mark.long


def test_large_data_are_measured_on_a_sample(backbone: str) -> None:
    recommendation = hf_tl.recommend(colored(np.arange(900) % 3), backbone, max_images=150, trial_budget=0)
    assert (recommendation.data["measured_on"], recommendation.data["available"]) == (150, 720)
    assert recommendation.evidence[0].head.linear.accuracy.images == 150


def test_five_images_per_class_are_cross_validated(backbone: str) -> None:
    recommendation = hf_tl.recommend(colored(np.arange(15) % 3, spread=5), backbone, trial_budget=0)
    [evidence] = recommendation.evidence
    assert recommendation.data["measured_on"] == 12  # all but the test images
    assert evidence.head.linear.accuracy.images == 12
    low, high = evidence.head.linear.accuracy.interval
    assert high - low > 0.2
    assert recommendation.strategy is not None
    assert recommendation.strategy.name == find_rule(5, evidence.similarity.value).strategy


@given(st.lists(st.integers(0, 4), min_size=1, max_size=200), st.integers(0, 9))
def test_any_first_part_is_stratified(labels: list[int], seed: int) -> None:
    order = stratified_order(labels, seed)
    assert sorted(order) == list(range(len(labels)))
    counts = np.bincount(labels, minlength=5)
    for size in range(1, len(labels) + 1):
        seen = np.bincount(np.array(labels)[order[:size]], minlength=5)
        missing = counts - seen
        if (short := seen[(seen < 5) & (missing > 0)]).size:
            assert seen.max() <= short.min() + 1  # no class has more images before all have five
        elif seen.max() > 5:
            expected = size * counts / len(labels)
            assert (seen >= np.minimum(counts, np.floor(expected) - 6)).all()


def test_copies_and_conflicts_are_named(backbone: str, tmp_path: Path) -> None:
    folder = write_colored(tmp_path / "colors" / "train", dict.fromkeys(NAMES, 20))
    (folder / "red" / "twin.png").write_bytes((folder / "red" / "3.png").read_bytes())
    (folder / "blue" / "wrong.png").write_bytes((folder / "green" / "7.png").read_bytes())
    write_colored(tmp_path / "colors" / "test", dict.fromkeys(NAMES, 5))
    recommendation = hf_tl.recommend(str(tmp_path / "colors"), backbone, trial_budget=0)
    conflict, copy = recommendation.warnings
    for text in ("duplicates with different labels (1): ", "7.png (green)", "wrong.png (blue)"):
        assert text in conflict
    for text in ("duplicates (1): ", "train/red/twin.png (red)", "train/red/3.png (red)"):
        assert text in copy
    assert recommendation.data["measured_on"] == 62 - 3  # neither the conflict nor the second copy


def test_class_imbalance_is_a_warning(backbone: str) -> None:
    recommendation = hf_tl.recommend(colored(np.array([0] * 150 + [1] * 150 + [2] * 6)), backbone, trial_budget=0)
    assert "blue has 3;" in " ".join(recommendation.warnings)
    assert "balanced" in " ".join(recommendation.warnings)


def with_unlabeled(rows: Dataset) -> Dataset:
    return rows.map(lambda row, index: {"label": -1 if index == 4 else row["label"]}, with_indices=True)


def with_lists(rows: Dataset) -> Dataset:
    features = Features(image=Image(), label=List(Value("int64")))
    flags = [[int(label == other) for other in range(3)] for label in rows["label"]]
    return Dataset.from_dict({"image": rows["image"][:], "label": flags}, features=features)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: colored(np.array([0, 1, 2])), "fewer than 3 different images"),
        (lambda: colored(np.zeros(30, int)), "expected at least two classes, found 1: red"),
        (lambda: with_unlabeled(colored(np.arange(30) % 3)), "have no label"),
        (lambda: with_lists(colored(np.arange(30) % 3)), "expected one label per image"),
    ],
)
def test_data_that_cannot_be_measured(backbone: str, make: Callable[[], Dataset], message: str) -> None:
    with pytest.raises(DataError, match=message):
        hf_tl.recommend(make(), backbone, trial_budget=0)


def test_one_image_per_class_beside_test_images(backbone: str, tmp_path: Path) -> None:
    write_colored(tmp_path / "colors" / "train", dict.fromkeys(NAMES, 1))
    write_colored(tmp_path / "colors" / "validation", dict.fromkeys(NAMES, 1))
    for name in NAMES:  # the same file twice is one image
        image = (tmp_path / "colors" / "train" / name / "0.png").read_bytes()
        (tmp_path / "colors" / "validation" / name / "0.png").write_bytes(image)
    write_colored(tmp_path / "colors" / "test", dict.fromkeys(NAMES, 3), spread=5)
    with pytest.raises(DataError, match="nothing can be measured"):
        hf_tl.recommend(str(tmp_path / "colors"), backbone, trial_budget=0)


def test_training_images_of_a_backbone_are_excluded(backbone: str, tmp_path: Path) -> None:
    """The backbone's features depend on their labels, and would predict even random labels."""
    first, more = colored(np.arange(60) % 3), colored(np.arange(90) % 3, seed=1)
    strategy = hf_tl.Strategy.full(epochs=1)
    model, transforms = hf_tl.load_backbone(backbone, NAMES, strategy)
    settings = {"output_dir": str(tmp_path / "out"), "report_to": "none", "cpu_threads": 1}
    hf_tl.train(model, first, strategy, transforms=transforms, **settings)
    trained = str(tmp_path / "out")
    learned = LearnedFrom.read(read_record(trained).learned_from, tmp_path / "out")
    both = concatenate_datasets([first, more])
    recommendation = hf_tl.recommend(both, trained, trial_budget=0)
    seen = int(learned.mask(load_data(both, learned=learned).digests["train"]).sum())
    assert seen == len(learned.digests) == 43
    assert recommendation.data["measured_on"] == recommendation.data["available"] - seen
    leakage = (
        f"{seen} of {recommendation.data['available']} images of train and validation are training images of {trained}"
    )
    assert f"{leakage}: left out of the sample" in recommendation.warnings
    assert (
        hf_tl.recommend(both, trained, include_training_images=True, trial_budget=0).data["measured_on"]
        == recommendation.data["available"]
    )
    held_out = {"validation": more.select([0, 1]), "test": more.select(range(10, 20))}
    with pytest.raises(DataError, match=r"43 of 45 .* training images of a backbone, .*include_training_images=True"):
        hf_tl.recommend(DatasetDict(train=load_data(first).splits["train"], **held_out), trained, trial_budget=0)
