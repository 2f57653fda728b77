"""Warnings of a recommendation: about the data, data leakage, series, and what is uncertain."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from hf_tl.advisor.deciding.decision import Decision
from hf_tl.advisor.deciding.rules import find_rule
from hf_tl.advisor.measuring.sample import Sample
from hf_tl.advisor.measuring.series import describe_series
from hf_tl.advisor.trials.results import SIGNIFICANT, Trials, gain_p_value, next_best
from hf_tl.errors import name_some
from hf_tl.record import LearnedFrom
from hf_tl.reporting.numbers import chance_of

if TYPE_CHECKING:
    from hf_tl.data.datasets import ImageData

IMBALANCED = 10
"""Ratio of the largest to the smallest class that triggers a warning."""


def data_warnings(sample: Sample, counts: Sequence[int]) -> Iterator[str]:
    """Yield warnings about duplicates, rare classes and class imbalance, with file and class names.

    Args:
        sample: Images of the evidence.
        counts: Number of training images of each class.
    """
    if sample.conflicts:
        names = name_some(group for group in sample.named if group.is_conflict)
        yield f"duplicates with different labels ({sample.conflicts:,}): {names}; correct or remove them"
    if sample.copies:
        names = name_some(group for group in sample.named if not group.is_conflict)
        yield f"duplicates ({sample.copies:,}): {names}; each image is measured once"
    seen = np.bincount(sample.labels, minlength=len(sample.classes))
    if rare := [name for name, count in zip(sample.classes, seen, strict=True) if count < 2]:
        yield f"classes with fewer than two measured images are not evaluated: {name_some(rare)}; add images"
    if max(counts) > IMBALANCED * min(counts):
        small, large = sample.classes[int(np.argmin(counts))], sample.classes[int(np.argmax(counts))]
        yield (
            f"class imbalance: {large} has {max(counts):,} training images, {small} has {min(counts):,}; accuracy says "
            "little about small classes (--class_weights balanced weights all classes equally)"
        )


def leakage_warnings(
    learned: Mapping[str, LearnedFrom], chosen: str, data: "ImageData", known: LearnedFrom, sample: Sample
) -> Iterator[str]:
    """Yield warnings about images that backbones were trained on.

    Args:
        learned: Training images of each backbone, by name.
        chosen: Name of the recommended backbone.
        data: Data in the splits of a training.
        known: Training images of all backbones together.
        sample: Images of the evidence.
    """
    yield from (note for note in data.notes if "training images of" in note)
    if not sample.learned:
        return
    names = name_some(name for name, images in learned.items() if images.splits)
    yield (
        f"{sample.learned:,} of {sample.available:,} images of train and validation are training images of {names}: "
        "left out of the sample"
    )
    if known.digests - learned[chosen].digests:
        yield (
            "the splits depend on the training images of the starting model: before training, run hf-tl recommend "
            f"with --model {chosen} alone"
        )


def decision_warnings(decision: Decision, images: float, trials: Trials) -> Iterator[str]:
    """Yield what is uncertain about the recommendation.

    Args:
        decision: Recommended training.
        images: Median number of training images per class.
        trials: Trials of the strategies.
    """
    yield from _series_warnings(decision)
    if trials.why_not is not None:
        yield trials.why_not
    yield from _trial_warnings(decision, trials)
    if not decision.is_open or trials.results:
        return
    similarity = decision.backbone.similarity
    advice = {find_rule(images, bound).advice: None for bound in (*similarity.interval, similarity.value)}
    if len(advice) > 1:
        yield (
            f"the 95% interval of the similarity, {similarity.shown_interval}, allows several recommendations: "
            f"{' or '.join(advice)}; try each, or measure more images (--max_images)"
        )


def _trial_warnings(decision: Decision, trials: Trials) -> Iterator[str]:
    """Yield a warning where the trials do not decide between the two best strategies."""
    if (chosen := trials.of(decision.settings)) is None:
        return
    finalists = [chosen, next_best(trials.results, chosen)]
    if (p_value := gain_p_value(*finalists)) < SIGNIFICANT:
        return
    images = finalists[0].accuracy.independent or finalists[0].accuracy.images
    commands = " and ".join(f"--strategy {trial.settings.strategy}" for trial in finalists)
    yield (
        f"the trials do not decide between two strategies: {finalists[0].advice}, or {finalists[1].advice} "
        f"({chance_of(p_value)}, {images:,} independent images); to decide on the test images, train with {commands}, "
        "and run hf-tl compare"
    )


def _series_warnings(decision: Decision) -> Iterator[str]:
    gap = decision.backbone.gap
    if gap is None or not gap.is_evident:
        return
    if gap.series.origin == "near-duplicates":
        yield f"{describe_series(gap.series)}; {gap}. Keep them in one split: --group_near_duplicates"
        return
    if gap.series.origin == "groups":
        yield f"{describe_series(gap.series)}; {gap}. The difference is leakage; the splits keep groups together"
        return
    yield (
        f"{describe_series(gap.series)}; {gap}. Random splits of train, validation and test show the same objects, so "
        "that accuracies on them are too high for other objects; name the series with --group_column or --group_pattern"
    )
