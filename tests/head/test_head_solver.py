"""The head solved as logistic regression, against scikit-learn's and against the loss of training."""

import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from hf_tl.errors import TrainingError
from hf_tl.head.head_solver import FOLDS, L2_STRENGTHS, HeadSolution, cross_validate_head, solve_head
from hf_tl.optimization.loss import balanced_weights, training_loss
from hf_tl.phase import Phase

CLASSES = 4


def clusters(images: int = 240, values: int = 12, spread: float = 2.0, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return correlated features of very different scales, of overlapping classes of different sizes."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.multinomial(torch.tensor([0.5, 0.25, 0.15, 0.1]), images, replacement=True, generator=generator)
    labels[: 2 * CLASSES] = torch.arange(CLASSES).repeat(2)[:images]
    centers, mixing = torch.randn(2, values, values, generator=generator)
    noise = torch.randn(images, values, generator=generator) @ mixing
    return (centers[labels] + spread * noise) * torch.logspace(-2, 2, values) + 3, labels


def logits_of(solution: HeadSolution, features: Tensor) -> Tensor:
    return features @ solution.weight.T + solution.bias


def reference(images: int, strength: float, balanced: bool = False) -> LogisticRegression:
    weight = "balanced" if balanced else None
    return LogisticRegression(C=1 / (strength * images), class_weight=weight, tol=1e-9, max_iter=10_000)


@pytest.mark.parametrize("strength", [1.0, 1e-2, 1e-4])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-5), (torch.float32, 2e-3)])
@pytest.mark.parametrize("balanced", [False, True])
def test_the_solution_is_that_of_scikit_learn(
    strength: float, dtype: torch.dtype, tolerance: float, balanced: bool
) -> None:
    features, labels = clusters()
    scaler = StandardScaler().fit(features)
    expected = reference(len(labels), strength, balanced).fit(scaler.transform(features), labels)
    solution = solve_head(features.to(dtype), labels, CLASSES, strength=strength, balanced=balanced)
    weight = solution.weight.double().numpy() * scaler.scale_
    np.testing.assert_allclose(weight, expected.coef_, atol=tolerance * abs(expected.coef_).max())
    probabilities = logits_of(solution, features.to(dtype)).softmax(1)
    np.testing.assert_allclose(probabilities, expected.predict_proba(scaler.transform(features)), atol=tolerance)


def test_with_more_features_than_images_it_is_that_of_scikit_learn() -> None:
    features, labels = clusters(40, 200)
    scaler = StandardScaler().fit(features)
    expected = reference(len(labels), 0.1).fit(scaler.transform(features), labels)
    solution = solve_head(features.double(), labels, CLASSES, strength=0.1)
    weight = solution.weight.numpy() * scaler.scale_
    np.testing.assert_allclose(weight, expected.coef_, atol=1e-4 * abs(expected.coef_).max())


@pytest.mark.parametrize("balanced", [False, True])
def test_the_gradient_of_the_training_loss_is_zero_at_the_solution(balanced: bool) -> None:
    """Label smoothing is what scikit-learn lacks."""
    features, labels = clusters()
    features = features.double()
    phase = Phase(1, 1, label_smoothing=0.2)
    solution = solve_head(features, labels, CLASSES, strength=0.01, label_smoothing=0.2, balanced=balanced)
    deviation = features.std(0, unbiased=False)
    weight = (solution.weight * deviation).requires_grad_()
    bias = solution.bias.clone().requires_grad_()
    weights = balanced_weights(labels.tolist(), CLASSES) if balanced else None
    loss = training_loss((features / deviation) @ weight.T + bias, labels, phase, weights)
    assert float(loss.detach()) == pytest.approx(solution.train_loss, rel=1e-5)
    gradients = torch.autograd.grad(loss + 0.01 / 2 * weight.square().sum(), [weight, bias])
    assert max(float(gradient.abs().max()) for gradient in gradients) < 5e-5


