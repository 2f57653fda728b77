"""Training arguments and strategies that do not fit together under transformers' Trainer."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from trainer.recorded_trainer import DEEP, HEAD, TWO_PHASES, make_trainer
from transformers import TrainingArguments
from transformers import logging as transformers_logging

from hf_tl.errors import ConfigError
from hf_tl.strategy import Phase, Strategy
from hf_tl.trainer.callback import StrategyCallback


def test_the_phases_give_the_epochs(tmp_path: Path, images: Dataset, caplog: pytest.LogCaptureFixture) -> None:
    transformers_logging.set_verbosity_warning()
    transformers_logging.enable_propagation()
    trainer = make_trainer(tmp_path, images, [StrategyCallback(TWO_PHASES)])
    assert trainer.args.num_train_epochs == 2.5
    assert "num_train_epochs" not in caplog.text  # the default is not a user's choice
    make_trainer(tmp_path, images, [StrategyCallback(TWO_PHASES)], num_train_epochs=7)
    assert "num_train_epochs=7 becomes 2.5" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_steps": 3}, "max_steps"),
        ({"ddp_find_unused_parameters": False}, "ddp_find_unused_parameters"),
        ({"label_smoothing_factor": 0.1}, r"label_smoothing \[0\.0\].*label_smoothing_factor=0\.1"),
    ],
)
def test_arguments_against_the_strategy_are_refused(
    tmp_path: Path, images: Dataset, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        make_trainer(tmp_path, images, [StrategyCallback(TWO_PHASES)], **arguments)


def test_phases_with_two_augmentations_are_refused(tmp_path: Path, images: Dataset) -> None:
    strategy = Strategy("two views", (HEAD, replace(DEEP, augmentation="none")))
    with pytest.raises(ConfigError, match=r"one augmentation for all phases .* found light, none"):
        make_trainer(tmp_path, images, [StrategyCallback(strategy)])


def test_label_smoothing_is_that_of_trainer(tmp_path: Path, images: Dataset) -> None:
    strategy = Strategy("smooth", (replace(HEAD, label_smoothing=0.1),))
    trainer = make_trainer(tmp_path, images, [StrategyCallback(strategy)], label_smoothing_factor=0.1)
    assert trainer.label_smoother.epsilon == 0.1


def test_a_schedule_that_cannot_be_replaced_is_refused(tmp_path: Path, images: Dataset) -> None:
    trainer = make_trainer(tmp_path, images, [StrategyCallback(TWO_PHASES)])
    trainer.lr_scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(trainer.create_optimizer())
    with pytest.raises(ConfigError, match=r"ReduceLROnPlateau.*lr_scheduler_type"):
        trainer.train()


def test_an_optimizer_of_the_head_alone_is_refused(tmp_path: Path, images: Dataset) -> None:
    trainer = make_trainer(tmp_path, images, [StrategyCallback(TWO_PHASES)])
    trainer.optimizer = torch.optim.SGD(trainer.model.timm_model.fc.parameters(), lr=0.1)
    with pytest.raises(ConfigError, match=r"lacks parameters of .*layer4"):
        trainer.train()


def test_a_run_of_another_length_is_refused(tmp_path: Path, images: Dataset) -> None:
    trainer = make_trainer(tmp_path, images, [StrategyCallback(TWO_PHASES)])
    trainer.args.num_train_epochs = 1
    with pytest.raises(ConfigError, match="a run of 10 steps, as the phases have, found 4"):
        trainer.train()


@pytest.mark.parametrize(
    "field",
    [
        {"steps": 3, "epochs": None}, {"patience": 1}, {"mixup": 0.1}, {"cutmix": 1.0}, {"ema_decay": 0.9},
        {"class_weights": "balanced"}, {"balanced_sampling": True},
    ],
)  # fmt: skip
def test_fields_that_trainer_does_not_support_are_refused(field: dict[str, Any], tmp_path: Path) -> None:

    strategy = Strategy("custom", (Phase(1, 1), Phase(**{"trainable_stages": 2, "epochs": 1, **field})))
    args = TrainingArguments(str(tmp_path), report_to="none")
    with pytest.raises(ConfigError, match=f"does not support {next(iter(field))} in phases"):
        StrategyCallback(strategy).on_init_end(args, None, None, model=None)
