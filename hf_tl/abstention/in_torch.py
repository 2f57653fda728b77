"""Out-of-distribution scores as modules of torch, for exported networks."""

from collections.abc import Callable
from dataclasses import fields

import torch
from torch import Tensor, nn

from hf_tl.abstention.head_input import last_layer, with_input
from hf_tl.abstention.scores import NEIGHBORS, Energy, Mahalanobis, NearestNeighbors, Score


class LogitsAndScore(nn.Module):
    """Classifier as a function from pixels to logits and out-of-distribution scores.

    Args:
        model: Classifier.
        score: Fitted score of `hf_tl.abstention.scores`.
        pixels: Images (images, channels, height, width), with which the last layer is found.
    """

    def __init__(self, model: nn.Module, score: Score, pixels: Tensor) -> None:
        super().__init__()
        self.model, self._name = model, score.name
        self._last_layer = [last_layer(model, pixels)]  # in a list, since the model holds it
        for field in fields(score):  # type: ignore[arg-type]
            self.register_buffer(field.name, torch.from_numpy(getattr(score, field.name)))

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        """Compute logits (images, classes) and scores (images,)."""
        features, logits = with_input(self._last_layer[0], lambda: self.model(pixel_values=pixel_values).logits)
        return logits, FORMULAS[self._name](features.float(), logits.float(), *self.buffers(recurse=False))


def _distance(features: Tensor, logits: Tensor, bank: Tensor) -> Tensor:
    similarity = nn.functional.normalize(features) @ bank.float().T
    nearest = similarity.topk(min(NEIGHBORS, len(bank)), dim=1).values[:, -1]
    return (2 - 2 * nearest).clamp_min(0).sqrt()


def _mahalanobis(features: Tensor, logits: Tensor, whitening: Tensor, means: Tensor) -> Tensor:
    white = features @ whitening
    return ((white.unsqueeze(1) - means) ** 2).sum(dim=2).amin(dim=1)


def _energy(features: Tensor, logits: Tensor) -> Tensor:
    return -logits.logsumexp(dim=1)


FORMULAS: dict[str, Callable[..., Tensor]] = {
    NearestNeighbors.name: _distance,
    Mahalanobis.name: _mahalanobis,
    Energy.name: _energy,
}
"""Scores by name, as functions of features, logits and the arrays of the score."""
