"""Results of the trials, and the choice between the strategies."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hf_tl.advisor.deciding.cost import describe_seconds
from hf_tl.advisor.measuring.probes import Accuracy, balanced_accuracy
from hf_tl.evaluation.paired import difference_p_value
from hf_tl.strategy_config import Preference, StrategyConfig

SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Trial:
    """Cross-validated training by one strategy."""

    settings: StrategyConfig
    advice: str
    """Short form of the strategy."""
    right: np.ndarray
    """Whether each image was classified correctly while it was held out (images,)."""
    judged: np.ndarray
    """Whether each image was held out (images,)."""
    groups: np.ndarray
    """Series of each image (images,)."""
    labels: np.ndarray
    """Class of each image (images,)."""
    seconds: float
    """Duration of a training on all images of the sample, extrapolated from the trials."""
    parameters_trained: int
    is_finalist: bool

    @property
    def accuracy(self) -> Accuracy:
        """Accuracy on the held-out images."""
        judged = self.judged
        return Accuracy(int(self.right[judged].sum()), int(judged.sum()), len(np.unique(self.groups[judged])))

    @property
    def balanced(self) -> float:
        """Mean accuracy of the classes on the held-out images."""
        return balanced_accuracy(self.right[self.judged], self.labels[self.judged])

    def to_record(self) -> dict[str, Any]:
        """Return the result as plain values."""
        return {
            "strategy": self.settings.strategy,
            "trainable_stages": self.settings.trainable_stages,
            "advice": self.advice,
            **self.accuracy.to_record(),
            "seconds": self.seconds,
            "parameters_trained": self.parameters_trained,
            "is_finalist": self.is_finalist,
        }


@dataclass(frozen=True)
class Trials:
    """Results of the trials, or the reason why there are none."""

    results: tuple[Trial, ...] = ()
    why_not: str | None = None
    refused: Mapping[str, str] = field(default_factory=dict)
    """Reason why a strategy cannot be carried out with this backbone, by its short form."""

    def of(self, settings: StrategyConfig | None) -> Trial | None:
        """Return the trial of the recommended strategy, whatever its epochs."""
        kinds = {(trial.settings.strategy, trial.settings.trainable_stages): trial for trial in self.results}
        return None if settings is None else kinds.get((settings.strategy, settings.trainable_stages))

    def to_record(self) -> dict[str, Any]:
        """Return the results as plain values."""
        return {
            "results": [trial.to_record() for trial in self.results],
            "why_not": self.why_not,
            "refused": dict(self.refused),
        }


def choose_trial(trials: Sequence[Trial], prefer: Preference) -> Trial:
    """Choose between the finalists, from the shortest training to the longest.

    `accuracy` takes the longer training unless the shorter one is better by more than the standard error of the
    difference; `balance` the shorter one unless the longer one is better by more than that; `speed` the shorter one
    unless the longer one is significantly better. Without a clear difference `accuracy` goes by the benchmark, where
    training the stages is better than the head alone in nearly all cells.

    Args:
        trials: Results of `run_trials`.
        prefer: What counts.
    """
    chosen, *slower = sorted((trial for trial in trials if trial.is_finalist), key=lambda trial: trial.seconds)
    for trial in slower:
        gain, error = paired_gain(chosen, trial)
        is_better = {
            "accuracy": gain > -error,
            "balance": gain > error,
            "speed": gain > 0 and gain_p_value(chosen, trial) < SIGNIFICANT,
        }
        chosen = trial if is_better[prefer] else chosen
    return chosen


def next_best(trials: Sequence[Trial], chosen: Trial) -> Trial:
    """Return the most accurate of the other finalists."""
    others = (trial for trial in trials if trial.is_finalist and trial is not chosen)
    return max(others, key=lambda trial: trial.accuracy.value)


def paired_gain(first: Trial, second: Trial) -> tuple[float, float]:
    """Return the gain of the second trial over the first in accuracy, and its standard error over the series."""
    both = first.judged & second.judged
    gains = np.bincount(first.groups[both], weights=second.right[both].astype(float) - first.right[both])
    images = int(both.sum())
    return float(gains.sum()) / images, math.sqrt(float((gains**2).sum())) / images


def gain_p_value(first: Trial, second: Trial) -> float:
    """Return the two-sided p-value of the difference: McNemar's exact test, in which a series counts as one image."""
    both = first.judged & second.judged
    return difference_p_value(first.right[both], second.right[both], first.groups[both])


def describe_trials(trials: Sequence[Trial]) -> Iterator[str]:
    """Yield a line for each trial, the finalists first."""
    if not trials:
        return
    ordered = sorted(trials, key=lambda trial: (not trial.is_finalist, -trial.accuracy.value))
    width = max(len(trial.advice) for trial in trials)
    for trial in ordered:
        accuracy, short = trial.accuracy, "" if trial.is_finalist else ", not tried in full"
        yield (
            f"{trial.advice:<{width}}  {accuracy} of {accuracy.images:,} held-out images{short}; a training takes "
            f"about {describe_seconds(trial.seconds)} and trains {trial.parameters_trained:,} parameters"
        )
