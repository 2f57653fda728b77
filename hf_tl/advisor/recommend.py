"""Recommend a backbone and a strategy for a dataset."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import torch

from hf_tl.advisor.deciding.cost import estimate_cost
from hf_tl.advisor.deciding.decision import decide, decide_by_trials
from hf_tl.advisor.deciding.expectation import expect
from hf_tl.advisor.deciding.plan import Plan, plan_training
from hf_tl.advisor.measuring.data import describe_data, known_images, open_data
from hf_tl.advisor.measuring.evidence import measure_backbones
from hf_tl.advisor.measuring.sample import IMAGES, draw_sample
from hf_tl.advisor.recommendation import Recommendation
from hf_tl.advisor.reporting.command import inspection_command, training_command
from hf_tl.advisor.reporting.warnings import data_warnings, decision_warnings, leakage_warnings
from hf_tl.advisor.trials.running import try_strategies
from hf_tl.backbones.candidates import Backbone, candidates, is_demo, named
from hf_tl.config import ModelConfig
from hf_tl.errors import ConfigError
from hf_tl.features.feature_store import open_store
from hf_tl.renamed import OLD_SOURCE, renamed
from hf_tl.storage.folders import make_folder
from hf_tl.strategy_config import PREFER, TRIAL_BUDGET, Preference

if TYPE_CHECKING:
    from hf_tl.data.image_data import AnyDataset


@renamed(**OLD_SOURCE)
def recommend(
    dataset: "AnyDataset",
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
    inspection: str | None = None,
    trial_budget: float | None = None,
    prefer: Preference | None = None,
    horizontal_flip: bool | None = None,
    **reading: Any,
) -> Recommendation:
    """Recommend a backbone and a strategy from measurements on the data.

    Each backbone makes one forward pass over a sample of train and validation. The strategies are then trained in
    cross-validation, if that takes at most `trial_budget` minutes; otherwise rules decide. The test images are not
    used.

    Args:
        dataset: A name, a folder, a table, `datasets.Dataset`, `DatasetDict`, or the result of `hf_tl.load_data`.
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
        inspection: Output folder of `hf-tl inspect`, whose counts the recommendation names. By default, the one that it
            chooses for this dataset, if it is of the same images.
        trial_budget: Minutes for trials of the strategies; 0 for none. Defaults to 5.
        prefer: What counts between the two best strategies of the trials: `"accuracy"` (default), `"balance"` or
            `"speed"`, see `hf_tl.advisor.trials.results`.
        horizontal_flip: Whether the trials mirror images. Defaults to that of the dataset, or yes.
        reading: Other arguments of `load_data` about how to read the dataset, for example `label_column`.

    Raises:
        ConfigError: An argument is out of range.
        DataError: The dataset cannot be trained on, or nothing can be measured on it.
        ModelError: None of the backbones can be loaded.

    >>> import hf_tl
    >>> recommendation = hf_tl.recommend("photos", ["backbone"], max_images=20, trial_budget=0)
    >>> recommendation.data["classes"]
    ['dress', 'hat']
    """
    from accelerate import PartialState

    budget, prefer = _check(max_images, TRIAL_BUDGET if trial_budget is None else trial_budget, prefer or PREFER)
    if output_dir is not None:
        make_folder(output_dir)  # fail before minutes of computation
    choices = _list_backbones(backbones, image_size)
    learned, unreadable = known_images(choices)
    split = {"validation_fraction": validation_fraction, "test_fraction": test_fraction, "seed": seed}
    data, known = open_data(dataset, learned, include_training_images, **split, **reading)
    data = data.with_inspection(inspection)
    choices = _sized((choice for choice in choices if choice.name in learned), data.defaults.get("image_size"))
    sample = draw_sample(data, max_images, seed, None if include_training_images else known)
    store = None if feature_cache == "off" else open_store(feature_cache_dir, feature_cache_gb)
    flip = data.defaults.get("horizontal_flip", True) if horizontal_flip is None else horizontal_flip
    with torch.random.fork_rng():
        evidence, unavailable = measure_backbones(choices, sample, PartialState().device, seed, unreadable, store)
        decision = decide(list(evidence.values()), float(np.median(data.class_counts("train"))))
        chosen = next(backbone for backbone, measured in evidence.items() if measured is decision.backbone)
        trials = try_strategies(chosen, decision, data, sample, budget, horizontal_flip=flip, seed=seed)
        decision = decide_by_trials(decision, trials.results, prefer)
        plan = plan_training(decision, data)
        cost = None if plan is None else estimate_cost(chosen, data, plan.strategy, PartialState().device, store)
    named, flags = None if chosen.is_demo else chosen, {"image_size": image_size, **reading, **split}
    recommendation = Recommendation(
        backbone=None if plan is None else chosen.name,
        strategy=None if plan is None else plan.strategy,
        rule=decision.name,
        advice=decision.advice,
        reason=decision.reason,
        cost=cost,
        data=describe_data(data, sample),
        evidence=tuple(evidence.values()),
        warnings=(
            *leakage_warnings(learned, chosen.name, data, known, sample),
            *data_warnings(sample, data.class_counts("train")),
            *decision_warnings(decision, float(np.median(data.class_counts("train"))), trials),
        ),
        unavailable=unavailable,
        command=_command(dataset, named, plan, flags),
        candidate=None if plan is None else chosen,
        climb=None if plan is None else plan.climb,
        inspection=data.inspection,
        inspect_command=inspection_command(dataset, named, reading),
        trials=trials,
        expected=None if plan is None else expect(decision.backbone, plan.strategy.name, trials.of(decision.settings)),
    )
    if output_dir is not None:
        recommendation.save(output_dir)
    return recommendation


def _check(max_images: int, trial_budget: float, prefer: Preference) -> tuple[float, Preference]:
    if max_images < 1:
        raise ConfigError(f"--max_images must be at least 1, found {max_images}")
    if trial_budget < 0 or prefer not in get_args(Preference):
        raise ConfigError(
            f"expected --trial_budget from 0 on and --prefer {', '.join(get_args(Preference))}, found {trial_budget} "
            f"and {prefer}"
        )
    return trial_budget, prefer


def _command(dataset: Any, backbone: Backbone | None, plan: Plan | None, flags: dict[str, Any]) -> str | None:
    """Return the command of the recommended training; None without one, and for data without a name."""
    if plan is None or not isinstance(dataset, str | os.PathLike):
        return None
    return training_command(os.fspath(dataset), backbone, plan.settings, flags)


def _list_backbones(backbones: Any, image_size: int | None) -> list[Backbone]:
    """List the backbones to compare, each once.

    Raises:
        ConfigError: The list is empty.
    """
    if backbones is None:
        return candidates(ModelConfig(), image_size)
    choices = [backbones] if isinstance(backbones, str | Backbone) else list(backbones)
    if not choices:
        raise ConfigError("expected at least one backbone (--model), found none")
    listed: list[Backbone] = []
    for choice in choices:
        if isinstance(choice, Backbone):
            listed.append(choice)
        else:
            listed += candidates(ModelConfig()) if is_demo(choice) else map(Backbone, named([choice]))
    return list(dict.fromkeys(_sized(listed, image_size)))


def _sized(backbones: Iterable[Backbone], image_size: int | None) -> list[Backbone]:
    """Set the image size in pixels of the backbones that have none."""
    return [replace(backbone, image_size=backbone.image_size or image_size) for backbone in backbones]
