"""Trainings of the trials.

Successive halving (Jamieson and Talwalkar 2016, https://proceedings.mlr.press/v51/jamieson16.html): short trainings on
one fold choose a rival of the rule's strategy. Unless the short training is worse than that of the rule in full by more
than a standard error, a training of the rival in full on this fold decides between the two. The one that is left, and
the head alone, which costs little, are trained as recommended on all folds. Whole series are held out. No weights are
selected on the held-out images, so that their accuracy is that of new images, for two thirds of the training images.
"""

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hf_tl.advisor.deciding.cost import describe_seconds, estimate_cost
from hf_tl.advisor.deciding.rules import NOT_AT_ALL
from hf_tl.advisor.measuring.evidence import BackboneEvidence
from hf_tl.advisor.measuring.sample import Sample
from hf_tl.advisor.trials.results import Trial, Trials, gain_p_value, paired_gain
from hf_tl.config import StrategyConfig, TrainingConfig
from hf_tl.errors import ConfigError
from hf_tl.head.head_solver import draw_folds
from hf_tl.processes.alone import single_process
from hf_tl.reporting.console import log_level, progress_bar, say
from hf_tl.storage.writing import temporary_folder
from hf_tl.training.loop import Training
from hf_tl.training.phase_data import TrainingImages

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from hf_tl.advisor.deciding.decision import Decision
    from hf_tl.backbones.candidates import Backbone
    from hf_tl.backbones.libraries.preprocessing import Preprocessing
    from hf_tl.data.datasets import ImageData
    from hf_tl.strategy import Phase, Strategy

FOLDS = 3
SHORT = 1 / 3
"""Share of the epochs of a short training."""
DECIDED = 0.01
"""P-value of the differences from the best strategy below which the remaining folds are left out."""
HEAD = StrategyConfig(strategy="transfer")


def try_strategies(
    backbone: "Backbone",
    decision: "Decision",
    data: "ImageData",
    sample: Sample,
    budget: float,
    *,
    horizontal_flip: bool = True,
    seed: int = 0,
) -> Trials:
    """Try the strategies on the sample, if that takes at most the budget.

    Args:
        backbone: Backbone to train.
        decision: Strategy of the rule, with the evidence of the backbone.
        data: Training data.
        sample: Images and labels.
        budget: Minutes.
        horizontal_flip: Whether augmentation mirrors images.
        seed: Random seed of the folds and the trainings.
    """
    from accelerate import PartialState

    if not budget or not decision.is_open:
        return Trials()
    evidence = decision.backbone
    candidates = list_candidates(evidence)
    built = {settings.strategy: _build(settings, evidence, len(sample.labels)) for settings, _ in candidates}
    cost = estimate_cost(backbone, data, built["full"], PartialState().device, None)
    epochs = {name: sum(phase.epochs or 0 for phase in strategy.phases) for name, strategy in built.items()}
    lengths = [epochs[name] / epochs["full"] for name in built if name != HEAD.strategy]
    seconds = estimate_trials(lengths, cost.seconds * len(sample.labels) / len(data.splits["train"]))
    if seconds > 60 * budget:
        return Trials(
            why_not=f"trying the strategies would take about {describe_seconds(seconds)}; to do so, raise "
            f"--trial_budget ({budget:g} minutes)"
        )
    say(None, f"Trying {len(candidates)} strategies in cross-validation: at most about {describe_seconds(seconds)}")
    rule = next(index for index, (_, advice) in enumerate(candidates) if advice == decision.advice)
    return run_trials(candidates, rule, backbone, evidence, sample, horizontal_flip=horizontal_flip, seed=seed)


