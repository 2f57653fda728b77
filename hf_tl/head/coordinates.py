"""Coordinates in which the logistic regression of a head is solved."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Coordinates:
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
    def fit(cls, features: Tensor) -> tuple["Coordinates", Tensor]:
        """Fit the coordinates, and return the features in them, with a column of ones for the bias."""
        mean = features.mean(0)
        centered = features - mean
        deviation = centered.square().mean(0).sqrt()
        # the deviation of a constant feature is rounding error
        rounding = 4 * torch.finfo(features.dtype).eps * features.abs().amax(0)
        deviation = torch.where(deviation > rounding, deviation, torch.inf)
        centered /= deviation
        variances, rotation = _principal_axes(centered)
        intercept = features.new_ones(len(features), 1)
        coordinates = cls(mean, deviation, rotation, torch.cat([variances.clamp(min=0), intercept[0]]))
        return coordinates, torch.cat([centered @ rotation, intercept], dim=1)

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
