"""Neighbors, outliers and label errors from features."""

from pathlib import Path

import numpy as np
import pytest
import torch

from hf_tl.features.description import Layout
from hf_tl.features.feature_store import FeatureRows
from hf_tl.inspection import embedding
from hf_tl.inspection.analysis.label_errors import LEAST, find_label_errors
from hf_tl.inspection.analysis.outliers import find_outliers
from hf_tl.inspection.embedding import embed, nearest_neighbors
from hf_tl.storage.blocks import allocate


def stored(folder: Path, features: np.ndarray) -> FeatureRows:
    allocate(folder / "0.bin", features.size * 4)
    rows = FeatureRows(folder, [Layout((features.shape[1],), torch.float32)], len(features), writable=True)
    rows.write(0, [torch.as_tensor(features, dtype=torch.float32)])
    return rows


def clusters(images: int, classes: int = 4, values: int = 16, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    labels = np.arange(images) % classes
    return 3 * random.normal(size=(classes, values))[labels] + random.normal(size=(images, values)), labels


@pytest.mark.parametrize("blocks", [(7, 5), (64, 64)])
def test_neighbors_are_the_nearest_of_all(blocks: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding, "QUERIES", blocks[0])
    monkeypatch.setattr(embedding, "REFERENCES", blocks[1])
    vectors = torch.nn.functional.normalize(torch.randn(40, 6, generator=torch.Generator().manual_seed(0)))
    similarity = vectors @ vectors.T
    similarity.fill_diagonal_(-2)
    expected, rows = similarity.topk(10)
    values, neighbors = nearest_neighbors(vectors, 10)
    assert np.allclose(values, expected, atol=1e-6)
    assert (neighbors == rows.numpy()).all()


def test_two_images_are_each_others_neighbors() -> None:
    values, neighbors = nearest_neighbors(torch.eye(2), 10)
    assert neighbors.tolist() == [[1], [0]]
    assert values.tolist() == [[0.0], [0.0]]


def test_embeddings_keep_the_angles_of_centered_features(tmp_path: Path) -> None:
    features, _ = clusters(50)
    centered = torch.nn.functional.normalize(torch.as_tensor(features - features.mean(0)))
    embeddings = embed(stored(tmp_path, features), np.arange(50), np.arange(50)).double()
    assert torch.allclose(embeddings @ embeddings.T, centered @ centered.T, atol=5e-3)


def test_images_far_from_all_others_are_outliers() -> None:
    random = np.random.default_rng(0)
    vectors = np.eye(8)[np.arange(60) % 3] + 0.1 * random.normal(size=(60, 8))
    vectors[[7, 30]] = -np.ones(8), [0, 0, 0, 0, 0, 0, 0, 1]
    tensor = torch.nn.functional.normalize(torch.as_tensor(vectors, dtype=torch.float32))
    outliers = find_outliers(np.arange(100, 160), nearest_neighbors(tensor, 10)[0])
    assert outliers is not None
    assert set(outliers.rows[: outliers.count].tolist()) == {107, 130}
    assert find_outliers(np.arange(5), np.ones((5, 4), np.float32)) is None


@pytest.mark.parametrize("sampled", [200, 90])
def test_wrong_labels_are_ranked_first(sampled: int, tmp_path: Path) -> None:
    """Also images outside of the sample are judged."""
    features, labels = clusters(200)
    wrong = np.random.default_rng(1).permutation(200)[:10]
    changed = labels.copy()
    changed[wrong] = (labels[wrong] + 1) % 4
    sample = np.sort(np.random.default_rng(2).permutation(200)[:sampled])
    errors = find_label_errors(stored(tmp_path, features), changed, 4, np.arange(200), sample)
    assert errors is not None
    assert sorted(errors.rows.tolist()) == list(range(200))
    assert np.isin(errors.rows[:10], wrong).sum() >= 9
    assert np.isin(errors.suspected, wrong).all()
    assert len(errors.suspected) >= 4
    assert (errors.suggested[:8] == labels[errors.rows[:8]]).all()
    assert (np.diff(errors.own) >= 0).all()


def test_probabilities_are_held_out(tmp_path: Path) -> None:
    """More values than images: a probe that had seen an image would be certain of its label."""
    features = np.random.default_rng(0).normal(size=(60, 200))
    errors = find_label_errors(stored(tmp_path, features), np.arange(60) % 2, 2, np.arange(60), np.arange(60))
    assert errors is not None
    assert errors.accuracy.value < 0.8


def test_small_classes_are_not_judged(tmp_path: Path) -> None:
    features, labels = clusters(60, classes=2)
    labels[: LEAST - 1] = 2
    rows = stored(tmp_path, features)
    errors = find_label_errors(rows, labels, 3, np.arange(60), np.arange(60))
    assert errors is not None
    assert set(labels[errors.rows].tolist()) == {0, 1}
    assert find_label_errors(rows, np.zeros(60, int), 1, np.arange(60), np.arange(60)) is None
