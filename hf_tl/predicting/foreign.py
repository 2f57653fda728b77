"""Foreign images, of none of a model's classes: how well its out-of-distribution score separates them from its own."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hf_tl.evaluation.intervals import CONFIDENCE, RESAMPLES, Interval, wilson_interval
from hf_tl.predicting.classifiers import ImageClassifier
from hf_tl.predicting.inputs import NamedImage, collect_images
from hf_tl.predicting.predict import Predictor, Returned, check_any_readable, describe_unreadable
from hf_tl.reporting.console import logger, progress_bar
from hf_tl.reporting.numbers import decimal, percent, range_of


@dataclass(frozen=True)
class ForeignMeasured:
    """Results of abstention on foreign images, beside the model's own."""

    images: int
    """Number of foreign images that could be read."""
    own_images: int
    """Number of the model's own images, which are those of the evaluation."""
    auroc: float
    """Area under the ROC curve: share of the pairs of a foreign and an own image in which the foreign one scores
    higher."""
    auroc_interval: Interval | None
    """95% confidence interval of it: percentile bootstrap over images; None without errors."""
    false_positives: float
    """Share of foreign images below the score that 95% of the own images stay below."""
    abstained: float
    """Share of foreign images that get no class, at the threshold of the model."""
    abstained_interval: Interval
    accepted: float
    """Share of own images that get a class, at the threshold of the model."""
    accepted_interval: Interval

    def describe(self) -> list[tuple[str, str]]:
        """Return titles and texts for the terminal and the page."""
        return [
            ("abstained", _share(self.abstained, self.abstained_interval, f"{self.images:,} foreign images")),
            ("accepted", _share(self.accepted, self.accepted_interval, f"{self.own_images:,} own images")),
            ("auroc", decimal(self.auroc) + _range(self.auroc_interval, is_percentage=False)),
            ("fpr95", f"{percent(self.false_positives)} of the foreign images pass where 95% of the own images do"),
        ]


def measure_foreign(
    classifier: ImageClassifier, own: Any, foreign: Sequence[NamedImage], batch_size: int
) -> ForeignMeasured:
    """Measure the out-of-distribution scores of foreign images beside those of the model's own.

    Args:
        classifier: Calibrated model.
        own: Images of its classes, as `collect_images` takes them.
        foreign: Images of none of its classes.
        batch_size: Number of images per step.

    Raises:
        DataError: No foreign image can be read.
    """
    predictor = Predictor(classifier, Returned(top_k=1, abstain=True), batch_size)
    own_scores, _ = _scores(predictor, collect_images(own), "Scoring own images")
    scores, errors = _scores(predictor, foreign, "Scoring foreign images")
    if errors:
        check_any_readable(len(errors), len(foreign), errors[0])
        logger.warning("%s", describe_unreadable(len(errors), len(foreign)))
    is_abstained, is_accepted = ~predictor.limits.accepts(scores), predictor.limits.accepts(own_scores)
    auroc, interval = _auroc(own_scores, scores)
    return ForeignMeasured(
        images=len(scores),
        own_images=len(own_scores),
        auroc=auroc,
        auroc_interval=interval,
        false_positives=float((scores <= np.quantile(own_scores, 0.95)).mean()),
        abstained=float(is_abstained.mean()),
        abstained_interval=wilson_interval(int(is_abstained.sum()), len(scores)),
        accepted=float(is_accepted.mean()),
        accepted_interval=wilson_interval(int(is_accepted.sum()), len(own_scores)),
    )


def _scores(predictor: Predictor, images: Sequence[NamedImage], title: str) -> tuple[np.ndarray, list[str]]:
    """Return the scores of the readable images, and the errors of the others."""
    scores, errors = [], []
    with progress_bar(total=len(images), desc=title, unit="image") as progress:
        for batch in predictor.batches(images):
            scores += [each.ood_score for each in batch if each.error is None]
            errors += [each.error for each in batch if each.error is not None]
            progress.update(len(batch))
    return np.array(scores, float), errors


def _auroc(own: np.ndarray, foreign: np.ndarray) -> tuple[float, Interval | None]:
    from sklearn.metrics import roc_auc_score

    is_foreign, scores = np.repeat([False, True], [len(own), len(foreign)]), np.concatenate([own, foreign])
    auroc = float(roc_auc_score(is_foreign, scores))
    if auroc in (0.0, 1.0):
        return auroc, None
    random = np.random.default_rng(0)
    counts = [random.multinomial(len(part), np.full(len(part), 1 / len(part)), RESAMPLES) for part in (own, foreign)]
    resampled = [roc_auc_score(is_foreign, scores, sample_weight=weights) for weights in np.hstack(counts)]
    low, high = np.quantile(resampled, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return auroc, (float(low), float(high))


def _share(share: float, interval: Interval, images: str) -> str:
    return f"{percent(share)} of {images}{_range(interval, is_percentage=True)}"


def _range(interval: Interval | None, *, is_percentage: bool) -> str:
    return "" if interval is None else f" (95% CI {range_of(interval, is_percentage=is_percentage)})"
