import pytest
import timm
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from hf_tl.backbones.stages.freezing import freeze
from hf_tl.backbones.stages.stage import list_stages
from hf_tl.errors import ConfigError, StageError
from hf_tl.optimization.optim import build_optimizer, build_schedule, no_decay_names, parameter_groups, phase_ends
from hf_tl.strategy import Phase


def frozen_for(architecture: str, phase: Phase) -> nn.Module:
    model = timm.create_model(architecture, num_classes=3)
    freeze(model, trainable_stages=phase.trainable_stages, norm=phase.norm)
    return model


def test_each_stage_has_its_rate() -> None:
    phase = Phase(4, 1, learning_rate=0.1, backbone_learning_rate=0.01, layer_decay=0.5)
    model = frozen_for("test_resnet", phase)
    groups = parameter_groups(model, list_stages(model), phase)
    rates = {group["name"].split("/")[0]: group["lr"] for group in groups}
    assert rates == {"head": 0.1, "layer4": 0.01, "layer3": 0.005, "layer2": 0.0025}
    assert groups[0]["name"] == "head/decay"  # Trainer logs the learning rate of the first group


def test_the_backbone_learns_at_the_heads_rate_by_default() -> None:
    phase = Phase("all", 1, learning_rate=0.1)
    model = frozen_for("test_resnet", phase)
    assert {group["lr"] for group in parameter_groups(model, list_stages(model), phase)} == {0.1}


@pytest.mark.parametrize("architecture", ["test_resnet", "test_vit", "test_efficientnet", "test_convnext"])
@pytest.mark.parametrize(
    "phase",
    [Phase(1, 1, 0.1), Phase(3, 1, 0.1), Phase("all", 1, 0.1), Phase(1, 1, 0.1, norm="affine")],
    ids=["head", "three stages", "all", "norms"],
)
def test_every_trainable_parameter_is_in_one_group_and_no_frozen_one(architecture: str, phase: Phase) -> None:
    model = frozen_for(architecture, phase)
    optimizer = build_optimizer(model, list_stages(model), phase)
    grouped = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    trainable = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == trainable

    model.train()(torch.randn(2, 3, 160, 160)).sum().backward()
    optimizer.step()
    assert {id(parameter) for parameter in optimizer.state} == trainable


@pytest.mark.parametrize("architecture", ["test_resnet", "test_vit"])
def test_norms_biases_and_exempt_parameters_are_not_decayed(architecture: str) -> None:
    phase = Phase("all", 1, 0.1, weight_decay=0.3)
    model = frozen_for(architecture, phase)
    decay = {
        id(parameter): group["weight_decay"]
        for group in parameter_groups(model, list_stages(model), phase)
        for parameter in group["params"]
    }
    never = no_decay_names(model)
    for name, parameter in model.named_parameters():
        expected = 0.0 if parameter.ndim <= 1 or name in never else 0.3
        assert decay[id(parameter)] == expected, name
    assert set(decay.values()) == {0.0, 0.3}


def test_no_decay_names_reach_into_a_wrapper() -> None:
    assert no_decay_names(timm.create_model("test_vit")) >= {"pos_embed", "cls_token"}
    assert no_decay_names(nn.Sequential(timm.create_model("test_vit"))) >= {"0.pos_embed", "0.cls_token"}
    assert no_decay_names(nn.Linear(1, 1)) == set()


def test_a_trainable_parameter_outside_all_stages_is_named() -> None:
    phase = Phase("all", 1, 0.1)
    model = frozen_for("test_resnet", phase)
    stages = list_stages(model)
    model.temperature = nn.Parameter(torch.ones(()))
    with pytest.raises(StageError, match="temperature"):
        parameter_groups(model, stages, phase)


def test_a_model_without_a_trainable_parameter_is_refused() -> None:
    model = timm.create_model("test_resnet").requires_grad_(False)
    with pytest.raises(StageError, match="found none"):
        parameter_groups(model, list_stages(model), Phase(1, 1, 0.1))


@given(steps=st.integers(1, 60), warmup=st.floats(0, 0.9))
def test_the_schedule_is_that_of_transformers_with_a_linear_warm_up(steps: int, warmup: float) -> None:
    phase = Phase(1, 1, learning_rate=0.4, warmup_ratio=warmup)
    first, second = (torch.optim.AdamW([nn.Parameter(torch.zeros(2))], lr=0.4) for _ in range(2))
    schedule = build_schedule(first, phase, steps)
    reference = transformers.get_cosine_schedule_with_warmup(second, int(warmup * steps), steps)
    for _ in range(steps):
        assert schedule.get_last_lr() == reference.get_last_lr()
        for part in (first, second, schedule, reference):
            part.step()
    assert schedule.get_last_lr() == [pytest.approx(0)]


@given(st.lists(st.floats(0.5, 20), min_size=1, max_size=5), st.integers(2, 500))
def test_phases_end_in_order_where_their_epochs_end(epochs: list[float], steps_per_epoch: int) -> None:
    ends = phase_ends([Phase(1, number, 0.1) for number in epochs], steps_per_epoch)
    assert ends == sorted(set(ends))
    for index, end in enumerate(ends):
        exact = sum(epochs[: index + 1]) * steps_per_epoch
        assert exact - 0.01 <= end < exact + 1.01


def test_rounding_adds_no_step() -> None:
    assert phase_ends([Phase(1, 0.1, 0.1), Phase(1, 0.2, 0.1)], steps_per_epoch=10) == [1, 3]


def test_a_phase_without_a_step_is_named() -> None:
    with pytest.raises(ConfigError, match=r"phase 2 of 3 has 0\.01 epochs of 4 steps"):
        phase_ends([Phase(1, 1.3, 0.1), Phase(2, 0.01, 0.1), Phase(3, 1, 0.1)], steps_per_epoch=4)
