"""Multinomial logistic regression solved to convergence, with its L2 strength chosen by cross-validation.

On frozen features, a linear head is a convex problem. Solving it needs no learning rate, schedule or number of epochs,
and cross-validation chooses the regularization strength (the usual way to evaluate linear probes: Kornblith et al.
2019, https://arxiv.org/abs/1805.08974; CLIP, https://arxiv.org/abs/2103.00020).
"""

import math
import warnings
from dataclasses import dataclass, field

import torch
from torch import Tensor

from hf_tl.errors import TrainingError
from hf_tl.head.logistic_regression import ADVICE, LogisticRegressions

L2_STRENGTHS = tuple(10 ** (1 - half / 2) for half in range(15))
"""L2 strengths to try in this order, from strong to weak: 10 to 1e-6."""
FOLDS = 5
PATIENCE = 2
"""Number of consecutive strengths without a new best after which weaker ones are not tried."""
SEARCH_TOLERANCE, SOLUTION_TOLERANCE = 1e-3, 1e-6
"""Tolerances on the largest gradient entry, at a curvature of about 1: to compare strengths, and for the solution."""


@dataclass(frozen=True)
class CrossValidation:
    """Results of heads on held-out images."""

    strength: float
    """Chosen L2 strength; see `HeadSolution`."""
    losses: dict[float, float]
    """Cross-entropy on held-out images, by strength."""
    folds: int
    classes: Tensor
    """Held-out predictions at the chosen strength (views * images,); -1 for an image that was never held out."""
    mean: Tensor
    """Mean of the heads of all folds at the chosen strength, in the coordinates of the solver (1, classes, values)."""


@dataclass(frozen=True)
class HeadSolution:
    """A solved head, with the search for its strength."""

    weight: Tensor
    """Weights (classes, values) for the original features."""
    bias: Tensor
    """Biases (classes,) for the original features."""
    strength: float
    """L2 strength lambda. The solution minimizes the mean loss plus lambda / 2 times the sum of squared weights of the
    standardized features; scikit-learn's C is 1 / (lambda * images)."""
    train_loss: float
    """Mean training loss at the solution, without the penalty."""
    held_out_losses: dict[float, float] = field(default_factory=dict)
    """Cross-entropy on held-out images, by strength; empty if the strength was not searched."""
    folds: int = 0

    @property
    def held_out_loss(self) -> float | None:
        """Cross-entropy on held-out images at the chosen strength."""
        return self.held_out_losses.get(self.strength)

    def to_record(self) -> dict[str, float | int | None]:
        """Return the results as `run.json` stores them."""
        return {"l2_strength": self.strength, "held_out_loss": self.held_out_loss, "folds": self.folds}

    def __str__(self) -> str:
        loss = self.held_out_loss
        search = "default" if loss is None else f"{self.folds}-fold cross-validation, held-out loss {loss:.4g}"
        return f"L2 strength {self.strength:.2g} ({search})"


def solve_head(
    features: Tensor,
    labels: Tensor,
    classes: int,
    *,
    views: int = 1,
    groups: Tensor | None = None,
    label_smoothing: float = 0.0,
    balanced: bool = False,
    strength: float | None = None,
    seed: int = 0,
    overwrite: bool = False,
) -> HeadSolution:
    """Minimize the mean cross-entropy plus an L2 penalty on the weights of the standardized features.

    Each feature is standardized to mean 0 and standard deviation 1 over all images, so predictions do not depend on its
    shift and scale. A constant feature gets the weight 0. The bias is not penalized.

    The strength is chosen by stratified cross-validation with the one-standard-error rule (Hastie, Tibshirani and
    Friedman, The Elements of Statistical Learning, 2nd edition, section 7.10): the strongest one whose cross-entropy on
    held-out images is within one standard error, over the folds, of the lowest. Images of a group are held out
    together. A class with fewer groups than folds is held out in fewer folds, and the only group of a class never. If
    no class has two groups, the strength is scikit-learn's default, C = 1. A class without images gets the weight 0,
    and a bias below the others.

    Args:
        features: (views * images, values), float32 or float64, on any device: all images of the first view, then those
            of the next.
        labels: Class indices of the images (images,).
        classes: Number of classes.
        views: Number of views of each image, which are held out together. Defaults to 1.
        groups: Group of each image (images,), as in `draw_folds`. Defaults to no groups.
        label_smoothing: Probability of each label that is spread over all classes. Defaults to 0.
        balanced: Whether to weight each image by the inverse frequency of its class (`balanced_weights`), also when it
            is held out. Defaults to False.
        strength: L2 strength. Defaults to cross-validation.
        seed: Random seed of the folds. Defaults to 0.
        overwrite: Whether the memory of `features` may be used for other values, so that no second matrix of their size
            is needed. Defaults to False.

    >>> features = torch.tensor([[0.0], [1.0], [2.0], [3.0], [4.0], [5.0]])
    >>> solution = solve_head(features, torch.tensor([0, 0, 0, 1, 1, 1]), classes=2)
    >>> (features @ solution.weight.T + solution.bias).argmax(1).tolist()
    [0, 0, 0, 1, 1, 1]
    """
    labels = labels.cpu()
    problem = LogisticRegressions.from_features(features, labels, classes, views, label_smoothing, balanced, overwrite)
    validation, start = None, problem.zeros(1)
    fold_of = draw_folds(labels, seed, groups) if strength is None else None
    if fold_of is not None and int(fold_of.max()) >= 0:
        validation = _cross_validate(problem, fold_of.repeat(views))
        strength, start = validation.strength, validation.mean
    strength = 1 / len(labels) if strength is None else strength
    all_images = features.new_ones(1, len(features))
    solution = problem.minimize(all_images, strength, start, SOLUTION_TOLERANCE)
    head = features.new_zeros(classes, solution.shape[2])
    head[:, -1] = solution[0, :, -1].min() - math.log(len(labels))
    head[problem.classes] = solution[0]
    weight, bias = problem.coordinates.fold_back(head)
    train_loss = problem.loss(solution, all_images)
    if validation is None:
        return HeadSolution(weight, bias, strength, train_loss)
    return HeadSolution(weight, bias, strength, train_loss, validation.losses, validation.folds)


