"""Runs of the grid, and recommendations for its cells."""

import os
import tempfile
import time
from typing import Any
from unittest.mock import patch

import torch
from accelerate.utils import set_seed

from advisor_grid.backbones import candidates
from advisor_grid.cells import STRATEGIES, Cell, Task
from advisor_grid.sources import DATA
from hf_tl.advisor.deciding.decision import leading
from hf_tl.advisor.recommend import recommend
from hf_tl.backbones.stages.family import family_of
from hf_tl.config import StrategyConfig, TrainingConfig
from hf_tl.data.datasets import ImageData
from hf_tl.errors import DataError
from hf_tl.evaluation.metrics import PROBLEM_TYPES
from hf_tl.processes.accelerator import describe_hardware, make_accelerator
from hf_tl.processes.memory import keep_freed_memory
from hf_tl.record.codec import encode
from hf_tl.strategy import Strategy
from hf_tl.training.loop import Training
from hf_tl.training.phase_data import TrainingImages
from hf_tl.training.refit import Refit, is_given_back, is_refitted
from hf_tl.tuning import LoRA

PATIENT_BUDGET = 60.0
"""Minutes for trials: more than the default, because a busy machine expects them to take longer."""
REFUSED = "refused: the data cannot be measured or split"
"""Name of the rule where hf_tl refuses a control with an error instead of a recommendation."""


def train(cell: Cell, task: Task) -> dict[str, Any]:
    """Train by a strategy like `hf-tl train`, and return the test results; nothing is saved."""
    return fit(cell, task.backbone, cell.images(), STRATEGIES[task.strategy].preset())


def fit(cell: Cell, backbone: str, data: ImageData, strategy: Strategy) -> dict[str, Any]:
    """Train a backbone on a cell's images, without caches; a climb is followed by its refit.

    Args:
        cell: Cell, whose seed is that of the training.
        backbone: Name of the backbone in the grid.
        data: Images of the cell.
        strategy: Strategy before it is resolved for the number of images.
    """
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as cache:
        config = TrainingConfig(seed=cell.seed, report_to="none", cpu_threads=1, feature_cache_dir=cache)
        accelerator = make_accelerator(config)
        set_seed(cell.seed)
        source, splits = DATA[cell.data], data.splits
        network = candidates(source.input_size, cell.files.vit)[backbone]
        model, preprocessing = network.load(data.labels, pretrained=not strategy.from_scratch)
        known: dict[str, Any] = {"pretrained": backbone != "random", "family": family_of(model)}
        strategy = strategy.resolve(len(splits["train"]), **known)

        def transforms_of(phase: Any) -> Any:
            return preprocessing.transforms(phase.augmentation, horizontal_flip=source.is_mirrored)

        start = time.process_time()
        made_of = data.fingerprint, data.orders, data.units
        images = TrainingImages(splits["train"], splits["validation"], transforms_of, *made_of)
        training = Training(accelerator, model, strategy, images, config)
        refit = None
        if is_refitted(strategy, data):
            refit = Refit.of(training, learns_validation=is_given_back(data))
        log = training.run()
        if refit is not None and refit.is_due():
            training = refit.run()
        seconds = time.process_time() - start
        test = training.predictions(splits["test"], "test")
    metrics = PROBLEM_TYPES[data.problem_type].compute(test.logits, test.labels)
    assert log.best is not None
    return {
        "test_accuracy": metrics["accuracy"],
        "validation_accuracy": log.best["validation"]["accuracy"],
        **({"rungs": log.rungs} if log.rungs else {}),
        **({} if accelerator.device.type == "cpu" else {"device": describe_hardware(accelerator)}),
        "seconds": seconds,
    }


def recommend_for(cell: Cell, task: Task) -> dict[str, Any]:
    """Return the recommendation for a cell, or the error of a control that hf_tl refuses."""
    try:
        return advise(cell)
    except DataError as error:
        if not cell.change.is_control:
            raise
        return {"backbone": None, "strategy": None, "rule": REFUSED, "error": str(error)}


def tried(cell: Cell, task: Task) -> dict[str, Any]:
    """Return the recommendation for a cell after trials."""
    return advise(cell, trial_budget=PATIENT_BUDGET)


def advise(cell: Cell, trial_budget: float = 0) -> dict[str, Any]:
    """Return the recommendation for a cell, from all available backbones and without the test images.

    Args:
        cell: Cell.
        trial_budget: Minutes for trials; 0 for rules alone.
    """
    keep_freed_memory()
    torch.set_num_threads(1)
    named = candidates(DATA[cell.data].input_size, cell.files.vit)
    data = cell.images()
    with tempfile.TemporaryDirectory() as cache, patch.dict(os.environ, HF_TL_CACHE=cache):
        start = time.process_time()
        recommendation = recommend(
            data,
            list(named.values()),
            seed=cell.seed,
            trial_budget=trial_budget,
            horizontal_flip=DATA[cell.data].is_mirrored,
        )
        seconds = time.process_time() - start
    evidence = [
        {**backbone.to_record(), "backbone": name}
        for name, backbone in zip(named, recommendation.evidence, strict=True)
    ]
    leaders = {id(backbone) for backbone in leading(recommendation.evidence)}
    chosen = [name for name, backbone in named.items() if backbone == recommendation.candidate]
    return {
        "backbone": chosen[0] if chosen else None,
        "strategy": None if recommendation.strategy is None else describe(recommendation.strategy),
        "rule": recommendation.rule,
        "images_a_class": recommendation.data["median_class"],
        "images": recommendation.data["training_images"],
        "classes": len(recommendation.data["classes"]),
        "climb": encode(recommendation.climb),
        "trials": recommendation.trials.to_record(),
        "expected": None if recommendation.expected is None else recommendation.expected.to_record(),
        "leading": [
            name for name, backbone in zip(named, recommendation.evidence, strict=True) if id(backbone) in leaders
        ],
        "evidence": dict(zip(named, evidence, strict=True)),
        "seconds": seconds,
    }


def auto(cell: Cell, task: Task) -> dict[str, Any]:
    """Train by a climb like `--strategy auto`, including the time for the evidence and the trials."""
    advice = tried(cell, task)
    climb = dict(advice["climb"])
    if "tuning" in climb:
        climb["tuning"] = LoRA(**climb["tuning"])
    strategy = StrategyConfig(strategy="auto").preset(climb=climb)
    result = fit(cell, advice["backbone"], cell.images(), strategy)
    return {**result, "seconds": advice["seconds"] + result["seconds"], "expected_rung": strategy.expected_rung}


def cost(cell: Cell, task: Task) -> dict[str, Any]:
    """Time the recommendation and all runs of the first backbone, sequentially on one machine."""
    recommendation = advise(cell)["seconds"]
    runs = {task.strategy: train(cell, task)["seconds"] for task in cell.tasks("train") if task.backbone == "lite0"}
    return {"recommend": recommendation, "runs": runs}


def describe(strategy: Strategy) -> str:
    """Return the name of a strategy in the grid.

    >>> describe(Strategy.finetune(trainable_stages=4))
    'finetune 3'
    """
    if strategy.name != "finetune":
        return strategy.name
    deepest = strategy.phases[-1].trainable_stages
    assert isinstance(deepest, int)
    return f"finetune {deepest - 1}"
