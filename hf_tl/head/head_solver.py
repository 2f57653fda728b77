"""Multinomial logistic regression solved to convergence, with its L2 strength chosen by cross-validation.

On frozen features, a linear head is a convex problem. Solving it needs no learning rate, schedule or number of epochs,
and cross-validation chooses the regularization strength (the usual way to evaluate linear probes: Kornblith et al.
2019, https://arxiv.org/abs/1805.08974; CLIP, https://arxiv.org/abs/2103.00020).
"""

import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from hf_tl.optimization.loss import balanced_weights

STRENGTHS = tuple(10 ** (1 - half / 2) for half in range(15))
"""L2 strengths to try in this order, from strong to weak: 10 to 1e-6."""
FOLDS = 5
WORSE = 2
"""Number of consecutive strengths without a new best after which weaker ones are not tried."""
ROUGH, EXACT = 1e-3, 1e-6
"""Tolerances on the largest gradient entry, at a curvature of about 1: to compare strengths, and for the solution."""
TOO_FAR = 1e100
"""Loss returned on float32 overflow. It is finite, because the line search squares it."""
CHUNK = 1 << 22
"""Maximum number of logits in memory at a time."""


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
        how = "not chosen by cross-validation" if loss is None else f"held-out loss {loss:.4g} in {self.folds} folds"
        return f"solved with L2 strength {self.strength:.2g} ({how})"


def solve_head(
    features: Tensor,
    labels: Tensor,
    classes: int,
    *,
    views: int = 1,
    label_smoothing: float = 0.0,
    balanced: bool = False,
    strength: float | None = None,
    seed: int = 0,
) -> HeadSolution:
    """Minimize the mean cross-entropy plus an L2 penalty on the weights of the standardized features.

    Each feature is standardized to mean 0 and standard deviation 1 over all images, so predictions do not depend on its
    shift and scale. A constant feature gets the weight 0. The bias is not penalized.

    The strength is chosen by stratified cross-validation with the one-standard-error rule (Hastie, Tibshirani and
    Friedman, The Elements of Statistical Learning, 2nd edition, section 7.10): the strongest one whose cross-entropy on
    held-out images is within one standard error, over the folds, of the lowest. A class with fewer images than folds is
    held out in fewer folds, and the only image of a class is never held out. If no class has two images, the strength
    is scikit-learn's default, C = 1. A class without images gets the weight 0, and a bias below the others.

    Args:
        features: (views * images, values), float32 or float64, on any device: all images of the first view, then those
            of the next.
        labels: Class indices of the images (images,).
        classes: Number of classes.
        views: Number of views of each image, which are held out together. Defaults to 1.
        label_smoothing: Probability of each label that is spread over all classes. Defaults to 0.
        balanced: Whether to weight each image by the inverse frequency of its class (`balanced_weights`), also when it
            is held out. Defaults to False.
        strength: L2 strength. Defaults to cross-validation.
        seed: Random seed of the folds. Defaults to 0.

    >>> features = torch.tensor([[0.0], [1.0], [2.0], [3.0], [4.0], [5.0]])
    >>> solution = solve_head(features, torch.tensor([0, 0, 0, 1, 1, 1]), classes=2)
    >>> (features @ solution.weight.T + solution.bias).argmax(1).tolist()
    [0, 0, 0, 1, 1, 1]
    """
    own = labels.cpu()
    problem = _Problem.of(features, own, classes, views, label_smoothing, balanced)
    chosen, start = None, problem.zeros(1)
    if strength is None and int(torch.bincount(own).max()) > 1:
        chosen = _cross_validate(problem, draw_folds(own, seed).repeat(views))
        strength, start = chosen.strength, chosen.mean
    strength = 1 / len(own) if strength is None else strength
    all_images = features.new_ones(1, len(features))
    solution = problem.minimize(all_images, strength, start, EXACT)
    head = features.new_zeros(classes, solution.shape[2])
    head[:, -1] = solution[0, :, -1].min() - math.log(len(own))
    head[problem.solved] = solution[0]
    weight, bias = problem.space.fold_back(head)
    train_loss = problem.loss(solution, all_images)
    if chosen is None:
        return HeadSolution(weight, bias, strength, train_loss)
    return HeadSolution(weight, bias, strength, train_loss, chosen.losses, chosen.folds)


