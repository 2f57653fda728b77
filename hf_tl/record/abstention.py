"""Calibration of abstention and prediction sets."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class AbstentionMeasured:
    """Results of abstention and prediction sets on images that neither training nor calibration used."""

    split: str
    images: int
    accepted: float
    """Share of images that the model does not abstain from."""
    accepted_interval: tuple[float, float]
    covered: float
    """Share of images whose prediction set holds their class."""
    covered_interval: tuple[float, float]
    covered_least: float
    """Smallest share of the images of a class whose set holds it."""
    covered_least_label: str
    set_size: float
    """Mean number of classes in a set."""


@dataclass(frozen=True)
class AbstentionRecord:
    """Detector of images unlike the training images, and thresholds of prediction sets."""

    weights_digest: str
    """Digest of the weights that they were fitted for."""
    score: str
    """Name of the out-of-distribution score."""
    separation: Mapping[str, float]
    """Area under the ROC curve of each score that was tried: validation images against their scrambled copies."""
    threshold: float
    """Largest score of an accepted image."""
    accept: float
    """Share of validation images to accept."""
    coverage: float
    """Share of the images of each class whose set is to hold it."""
    training_images: int
    """Number of training images that the score was fitted to."""
    validation_images: int
    measured: AbstentionMeasured | None = None
