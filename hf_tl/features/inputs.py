"""Inputs of a phase: images, or features of the frozen prefix."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from hf_tl.backbones.prefix.boundary import Boundary
from hf_tl.evaluation.measure import image_logits
from hf_tl.features.feature_store import ChosenRows, FeatureRows
from hf_tl.record.parts import PrecisionRecord
from hf_tl.views.views import Key

LogitsOf = Callable[[nn.Module, Mapping[str, Any]], Tensor]


@dataclass(frozen=True)
class PhaseInputs:
    """Training and validation data of a phase, and the function from a batch to logits."""

    train: Dataset[Any]
    """Training data, indexed by `Key`."""
    collate: Callable[[Any], Mapping[str, Any]]
    validation: Any
    """Validation data; None without evaluation."""
    validation_collate: Callable[[Any], Mapping[str, Any]]
    logits_of: LogitsOf = image_logits
    are_features: bool = False
    are_reused: bool = False
    """Whether all features were in the cache before the phase."""
    frozen_precision: PrecisionRecord | None = None
    """Precision of the frozen part; None if it runs with the rest."""
    taught: Callable[[Mapping[str, Any]], Tensor] | None = None
    """Function from a batch to the logits of the teacher for it; None without a teacher."""
    order: Callable[[int], Sequence[int]] | None = None
    """Function from an epoch to the order of its training images; None allows any order."""

    @property
    def runs_prefix(self) -> bool:
        """Return whether each step runs the frozen part apart from the rest."""
        return self.frozen_precision is not None and not self.are_features


class FeatureViews(Dataset[Any]):
    """Features of training images with the interface of `TrainingViews`: `views[epoch, index]`.

    Args:
        views: Features of the images, one set per view; epochs cycle through them.
        labels: Labels of the images, (images,) or (images, classes).
        taught: Logits of a teacher, one set per view. Defaults to none.
    """

    def __init__(
        self,
        views: Sequence[FeatureRows | ChosenRows],
        labels: Tensor,
        taught: Sequence[FeatureRows | ChosenRows] = (),
    ) -> None:
        self.views, self.labels, self.taught = views, labels, taught

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, key: Key | int) -> dict[str, Any]:
        return self.__getitems__([key])

    def __getitems__(self, keys: Sequence[Key | int]) -> dict[str, Any]:
        """Read a whole batch at once for a data loader."""
        places = [(0, key) if isinstance(key, int) else (key[0] % len(self.views), key[1]) for key in keys]
        index = torch.tensor([row for _, row in places])
        batch = {"labels": self.labels[index], "index": index, "features": _read(self.views, places)}
        return {**batch, "taught": _read(self.taught, places)[0]} if self.taught else batch


def _read(views: Sequence[FeatureRows | ChosenRows], places: Sequence[tuple[int, int]]) -> list[Tensor]:
    """Read rows, each of a view of its own."""
    used = {view for view, _ in places}
    if len(used) == 1:
        return views[used.pop()].read([row for _, row in places])
    single = [views[view].read([row]) for view, row in places]
    return [torch.cat(tensors) for tensors in zip(*single, strict=True)]


def as_read(batch: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the batch unchanged: `FeatureViews` already collates."""
    return batch


def feature_logits(boundary: Boundary) -> LogitsOf:
    """Return the function from a batch of features to logits."""

    def logits_of(model: nn.Module, batch: Mapping[str, Any]) -> Tensor:
        return boundary.logits(model, batch["features"])

    return logits_of