def cross_validate_head(features: Tensor, labels: Tensor, classes: int, *, seed: int = 0) -> CrossValidation:
    """Predict each image with a head fitted without it; the strength is chosen as in `solve_head`.

    Args:
        features: (images, values), float32 or float64, on any device.
        labels: Class indices (images,); at least one class needs two images.
        classes: Number of classes.
        seed: Random seed of the folds. Defaults to 0.

    >>> features = torch.tensor([[0.0], [1.0], [2.0], [7.0], [8.0], [9.0]])
    >>> cross_validate_head(features, torch.tensor([0, 0, 0, 1, 1, 1]), classes=2).classes.tolist()
    [0, 0, 0, 1, 1, 1]
    """
    own = labels.cpu()
    return _cross_validate(_Problem.of(features, own, classes), draw_folds(own, seed))


def draw_folds(labels: Tensor, seed: int) -> Tensor:
    """Draw the fold in which each image is held out (images,); -1 if its class has no other image.

    Args:
        labels: Class indices (images,); at least one class needs two images.
        seed: Random seed.
    """
    from sklearn.model_selection import StratifiedKFold

    counts = torch.bincount(labels)
    several = (counts[labels] > 1).nonzero()[:, 0].numpy()
    splitter = StratifiedKFold(min(FOLDS, int(counts.max())), shuffle=True, random_state=seed)
    fold_of = torch.full((len(labels),), -1)
    with warnings.catch_warnings():
        # the warning says that a class has fewer images than folds; its images are in different folds
        warnings.simplefilter("ignore", UserWarning)
        for number, (_, held_out) in enumerate(splitter.split(several, labels[several].numpy())):
            fold_of[several[held_out]] = number
    return fold_of


def _cross_validate(problem: "_Problem", fold_of: Tensor) -> CrossValidation:
    """Cross-validate from strong to weak, each strength starting from the previous solutions.

    Args:
        problem: Problem of all images.
        fold_of: Result of `draw_folds` for all views (views * images,).
    """
    folds = int(fold_of.max()) + 1
    fold_of = fold_of.to(problem.features.device)
    kept = torch.stack([fold_of != fold for fold in range(folds)]).to(problem.features)
    solutions, losses, limits = problem.zeros(folds), {}, {}
    found: dict[float, tuple[Tensor, Tensor]] = {}
    for strength in STRENGTHS:
        solutions = problem.minimize(kept, strength, solutions, ROUGH)
        losses[strength], error, classes = problem.held_out(solutions, fold_of)
        limits[strength] = losses[strength] + error
        found[strength] = classes, solutions.mean(0, keepdim=True)
        if min(losses.values()) < min(list(losses.values())[-WORSE:]):
            break
    limit = limits[min(losses, key=lambda strength: losses[strength])]
    chosen = max(strength for strength in losses if losses[strength] <= limit)
    return CrossValidation(chosen, losses, folds, *found[chosen])


