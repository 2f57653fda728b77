"""Classifiers that predict: a model in torch, or an exported file in its own runtime."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from hf_tl.errors import ConfigError
from hf_tl.runtime.exported import exported_file
from hf_tl.runtime.whole import open_exported

if TYPE_CHECKING:
    from hf_tl.abstention.detector import Detector
    from hf_tl.abstention.head_input import HeadReader
    from hf_tl.evaluation.holdout.classifier import AnyModel, Classifier
    from hf_tl.evaluation.holdout.loaded import LoadedClassifier


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


def open_classifier(model: "AnyModel") -> ImageClassifier:
    """Open an exported model, or load any other; torch is imported for the latter alone.

    Raises:
        ConfigError: The runtime of an exported model is not installed.
        ModelError: There is no such model, or it cannot be used.
    """
    if isinstance(model, str | os.PathLike) and (file := exported_file(model)) is not None:
        return open_exported(file)
    from hf_tl.evaluation.holdout.loaded import LoadedClassifier

    return TorchClassifier(LoadedClassifier.load(model))


def with_detector(classifier: "Classifier") -> "tuple[TorchClassifier, Detector]":
    """Return a classifier with its detector of images unlike its training images.

    Raises:
        ConfigError: The model was not calibrated, or is an exported one.
        ModelError: The detector is damaged, or of other weights.
    """
    from hf_tl.abstention.detector import Detector
    from hf_tl.evaluation.holdout.loaded import LoadedClassifier

    if not isinstance(classifier, LoadedClassifier):
        raise ConfigError(
            f"{classifier.name} is an exported model, which never abstains: name the folder of the model itself"
        )
    if (source := classifier.source) is None:
        raise ConfigError("a model in memory never abstains: save it, run hf-tl calibrate, and name its folder")
    detector = Detector.load(source, classifier.weights_digest, len(classifier.labels))
    return TorchClassifier(classifier), detector


class TorchClassifier:
    """Model in torch, on a GPU where there is one; a model in memory stays on its device."""

    def __init__(self, classifier: "LoadedClassifier") -> None:
        from hf_tl.evaluation.metrics import MULTI_LABEL
        from hf_tl.processes.accelerator import available_device

        self._model, self._problem = classifier.model, classifier.problem
        self._transform = classifier.transforms.eval
        self.labels, self.is_multi_label = classifier.labels, classifier.problem is MULTI_LABEL
        self._classifier = classifier
        self._read_head: HeadReader | None = None
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

    def judge(self, pixels: Sequence[Any], detector: "Detector") -> tuple[np.ndarray, np.ndarray]:
        """Return probabilities (images, classes) and out-of-distribution scores (images,)."""
        import torch

        from hf_tl.abstention.head_input import HeadReader

        read = self._read_head = self._read_head or HeadReader(self._model)
        features, logits = read(torch.stack(list(pixels)))
        probabilities = self._problem.probabilities(logits).cpu().numpy()
        return np.asarray(probabilities), detector.scores(features.cpu().numpy(), logits.cpu().numpy())
