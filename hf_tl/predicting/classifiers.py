"""Classifiers that predict: a model in torch, or an exported file in its own runtime."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np

from hf_tl.errors import ConfigError
from hf_tl.runtime.exported import exported_file
from hf_tl.runtime.whole import open_exported

if TYPE_CHECKING:
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

    def pixels(self, stored: Any, name: str) -> Any:
        """Return the pixels of a stored image, which errors name, as an array or tensor (channels, height, width)."""

    def probabilities(self, pixels: Sequence[Any]) -> np.ndarray:
        """Return the probability of each class, (images, classes), for the pixels of each image."""


class AbstainingClassifier(ImageClassifier, Protocol):
    """Classifier of a calibrated model."""

    @property
    def limits(self) -> "Limits":
        """Limits of abstention and of prediction sets."""

    def judge(self, pixels: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
        """Return probabilities (images, classes) and out-of-distribution scores (images,), for pixels of each image."""


def open_classifier(model: "AnyModel") -> "ExportedModel | WholeModel | TorchClassifier":
    """Open an exported model, or load any other; torch is imported for the latter alone.

    Raises:
        ConfigError: The runtime of an exported model is not installed.
        ModelError: There is no such model, or it cannot be used.
    """
    if isinstance(model, str | os.PathLike) and (file := exported_file(model)) is not None:
        return open_exported(file)
    from hf_tl.evaluation.holdout.loaded import LoadedClassifier

    return TorchClassifier(LoadedClassifier.load(model))


def open_abstaining(model: "AnyModel") -> AbstainingClassifier:
    """Open a calibrated model, or an exported file of one.

    Raises:
        ConfigError: The model was not calibrated, or the runtime of an exported one is not installed.
        ModelError: There is no such model, or what was calibrated is damaged or of other weights.
    """
    classifier = open_classifier(model)
    return _with_limits(classifier) if not isinstance(classifier, TorchClassifier) else classifier.calibrated()


def abstaining(classifier: "Classifier") -> AbstainingClassifier:
    """Return a classifier of an evaluation as one that abstains; the errors are those of `open_abstaining`."""
    from hf_tl.evaluation.holdout.loaded import LoadedClassifier

    if isinstance(classifier, LoadedClassifier):
        return TorchClassifier(classifier).calibrated()
    return _with_limits(cast("ExportedClassifier", classifier).exported)


def _with_limits(exported: "ExportedModel | WholeModel") -> AbstainingClassifier:
    if exported.limits is None:
        raise ConfigError(
            f"{exported.file} never abstains: it was exported before hf-tl calibrate, or is quantized; export the "
            "calibrated model again, or name its folder"
        )
    return cast("AbstainingClassifier", exported)


class TorchClassifier:
    """Model in torch, on a GPU where there is one; a model in memory stays on its device."""

    def __init__(self, classifier: "LoadedClassifier") -> None:
        from hf_tl.evaluation.metrics import MULTI_LABEL
        from hf_tl.processes.accelerator import available_device

        self._model, self._problem = classifier.model, classifier.problem
        self._transform = classifier.transforms.eval
        self.labels, self.is_multi_label = classifier.labels, classifier.problem is MULTI_LABEL
        self._classifier = classifier
        device = available_device()
        if classifier.source is not None and device is not None:
            self._model.to(device)

    @property
    def identity(self) -> str:
        """Digest of the weights."""
        return self._classifier.weights_digest

    def pixels(self, stored: Any, name: str) -> Any:
        """Return the pixels of a stored image."""
        return self._transform.apply(stored, name)

    def probabilities(self, pixels: Sequence[Any]) -> np.ndarray:
        """Return the probability of each class, (images, classes)."""
        import torch

        from hf_tl.backbones.stages.modules import inference
        from hf_tl.evaluation.measure import image_logits

        with inference(self._model):
            logits = image_logits(self._model, {"pixel_values": torch.stack(list(pixels)).to(self._model.device)})
        return np.asarray(self._problem.probabilities(logits.float()).cpu().numpy())

    def calibrated(self) -> "CalibratedClassifier":
        """Return the model with what was calibrated.

        Raises:
            ConfigError: It was not calibrated, or is in memory.
            ModelError: What was calibrated is damaged, or of other weights.
        """
        from hf_tl.abstention.detector import Detector

        if (source := self._classifier.source) is None:
            raise ConfigError("a model in memory never abstains: save it, run hf-tl calibrate, and name its folder")
        return CalibratedClassifier(
            self._classifier, Detector.load(source, self._classifier.weights_digest, len(self.labels))
        )


class CalibratedClassifier(TorchClassifier):
    """Model in torch with its detector."""

    def __init__(self, classifier: "LoadedClassifier", detector: "Detector") -> None:
        from hf_tl.abstention.head_input import HeadReader

        super().__init__(classifier)
        self.limits, self._detector, self._read_head = detector.limits, detector, HeadReader(self._model)

    def judge(self, pixels: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
        """Return probabilities (images, classes) and out-of-distribution scores (images,)."""
        import torch

        features, logits = self._read_head(torch.stack(list(pixels)))
        probabilities = self._problem.probabilities(logits).cpu().numpy()
        return np.asarray(probabilities), self._detector.scores(features.cpu().numpy(), logits.cpu().numpy())
