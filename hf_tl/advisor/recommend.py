"""Recommend a backbone and a strategy for a dataset."""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hf_tl.advisor.climb import plan_climb
from hf_tl.advisor.cost import Cost, estimate_cost
from hf_tl.advisor.data import changed, describe_data, known_images, leaks, open_data
from hf_tl.advisor.decision import Decision, decide, leading, ranking
from hf_tl.advisor.evidence import BackboneEvidence, gather_evidence
from hf_tl.advisor.rules import SIMILAR, find_rule
from hf_tl.advisor.sample import IMAGES, Sample, draw_sample
from hf_tl.backbones.candidates import Backbone, candidates, named
from hf_tl.config import RECOMMENDED_STRATEGY, ModelConfig, StrategyConfig
from hf_tl.errors import ConfigError, ModelError, TrainingError, name_some
from hf_tl.features.feature_store import FeatureStore, open_store
from hf_tl.storage.folders import make_folder
from hf_tl.strategy import Strategy
from hf_tl.training.refit import is_given_back

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

    from hf_tl.data.datasets import ImageData

SCHEMA_VERSION = 2
RECORD, FIGURE = "recommendation.json", "recommendation.png"
UNEQUAL = 10
"""Ratio of the largest to the smallest class that triggers a warning."""


@dataclass(frozen=True)
class Recommendation:
    """Recommended training, with its reason and its cost."""

    backbone: str | None
    """Name of the backbone; None where no training is recommended."""
    strategy: Strategy | None
    """Strategy with its phases, ready for `hf_tl.train`; None where no training is recommended."""
    rule: str
    """Name of the rule that decided."""
    advice: str
    """Short form of the recommendation."""
    reason: str
    """Reason in two sentences."""
    cost: Cost | None
    data: dict[str, Any]
    """Name, classes and sizes of the data."""
    evidence: tuple[BackboneEvidence, ...]
    """Evidence of each measured backbone."""
    warnings: tuple[str, ...]
    unavailable: Mapping[str, str] = field(default_factory=dict)
    """Reason why each other candidate could not be measured, by name."""
    command: str | None = None
    """Command of the recommended training; None for data without a name."""
    candidate: Backbone | None = None
    """Recommended backbone, with the settings to load it."""
    climb: Mapping[str, Any] | None = None
    """Stage depths of a climb from it (`hf_tl.advisor.climb`); None where no training is recommended."""

    def to_record(self) -> dict[str, Any]:
        """Return the recommendation as plain values."""
        return {
            "schema_version": SCHEMA_VERSION,
            "backbone": self.backbone,
            "strategy": None if self.strategy is None else self.strategy.to_record(),
            "rule": self.rule,
            "advice": self.advice,
            "reason": self.reason,
            "cost": None if self.cost is None else vars(self.cost),
            "data": self.data,
            "evidence": [backbone.to_record() for backbone in self.evidence],
            "ranking": [backbone.name for backbone in ranking(self.evidence)],
            "leading": [backbone.name for backbone in leading(self.evidence)],
            "warnings": list(self.warnings),
            "unavailable": dict(self.unavailable),
            "command": self.command,
        }

    def save(self, output_dir: str | Path) -> None:
        """Write `recommendation.json`, `recommendation.png` and `strategy.json` (for `hf-tl train --phases`).

        Raises:
            ConfigError: The folder cannot be written to.
        """
        from hf_tl.advisor.figure import plot_recommendation

        folder = make_folder(output_dir)
        try:
            record = self.to_record()
            (folder / RECORD).write_text(json.dumps(record, indent=2, allow_nan=False) + "\n", encoding="utf-8")
            (folder / RECOMMENDED_STRATEGY).unlink(missing_ok=True)
            if self.strategy is not None:
                (folder / RECOMMENDED_STRATEGY).write_text(
                    json.dumps(record["strategy"], indent=2) + "\n", encoding="utf-8"
                )
            plot_recommendation(record, folder / FIGURE)
        except OSError as error:
            raise ConfigError(f"--output_dir {folder} cannot be written to: {error.strerror or error}") from error

    def __str__(self) -> str:
        from hf_tl.advisor.report import describe

        return describe(self)


