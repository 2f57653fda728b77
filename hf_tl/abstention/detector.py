"""Detector of foreign images and thresholds of prediction sets, as they are saved beside a model."""

import json
import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

import numpy as np

from hf_tl.abstention.limits import Limits
from hf_tl.abstention.scores import SCORES, Score
from hf_tl.errors import ConfigError, ModelError, unreadable

FILE = "abstention.safetensors"
SCHEMA_VERSION = 1
_METADATA = "hf_tl"
_SETS = "set_thresholds"


@dataclass(frozen=True)
class Detector:
    """Score with the threshold from which a model abstains, and the thresholds of its prediction sets."""

    score: Score
    limits: Limits
    weights_digest: str
    """Digest of the weights that it was fitted for."""

    def scores(self, features: np.ndarray, logits: np.ndarray) -> np.ndarray:
        """Return the out-of-distribution score of each image, (images,).

        Args:
            features: Input of the last layer (images, features).
            logits: Logits (images, classes).

        Raises:
            ModelError: The features are not those that the detector was fitted to.
        """
        try:
            return np.asarray(self.score(features, logits))
        except ValueError as error:
            raise ModelError(f"{FILE} does not fit the model: {error}; run hf-tl calibrate again") from error

    def save(self, folder: Path) -> None:
        """Write the file into a folder.

        Raises:
            OSError: The disk is full or read-only.
        """
        from safetensors.numpy import save

        content = {"schema_version": SCHEMA_VERSION, "score": self.score.name}
        metadata = {
            _METADATA: json.dumps(
                {**content, "threshold": self.limits.threshold, "weights_digest": self.weights_digest}
            )
        }
        tensors = {field.name: np.ascontiguousarray(getattr(self.score, field.name)) for field in fields(self.score)}  # type: ignore[arg-type]
        (folder / FILE).write_bytes(save({**tensors, _SETS: self.limits.set_thresholds}, metadata))

    @classmethod
    def load(cls, model: str | os.PathLike[str], weights_digest: str, classes: int) -> Self:
        """Load the detector of a saved model from its folder or from the Hub.

        Args:
            model: Folder or Hub id.
            weights_digest: Digest of the weights of the model.
            classes: Number of its classes.

        Raises:
            ConfigError: There is none.
            ModelError: It is damaged, or was fitted for other weights.
        """
        from transformers.utils import cached_file

        try:
            file = cached_file(os.fspath(model), FILE, _raise_exceptions_for_missing_entries=False)
        except OSError as error:
            raise ModelError(f"{FILE} of {model} cannot be read: {error}") from error
        if file is None:
            raise ConfigError(
                f"{model} has no {FILE}, which says when it abstains: hf-tl calibrate {model} --dataset IMAGES"
            )
        detector = cls.read(Path(file), classes)
        detector.check_weights(weights_digest, os.fspath(model))
        return detector

    def check_weights(self, weights_digest: str | None, model: str) -> None:
        """Check that the detector was fitted for the weights of a model, which the message names.

        Raises:
            ModelError: It was fitted for others.
        """
        if self.weights_digest != weights_digest:
            raise ModelError(f"{FILE} of {model} was fitted for other weights: run hf-tl calibrate again")

    @classmethod
    def read(cls, file: Path, classes: int) -> Self:
        """Read a file.

        Raises:
            ModelError: It is damaged.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(file, "numpy") as opened:
                content = json.loads((opened.metadata() or {})[_METADATA])
                tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            return cls(*_checked(content, tensors, classes), content["weights_digest"])
        except (OSError, SafetensorError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
            raise ModelError(f"{file} cannot be read: {unreadable(error)}; run hf-tl calibrate again") from error


def _checked(content: Any, tensors: dict[str, np.ndarray], classes: int) -> tuple[Score, Limits]:
    """Return score and limits.

    Raises:
        ValueError: A value is of another kind or size.
    """
    if content["schema_version"] != SCHEMA_VERSION:
        raise ValueError(f"schema version {content['schema_version']!r}, expected {SCHEMA_VERSION}")
    kind, thresholds = SCORES[content["score"]], tensors.pop(_SETS)
    names = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    are_arrays = all(array.ndim == 2 and array.size and np.isfinite(array).all() for array in tensors.values())
    if tensors.keys() != names or not are_arrays:
        raise ValueError(f"arrays {', '.join(sorted(tensors)):.200}, expected {', '.join(sorted(names))}")
    if not isinstance(content["weights_digest"], str):
        raise ValueError("no digest of the weights")
    return kind(**tensors), Limits.from_json({**content, "set_thresholds": thresholds}, classes)
