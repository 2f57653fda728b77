"""Classifiers that predict: a model in torch, or an exported file in its own runtime."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np

from hf_tl.errors import ConfigError
from hf_tl.runtime.exported import exported_file
from hf_tl.runtime.outputs import Outputs
from hf_tl.runtime.whole import open_exported

if TYPE_CHECKING:
    from torch import Tensor

    from hf_tl.abstention.detector import Detector
    from hf_tl.abstention.limits import Limits
    from hf_tl.evaluation.holdout.classifier import AnyModel, Classifier
    from hf_tl.evaluation.holdout.exported import ExportedClassifier
    from hf_tl.evaluation.holdout.loaded import LoadedClassifier
    from hf_tl.runtime.exported import ExportedModel
    from hf_tl.runtime.whole import WholeModel


class ImageClassifier(Protocol):
    """Classifier as predictions need it."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names, in the order of the probabilities."""

    @property
    def is_multi_label(self) -> bool:
        """Whether an image may have any number of classes."""

    @property
    def identity(self) -> str:
        """Digest of the weights, or of the file."""

    @property
    def limits(self) -> "Limits | None":
        """Limits of abstention and of prediction sets; None for a model that never abstains."""

    def pixels(self, stored: Any, name: str) -> Any:
        """Return the pixels of a stored image, which errors name, as an array or tensor (channels, height, width)."""

    def outputs(self, pixels: Sequence[Any]) -> Outputs:
        """Return the outputs for the pixels of each image."""


def open_classifier(
    model: "AnyModel", *, with_limits: bool = False, with_embeddings: bool = False
) -> "ExportedModel | WholeModel | TorchClassifier":
    """Open an exported model, or load any other; torch is imported for the latter alone.

    Args:
        model: Model.
        with_limits: Whether the limits of a calibrated model are needed.
        with_embeddings: Whether the inputs of its last layer are needed.

    Raises:
        ConfigError: The runtime of an exported model is not installed, the model was not calibrated, or its file has
            no embeddings.
        ModelError: There is no such model, it cannot be used, or what was calibrated is damaged or of other weights.
    """
    if not isinstance(model, str | os.PathLike) or (file := exported_file(model)) is None:
        from hf_tl.evaluation.holdout.loaded import LoadedClassifier

        loaded = LoadedClassifier.load(model)
        return TorchClassifier(loaded, with_limits=with_limits, with_embeddings=with_embeddings)
    if with_embeddings:
        raise ConfigError(
            f"--embeddings needs the saved model, and {file} gives no embeddings: name the model's folder"
        )
    exported = open_exported(file)
    return _check_limits(exported) if with_limits else exported


def abstaining(classifier: "Classifier") -> "ExportedModel | WholeModel | TorchClassifier":
    """Return a classifier of an evaluation as one with limits; the errors are those of `open_classifier`."""
    from hf_tl.evaluation.holdout.loaded import LoadedClassifier

    if isinstance(classifier, LoadedClassifier):
        return TorchClassifier(classifier, with_limits=True)
    return _check_limits(cast("ExportedClassifier", classifier).exported)


def _check_limits(exported: "ExportedModel | WholeModel") -> "ExportedModel | WholeModel":
    if exported.limits is None:
        raise ConfigError(
            f"{exported.file} never abstains: it was exported before hf-tl calibrate, or is quantized; export the "
            "calibrated model again, or name its folder"
        )
    return exported


class TorchClassifier:
    """Model in torch, on a GPU where there is one; a model in memory stays on its device.

    Args:
        classifier: Loaded model.
        with_limits: Whether to load what was calibrated.
        with_embeddings: Whether to return the inputs of the last layer.

    Raises:
        ConfigError: It was not calibrated, or is in memory.
        ModelError: What was calibrated is damaged, or of other weights.
    """

    def __init__(
        self, classifier: "LoadedClassifier", *, with_limits: bool = False, with_embeddings: bool = False
    ) -> None:
        from hf_tl.abstention.head_input import HeadReader
        from hf_tl.evaluation.metrics import MULTI_LABEL
        from hf_tl.processes.accelerator import available_device

        self._model, self._problem = classifier.model, classifier.problem
        self._transform = classifier.transforms.eval
        self.labels, self.is_multi_label = classifier.labels, classifier.problem is MULTI_LABEL
        self._classifier, self._with_embeddings = classifier, with_embeddings
        self._detector = _detector_of(classifier) if with_limits else None
        self._read_head = HeadReader(self._model) if with_limits or with_embeddings else None
        device = available_device()
        if classifier.source is not None and device is not None:
            self._model.to(device)

    @property
    def identity(self) -> str:
        """Digest of the weights."""
        return self._classifier.weights_digest

    @property
    def limits(self) -> "Limits | None":
        """Limits, if they were asked for."""
        return None if self._detector is None else self._detector.limits

    def pixels(self, stored: Any, name: str) -> Any:
        """Return the pixels of a stored image."""
        return self._transform.apply(stored, name)

    def outputs(self, pixels: Sequence[Any]) -> Outputs:
        """Return probabilities, and what else was asked for, for the pixels of each image."""
        import torch

        batch = torch.stack(list(pixels))
        if self._read_head is None:
            return Outputs(self._probabilities(self._logits(batch)))
        read, logits = self._read_head(batch)
        features = read.cpu().numpy()
        scores = None if self._detector is None else self._detector.scores(features, logits.cpu().numpy())
        return Outputs(self._probabilities(logits), scores, features if self._with_embeddings else None)

    def _logits(self, batch: "Tensor") -> "Tensor":
        from hf_tl.backbones.stages.modules import inference
        from hf_tl.evaluation.measure import image_logits

        with inference(self._model):
            return image_logits(self._model, {"pixel_values": batch.to(self._model.device)}).float()

    def _probabilities(self, logits: "Tensor") -> np.ndarray:
        return np.asarray(self._problem.probabilities(logits).cpu().numpy())


def _detector_of(classifier: "LoadedClassifier") -> "Detector":
    from hf_tl.abstention.detector import Detector

    if (source := classifier.source) is None:
        raise ConfigError("a model in memory never abstains: save it, run hf-tl calibrate, and name its folder")
    return Detector.load(source, classifier.weights_digest, len(classifier.labels))
