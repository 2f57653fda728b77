"""Default recipes by the size of the data, and flags that replace them."""

from dataclasses import replace
from typing import get_args

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from hf_tl.augmentation import PRESETS
from hf_tl.config import StrategyConfig, StrategyName
from hf_tl.recipes.sizes import SIZES, recipe_for
from hf_tl.strategy import BatchNorm, ClassWeights, Norm, Strategy
from hf_tl.tuning import LoRA


@pytest.mark.parametrize("stages", [2, 3, 6, None])
@pytest.mark.parametrize("epochs", [1.0, 10.0])
def test_gradual_unfreezes_one_stage_at_a_time(stages: int | None, epochs: float) -> None:
    strategy = Strategy.gradual(trainable_stages=stages, epochs=epochs, weight_decay=0.2).resolve(40_000)
    trained = [phase.trainable_stages for phase in strategy.phases]
    assert trained == ([1, 2, 3, 4, "all"] if stages is None else list(range(1, stages + 1)))
    assert sum(phase.epochs or 0 for phase in strategy.phases) == pytest.approx(epochs)
    assert strategy.phases[-1].epochs == pytest.approx(
        (epochs - (strategy.phases[0].epochs or 0)) / (2 if stages != 2 else 1)
    )
    assert {phase.weight_decay for phase in strategy.phases} == {0.2}
    assert strategy.phases[-1].layer_decay == pytest.approx(1 / 2.6)


@given(
    st.sampled_from(get_args(StrategyName)), st.integers(1, 10**7), st.booleans(),
    st.none() | st.sampled_from(list(PRESETS)),
)  # fmt: skip
def test_every_size_has_a_recipe(name: StrategyName, images: int, pretrained: bool, augmentation: str | None) -> None:
    strategy = StrategyConfig(name, augmentation=augmentation).build(1, images, pretrained=pretrained)
    assert strategy.name == name
    head_first = name in ("finetune", "gradual", "lora", "auto")
    if head_first and augmentation is None:
        head = StrategyConfig("transfer").build(1, images, pretrained=pretrained).phases[0]
        assert replace(strategy.phases[0], batch_norm=head.batch_norm, layer_decay=head.layer_decay) == replace(
            head, backbone_learning_rate=None
        )
    for phase in strategy.phases:
        assert augmentation in (None, phase.augmentation)
        keeps = pretrained and images < SIZES[1] and name not in ("transfer", "scratch")
        assert phase.batch_norm == ("keep" if keeps or phase.is_adapted else "update")
        assert not (phase.mixup and phase.augmentation == "none" and augmentation is None)


def test_the_documented_defaults() -> None:
    assert recipe_for("transfer", 3_000) == {"epochs": 10, "learning_rate": 3e-3, "augmentation": "none"}
    full = StrategyConfig("full").build(1, 3_068).phases[0]
    assert (full.learning_rate, full.backbone_learning_rate, full.weight_decay) == (3e-3, 3e-4, 0.05)
    assert (full.label_smoothing, full.augmentation, full.batch_norm, full.mixup) == (0.1, "light", "keep", 0)
    sizes = (99, 100, 999, 1_000, 19_999, 20_000, 500_000)
    assert [recipe_for("full", size)["epochs"] for size in sizes] == [60, 20, 20, 10, 10, 10, 8]
    large = StrategyConfig("scratch").build(1, 100_000).phases[0]
    assert (large.augmentation, large.mixup, large.cutmix, large.ema_decay) == ("strong", 0.1, 1.0, 0.9999)


@pytest.mark.parametrize(("images", "expected"), [(50, 3), (999, 3), (1_000, 1), (20_000, 1)])
def test_auto_without_evidence_expects_all_stages_where_images_are_few(images: int, expected: int) -> None:
    """A tenth of them cannot show a gain; what was chosen stays, and random weights must show one."""
    strategy = Strategy.auto(trainable_stages=(2, "all"), scratch=True)
    assert strategy.resolve(images).expected_rung == expected
    assert len(strategy.resolve(images).phases) == 4
    assert Strategy.auto(expected_rung=2).resolve(images).expected_rung == 2
    assert StrategyConfig("auto").build(images=images, climb={"stages": (), "expected_rung": 1}).expected_rung == 1


