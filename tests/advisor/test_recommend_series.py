"""Series of images: named by the data or found in the features, and held out as a whole."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from advisor.colored_images import NAMES
from datasets import ClassLabel, Dataset, Features, Image
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow
from safetensors.torch import save_file

import hf_tl
from hf_tl.advisor.measuring.probes import linear_probe, nearest_neighbors
from hf_tl.advisor.measuring.series import compare_folds, find_series, series_of
from hf_tl.backbones.candidates import Backbone
from hf_tl.errors import DataError
from hf_tl.head.head_solver import draw_folds

VALUES = 24


def objects(classes: int, each: int, views: int, spread: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return features of objects that were seen several times, and their labels; classes differ little."""
    random = np.random.default_rng(seed)
    centers = 0.3 * random.normal(size=(classes, 1, 1, VALUES)) + random.normal(size=(classes, each, 1, VALUES))
    seen = centers + spread * random.normal(size=(classes, each, views, VALUES))
    return seen.reshape(-1, VALUES).astype(np.float32), np.repeat(np.arange(classes), each * views)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_group_is_held_out_as_a_whole(data: st.DataObject) -> None:
    images = data.draw(st.integers(4, 60))
    labels = torch.tensor(data.draw(st.lists(st.integers(0, 3), min_size=images, max_size=images)))
    groups = torch.tensor(data.draw(st.lists(st.integers(0, 12), min_size=images, max_size=images)))
    fold_of = draw_folds(labels, data.draw(st.integers(0, 9)), groups)
    held_out = fold_of >= 0
    if max(len(groups[labels == label].unique()) for label in labels.unique()) < 2:
        assert not held_out.any()
    for group in groups[held_out].unique():
        assert len(fold_of[held_out & (groups == group)].unique()) == 1
    for fold in range(int(fold_of.max()) + 1):
        assert (fold_of == fold).any()
        assert set(labels[fold_of == fold].tolist()) <= set(labels[fold_of != fold].tolist())


def test_folds_without_groups_are_those_of_groups_of_one_image() -> None:
    labels = torch.arange(60) % 3
    assert torch.equal(draw_folds(labels, 0), draw_folds(labels, 0, torch.arange(60)))


@pytest.mark.parametrize("views", [4, 8])
def test_series_are_found(views: int) -> None:
    features, labels = objects(4, 6, views, spread=0.3)
    series = find_series(features, labels)
    assert series is not None
    assert series.origin == "clusters"
    assert series.number == pytest.approx(24, abs=4)
    assert series.typical == views
    truth = np.arange(len(labels)) // views
    assert (
        len(set(zip(series.groups.tolist(), truth.tolist(), strict=True))) <= 28
    )  # nearly one cluster for each object


@pytest.mark.parametrize("images", [8, 30, 120])
def test_independent_images_are_no_series(images: int) -> None:
    for seed in range(5):
        features, labels = objects(4, images, 1, spread=0, seed=seed)
        assert find_series(features, labels) is None


@pytest.mark.parametrize("features", [np.zeros((40, 8), np.float32), np.ones((40, 1), np.float32)], ids=["0", "1"])
def test_equal_features_are_no_error(features: np.ndarray) -> None:
    find_series(features, np.arange(40) % 2)


def test_classes_below_six_images_have_no_series() -> None:
    features, labels = objects(3, 2, 2, spread=0.1)
    assert find_series(features, labels) is None


def test_random_folds_are_too_optimistic_about_series() -> None:
    features, labels = objects(4, 6, 8, spread=0.3)
    series = find_series(features, labels)
    assert series is not None
    random, _ = linear_probe(features, labels, 4)
    held_out, _ = linear_probe(features, labels, 4, groups=series.groups)
    gap = compare_folds(series, random, held_out)
    assert gap.is_evident
    assert gap.random.value > 0.95
    assert gap.held_out.value < 0.8
    # 24 objects decide the interval, not 192 images
    assert gap.held_out.independent == 24
    assert np.diff(gap.held_out.interval) > 2 * np.diff(gap.random.interval)
    assert nearest_neighbors(features, labels, groups=series.groups).accuracy.value < gap.random.value - 0.2


def test_groups_of_the_data_replace_clusters() -> None:
    features, labels = objects(4, 6, 4, spread=0.3)
    names = [f"patient {number // 8}" for number in range(len(labels))]
    series = series_of(features, labels, names)
    assert series is not None
    assert (series.number, series.typical, series.origin, series.silhouette) == (12, 8, "groups", None)
    assert series_of(features, labels, [str(number) for number in range(len(labels))]) is None