def repeated(copies: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return features, labels and groups of images of 40 objects without a pattern, each seen several times."""
    generator = torch.Generator().manual_seed(0)
    objects = torch.randn(40, 60, generator=generator, dtype=torch.float64)
    features = objects.repeat_interleave(copies, 0)
    features = features + 0.01 * torch.randn(features.shape, generator=generator, dtype=torch.float64)
    return features, (torch.arange(40) % 2).repeat_interleave(copies), torch.arange(40).repeat_interleave(copies)


def test_the_strength_is_chosen_on_groups_that_no_head_was_fitted_to() -> None:
    """Objects seen on both sides make a head look good that has learned them by heart."""
    features, labels, groups = repeated(6)
    apart, mixed = solve_head(features, labels, 2, groups=groups), solve_head(features, labels, 2)
    assert apart.held_out_loss is not None
    assert mixed.held_out_loss is not None
    assert mixed.held_out_loss < 0.3 < math.log(2) - 0.05 < apart.held_out_loss
    assert apart.strength > 100 * mixed.strength
    single = solve_head(features[::6], labels[::6], 2)
    assert math.isclose(apart.held_out_loss, single.held_out_loss or 0, abs_tol=0.1)


def test_without_two_groups_in_a_class_the_strength_is_the_default() -> None:
    features, labels, _ = repeated(6)
    assert solve_head(features, labels, 2, groups=labels).strength == 1 / len(labels)


def test_the_strength_is_the_strongest_within_one_standard_error_of_the_best() -> None:
    features, labels = clusters()
    solution = solve_head(features.double(), labels, CLASSES, seed=3)
    tried = solution.held_out_losses
    assert tuple(tried) == L2_STRENGTHS[: len(tried)]
    assert L2_STRENGTHS[0] > solution.strength > L2_STRENGTHS[-1]
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=3)
    scaled = StandardScaler().fit_transform(features)
    expected = {}
    for strength in tried:
        model = reference(round(len(labels) * (1 - 1 / FOLDS)), strength)
        expected[strength] = -cross_val_score(model, scaled, labels, cv=folds, scoring="neg_log_loss")
        assert tried[strength] == pytest.approx(expected[strength].mean(), rel=5e-3)
    best = min(expected.values(), key=lambda losses: losses.mean())
    limit = best.mean() + best.std(ddof=1) / math.sqrt(FOLDS)
    assert solution.strength == max(strength for strength in tried if expected[strength].mean() <= limit)
    assert tried[solution.strength] > min(tried.values())


def test_shift_and_scale_of_the_features_do_not_change_predictions() -> None:
    features, labels = clusters()
    moved = features * torch.logspace(2, -2, features.shape[1]) + torch.linspace(-5, 5, features.shape[1])
    solution, transformed = (solve_head(each, labels, CLASSES) for each in (features, moved))
    assert solution.strength == transformed.strength
    torch.testing.assert_close(logits_of(solution, features), logits_of(transformed, moved), atol=0.02, rtol=0.01)


def test_the_same_seed_gives_the_same_bits() -> None:
    features, labels = clusters()
    first, again, other = (solve_head(features, labels, CLASSES, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.weight, again.weight)
    assert torch.equal(first.bias, again.bias)
    assert first.held_out_losses == again.held_out_losses
    assert first.held_out_losses != other.held_out_losses


def test_separable_data_stay_finite() -> None:
    """Without a penalty the weights diverge; with more features than images any data are separable."""
    features, labels = clusters(40, 200, spread=0.01)
    features = torch.cat([features, features[:, :3], torch.full((40, 1), 0.1)], dim=1)  # copies and a constant
    solution = solve_head(features, labels, CLASSES)
    assert solution.weight.isfinite().all()
    assert solution.bias.isfinite().all()
    assert torch.equal(solution.weight[:, -1], torch.zeros(CLASSES))
    assert logits_of(solution, features).argmax(1).tolist() == labels.tolist()
    assert logits_of(solution, features).abs().max() < 100


def test_views_of_an_image_are_held_out_together() -> None:
    """A copy of each image in the training folds would be data leakage."""
    features, labels = clusters(60)
    single = solve_head(features, labels, CLASSES)
    double = solve_head(features.repeat(2, 1), labels, CLASSES, views=2)
    assert double.strength == single.strength
    assert list(double.held_out_losses.values()) == pytest.approx(list(single.held_out_losses.values()), rel=1e-2)
    torch.testing.assert_close(logits_of(double, features), logits_of(single, features), atol=0.02, rtol=0.02)


def test_rare_classes_are_kept() -> None:
    features, labels = clusters(100)
    labels = labels % 2
    labels[0], labels[[1, 2]] = 2, 3  # one image of a class, two of another
    solution = solve_head(features, labels, 6)  # no image of two classes
    assert solution.folds == FOLDS
    assert solution.weight.isfinite().all()
    assert torch.equal(solution.weight[4:], torch.zeros(2, features.shape[1]))
    logits = logits_of(solution, features)
    assert not set(logits.argmax(1).tolist()) & {4, 5}
    assert float(logits.softmax(1)[:, 4:].mean()) < 0.02
    assert f"{FOLDS}-fold cross-validation" in str(solution)


@pytest.mark.parametrize(("images_of_a_class", "folds"), [(1, 0), (2, 2), (3, 3), (9, FOLDS)])
def test_there_are_no_more_folds_than_images_of_a_class(images_of_a_class: int, folds: int) -> None:
    features, _ = clusters(CLASSES * images_of_a_class)
    labels = torch.arange(CLASSES).repeat(images_of_a_class)
    solution = solve_head(features, labels, CLASSES)
    assert solution.folds == folds
    if folds == 0:
        assert solution.held_out_loss is None
        assert solution.strength == 1 / CLASSES
        assert logits_of(solution, features).argmax(1).tolist() == labels.tolist()


def test_one_class_alone_is_predicted() -> None:
    solution = solve_head(torch.randn(10, 3), torch.ones(10, dtype=torch.long), 2)
    assert logits_of(solution, torch.randn(5, 3)).argmax(1).tolist() == [1] * 5


@pytest.mark.gpu
def test_on_a_gpu_the_solution_is_the_same() -> None:
    features, labels = clusters()
    on_cpu, on_gpu = solve_head(features, labels, CLASSES), solve_head(features.cuda(), labels, CLASSES)
    torch.testing.assert_close(
        logits_of(on_gpu, features.cuda()).cpu(), logits_of(on_cpu, features), atol=0.02, rtol=0.01
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_features_that_are_not_finite_are_named(value: float) -> None:
    features = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    features[3, 1] = value
    with pytest.raises(TrainingError, match="features of the backbone are not finite"):
        cross_validate_head(features, torch.arange(20) % 2, 2)
