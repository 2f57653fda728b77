"""Calibration of a saved model on held-out images: when it abstains, and which classes its prediction sets hold."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_tl.abstention.detector import Detector
from hf_tl.abstention.limits import Limits
from hf_tl.abstention.prediction_sets import quantile, set_thresholds
from hf_tl.abstention.reading import HeadOutputs, read_heads, scrambled
from hf_tl.abstention.scores import SCORES, Score
from hf_tl.data.columns import LABEL
from hf_tl.data.image_data import AnyDataset, ImageData
from hf_tl.errors import ConfigError, DataError, ModelError, name_some
from hf_tl.evaluation.holdout.loaded import LoadedClassifier
from hf_tl.evaluation.intervals import wilson_interval
from hf_tl.evaluation.leakage import measurable, open_again
from hf_tl.evaluation.metrics import MULTI_LABEL, SINGLE_LABEL
from hf_tl.processes.accelerator import available_device
from hf_tl.ranges import COUNT, SHARE, check_argument
from hf_tl.record import AbstentionMeasured, AbstentionRecord
from hf_tl.reporting.console import logger, progress_bar

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

ACCEPT, COVERAGE = 0.95, 0.9
MOST_STORED = 2048
"""Largest number of training images whose features are used: 2 bytes each for each feature."""
MOST_SCRAMBLED = 512
"""Largest number of validation images that are scrambled to choose the score."""


def calibrate(
    model: str | os.PathLike[str],
    dataset: AnyDataset | None = None,
    *,
    accept: float = ACCEPT,
    coverage: float = COVERAGE,
    batch_size: int = 64,
    **reading: Any,
) -> AbstentionRecord:
    """Fit on held-out images when a saved model abstains, and which classes its prediction sets hold.

    Nothing is trained. The features of training images are stored, the thresholds are set on validation images, and
    the results are measured on test images, with the splits of the training. The folder gets `abstention.safetensors`,
    and its record and card say what was measured.

    Args:
        model: Folder of a saved model with one class per image.
        dataset: Images that the model was trained on, as in `hf_tl.train` (default: those of the training, if they are
            a Hub dataset or digits).
        accept: Share of validation images that the model does not abstain from.
        coverage: Share of the images of each class whose prediction set holds it.
        batch_size: Number of images per step.
        reading: Arguments of `hf_tl.load_data` about how to read the dataset, such as `label_column`.

    Returns:
        What was fitted and measured, as the record of the model holds it.

    Raises:
        ConfigError: The model is no folder, or the dataset must be named.
        DataError: The dataset has other classes, or too few images that the model was not trained on.
        ModelError: There is no such model, or it is multi-label.
        SaveError: The disk is full or read-only.

    >>> import hf_tl
    >>> result = hf_tl.calibrate("photos-model", "photos", accept=0.5, coverage=0.5)
    >>> result.score in SCORES, 0 <= result.measured.covered <= 1
    (True, True)
    """
    for name, value in (("accept", accept), ("coverage", coverage)):
        check_argument(name, value, SHARE)
    check_argument("batch_size", batch_size, COUNT)
    if not Path(model).is_dir():
        raise ConfigError(f"expected the folder of a saved model, found {os.fspath(model)!r}; get it with hf-tl pull")
    classifier = LoadedClassifier.load(model)
    data = _open(classifier, dataset, reading)
    if (device := available_device()) is not None:
        classifier.model.to(device)
    train, validation, test = (_read(classifier, data, split, batch_size) for split in ("train", "validation", "test"))
    foreign = _read(classifier, data, "validation", batch_size, scrambled)
    groups = {split: np.asarray(names) for split, names in data.groups.items()}
    score, separation = _choose_score(train, validation, foreign)
    threshold = quantile(score(validation.features, validation.logits), accept, groups.get("validation"))
    if threshold is None:
        raise DataError(
            f"--accept {accept:g} needs more validation images (or groups of them) than {len(validation.labels):,}: "
            "accept fewer, or hold out more with --validation_fraction in the training"
        )
    thresholds = set_thresholds(_probabilities(validation), validation.labels, coverage, groups.get("validation"))
    detector = Detector(score, Limits(threshold, thresholds), classifier.weights_digest)
    record = AbstentionRecord(
        weights_digest=classifier.weights_digest,
        score=score.name,
        separation=separation,
        threshold=threshold,
        accept=accept,
        coverage=coverage,
        training_images=len(train.labels),
        validation_images=len(validation.labels),
        measured=_measure(detector, test, classifier.labels),
    )
    _save(classifier, Path(model), detector, record)
    return record


def _open(classifier: LoadedClassifier, dataset: AnyDataset | None, reading: Any) -> ImageData:
    """Open the dataset as the training split it, with the classes in the order of the model.

    Raises:
        DataError: It has other classes, or is streamed.
        ModelError: The model is multi-label.
    """
    from hf_tl.data.streaming.streams import streams_of

    if classifier.problem is MULTI_LABEL:
        raise ModelError("expected a model with one class per image, found a multi-label model, which never abstains")
    data = open_again(classifier.record, classifier.learned, dataset, **reading)
    if streams_of(data.splits):
        raise DataError("expected images that can be read more than once, found a stream: leave out --streaming")
    if set(data.labels) != set(classifier.labels) or data.problem_type != SINGLE_LABEL.name:
        differing = sorted(set(data.labels) ^ set(classifier.labels))
        raise DataError(
            f"expected the classes of the model in {data.name}, found differences: {name_some(differing)}; name the "
            "images that the model was trained on"
        )
    data, leakage = measurable(data, {"the model": classifier.learned})
    for note in dict.fromkeys(note for split in leakage.values() for note in split.describe()):
        logger.warning("%s", note)
    return data


def _read(
    classifier: LoadedClassifier,
    data: ImageData,
    split: str,
    batch_size: int,
    change: "Callable[[Tensor], Tensor] | None" = None,
) -> HeadOutputs:
    images, title = data.splits[split], f"Reading {split} images"
    if split == "train":
        images = images.select(_evenly_by_class(np.asarray(images[LABEL][:])))
    if change is not None:
        images, title = images.select(_evenly(len(images))), "Reading scrambled images"
    order = np.array([classifier.labels.index(label) for label in data.labels])
    outputs = read_heads(
        classifier.model,
        classifier.transforms.eval.over(images),
        batch_size,
        change=change,
        progress=lambda batches: progress_bar(iterable=batches, desc=title, unit="step"),
    )
    return HeadOutputs(outputs.features, outputs.logits, order[outputs.labels])


def _evenly_by_class(labels: np.ndarray) -> list[int]:
    """Return at most `MOST_STORED` rows, the same number of each class where there are as many."""
    places = np.zeros(len(labels), int)
    for label in np.unique(labels):
        rows = np.random.default_rng(0).permutation(np.flatnonzero(labels == label))
        places[rows] = np.arange(len(rows))
    return sorted(np.argsort(places, kind="stable")[:MOST_STORED].tolist())


def _evenly(count: int) -> list[int]:
    return np.unique(np.linspace(0, count - 1, min(count, MOST_SCRAMBLED)).astype(int)).tolist()


def _choose_score(train: HeadOutputs, own: HeadOutputs, foreign: HeadOutputs) -> tuple[Score, dict[str, float]]:
    """Return the score that separates validation images best from their scrambled copies, and the AUROC of each."""
    from sklearn.metrics import roc_auc_score

    fitted = {name: kind.fit(train.features, train.labels) for name, kind in SCORES.items()}
    usable = {name: score for name, score in fitted.items() if score is not None}
    is_foreign = np.repeat([False, True], [len(own.labels), len(foreign.labels)])
    separation = {
        name: float(
            roc_auc_score(is_foreign, np.concatenate([score(each.features, each.logits) for each in (own, foreign)]))
        )
        for name, score in usable.items()
    }
    return usable[max(separation, key=separation.__getitem__)], separation


def _probabilities(outputs: HeadOutputs) -> np.ndarray:
    from scipy.special import softmax

    return np.asarray(softmax(outputs.logits.astype(np.float64), axis=1))


def _measure(detector: Detector, test: HeadOutputs, labels: Sequence[str]) -> AbstentionMeasured:
    is_accepted = detector.limits.accepts(detector.scores(test.features, test.logits))
    sets = detector.limits.sets(_probabilities(test))
    is_covered = sets[np.arange(len(sets)), test.labels]
    by_class = {label: float(is_covered[test.labels == label].mean()) for label in np.unique(test.labels)}
    least = min(by_class, key=by_class.__getitem__)
    count = len(sets)
    return AbstentionMeasured(
        split="test",
        images=count,
        accepted=float(is_accepted.mean()),
        accepted_interval=wilson_interval(int(is_accepted.sum()), count),
        covered=float(is_covered.mean()),
        covered_interval=wilson_interval(int(is_covered.sum()), count),
        covered_least=by_class[least],
        covered_least_label=labels[least],
        set_size=float(sets.sum(axis=1).mean()),
    )


def _save(classifier: LoadedClassifier, folder: Path, detector: Detector, record: AbstentionRecord) -> None:
    from dataclasses import replace

    from hf_tl.publish.save import write_beside

    run = classifier.record
    write_beside(folder, detector.save, None if run is None else replace(run, abstention=record))