def pictures(each: int, views: int) -> Dataset:
    """Return images of three classes; objects of a class differ more than classes, views of an object hardly."""
    random = np.random.default_rng(0)
    centers = random.integers(40, 216, (3, each, 1, 6, 6, 3)).repeat(4, 3).repeat(4, 4)
    shift = np.array([[30, 0, 0], [0, 30, 0], [0, 0, 30]])[:, None, None, None, None]
    seen = np.clip(centers + shift + random.normal(0, 4, (3, each, views, 24, 24, 3)), 0, 255).astype(np.uint8)
    labels = np.repeat(np.arange(3), each * views).tolist()
    features = Features(image=Image(), label=ClassLabel(names=NAMES))
    return Dataset.from_dict({"image": list(seen.reshape(-1, 24, 24, 3)), "label": labels}, features=features)


def lines(recommendation: hf_tl.Recommendation, start: str) -> Sequence[str]:
    return [line for line in str(recommendation).splitlines() if line.startswith(start)]


@pytest.fixture(scope="module")
def efficientnet(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    """Return a network whose random features distinguish objects."""
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("weights") / "random.safetensors"
    save_file(timm.create_model("test_efficientnet").state_dict(), file)
    return Backbone("timm:test_efficientnet", str(file), 32)


def test_a_recommendation_warns_of_series_and_widens_what_it_expects(efficientnet: Backbone) -> None:
    recommendation = hf_tl.recommend(pictures(8, 6), efficientnet, trial_budget=0)
    gap = recommendation.evidence[0].gap
    assert gap is not None
    assert gap.is_evident
    [warning] = lines(recommendation, "Warning   images look like series")
    assert "--group_column" in warning
    assert recommendation.expected is not None
    assert recommendation.expected.low <= gap.held_out.value
    assert recommendation.expected.high >= gap.random.value
    assert recommendation.to_record()["evidence"][0]["series"]["series"] == gap.series.number


def test_independent_images_have_no_gap(efficientnet: Backbone) -> None:
    recommendation = hf_tl.recommend(pictures(40, 1), efficientnet, trial_budget=0)
    assert recommendation.evidence[0].gap is None
    assert not lines(recommendation, "Warning   images look like series")


def test_groups_that_file_names_show_are_held_out(efficientnet: Backbone, tmp_path: Path) -> None:
    rows = pictures(8, 6)
    for number, row in enumerate(rows):
        folder = tmp_path / "photos" / NAMES[row["label"]]
        folder.mkdir(parents=True, exist_ok=True)
        row["image"].save(folder / f"IMG_{2000 + number // 6}_{number % 6}.png")
    recommendation = hf_tl.recommend(str(tmp_path / "photos"), efficientnet, trial_budget=0)
    gap = recommendation.evidence[0].gap
    assert gap is not None
    assert gap.series.origin == "groups"
    assert gap.series.typical == 6
    assert recommendation.expected is not None
    assert recommendation.expected.high < gap.random.interval[1] or not gap.is_evident
    alone = hf_tl.recommend(str(tmp_path / "photos"), efficientnet, trial_budget=0, group_pattern="none")
    without = alone.evidence[0].gap
    assert without is not None
    assert without.series.origin == "clusters"


def scenes(each: int, views: int) -> Dataset:
    """Return scenes of two classes, each in several views that differ in light alone."""
    random = np.random.default_rng(0)
    images, labels = [], []
    for label in range(2):
        for _ in range(each):
            small = Pillow.fromarray(random.integers(0, 200, (8, 8, 3), dtype=np.uint8))
            scene = np.asarray(small.resize((96, 96), Pillow.Resampling.BICUBIC), dtype=float)
            for _ in range(views):
                light = random.normal(15, 10) + random.normal(0, 2, scene.shape)
                images.append(np.clip(scene + light, 0, 255).astype(np.uint8))
                labels.append(label)
    features = Features(image=Image(), label=ClassLabel(names=["cat", "dog"]))
    return Dataset.from_dict({"image": images, "label": labels}, features=features)


def test_near_duplicates_are_held_out_together(efficientnet: Backbone) -> None:
    gap = hf_tl.recommend(scenes(12, 3), efficientnet, trial_budget=0).evidence[0].gap
    assert gap is not None
    assert gap.series.number == pytest.approx(24, abs=5)


def test_one_scene_for_each_class_cannot_be_measured(efficientnet: Backbone) -> None:
    with pytest.raises(DataError, match=r"at least two classes with images of two different objects .*near-duplicates"):
        hf_tl.recommend(scenes(1, 20), efficientnet, trial_budget=0)


def test_pairs_unite_groups() -> None:
    features, labels = objects(4, 6, 4, spread=0.3)
    names = [f"patient {number // 8}" for number in range(len(labels))]
    united = series_of(features, labels, names, np.array([[0, 8], [16, 24]]))
    assert united is not None
    assert (united.number, sorted(np.bincount(united.groups))) == (10, [8] * 8 + [16] * 2)
