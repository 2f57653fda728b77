"""The loss against closed forms."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_class_weight
from torch.nn import functional

from hf_tl.errors import ConfigError
from hf_tl.evaluation.metrics import MULTI_LABEL, SINGLE_LABEL
from hf_tl.optimization.loss import balanced_weights, check_phases, training_loss
from hf_tl.strategy import Phase

IMAGES, CLASSES = 6, 4


def made(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(IMAGES, CLASSES, generator=generator)
    return logits, torch.randint(CLASSES, (IMAGES,), generator=generator)


def phase(smoothing: float = 0.0) -> Phase:
    return Phase(1, 1, label_smoothing=smoothing)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_one_hot_labels_are_indices(smoothing: float) -> None:
    logits, labels = made()
    expected = functional.cross_entropy(logits, labels, label_smoothing=smoothing)
    torch.testing.assert_close(training_loss(logits, labels, phase(smoothing)), expected)
    one_hot = functional.one_hot(labels, CLASSES).float()
    torch.testing.assert_close(training_loss(logits, one_hot, phase(smoothing)), expected)


@given(st.floats(0, 1), st.floats(0, 0.9))
def test_mixed_labels_give_the_mixed_loss(part: float, smoothing: float) -> None:
    logits, labels = made()
    first, second = functional.one_hot(labels, CLASSES), functional.one_hot(labels.roll(1), CLASSES)
    mixed = training_loss(logits, part * first + (1 - part) * second, phase(smoothing))
    losses = [training_loss(logits, target, phase(smoothing)) for target in (labels, labels.roll(1))]
    torch.testing.assert_close(mixed, part * losses[0] + (1 - part) * losses[1], rtol=1e-4, atol=1e-5)


def test_smoothing_is_the_mean_over_classes() -> None:
    logits, labels = made()
    logs = logits.log_softmax(1)
    expected = -(0.8 * logs[range(IMAGES), labels] + 0.2 * logs.mean(1)).mean()
    torch.testing.assert_close(training_loss(logits, labels, phase(0.2)), expected)


def test_half_precision_is_computed_in_single() -> None:
    logits, labels = made()
    half = logits.bfloat16()
    assert training_loss(half, labels, phase()) == training_loss(half.float(), labels, phase())


@given(st.lists(st.integers(0, CLASSES - 1), min_size=1, max_size=50))
def test_balanced_weights_are_those_of_scikit_learn(labels: list[int]) -> None:
    weights = balanced_weights(labels, CLASSES)
    present = np.unique(labels)
    expected = compute_class_weight("balanced", classes=present, y=labels)
    np.testing.assert_allclose(weights[present], expected, rtol=1e-6)
    assert all(weights[label] == 1 for label in set(range(CLASSES)) - set(labels))
    assert weights[labels].mean() == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize("soft", [False, True])
def test_a_weighted_loss_does_not_depend_on_batches(soft: bool) -> None:
    """The mean over two halves is the mean over the whole; torch's own weighted mean of class indices is not."""
    logits, labels = made()
    weights = torch.tensor([0.1, 1.0, 3.0, 7.0])
    expected = (weights[labels] * functional.cross_entropy(logits, labels, reduction="none")).mean()
    targets = functional.one_hot(labels, CLASSES).float() if soft else labels
    torch.testing.assert_close(training_loss(logits, targets, phase(), weights), expected)
    halves = [training_loss(logits[part], targets[part], phase(), weights) for part in (slice(0, 3), slice(3, 6))]
    torch.testing.assert_close(sum(halves) / 2, expected)


def made_multi_label() -> tuple[torch.Tensor, torch.Tensor]:
    logits, _ = made()
    return logits, torch.tensor([[1, 0, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1], [0, 1, 0, 0], [0, 0, 1, 0], [1, 0, 0, 0.0]])


@pytest.mark.parametrize("weighted", [False, True])
def test_the_multi_label_loss_is_that_of_torch(weighted: bool) -> None:
    logits, labels = made_multi_label()
    weights = torch.tensor([0.5, 1.0, 2.0, 4.0]) if weighted else None
    loss = training_loss(logits, labels, phase(), weights, MULTI_LABEL)
    torch.testing.assert_close(loss, torch.nn.BCEWithLogitsLoss(pos_weight=weights)(logits, labels))
    half = logits.bfloat16()
    assert training_loss(half, labels, phase(), weights, MULTI_LABEL) == (
        training_loss(half.float(), labels, phase(), weights, MULTI_LABEL)
    )


def test_multi_label_smoothing_is_towards_one_half() -> None:
    logits, labels = made_multi_label()
    hard, undecided = (training_loss(logits, y, phase(), None, MULTI_LABEL) for y in (labels, labels * 0 + 0.5))
    smoothed = training_loss(logits, labels, phase(0.2), None, MULTI_LABEL)
    torch.testing.assert_close(smoothed, 0.8 * hard + 0.2 * undecided)


@given(st.floats(0, 1), st.floats(0, 0.9))
def test_mixed_multi_label_images_give_the_mixed_loss(part: float, smoothing: float) -> None:
    logits, labels = made_multi_label()
    mixed = training_loss(logits, part * labels + (1 - part) * labels.roll(1, 0), phase(smoothing), None, MULTI_LABEL)
    first, second = (training_loss(logits, y, phase(smoothing), None, MULTI_LABEL) for y in (labels, labels.roll(1, 0)))
    torch.testing.assert_close(mixed, part * first + (1 - part) * second, rtol=1e-4, atol=1e-5)


def test_balanced_weights_of_multi_label_images_are_negatives_by_positives() -> None:
    """Positives and negatives of a class get equal total weights; a class of all images still counts."""
    _, labels = made_multi_label()
    weights = balanced_weights(labels.int().tolist(), CLASSES)
    torch.testing.assert_close(weights, torch.tensor([1.0, 2.0, 2.0, 2.0]))
    assert balanced_weights([[1, 0], [1, 0]], 2).tolist() == [0.5, 1.0]


def test_balanced_sampling_needs_single_label_images() -> None:
    phases = [phase(), Phase(1, 1, balanced_sampling=True)]
    check_phases(phases, SINGLE_LABEL)
    check_phases(phases[:1], MULTI_LABEL)
    with pytest.raises(ConfigError, match=r"balanced_sampling=True .* class_weights=.balanced"):
        check_phases(phases, MULTI_LABEL)