def recommend(
    dataset: "Dataset | DatasetDict | ImageData | str",
    backbones: "str | Backbone | Sequence[str | Backbone] | None" = None,
    *,
    image_size: int | None = None,
    max_images: int = IMAGES,
    validation_fraction: float = 0.1,
    test_fraction: float = 0.2,
    seed: int = 0,
    include_training_images: bool = False,
    output_dir: str | Path | None = None,
    feature_cache: str = "auto",
    feature_cache_dir: str | Path | None = None,
    feature_cache_gb: float = 20.0,
    **columns: str | None,
) -> Recommendation:
    """Recommend a backbone and a strategy from measurements on the data.

    Each backbone makes one forward pass over a sample of train and validation. Nothing is trained, and the test images
    are not used.

    Args:
        dataset: A loaded dataset, or a value of `--dataset`.
        backbones: Values of `--model`, or `Backbone`s with weights of their own; those of the demo by default.
        image_size: Height and width in pixels, for backbones without a size of their own.
        max_images: Number of images in the sample; more images narrow the intervals.
        validation_fraction: As in `load_data`.
        test_fraction: As in `load_data`.
        seed: Random seed of the splits, the sample, the folds and the random weights.
        include_training_images: Whether to measure also on images that hf_tl trained a backbone on. They are left out
            by default, because the backbone's features depend on their labels.
        output_dir: Folder that the recommendation is saved in.
        feature_cache: `"off"` caches no features on disk, and estimates the cost of a training with `--feature_cache
            off`.
        feature_cache_dir: Folder of the cached features; in the cache of Hugging Face by default.
        feature_cache_gb: Limit of the disk space of all cached features, in GB.
        columns: `image_column` and `label_column`, where they cannot be detected by type or name; `exclude_list`, as in
            `load_data`.

    Raises:
        DataError: The dataset cannot be trained on, or nothing can be measured on it.
        ModelError: None of the backbones can be loaded.

    ```python
    found = hf_tl.recommend("pets", ["timm/resnet50.a1_in1k", "google/vit-base-patch16-224"])
    model, transforms = hf_tl.load_backbone(found.backbone, labels, found.strategy)
    ```
    """
    from accelerate import PartialState

    if max_images < 1:
        raise ConfigError(f"--max_images must be at least 1, found {max_images}")
    if output_dir is not None:
        make_folder(output_dir)  # fail before minutes of computation
    choices = _choices(backbones, image_size)
    learned, unreadable = known_images(choices)
    split = {"validation_fraction": validation_fraction, "test_fraction": test_fraction, "seed": seed}
    data, known = open_data(dataset, learned, include_training_images, **split, **columns)
    choices = [replace(one, image_size=one.image_size or data.defaults.get("image_size")) for one in choices]
    choices = [one for one in choices if one.name in learned]
    sample = draw_sample(data, max_images, seed, None if include_training_images else known)
    device = PartialState().device
    store = None if feature_cache == "off" else open_store(feature_cache_dir, feature_cache_gb)
    with torch.random.fork_rng():
        evidence, unavailable = _measure(choices, data, sample, device, seed, unreadable, store)
        counts = data.class_counts("train")
        decision = decide(list(evidence.values()), float(np.median(counts)))
        chosen = next(one for one, measured in evidence.items() if measured is decision.backbone)
        settings = decision.settings
        climb = None if settings is None else plan_climb(decision.backbone, settings)
        if settings is not None and climb is not None:
            settings = _settings(settings, climb, data)
        strategy = None if settings is None else settings.build(1, sum(counts))
        cost = (
            None
            if strategy is None
            else estimate_cost(chosen, data, strategy, device, caches_features=store is not None)
        )
    found = Recommendation(
        backbone=None if strategy is None else chosen.name,
        strategy=strategy,
        rule=decision.name,
        advice=decision.advice,
        reason=decision.reason,
        cost=cost,
        data=describe_data(data, sample),
        evidence=tuple(evidence.values()),
        warnings=(
            *leaks(learned, chosen.name, data, known, sample),
            *_warnings(sample, counts),
            *_doubts(decision, float(np.median(counts))),
        ),
        unavailable=unavailable,
        command=_command(dataset, chosen, settings, {"image_size": image_size, **columns, **changed(split)})
        if isinstance(dataset, str)
        else None,
        candidate=None if strategy is None else chosen,
        climb=climb,
    )
    if output_dir is not None:
        found.save(output_dir)
    return found