@dataclass(frozen=True)
class _Space:
    """Coordinates in which the features are standardized and uncorrelated. The rotation does not change the penalty.

    The best weights are linear combinations of the images' features (Schölkopf et al. 2001,
    https://doi.org/10.1007/3-540-44581-1_27), so there are at most as many coordinates as images.
    """

    mean: Tensor
    deviation: Tensor
    """Standard deviation of each feature; infinite for a constant feature."""
    rotation: Tensor
    """Rotation matrix (values, coordinates)."""
    variances: Tensor
    """Variances of the coordinates, and 1 for the bias (coordinates + 1,)."""

    @classmethod
    def fit(cls, features: Tensor) -> tuple["_Space", Tensor]:
        """Fit the coordinates, and return the features in them, with a column of ones for the bias."""
        mean = features.mean(0)
        centered = features - mean
        deviation = centered.square().mean(0).sqrt()
        # the deviation of a constant feature is rounding error
        rounding = 4 * torch.finfo(features.dtype).eps * features.abs().amax(0)
        deviation = torch.where(deviation > rounding, deviation, torch.inf)
        centered /= deviation
        variances, rotation = _principal_axes(centered)
        ones = features.new_ones(len(features), 1)
        space = cls(mean, deviation, rotation, torch.cat([variances.clamp(min=0), ones[0]]))
        return space, torch.cat([centered @ rotation, ones], dim=1)

    def fold_back(self, head: Tensor) -> tuple[Tensor, Tensor]:
        """Convert weights and bias (classes, values + 1) into those of the original features."""
        head = head.double()
        weight = head[:, :-1] @ self.rotation.double().T / self.deviation
        bias = head[:, -1] - weight @ self.mean.double()
        return weight.to(self.mean.dtype), bias.to(self.mean.dtype)


def _principal_axes(centered: Tensor) -> tuple[Tensor, Tensor]:
    """Return the variances (components,) and the axes (values, components) of the principal components."""
    images, values = centered.shape
    if images >= values:
        variances, axes = torch.linalg.eigh(centered.T @ centered / images)
        return variances, axes
    basis = torch.linalg.qr(centered.T).Q  # of the space that the images span
    seen = centered @ basis
    variances, axes = torch.linalg.eigh(seen.T @ seen / images)
    return variances, basis @ axes