def cross_validate_head(
    features: Tensor, labels: Tensor, classes: int, *, groups: Tensor | None = None, seed: int = 0
) -> CrossValidation:
    """Predict each image with a head fitted without it; the strength is chosen as in `solve_head`.

    Args:
        features: (images, values), float32 or float64, on any device.
        labels: Class indices (images,); at least one class needs two images.
        classes: Number of classes.
        groups: Group of each image (images,), as in `draw_folds`. Defaults to no groups.
        seed: Random seed of the folds. Defaults to 0.

    >>> features = torch.tensor([[0.0], [1.0], [2.0], [7.0], [8.0], [9.0]])
    >>> cross_validate_head(features, torch.tensor([0, 0, 0, 1, 1, 1]), classes=2).classes.tolist()
    [0, 0, 0, 1, 1, 1]
    """
    labels = labels.cpu()
    problem = LogisticRegressions.from_features(features, labels, classes)
    return _cross_validate(problem, draw_folds(labels, seed, groups))


def draw_folds(labels: Tensor, seed: int, groups: Tensor | None = None, folds: int = FOLDS) -> Tensor:
    """Draw the fold in which each image is held out (images,); -1 if all images of its class would be held out with it.

    Args:
        labels: Class indices (images,).
        seed: Random seed.
        groups: Group of each image (images,). The images of a group are held out together. Defaults to no groups.
        folds: Largest number of folds. Defaults to 5.
    """
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    labels, groups = labels.cpu(), torch.arange(len(labels)) if groups is None else groups.cpu()
    pairs = torch.unique(torch.stack([labels, groups]), dim=1)
    counts = torch.bincount(pairs[0], minlength=int(labels.max()) + 1)  # groups of each class
    fold_of = torch.full((len(labels),), -1)
    if int(counts.max()) < 2:
        return fold_of
    shared = (counts[labels] > 1).nonzero()[:, 0].numpy()
    is_grouped = len(groups.unique()) < len(labels)
    kind = StratifiedGroupKFold if is_grouped else StratifiedKFold
    splitter = kind(min(folds, int(counts.max())), shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        # the warning says that a class has fewer images than folds; its images are in different folds
        warnings.simplefilter("ignore", UserWarning)
        parts = splitter.split(shared, labels[shared].numpy(), groups[shared].numpy() if is_grouped else None)
        for number, (_, held_out) in enumerate(parts):
            fold_of[shared[held_out]] = number
    return _with_a_rest(fold_of, labels) if is_grouped else fold_of


def _with_a_rest(fold_of: Tensor, labels: Tensor) -> Tensor:
    """Hold out no image whose class lies in one fold as a whole, and number the folds from 0 without gaps."""
    for label in labels.unique():
        own = labels == label
        if len(fold_of[own].unique()) == 1:
            fold_of[own] = -1
    held_out = fold_of >= 0
    fold_of[held_out] = fold_of[held_out].unique(return_inverse=True)[1]
    return fold_of


def _cross_validate(problem: LogisticRegressions, fold_of: Tensor) -> CrossValidation:
    """Cross-validate from strong to weak, each strength starting from the previous solutions.

    Args:
        problem: Regressions on all images.
        fold_of: Result of `draw_folds` for all views (views * images,).

    Raises:
        TrainingError: A held-out loss is not finite.
    """
    folds = int(fold_of.max()) + 1
    fold_of = fold_of.to(problem.features.device)
    fitted = torch.stack([fold_of != fold for fold in range(folds)]).to(problem.features)
    solutions = problem.zeros(folds)
    losses: dict[float, float] = {}
    upper_bounds: dict[float, float] = {}  # loss plus one standard error
    candidates: dict[float, tuple[Tensor, Tensor]] = {}
    for strength in L2_STRENGTHS:
        solutions = problem.minimize(fitted, strength, solutions, SEARCH_TOLERANCE)
        losses[strength], error, classes = problem.evaluate_held_out(solutions, fold_of)
        upper_bounds[strength] = losses[strength] + error
        candidates[strength] = classes, solutions.mean(0, keepdim=True)
        if min(losses.values()) < min(list(losses.values())[-PATIENCE:]):
            break
    if not all(map(math.isfinite, losses.values())):
        raise TrainingError(f"the loss of a linear head on the features of the backbone is not finite, {ADVICE}")
    limit = upper_bounds[min(losses, key=losses.__getitem__)]
    strength = max(strength for strength, loss in losses.items() if loss <= limit)
    return CrossValidation(strength, losses, folds, *candidates[strength])