@pytest.mark.parametrize("name", ["finetune", "gradual"])
def test_flags_hold_in_the_phase_of_the_head_too(name: StrategyName) -> None:
    plain = StrategyConfig(name).build(1, 3_000)
    assert (plain.phases[0].epochs, sum(phase.epochs or 0 for phase in plain.phases)) == (10, 20)
    asked = StrategyConfig(name, num_train_epochs=6, label_smoothing=0.3, augmentation="medium").build(1, 3_000)
    assert sum(phase.epochs or 0 for phase in asked.phases) == pytest.approx(6)
    assert {(phase.label_smoothing, phase.augmentation) for phase in asked.phases} == {(0.3, "medium")}


VALUES = {
    "learning_rate": st.floats(1e-5, 1),
    "backbone_learning_rate": st.floats(1e-5, 1),
    "layer_decay": st.sampled_from([0.75, 1 / 2.6, 0.5, 1.0]),
    "norm": st.sampled_from(get_args(Norm)),
    "batch_norm": st.sampled_from(get_args(BatchNorm)),
    "weight_decay": st.sampled_from([0.0, 0.05, 0.3]),
    "warmup_ratio": st.sampled_from([0.0, 0.1, 0.3]),
    "augmentation": st.sampled_from(list(PRESETS)),
    "mixup": st.sampled_from([0.0, 0.1, 0.4]),
    "cutmix": st.sampled_from([0.0, 1.0, 0.4]),
    "label_smoothing": st.sampled_from([0.0, 0.1, 0.4]),
    "ema_decay": st.sampled_from([0.0, 0.9, 0.9999]),
    "class_weights": st.sampled_from(get_args(ClassWeights)),
    "balanced_sampling": st.just(True),
    "patience": st.integers(1, 9),
    "num_train_epochs": st.integers(21, 300),
}
OF_BACKBONE = ("backbone_learning_rate", "layer_decay")


@settings(max_examples=400, deadline=None)
@given(
    name=st.sampled_from(get_args(StrategyName)),
    images=st.sampled_from([50, 500, 5_000, 50_000, 5_000_000]),
    pretrained=st.booleans(),
    flag=st.sampled_from(sorted(VALUES)),
    data=st.data(),
)
def test_a_flag_changes_its_own_field_and_no_other(
    name: StrategyName, images: int, pretrained: bool, flag: str, data: st.DataObject
) -> None:
    value = data.draw(VALUES[flag])
    assume(not (name == "lora" and flag == "batch_norm"))
    plain = StrategyConfig(name).build(1, images, pretrained=pretrained)
    asked = StrategyConfig(name, **{flag: value}).build(1, images, pretrained=pretrained)
    field = "epochs" if flag == "num_train_epochs" else flag
    assert len(asked.phases) == len(plain.phases)
    assert replace(asked, phases=plain.phases) == plain
    for number, (phase, before) in enumerate(zip(asked.phases, plain.phases, strict=True)):
        assert replace(phase, **{field: getattr(before, field)}) == before
        is_head = number == 0 and name in ("finetune", "gradual", "lora", "auto")
        if field not in ("epochs", "learning_rate") and not (field in OF_BACKBONE and is_head):
            assert getattr(phase, field) == (value or None if flag == "ema_decay" else value)
    first = asked.phases[0]
    if flag == "learning_rate":
        assert first.learning_rate == value
    if flag == "num_train_epochs":
        passes = [phase.epochs or 0 for phase in asked.phases]
        assert (passes[1] if name == "auto" else sum(passes)) == pytest.approx(value)


def test_flags_win_over_the_recipe() -> None:
    flags = {"mixup": 0.0, "cutmix": 0.3, "ema_decay": 0.0, "label_smoothing": 0.0, "batch_norm": "keep", "patience": 2}
    phase = StrategyConfig("scratch", num_train_epochs=7, **flags).build(1, 100_000).phases[0]
    assert (phase.epochs, phase.ema_decay) == (7, None)
    assert {name: getattr(phase, name) for name in flags if name != "ema_decay"} == {
        name: value for name, value in flags.items() if name != "ema_decay"
    }


@pytest.mark.parametrize("name", ["finetune", "gradual", "full", "auto"])
def test_adapters_learn_at_their_own_rate_in_every_strategy(name: str) -> None:
    *_, last = Strategy.of(name, tuning=LoRA(4)).resolve(500).phases
    of_lora = Strategy.lora(rank=4).resolve(500).phases[-1]
    assert (last.backbone_learning_rate, last.layer_decay) == (of_lora.backbone_learning_rate, 1.0)
    assert Strategy.of(name, tuning=LoRA(4), backbone_learning_rate=0.1).phases[-1].backbone_learning_rate == 0.1
