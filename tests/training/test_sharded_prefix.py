"""The frozen part of a sharded model: it runs whole, apart from the shards, and the training stays the same.

One process is enough to shard: torch's hooks, DTensors and gathers are those of many processes, and take seconds. Two
processes run in `test_sharding.py`.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from features.cached_runs import assert_close, cached, uncached, uses_features
from torch import Tensor, distributed, nn
from torch.distributed.fsdp import fully_shard
from training.launched_runs import FSDP
from training.small_runs import RecordedTraining, Run, differences, make_model, result_of, resumed, stopped_at
from training.small_runs import train as train_whole

from hf_tl.backbones.prefix.search import find_boundary
from hf_tl.backbones.stages.freezing import freeze
from hf_tl.backbones.stages.modules import is_sharded
from hf_tl.processes.sharding import ShardedAccelerator

IMAGE = (3, 32, 32)


@pytest.fixture(autouse=True)
def process_group(tmp_path: Path) -> Iterator[None]:
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def sharded(train: Callable[..., RecordedTraining], *arguments: Any) -> RecordedTraining:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in FSDP.items():
            patch.setenv(name, value)
        training = train(*arguments)
    assert isinstance(training.accelerator, ShardedAccelerator)
    return training


def prefixes(training: RecordedTraining) -> list[str]:
    """Return how each phase ran its frozen part: on cached features, apart from the rest, or with it."""
    return [
        "features" if phase.uses_features else "with the rest" if phase.frozen_precision is None else "apart"
        for phase in training.state.log.phases
    ]


def without_key_biases(training: RecordedTraining) -> RecordedTraining:
    """Leave out the biases of queries, keys and values.

    The gradient of a key's bias is zero except for rounding, which AdamW turns into whole steps; no output changes.
    """
    for step, weights in training.weights.items():
        training.weights[step] = {name: tensor for name, tensor in weights.items() if not name.endswith("qkv.bias")}
    return training


@pytest.mark.parametrize(
    ("phases", "model", "expected"),
    [
        ("kept", "resnet", ["features", "features"]),
        ("views", "vit", ["apart", "apart"]),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                ("unfreezing", "resnet", ["features", "features", "features", "with the rest"]),
                ("unfreezing", "vit", ["features", "features", "features", "with the rest"]),
                ("all kept", "resnet", ["apart", "apart", "with the rest", "apart"]),
                ("all kept", "vit", ["apart", "apart", "with the rest", "apart"]),
                ("views", "resnet", ["apart", "apart"]),
                ("adapted alone", "resnet", ["features", "features"]),
                ("adapted alone", "vit", ["features", "features"]),
                ("solved", "vit", ["apart", "apart"]),
            )
        ),
    ],
)
def test_a_sharded_model_trains_like_a_whole_one(tmp_path: Path, phases: str, model: str, expected: list[str]) -> None:
    run = Run(str(tmp_path), phases, {"save_total_limit": 0}, model=model)
    whole = train_whole(cached(run, tmp_path / "features of the whole"))
    parts = sharded(train_whole, cached(run, tmp_path / "features of the parts"))
    assert prefixes(parts) == prefixes(whole) == expected
    assert_close(without_key_biases(parts), without_key_biases(whole))
    assert not differences(parts.frozen, whole.frozen)
    assert not is_sharded(parts.model)
    predicted = [training.predictions(training.images.validation, "test").logits for training in (parts, whole)]
    np.testing.assert_allclose(*predicted, atol=1e-3)


@pytest.mark.slow
def test_without_the_cache_no_process_holds_the_whole_network(tmp_path: Path) -> None:
    run = uncached(Run(str(tmp_path), "all kept", {"save_total_limit": 0}))
    parts = sharded(train_whole, run)
    assert prefixes(parts) == ["with the rest"] * 4
    assert_close(parts, train_whole(run))


@pytest.mark.slow
@pytest.mark.parametrize("phases", ["unfreezing", "views"])
def test_a_resumed_run_equals_the_whole_run_bit_for_bit(tmp_path: Path, phases: str) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    run, other = (cached(Run(str(tmp_path / name), phases, {"save_steps": 1}), tmp_path / name / "f") for name in "ab")
    training = sharded(train_whole, run)
    expected = result_of(training)
    assert any(uses_features(training)) == (phases == "unfreezing")
    sharded(stopped_at, other, 9)
    assert differences(expected, result_of(sharded(train_whole, resumed(other)))) == []


def shards_of(model: nn.Module) -> nn.Module:
    for block in model.timm_model.blocks:
        fully_shard(block, reshard_after_forward=True)
    fully_shard(model, reshard_after_forward=True)
    return model


def gathered(run: Callable[[], object]) -> set[str]:
    """Return the layers that FSDP gathers for a forward pass."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        run()
    names = [re.fullmatch(r"FSDP::pre_forward \((\S+)\)", event.name) for event in profiler.events()]
    return {name[1] for name in names if name}


def test_layers_before_the_boundary_are_not_gathered() -> None:
    whole = make_model(Run("", model="vit"))
    freeze(whole, 4)
    boundary = find_boundary(whole, IMAGE)
    parts = shards_of(make_model(Run("", model="vit")))
    freeze(parts, 4)
    pixels = torch.randn(4, *IMAGE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        features = boundary.features(whole.eval(), pixels)

    def step(model: nn.Module) -> dict[str, Tensor]:
        model.train()
        logits = boundary.logits(model, [rows.clone() for rows in features])
        logits.square().mean().backward()
        return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    expected, gradients = step(whole), {}
    assert gathered(lambda: gradients.update(step(parts))) - {""} == {"timm_model.blocks.4", "timm_model.blocks.5"}
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient.full_tensor(), expected[name], msg=name)
    everything = gathered(lambda: parts(pixel_values=pixels))
    assert len(everything - {""}) == len(parts.timm_model.blocks)