def list_candidates(backbone: BackboneEvidence) -> list[tuple[StrategyConfig, str]]:
    """List the strategies to try: the head, adapters, the later half of the stages, and all stages.

    Training from scratch is tried only where pretraining hardly helps.

    Args:
        backbone: Evidence of the recommended backbone.
    """
    half = 1 + max(1, len(backbone.depths) // 2)
    candidates = [
        (HEAD, "train the head"),
        (StrategyConfig(strategy="lora"), "train low-rank adapters in all stages"),
        (StrategyConfig(strategy="finetune", trainable_stages=half), "fine-tune the later half of the stages"),
        (StrategyConfig(strategy="full"), "fine-tune all stages"),
    ]
    if backbone.similarity.value < NOT_AT_ALL:  # also wherever the rule recommends it
        candidates.append((StrategyConfig(strategy="scratch"), "train from scratch"))
    return candidates


def estimate_trials(lengths: Sequence[float], seconds: float) -> float:
    """Estimate the longest duration of the trials, in seconds.

    Of the strategies but the head, each has a short training, two a training in full, and one of them one on each fold.

    Args:
        lengths: Epochs of each strategy but the head, which costs little, relative to a training of all stages.
        seconds: Duration of a training of all stages on the sample.

    >>> round(estimate_trials([1, 1, 1], 60))
    200
    """
    of_fold = 1 - 1 / FOLDS
    return seconds * of_fold * (SHORT * sum(lengths) + 1 + FOLDS * max(lengths))


def run_trials(
    candidates: Sequence[tuple[StrategyConfig, str]],
    rule: int,
    backbone: "Backbone",
    evidence: BackboneEvidence,
    sample: Sample,
    *,
    horizontal_flip: bool = True,
    seed: int = 0,
) -> Trials:
    """Train the strategies in cross-validation, and return their results.

    Args:
        candidates: Strategies, and their short forms.
        rule: Index of the strategy of the rule.
        backbone: Backbone to train.
        evidence: Evidence of the backbone, with the series of the sample.
        sample: Images and labels.
        horizontal_flip: Whether augmentation mirrors images.
        seed: Random seed of the folds and the trainings.
    """
    labels = torch.as_tensor(sample.labels)
    groups = np.arange(len(labels)) if evidence.gap is None else evidence.gap.series.groups
    fold_of = draw_folds(labels, seed, torch.as_tensor(groups), FOLDS).numpy()
    folds = range(int(fold_of.max()) + 1)
    trainer = _Trainer(backbone, sample, fold_of, horizontal_flip, seed)
    strategies = [_build(settings, evidence, int((fold_of != 0).sum())) for settings, _ in candidates]
    head = next(index for index, (settings, _) in enumerate(candidates) if settings == HEAD)
    others = sorted({*range(len(candidates))} - {rule, head})
    results: dict[int, list[Judged]] = {rule: [], head: []}
    refused: dict[str, str] = {}

    def trial(index: int, *, is_finalist: bool = True) -> Trial:
        return _trial(candidates[index], results[index], fold_of, groups, sample.labels, is_finalist)

    with (
        temporary_folder("features of the trials") as folder,
        progress_bar(total=len(others) + 1 + 2 * len(folds), desc="Trying strategies", unit="training") as bar,
        log_level("warning"),
        torch.random.fork_rng(),
        single_process(),
    ):
        cache = str(folder)
        for index in others:
            try:
                results[index] = [trainer.train(_shortened(strategies[index]), 0, cache, SHORT)]
            except ConfigError as error:  # such as adapters in layers that peft cannot adapt
                refused[candidates[index][1]] = str(error)
            bar.update()
        chosen, results[rule] = rule, [trainer.train(strategies[rule], 0, cache)]
        bar.update()
        if rivals := [index for index in others if index in results]:
            rival = max(rivals, key=lambda index: (results[index][0].right.mean(), -results[index][0].seconds))
            gain, standard_error = paired_gain(trial(rule), trial(rival))
            if gain >= -standard_error:
                results[rival] = [trainer.train(strategies[rival], 0, cache)]
                gain, standard_error = paired_gain(trial(rule), trial(rival))
                chosen = rival if gain > standard_error else rule
            bar.update()
        for fold in folds:
            for index in (head, chosen):
                if len(results[index]) == fold:
                    results[index].append(trainer.train(strategies[index], fold, cache))
                    bar.update()
            if gain_p_value(trial(head), trial(chosen)) < DECIDED:
                break
    return Trials(
        tuple(trial(index, is_finalist=index in (head, chosen)) for index in sorted(results) if results[index]),
        refused=refused,
    )


@dataclass(frozen=True)
class Judged:
    """One training of a trial."""

    rows: np.ndarray
    """Held-out images."""
    right: np.ndarray
    """Whether each is classified correctly."""
    seconds: float
    """Duration, extrapolated to all epochs and all images of the sample."""
    parameters_trained: int


@dataclass(frozen=True)
class _Trainer:
    backbone: "Backbone"
    sample: Sample
    fold_of: np.ndarray
    horizontal_flip: bool
    seed: int
    loaded: "dict[bool, tuple[PreTrainedModel, Preprocessing]]" = field(default_factory=dict)
    """Model and preprocessing, loaded once, by whether the weights are pretrained."""

    def load(self, *, pretrained: bool) -> "tuple[PreTrainedModel, Preprocessing]":
        """Return a model that no trial has trained, and its preprocessing."""
        if pretrained not in self.loaded:
            self.loaded[pretrained] = self.backbone.load(self.sample.classes, pretrained=pretrained)
        model, preprocessing = self.loaded[pretrained]
        return copy.deepcopy(model), preprocessing

    def train(self, strategy: "Strategy", fold: int, cache: str, share: float = 1) -> Judged:
        """Train on all images but those of a fold, for a share of the epochs, and classify these."""
        from hf_tl.processes.accelerator import make_accelerator

        train, held_out = np.flatnonzero(self.fold_of != fold), np.flatnonzero(self.fold_of == fold)
        config = TrainingConfig(
            seed=self.seed, report_to="none", cpu_threads=torch.get_num_threads(), feature_cache_dir=cache
        )
        model, preprocessing = self.load(pretrained=not strategy.from_scratch)
        torch.manual_seed(self.seed)  # `run_trials` restores the state; those of random and numpy are the user's

        def transforms_of(phase: "Phase") -> Any:
            return preprocessing.transforms(phase.augmentation, horizontal_flip=self.horizontal_flip)

        start = time.perf_counter()
        images = TrainingImages(self.sample.images.select(train), None, transforms_of)
        training = Training(make_accelerator(config), model, strategy, images, config)
        log = training.run()
        seconds = time.perf_counter() - start
        predictions = training.predictions(self.sample.images.select(held_out), "validation")
        return Judged(
            held_out,
            training.problem.is_right(predictions.logits, predictions.labels),
            seconds / share * len(self.fold_of) / len(train),
            max(phase.parameters_trained for phase in log.phases),
        )


def _build(settings: StrategyConfig, evidence: BackboneEvidence, images: int) -> "Strategy":
    return replace(settings.build(1, images, family=evidence.family), refit=False)


def _shortened(strategy: "Strategy") -> "Strategy":
    """Return the strategy with a part of its epochs."""
    phases = (replace(phase, epochs=phase.epochs and max(1, round(SHORT * phase.epochs))) for phase in strategy.phases)
    return replace(strategy, phases=tuple(phases))


def _trial(
    candidate: tuple[StrategyConfig, str],
    results: Sequence[Judged],
    fold_of: np.ndarray,
    groups: np.ndarray,
    labels: np.ndarray,
    is_finalist: bool,
) -> Trial:
    right, judged = np.zeros(len(fold_of), bool), np.zeros(len(fold_of), bool)
    for result in results:
        right[result.rows], judged[result.rows] = result.right, True
    seconds = float(np.mean([result.seconds for result in results]))
    trained = max(result.parameters_trained for result in results)
    return Trial(*candidate, right, judged, groups, labels, seconds, trained, is_finalist)
