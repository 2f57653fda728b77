"""Classifier as evaluations need it, whatever runs it: a model in torch, or an exported file in its own runtime."""

import os
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, Union

from hf_tl.data.decoding.images import ImageTransform
from hf_tl.data.decoding.scaling import PixelScaling
from hf_tl.evaluation.metrics import ProblemType
from hf_tl.record import LearnedFrom, RunRecord

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

AnyModel: TypeAlias = Union[str, os.PathLike[str], "PreTrainedModel"]
"""Model as all functions of hf_tl take it: a folder, a Hub id, the result of a run, or a loaded model. Those that run
models, and do not train or convert them, take the folder or the file of an exported model too."""


class Classifier(Protocol):
    """Classifier to evaluate, with what is known of its training."""

    @property
    def network(self) -> "nn.Module":
        """Network of torch: `pixel_values` to an output with `logits`."""

    @property
    def transform(self) -> ImageTransform:
        """Transform of stored images to inputs of the network."""

    @property
    def scaling(self) -> PixelScaling | None:
        """Map from pixel levels to inputs of the network; None if it is not linear in each channel."""

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width of the inputs of the network."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names, in the order of the logits."""

    @property
    def problem(self) -> ProblemType:
        """Problem type of the model."""

    @property
    def record(self) -> RunRecord | None:
        """Record of the training; None if there is none of these weights.

        Raises:
            ModelError: The record cannot be read or downloaded.
        """

    @property
    def learned(self) -> LearnedFrom:
        """Training images of the model, as far as they are known."""

    @property
    def weights_digest(self) -> str:
        """Digest of the weights."""

    @property
    def name(self) -> str:
        """Publishable name."""

    def describe(self) -> dict[str, Any]:
        """Describe the network as plain values, without a path: `architecture`, `strategy`, `parameters`, `runtime`."""
