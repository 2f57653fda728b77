"""Multinomial logistic regressions with an L2 penalty, solved by L-BFGS."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from hf_tl.errors import TrainingError
from hf_tl.head.coordinates import Coordinates
from hf_tl.optimization.loss import balanced_weights
from hf_tl.storage.rows import blocks

OVERFLOW_LOSS = 1e100
"""Loss returned on float32 overflow. It is finite, because the line search squares it."""
MAX_LOGITS = 1 << 22
"""Maximum number of logits in memory at a time."""
MAX_WEIGHTS = 1 << 24
"""Maximum number of weights that are solved together."""
ADVICE = "as with random weights and extreme images: choose another --model, or pretrained weights"
"""End of the errors about numbers that are not finite."""


@dataclass(frozen=True)
class LogisticRegressions:
    """Logistic regressions on several selections of the images, solved at once with shared passes over the features."""

    features: Tensor
    """Features in `coordinates` (images, values)."""
    labels: Tensor
    """Labels as indices into `classes` (images,)."""
    weights: Tensor
    """Class weights in the loss (classes,)."""
    smoothing: float
    coordinates: Coordinates
    classes: Tensor
    """Indices of the classes that can be learned from these images (classes,)."""

    @classmethod
    def from_features(
        cls,
        features: Tensor,
        labels: Tensor,
        classes: int,
        views: int = 1,
        smoothing: float = 0.0,
        balanced: bool = False,
        overwrite: bool = False,
    ) -> "LogisticRegressions":
        """Build the regressions from the original features; see `solve_head`.

        Raises:
            TrainingError: A feature is not finite.
        """
        if not all(torch.isfinite(features[rows]).all() for rows in blocks(features)):
            raise TrainingError(f"the features of the backbone are not finite, {ADVICE}")
        counts = torch.bincount(labels, minlength=classes)
        # without smoothing, the bias of a class without images would decrease forever
        learnable = torch.arange(classes) if smoothing else counts.nonzero()[:, 0]
        weights = balanced_weights(labels.tolist(), classes) if balanced else torch.ones(classes)
        coordinates = Coordinates.fit(features)
        rotated = coordinates.apply(features, overwrite=overwrite)
        indices, device = torch.searchsorted(learnable, labels).repeat(views), features.device
        weights = weights[learnable].to(rotated)
        return cls(rotated, indices.to(device), weights, smoothing, coordinates, learnable.to(device))

    def zeros(self, selections: int) -> Tensor:
        """Return starting weights of zero (selections, classes, values + 1); the last ones are the biases."""
        return self.features.new_zeros(selections, len(self.weights), self.features.shape[1] + 1)

    def minimize(self, selected: Tensor, strength: float, start: Tensor, tolerance: float) -> Tensor:
        """Minimize by L-BFGS, in coordinates in which the curvature is about equal in all directions.

        L-BFGS keeps about 30 vectors of the size of the weights. Selections are solved together as far as these are
        small.

        Args:
            selected: 1 for the images of each selection, else 0 (selections, images).
            strength: L2 strength.
            start: Starting weights (selections, classes, values).
            tolerance: Tolerance on the largest gradient entry.

        Returns:
            The solutions (selections, classes, values + 1).
        """
        together = max(1, MAX_WEIGHTS // start[0].numel())
        parts = zip(selected.split(together), start.split(together), strict=True)
        return torch.cat([self._minimize(*part, strength, tolerance) for part in parts])

    def _minimize(self, selected: Tensor, start: Tensor, strength: float, tolerance: float) -> Tensor:
        variances = torch.cat([self.coordinates.variances, start.new_ones(1)])
        penalty = torch.full_like(variances, strength)
        penalty[-1] = 0
        scale = (self._curvature(start) * variances + penalty).rsqrt()
        shares = self._shares(selected)
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
                return loss.new_tensor(OVERFLOW_LOSS)
            point.grad = (gradient + penalty * solutions) * scale
            return loss

        optimizer.step(evaluate)  # type: ignore[arg-type]
        return point.detach() * scale

    def loss(self, solutions: Tensor, selected: Tensor) -> float:
        """Return the mean loss of the selected images, summed over the selections."""
        return float(self._loss(solutions, self._shares(selected))[0])

    def evaluate_held_out(self, solutions: Tensor, fold_of: Tensor) -> tuple[float, float, Tensor]:
        """Evaluate each image with the solution (folds, …) that was fitted without it.

        Returns:
            The mean cross-entropy; its standard error over the means of the folds; and on the CPU the most probable
            class of each image (images,), -1 if it was not held out.
        """
        totals = torch.zeros(len(solutions), dtype=torch.float64, device=self.features.device)
        classes = torch.full_like(fold_of, -1)
        for rows, log_p in self._log_probabilities(solutions):
            labels, folds = self.labels[rows], fold_of[rows]
            held_out = log_p[torch.arange(len(labels), device=labels.device), folds]
            losses = -(held_out.gather(1, labels[:, None])[:, 0] * self.weights[labels]).double()
            totals.index_add_(0, folds[folds >= 0], losses[folds >= 0])
            classes[rows] = torch.where(folds >= 0, self.classes[held_out.argmax(1)], -1)
        images = torch.bincount(fold_of[fold_of >= 0], minlength=len(solutions))
        error = float((totals / images).std() / math.sqrt(len(solutions)))
        return float(totals.sum() / images.sum()), error, classes.cpu()

    def _shares(self, selected: Tensor) -> Tensor:
        """Return the share of each image in the mean of each selection (images, selections)."""
        return (selected / selected.sum(1, keepdim=True)).T.contiguous()

    def _loss(self, solutions: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean losses, summed over the selections, and their gradient; see `training_loss`."""
        total = torch.zeros((), dtype=torch.float64, device=self.features.device)
        gradient = torch.zeros_like(solutions).flatten(0, 1)
        slopes, intercepts = gradient[:, :-1], gradient[:, -1]
        spread = self.weights * self.smoothing / len(self.weights)
        for rows, log_p in self._log_probabilities(solutions):
            labels = self.labels[rows].view(-1, 1, 1).expand(-1, log_p.shape[1], 1)
            label_weight = (1 - self.smoothing) * self.weights[labels]
            losses = -label_weight * log_p.gather(2, labels)
            if self.smoothing:
                losses -= log_p @ spread[:, None]
            total += (losses[:, :, 0] * shares[rows]).sum(dtype=torch.float64)
            residual = log_p.exp_().mul_(label_weight + spread.sum()).sub_(spread)
            residual.scatter_add_(2, labels, -label_weight).mul_(shares[rows][:, :, None])
            slopes.addmm_(residual.flatten(1).T, self.features[rows])
            intercepts += residual.flatten(1).sum(0)
        return total, gradient.view_as(solutions)

    def _curvature(self, solutions: Tensor) -> float:
        """Return the mean of p (1 - p), the second derivative of the loss by a logit, over images and classes."""
        total = 0.0
        for _, log_p in self._log_probabilities(solutions):
            p = log_p.exp_()
            total += float((p - p.square()).sum())
        return max(1e-4, total / (len(self.features) * solutions.shape[:2].numel()))

    def _log_probabilities(self, solutions: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Yield the log-probabilities of all images in chunks (rows, selections, classes)."""
        slopes, intercepts = solutions.flatten(0, 1).split(self.features.shape[1], 1)
        step = max(1, MAX_LOGITS // solutions.shape[:2].numel())
        for first in range(0, len(self.features), step):
            rows = slice(first, first + step)
            logits = torch.addmm(intercepts[:, 0], self.features[rows], slopes.T)
            yield rows, logits.view(-1, *solutions.shape[:2]).log_softmax(2)