@dataclass(frozen=True)
class _Problem:
    """Logistic regressions on several selections of the images, solved at once with shared passes over the features."""

    features: Tensor
    """Features in the coordinates of `space` (images, values), with a last column of ones."""
    labels: Tensor
    """Labels as indices into `solved` (images,)."""
    weights: Tensor
    """Class weights in the loss (classes,)."""
    smoothing: float
    space: "_Space"
    solved: Tensor
    """Classes that can be learned from these images (classes,)."""

    @classmethod
    def of(
        cls,
        features: Tensor,
        labels: Tensor,
        classes: int,
        views: int = 1,
        smoothing: float = 0.0,
        balanced: bool = False,
    ) -> "_Problem":
        """Create the problem from the original features; see `solve_head`."""
        counts = torch.bincount(labels, minlength=classes)
        # without smoothing, the bias of a class without images would decrease forever
        solved = torch.arange(classes) if smoothing else counts.nonzero()[:, 0]
        weights = balanced_weights(labels.tolist(), classes) if balanced else torch.ones(classes)
        space, rotated = _Space.fit(features)
        own, device = torch.searchsorted(solved, labels).repeat(views), features.device
        return cls(rotated, own.to(device), weights[solved].to(rotated), smoothing, space, solved.to(device))

    def zeros(self, choices: int) -> Tensor:
        return self.features.new_zeros(choices, len(self.weights), self.features.shape[1])

    def minimize(self, chosen: Tensor, strength: float, start: Tensor, tolerance: float) -> Tensor:
        """Minimize by L-BFGS, in coordinates in which the curvature is about equal in all directions.

        Args:
            chosen: 1 for the images of each selection, else 0 (choices, images).
            strength: L2 strength.
            start: Starting weights (choices, classes, values).
            tolerance: Tolerance on the largest gradient entry.

        Returns:
            The solutions (choices, classes, values).
        """
        penalty = torch.full_like(self.space.variances, strength)
        penalty[-1] = 0
        scale = (self._curvature(start) * self.space.variances + penalty).rsqrt()
        shares = self._shares(chosen)
        point = (start / scale).requires_grad_()
        optimizer = torch.optim.LBFGS(
            [point], max_iter=1000, max_eval=5000, tolerance_grad=tolerance, tolerance_change=tolerance**2,
            history_size=10, line_search_fn="strong_wolfe",
        )  # fmt: skip

        @torch.no_grad()
        def evaluate() -> Tensor:
            solutions = point * scale
            loss, gradient = self._loss(solutions, shares)
            loss += (penalty * solutions.square()).sum(dtype=torch.float64) / 2
            if not loss.isfinite():  # the line search overflowed, and would take NaN for progress
                point.grad = torch.zeros_like(point)
                return loss.new_tensor(TOO_FAR)
            point.grad = (gradient + penalty * solutions) * scale
            return loss

        optimizer.step(evaluate)  # type: ignore[arg-type]
        return point.detach() * scale

    def loss(self, solutions: Tensor, chosen: Tensor) -> float:
        """Return the mean loss of the selected images, summed over the selections."""
        return float(self._loss(solutions, self._shares(chosen))[0])

    def held_out(self, solutions: Tensor, fold_of: Tensor) -> tuple[float, float, Tensor]:
        """Evaluate each image with the solution (folds, …) that was fitted without it.

        Returns:
            The mean cross-entropy; its standard error over the means of the folds; and on the CPU the most probable
            class of each image (images,), -1 if it was not held out.
        """
        totals = torch.zeros(len(solutions), dtype=torch.float64, device=self.features.device)
        classes = torch.full_like(fold_of, -1)
        for rows, log_p in self._log_probabilities(solutions):
            labels, folds = self.labels[rows], fold_of[rows]
            own = log_p[torch.arange(len(labels), device=labels.device), folds]
            losses = -(own.gather(1, labels[:, None])[:, 0] * self.weights[labels]).double()
            totals.index_add_(0, folds[folds >= 0], losses[folds >= 0])
            classes[rows] = torch.where(folds >= 0, self.solved[own.argmax(1)], -1)
        images = torch.bincount(fold_of[fold_of >= 0], minlength=len(solutions))
        error = float((totals / images).std() / math.sqrt(len(solutions)))
        return float(totals.sum() / images.sum()), error, classes.cpu()

    def _shares(self, chosen: Tensor) -> Tensor:
        """Return the share of each image in the mean of each selection (images, choices)."""
        return (chosen / chosen.sum(1, keepdim=True)).T.contiguous()

    def _loss(self, solutions: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean losses, summed over the selections, and their gradient; see `training_loss`."""
        total = torch.zeros((), dtype=torch.float64, device=self.features.device)
        gradient = torch.zeros_like(solutions).flatten(0, 1)
        spread = self.weights * self.smoothing / len(self.weights)
        for rows, log_p in self._log_probabilities(solutions):
            own = self.labels[rows].view(-1, 1, 1).expand(-1, log_p.shape[1], 1)
            own_weight = (1 - self.smoothing) * self.weights[own]
            losses = -own_weight * log_p.gather(2, own)
            if self.smoothing:
                losses -= log_p @ spread[:, None]
            total += (losses[:, :, 0] * shares[rows]).sum(dtype=torch.float64)
            residual = log_p.exp_().mul_(own_weight + spread.sum()).sub_(spread)
            residual.scatter_add_(2, own, -own_weight).mul_(shares[rows][:, :, None])
            gradient += residual.flatten(1).T @ self.features[rows]
        return total, gradient.view_as(solutions)

    def _curvature(self, solutions: Tensor) -> float:
        """Return the mean of p (1 - p), the second derivative of the loss by a logit, over images and classes."""
        total = 0.0
        for _, log_p in self._log_probabilities(solutions):
            p = log_p.exp_()
            total += float((p - p.square()).sum())
        return max(1e-4, total / (len(self.features) * solutions.shape[:2].numel()))

    def _log_probabilities(self, solutions: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Yield the log-probabilities of all images in chunks (rows, choices, classes)."""
        step = max(1, CHUNK // solutions.shape[:2].numel())
        for first in range(0, len(self.features), step):
            rows = slice(first, first + step)
            logits = self.features[rows] @ solutions.flatten(0, 1).T
            yield rows, logits.view(-1, *solutions.shape[:2]).log_softmax(2)
