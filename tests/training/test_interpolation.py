"""Interpolation of weights: its ends, its start and the point that is kept."""

import numpy as np
import pytest
import torch
from job.small_data import backbone

from hf_tl.backbones.stages.stage import list_stages
from hf_tl.errors import ConfigError
from hf_tl.record import Origin
from hf_tl.strategy import Phase, Strategy
from hf_tl.training.interpolation import StartingPoint, between, check_interpolation, nearest_to_start

HUB = Origin("hub", name="timm/test_resnet.r160_in1k", head="new")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_both_ends_are_exact(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    start, end = ({"a": (1e3 * torch.randn(1000)).to(dtype)} for _ in range(2))
    assert torch.equal(between(start, end, 0.0)["a"], start["a"])
    assert torch.equal(between(start, end, 1.0)["a"], end["a"])
    middle = between(start, end, 0.5)["a"]
    assert middle.dtype == dtype
    torch.testing.assert_close(middle.double(), (start["a"].double() + end["a"].double()) / 2, rtol=1e-2, atol=1)


def test_integers_and_tensors_without_a_start_are_those_of_the_end() -> None:
    model, _ = backbone()
    stages = list_stages(model)
    start = StartingPoint.of(Strategy.full(epochs=1).phases, stages, 1, HUB)
    start.begin(0, lambda: {name: tensor.clone() for name, tensor in model.state_dict().items()})
    tensors = start.tensors()
    assert "timm_model.bn1.running_mean" in tensors
    assert "timm_model.bn1.num_batches_tracked" in model.state_dict()
    assert "timm_model.bn1.num_batches_tracked" not in tensors
    end = {name: tensor + 2 for name, tensor in model.state_dict().items()}
    mixed = between(tensors, end, 0.25)
    assert mixed["timm_model.bn1.num_batches_tracked"] == end["timm_model.bn1.num_batches_tracked"]
    torch.testing.assert_close(mixed["timm_model.bn1.running_mean"], tensors["timm_model.bn1.running_mean"] + 0.5)
    assert torch.equal(mixed["timm_model.fc.weight"], end["timm_model.fc.weight"]), "the start has no trained head"


def right(images: int, *first: int, only: int = 0) -> dict[float, np.ndarray]:
    """Return images right at each coefficient: the first ones, and at all but the last as many others of `only`."""
    shares = {step / 10: np.arange(images) < count for step, count in enumerate(first)}
    for coefficient in [*shares][:-1]:
        shares[coefficient] |= np.arange(images) >= images - only
    return shares


@pytest.mark.parametrize(
    ("shares", "kept"),
    [
        (right(100, 50, 60, 78, 80, 79), 0.3),  # two images are more than one standard error, which is 1.4
        (right(100, 50, 60, 74, 82, only=6), 0.2),  # 8 against 6 of 14 images on which they differ
        (right(100, 50, 60, 70, 90, only=6), 0.3),
        (right(10, 8, 8, 8), 0.0),
        (right(10, 0, 0, 0), 0.0),
        (right(50, 45, 50, 50), 0.1),
    ],
)
def test_the_nearest_to_the_start_within_one_standard_error_is_kept(
    shares: dict[float, np.ndarray], kept: float
) -> None:
    assert nearest_to_start(shares) == kept


STRATEGIES = {
    "transfer": (Strategy.transfer(epochs=1), None, False),
    "finetune": (Strategy.finetune(epochs=3), 1, True),
    "full": (Strategy.full(epochs=1), 0, False),
    "norms": (Strategy("norms", (Phase(1, 1, norm="adapt"),)), 0, False),
    "gradual": (Strategy("gradual", tuple(Phase(stages, 1) for stages in (1, 2, 3))), 1, True),
    "two heads": (Strategy("heads", (Phase(1, 1), Phase(1, 2), Phase(2, 1))), 2, True),
}


@pytest.mark.parametrize("name", STRATEGIES)
def test_the_start_is_where_the_first_phase_trains_more_than_the_head(name: str) -> None:
    strategy, phase, has_head = STRATEGIES[name]
    model, _ = backbone(strategy)
    strategy, stages = strategy.resolve(1000), list_stages(model)
    start = StartingPoint.of(strategy.phases, stages, 1, HUB)
    assert (start.phase, start.has_head) == (phase, has_head)
    assert StartingPoint.of(strategy.phases, stages, 1, Origin("trained", head="kept")).has_head
    # of a head of two stages, a phase that trains both trains nothing else
    assert StartingPoint.of((Phase(2, 1), Phase(3, 1)), stages, 2, HUB).phase == 1
    calls: list[int] = []
    for number in range(len(strategy.phases)):
        start.begin(number, lambda number=number: calls.append(number) or {"a": torch.ones(1)})
    assert calls == ([] if phase is None else [phase])


def test_another_training_from_the_same_weights_has_its_own_start() -> None:
    stages = list_stages(backbone()[0])
    first = StartingPoint.of(Strategy.finetune(epochs=3).resolve(1000).phases, stages, 1, HUB)
    first.begin(1, lambda: {"a": torch.ones(1)})
    second = first.again(Strategy.full(epochs=1).resolve(1000).phases, stages)
    assert (second.phase, second.has_head, second.weights) == (0, False, {})
    assert StartingPoint().again(Strategy.full(epochs=1).resolve(1000).phases, stages).phase is None


@pytest.mark.parametrize(
    ("strategy", "origin", "text"),
    [
        (
            Strategy.transfer(epochs=1),
            HUB,
            r"needs a phase that trains more than the head, found the strategy transfer",
        ),
        (Strategy.full(epochs=1), Origin.random(0), r"this training starts from random weights"),
        (Strategy.scratch(epochs=1), HUB, r"this training starts from random weights"),
    ],
)
def test_trainings_without_two_ends_are_refused(strategy: Strategy, origin: Origin, text: str) -> None:
    strategy, stages = strategy.resolve(1000), list_stages(backbone()[0])
    with pytest.raises(ConfigError, match=text):
        check_interpolation(StartingPoint.of(strategy.phases, stages, 1, origin), strategy, origin)