def _settings(settings: StrategyConfig, rungs: Mapping[str, Any], data: "ImageData") -> StrategyConfig:
    """Return the settings that match the end of a climb to this strategy: its epochs, and its refit on all images."""
    climb = StrategyConfig(strategy="auto").build(images=len(data.splits["train"]), climb=rungs)
    if not climb.refit:
        return settings
    settings = replace(settings, refit=is_given_back(data) or None)
    if settings.strategy != "full":  # a head is trained as in the first phase, and random weights as in the last
        return settings
    assert climb.expected_rung is not None
    [phase] = climb.done(climb.expected_rung).at_once().phases
    return replace(settings, num_train_epochs=phase.epochs)


def _measure(
    choices: Sequence[Backbone],
    data: "ImageData",
    sample: Sample,
    device: torch.device,
    seed: int,
    unreadable: Mapping[str, str],
    store: FeatureStore | None,
) -> tuple[dict[Backbone, BackboneEvidence], dict[str, str]]:
    """Gather the evidence of all backbones that load, and the errors of the others, by name.

    Raises:
        ModelError: No backbone loads.
    """
    evidence: dict[Backbone, BackboneEvidence] = {}
    unavailable = dict(unreadable)
    for backbone in choices:
        torch.manual_seed(seed)  # random weights independent of earlier backbones
        try:
            evidence[backbone] = gather_evidence(backbone, data, sample, device, seed, store)
        except (ModelError, TrainingError) as error:
            unavailable[backbone.name] = str(error)
    if not evidence:
        raise ModelError("no backbone can be measured:\n  " + "\n  ".join(unavailable.values()))
    return evidence, unavailable


def _choices(backbones: Any, image_size: int | None) -> list[Backbone]:
    if backbones is None:
        return candidates(ModelConfig(), image_size)
    listed = [backbones] if isinstance(backbones, str | Backbone) else list(backbones)
    if not listed:
        raise ConfigError("recommend needs at least one backbone (--model)")
    each: list[Backbone] = []
    for one in listed:
        each += [one] if isinstance(one, Backbone) else map(Backbone, named([one]))
    return list(dict.fromkeys(replace(one, image_size=one.image_size or image_size) for one in each))


def _warnings(sample: Sample, counts: Sequence[int]) -> list[str]:
    """Return warnings about the data, with file and class names."""
    found = []
    conflicts = [group for group in sample.named if group.is_conflict]
    if sample.conflicts:
        found.append(
            f"{sample.conflicts} images are there under different labels: {name_some(conflicts)}; correct or remove "
            "them"
        )
    if copies := [group for group in sample.named if not group.is_conflict]:
        found.append(f"{sample.copies} images are copies of others: {name_some(copies)}; one of each was looked at")
    seen = np.bincount(sample.labels, minlength=len(sample.classes))
    if single := [name for name, count in zip(sample.classes, seen, strict=True) if count < 2]:
        found.append(f"nothing can be said of classes with one image: {name_some(single)}; add images of them")
    if max(counts) > UNEQUAL * min(counts):
        small, large = sample.classes[int(np.argmin(counts))], sample.classes[int(np.argmax(counts))]
        found.append(
            f"the classes are unequal: {large} has {max(counts):,} training images and {small} {min(counts):,}; "
            "an accuracy says little of the small ones (--class_weights balanced counts all classes alike)"
        )
    return found


def _doubts(decision: Decision, images: float) -> list[str]:
    """Return warnings where the interval of the similarity spans several recommendations."""
    similarity = decision.backbone.similarity
    advice = {find_rule(images, bound).advice: None for bound in (*similarity.interval, similarity.value)}
    if decision.settings is None or decision.name == "a head is enough" or len(advice) == 1:
        return []
    return [
        f"the similarity {similarity} may lie on either side of {SIMILAR}, the border between similar and different, "
        f"and so the advice may be to {' or to '.join(advice)}: try both, or measure more images"
    ]


def _command(
    dataset: str,
    backbone: Backbone,
    settings: StrategyConfig | None,
    more: Mapping[str, Any],
) -> str | None:
    """Return the command of the recommended training."""
    if settings is None:
        return None
    flags = {
        "model": backbone.name,
        "weights": backbone.weights,
        "dataset": dataset,
        **more,
        "strategy": settings.strategy,
        "num_train_epochs": settings.num_train_epochs,
        "refit": settings.refit,
    }
    words = [word for name, value in flags.items() if value is not None for word in (f"--{name}", str(value))]
    return shlex.join(["hf-tl", "train", *words])
