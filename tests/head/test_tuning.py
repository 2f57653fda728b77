"""The sweep over learning rates, and batch sizes that fit into memory."""

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from training.small_runs import LABELS, Run, make_images, make_model, make_transforms, snapshot

from hf_tl.backbones.load import load_backbone
from hf_tl.backbones.stages.stage import list_stages
from hf_tl.config import TrainingConfig
from hf_tl.errors import ConfigError
from hf_tl.evaluation.metrics import MULTI_LABEL
from hf_tl.head.tuning import (
    LEARNING_RATES,
    RateSweep,
    by_groups,
    fit_batch_size,
    head_inputs,
    head_module,
    held_out_loss,
    largest_fitting,
    sweep_learning_rates,
)
from hf_tl.strategy import Phase, Strategy

PHASE = Phase(1, 5, 1e-3, weight_decay=0.0)


def clusters(count: int = 200, size: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    """Return features of three overlapping clusters."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(3, (count,), generator=generator)
    centers = torch.randn(3, size, generator=generator)
    return centers[labels] + 2 * torch.randn(count, size, generator=generator), labels


def loss_at(rate: float, steps: int = 50) -> float:
    torch.manual_seed(0)
    phase = replace(PHASE, learning_rate=rate)
    return held_out_loss(nn.Linear(16, 3), *clusters(), phase, steps=steps, batch=32, seed=0)


def test_rates_that_are_too_low_or_too_high_have_a_higher_loss() -> None:
    """Fifty steps are too few for a low learning rate; a far too high one overshoots."""
    assert loss_at(0.03) < loss_at(1e-4)
    assert loss_at(0.03) < loss_at(1e3)
    assert loss_at(0.03) == loss_at(0.03)


def test_multi_label_rates_are_judged_by_the_binary_loss() -> None:
    """An untrained head has the loss of chance: ln 2 per class, where the loss over classes would be ln 3."""
    features, _ = clusters()
    flags = (features[:, :3] > 0).float()  # any number of labels
    head = nn.Linear(16, 3)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    options = {"steps": 50, "batch": 32, "seed": 0, "problem": MULTI_LABEL}
    untrained = held_out_loss(copy.deepcopy(head), features, flags, replace(PHASE, learning_rate=1e-9), **options)
    assert untrained == pytest.approx(np.log(2), abs=1e-4)
    trained = held_out_loss(head, features, flags, replace(PHASE, learning_rate=0.03, label_smoothing=0.1), **options)
    assert trained < 0.6 * untrained
    plain = nn.functional.binary_cross_entropy_with_logits(head(features[:40]), flags[:40])
    assert trained == pytest.approx(plain.item())  # without label smoothing


@given(st.lists(st.integers(0, 9), min_size=2, max_size=50), st.booleans())
def test_no_group_is_both_trained_on_and_held_out(groups: list[int], is_known: bool) -> None:
    units = [str(group) for group in groups] if is_known else []
    rows = np.random.default_rng(0).permutation(len(groups)).tolist()
    order, held_out = by_groups(rows, units)
    assert sorted(order) == sorted(rows)
    assert len(rows) // 5 <= held_out < len(rows)
    if not is_known:
        assert (order, held_out) == (rows, max(1, len(rows) // 5))
    elif len(set(units)) > 1:
        first, rest = ({units[row] for row in part} for part in (order[:held_out], order[held_out:]))
        assert not first & rest


def test_the_rate_with_the_lowest_finite_loss_is_selected() -> None:
    assert RateSweep({1e-3: 0.5, 1e-2: 0.4, 1e-1: float("inf")}).best == 1e-2
    assert RateSweep({1e-3: 0.4, 1e-2: 0.4}).best == 1e-3
    assert str(RateSweep({1e-3: 0.5, 1e-2: 0.412})) == "0.01 (lowest of held-out losses 0.5 at 0.001, 0.412 at 0.01)"
    features, labels = clusters()
    loss = held_out_loss(nn.Linear(16, 3), features * torch.nan, labels, PHASE, steps=1, batch=8, seed=0)
    assert loss == float("inf")


def test_features_are_the_inputs_of_the_head(tmp_path: Path) -> None:
    run = Run(str(tmp_path))
    model, images = make_model(run), make_images(run).with_transform(make_transforms(run).eval)
    head = head_module(model, list_stages(model)[-1])
    features, labels = head_inputs(model, head, images, batch_size=4)
    assert head is model.timm_model.fc
    assert labels.tolist() == [index % 3 for index in range(14)]
    with torch.inference_mode():
        expected = model.eval()(pixel_values=torch.stack([row["pixel_values"] for row in images])).logits
    torch.testing.assert_close(head(features), expected)


def test_a_sweep_changes_nothing_and_repeats(tmp_path: Path) -> None:
    run = Run(str(tmp_path))
    model, images = make_model(run), make_images(run).with_transform(make_transforms(run).eval)
    before, state, training = snapshot(model), torch.get_rng_state(), model.training
    needs_gradient = [p.requires_grad for p in model.parameters()]
    accelerator = Accelerator(cpu=True)
    sweeps = [sweep_learning_rates(accelerator, model, images, PHASE, TrainingConfig()) for _ in range(2)]
    assert sweeps[0] == sweeps[1]
    assert tuple(sweeps[0].losses) == LEARNING_RATES
    assert all(torch.equal(before[name], tensor) for name, tensor in snapshot(model).items())
    assert torch.equal(state, torch.get_rng_state())
    assert model.training == training
    assert [p.requires_grad for p in model.parameters()] == needs_gradient
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_model_with_two_heads_needs_a_rate() -> None:
    model, _ = load_backbone("timm:levit_128s", LABELS, Strategy.transfer(), pretrained=False)
    with pytest.raises(ConfigError, match=r"a head of one module, found .*head.*: set learning_rate"):
        head_module(model, list_stages(model)[-1])


@pytest.mark.parametrize(("batch", "limit", "expected"), [(64, 64, 64), (64, 63, 32), (64, 1, 1), (48, 20, 12)])
def test_batches_are_halved_until_they_fit(batch: int, limit: int, expected: int) -> None:
    assert largest_fitting(batch, lambda size: size <= limit) == expected


@pytest.mark.parametrize(("batch", "odd"), [(12, 3), (7, 7), (8, 1)])
def test_a_batch_that_cannot_be_halved_is_an_error(batch: int, odd: int) -> None:
    with pytest.raises(ConfigError, match=f"a batch of {odd} images does not fit"):
        largest_fitting(batch, lambda size: False)


def test_on_a_cpu_the_batch_stays(tmp_path: Path) -> None:
    config = TrainingConfig(auto_find_batch_size=True)
    model = make_model(Run(str(tmp_path)))
    assert fit_batch_size(Accelerator(cpu=True), model, Strategy.full(), config, (3, 32, 32)) == config


@pytest.mark.gpu
def test_on_a_gpu_the_global_batch_stays(tmp_path: Path) -> None:
    accelerator = Accelerator()
    model = copy.deepcopy(make_model(Run(str(tmp_path)))).to(accelerator.device)
    before = snapshot(model)
    largest = torch.cuda.get_device_properties(0).total_memory // (3 * 224 * 224 * 4)
    batch = 1 << largest.bit_length()  # the images alone fill the memory
    config = TrainingConfig(per_device_train_batch_size=batch)
    fitted = fit_batch_size(accelerator, model, Strategy.full(), config, (3, 224, 224))
    assert fitted.per_device_train_batch_size < batch
    assert fitted.per_device_train_batch_size * fitted.gradient_accumulation_steps == batch
    assert accelerator.gradient_accumulation_steps == fitted.gradient_accumulation_steps
    assert all(torch.equal(before[name], tensor) for name, tensor in snapshot(model).items())
