"""Coordinates in which the logistic regression of a head is solved."""

from dataclasses import dataclass

import torch
from torch import Tensor

from hf_tl.storage.rows import blocks, new_rows


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
    """Variances of the coordinates (coordinates,)."""

    @classmethod
    def fit(cls, features: Tensor) -> "Coordinates":
        """Fit the coordinates of features (images, values), which are read in blocks."""
        sums = torch.zeros(features.shape[1], dtype=torch.float64, device=features.device)
        largest = features.new_zeros(features.shape[1])
        for rows in blocks(features):
            sums += features[rows].sum(0, dtype=torch.float64)
            largest = torch.maximum(largest, features[rows].abs().amax(0))
        mean = (sums / len(features)).to(features.dtype)
        squares = torch.zeros_like(sums)
        for rows in blocks(features):
            squares += (features[rows] - mean).square_().sum(0, dtype=torch.float64)
        deviation = (squares / len(features)).sqrt().to(features.dtype)
        # the deviation of a constant feature is rounding error
        rounding = 4 * torch.finfo(features.dtype).eps * largest
        deviation = torch.where(deviation > rounding, deviation, torch.inf)
        variances, rotation = _principal_axes(features, mean, deviation)
        return cls(mean, deviation, rotation, variances.clamp(min=0))

    def apply(self, features: Tensor, *, overwrite: bool) -> Tensor:
        """Return features in these coordinates (images, coordinates), in place if `overwrite` is set and they fit.

        Raises:
            OSError: They are too large for the memory, and the disk is full.
        """
        images, values = features.shape
        coordinates = self.rotation.shape[1]
        is_in_place = overwrite and coordinates == values
        rotated = features if is_in_place else new_rows(images, coordinates, features.dtype, features.device)
        for rows in blocks(features):
            rotated[rows] = (features[rows] - self.mean).div_(self.deviation) @ self.rotation
        return rotated

    def fold_back(self, head: Tensor) -> tuple[Tensor, Tensor]:
        """Convert weights and bias (classes, values + 1) into those of the original features."""
        head = head.double()
        weight = head[:, :-1] @ self.rotation.double().T / self.deviation
        bias = head[:, -1] - weight @ self.mean.double()
        return weight.to(self.mean.dtype), bias.to(self.mean.dtype)


def _principal_axes(features: Tensor, mean: Tensor, deviation: Tensor) -> tuple[Tensor, Tensor]:
    """Return the variances (components,) and the axes (values, components) of the standardized features."""
    images, values = features.shape
    if images >= values:
        products = features.new_zeros(values, values)
        for rows in blocks(features):
            centered = (features[rows] - mean).div_(deviation)
            products.addmm_(centered.T, centered)
        variances, axes = torch.linalg.eigh(products / images)
        return variances, axes
    centered = (features - mean) / deviation
    basis = torch.linalg.qr(centered.T).Q  # of the space that the images span
    seen = centered @ basis
    variances, axes = torch.linalg.eigh(seen.T @ seen / images)
    return variances, basis @ axes
