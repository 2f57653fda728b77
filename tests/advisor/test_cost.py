"""Estimated cost of a training, counted and timed without training."""

from pathlib import Path

import numpy as np
import pytest
import torch
from backbones.checkpoints import save_transformers, tiny_resnet
from datasets import ClassLabel, Dataset, Features, Image

import hf_tl
from hf_tl.advisor.deciding.cost import Cost, estimate_cost
from hf_tl.backbones.candidates import Backbone
from hf_tl.data.datasets import ImageData, load_data
from hf_tl.features.feature_store import open_store
from hf_tl.strategy import Strategy

LABELS = ["a", "b", "c"]


@pytest.fixture(scope="module")
def data() -> ImageData:
    pixels = np.random.default_rng(0).integers(0, 256, (60, 40, 40, 3), dtype=np.uint8)
    features = Features(image=Image(), label=ClassLabel(names=LABELS))
    rows = Dataset.from_dict({"image": list(pixels), "label": [row % 3 for row in range(60)]}, features=features)
    return load_data(rows)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return Backbone(str(save_transformers(tiny_resnet(), tmp_path_factory.mktemp("resnet"))))


@pytest.fixture(scope="module")
def estimates(data: ImageData, backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Cost]:
    store = open_store(tmp_path_factory.mktemp("cache"), 1)
    strategies = [
        Strategy.transfer(),
        Strategy.finetune(trainable_stages=2),
        Strategy.full(),
        Strategy.full(epochs=1000),
    ]
    names = ["transfer", "finetune", "full", "long"]
    costs = {
        name: estimate_cost(backbone, data, strategy, torch.device("cpu"), store)
        for name, strategy in zip(names, strategies, strict=True)
    }
    uncached = estimate_cost(backbone, data, Strategy.transfer(epochs=100), torch.device("cpu"), store=None)
    return {**costs, "transfer, 100 epochs, not cached": uncached}


def test_what_is_trained_is_counted(estimates: dict[str, Cost]) -> None:
    total = sum(parameter.numel() for parameter in tiny_resnet().parameters())
    assert {cost.parameters for cost in estimates.values()} == {total}
    assert estimates["transfer"].parameters_trained == 32 * 3 + 3
    assert estimates["full"].parameters_trained == total
    assert estimates["transfer"].parameters_trained < estimates["finetune"].parameters_trained < total


def test_memory_holds_weights_gradients_moments_and_activations(estimates: dict[str, Cost]) -> None:
    total = estimates["full"].parameters
    assert estimates["full"].memory > 16 * total
    # the feature maps of 32 images after the first convolution alone: 8 channels of 16 x 16
    assert estimates["full"].memory - 16 * total > 32 * 4 * 8 * 16 * 16
    assert 4 * total < estimates["transfer"].memory < estimates["finetune"].memory < estimates["full"].memory


def test_more_epochs_take_longer(estimates: dict[str, Cost]) -> None:
    """A hundred times the epochs, with a wide tolerance for a busy machine."""
    assert estimates["long"].seconds > 10 * estimates["full"].seconds > 0
    assert estimates["transfer"].seconds > 0


def test_without_cached_features_each_epoch_passes_through_the_network(estimates: dict[str, Cost]) -> None:
    """A hundred passes over the images, against one pass and a hundred cheap epochs on features."""
    assert estimates["transfer, 100 epochs, not cached"].seconds > 10 * estimates["transfer"].seconds


def test_features_in_the_cache_cost_nothing_more(data: ImageData, backbone: Backbone, tmp_path: Path) -> None:
    """The features that a training leaves are those that the estimate of the next one looks for."""
    cache, strategy = tmp_path / "cache", Strategy.transfer(epochs=1)
    settings = {"feature_cache": "on", "feature_cache_dir": str(cache), "report_to": "none", "cpu_threads": 1}
    hf_tl.train(backbone.name, data, strategy, output_dir=tmp_path / "out", **settings)
    reused = estimate_cost(backbone, data, strategy, torch.device("cpu"), open_store(cache, 1))
    assert reused.cached_images == sum(len(data.splits[split]) for split in ("train", "validation"))
    assert f"; features of {reused.cached_images} images are in the cache" in str(reused)
    anew = estimate_cost(backbone, data, strategy, torch.device("cpu"), open_store(tmp_path / "empty", 1))
    assert anew.cached_images == 0
    assert reused.seconds < anew.seconds
    changed = data.select("train", range(len(data.splits["train"]) - 1))
    others = estimate_cost(backbone, changed, strategy, torch.device("cpu"), open_store(cache, 1))
    assert others.cached_images == len(data.splits["validation"])
