"""`TrainingArguments` under a strategy: adopted, replaced or refused, and a table of all in the page of the room."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from trainer.recorded_trainer import DEEP, HEAD, TWO_PHASES, make_trainer
from trainer.strategy_trainers import make_data
from trainer.strategy_trainers import make_trainer as make_strategy_trainer
from transformers import TrainingArguments
from transformers import logging as transformers_logging

import hf_tl.trainer
from hf_tl.data.datasets import ImageData
from hf_tl.errors import ConfigError
from hf_tl.strategy import Phase, Strategy
from hf_tl.trainer.callback import StrategyCallback

PEOPLE_SET: dict[str, Any] = {
    "learning_rate": 1e-3, "num_train_epochs": 4, "max_steps": 10, "weight_decay": 0.01, "warmup_steps": 0.2,
    "lr_scheduler_type": "constant", "label_smoothing_factor": 0.1, "max_grad_norm": 0.5, "adam_beta2": 0.99,
    "optim": "sgd", "per_device_train_batch_size": 16, "per_device_eval_batch_size": 16,
    "gradient_accumulation_steps": 2, "auto_find_batch_size": True, "seed": 1, "data_seed": 3, "eval_strategy": "steps",
    "eval_on_start": True, "save_strategy": "epoch", "save_total_limit": 1, "logging_steps": 1,
    "dataloader_num_workers": 1, "dataloader_drop_last": True, "remove_unused_columns": True, "bf16": True,
    "gradient_checkpointing": True, "torch_compile": True, "train_sampling_strategy": "group_by_length",
    "ddp_find_unused_parameters": False, "hub_strategy": "every_save",
}  # fmt: skip
"""Arguments of transformers' image-classification example and guide, and others that people set."""
AVAILABLE = [name for name in PEOPLE_SET if name in TrainingArguments.__dataclass_fields__]
"""Arguments of the installed version of transformers."""


@pytest.fixture(scope="module")
def data() -> ImageData:
    return make_data()


@pytest.fixture(autouse=True)
def _warnings_are_logged(_quiet: None) -> None:
    transformers_logging.set_verbosity_info()
    transformers_logging.enable_propagation()


def outcome(
    tmp_path: Path, data: ImageData, strategy: Any, name: str, caplog: pytest.LogCaptureFixture
) -> tuple[str, str]:
    """Return what becomes of an argument, and the words of the log or the error."""
    caplog.clear()
    settings = {name: PEOPLE_SET[name], **({"eval_strategy": "epoch"} if name == "load_best_model_at_end" else {})}
    try:
        trainer = make_strategy_trainer(tmp_path / "out", strategy, data, **settings)
    except ConfigError as error:
        return "refused", str(error)
    if f"Adopting {name}=" in caplog.text:
        return "adopted", caplog.text
    value = getattr(trainer.args, name)
    if getattr(value, "value", value) != PEOPLE_SET[name]:
        return "replaced", caplog.text
    return "used", caplog.text


def test_the_page_lists_what_becomes_of_each_argument(
    tmp_path: Path, data: ImageData, caplog: pytest.LogCaptureFixture
) -> None:
    page = (Path(hf_tl.trainer.__file__).parent / "README.md").read_text(encoding="utf-8")
    phases = Strategy("phases", (replace(HEAD, augmentation="none"), Phase(2, 1, 0.01, batch_norm="update")))
    rows = []
    for name in AVAILABLE:
        by_name, by_phases = (outcome(tmp_path, data, s, name, caplog)[0] for s in ("finetune", phases))
        rows.append(f"| `{name}` | {by_name} | {by_phases} |")
    others = tuple(f"| `{name}` |" for name in PEOPLE_SET if name not in AVAILABLE)
    written = [line for line in page.splitlines() if re.match(r"\| `\w+` \| \w+ \| \w+ \|$", line)]
    written = [line for line in written if not line.startswith(others)]
    assert written == rows, "write these rows into the page:\n" + "\n".join(rows)


@pytest.mark.parametrize(
    ("argument", "value", "field", "expected"),
    [
        ("learning_rate", 1e-3, "learning_rate", [1e-3, 1e-3 / 3]),
        ("learning_rate", 1e-4, "backbone_learning_rate", [None, 1e-4]),
        ("weight_decay", 0.01, "weight_decay", [0.01, 0.01]),
        ("warmup_steps", 0.2, "warmup_ratio", [0.2, 0.2]),
        ("label_smoothing_factor", 0.2, "label_smoothing", [0.2, 0.2]),
    ],
)
def test_phases_adopt_what_the_strategy_leaves_open(
    tmp_path: Path, data: ImageData, argument: str, value: float, field: str, expected: list[float]
) -> None:
    trainer = make_strategy_trainer(tmp_path, "finetune", data, **{argument: value})
    assert [getattr(phase, field) for phase in trainer.strategy.phases] == pytest.approx(expected)
    open_again = make_strategy_trainer(tmp_path, "finetune", data)
    assert [getattr(phase, field) for phase in open_again.strategy.phases] != pytest.approx(expected)


def test_a_value_that_the_strategy_sets_wins_with_a_warning(
    tmp_path: Path, data: ImageData, caplog: pytest.LogCaptureFixture
) -> None:
    strategy = Strategy.full(learning_rate=0.02, epochs=2)
    trainer = make_strategy_trainer(tmp_path, strategy, data, learning_rate=1e-3, num_train_epochs=9)
    assert trainer.strategy.phases[0].learning_rate == 0.02
    assert "learning_rate=0.001 of TrainingArguments becomes 0.02" in caplog.text
    assert "num_train_epochs=9 of TrainingArguments becomes 2" in caplog.text
    assert (trainer.args.learning_rate, trainer.args.num_train_epochs) == (0.02, 2)  # as Trainer's logs state


def test_a_default_that_the_recipe_replaces_is_named(
    tmp_path: Path, data: ImageData, caplog: pytest.LogCaptureFixture
) -> None:
    """A user may have written the default: Trainer cannot tell."""
    trainer = make_strategy_trainer(tmp_path, "transfer", data, num_train_epochs=3)
    assert trainer.args.num_train_epochs == 20
    assert "num_train_epochs=3 (20)" in caplog.text
    assert "learning_rate=5e-05 (0.003)" in caplog.text
    assert "hf_tl.Strategy.transfer(epochs=3)" in caplog.text
    caplog.clear()
    chosen = Strategy.transfer(epochs=3, learning_rate=5e-5, weight_decay=0.0, warmup_ratio=0.0)
    assert make_strategy_trainer(tmp_path, chosen, data).args.num_train_epochs == 3
    assert "replaces defaults" not in caplog.text


def test_a_callback_alone_adopts_the_label_smoothing_that_trainer_computes(tmp_path: Path, images: Dataset) -> None:
    callback = StrategyCallback(Strategy.transfer(epochs=1))
    trainer = make_trainer(tmp_path, images, [callback], label_smoothing_factor=0.1)
    assert trainer.label_smoother.epsilon == callback.strategy.phases[0].label_smoothing == 0.1


def test_the_phases_give_the_epochs(tmp_path: Path, images: Dataset, caplog: pytest.LogCaptureFixture) -> None:
    trainer = make_trainer(tmp_path, images, [StrategyCallback(TWO_PHASES)])
    assert trainer.args.num_train_epochs == 2.5
    assert "num_train_epochs" not in caplog.text  # the default is not a user's choice
    make_trainer(tmp_path, images, [StrategyCallback(TWO_PHASES)], num_train_epochs=7)
    assert "num_train_epochs=7 of TrainingArguments becomes 2.5" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_steps": 3}, "max_steps"),
        ({"ddp_find_unused_parameters": False}, "ddp_find_unused_parameters"),
        ({"gradient_checkpointing": True}, "BatchNorm statistics would be updated twice"),
        ({"label_smoothing_factor": 0.1}, r"label smoothing of TrainingArguments \(0\.1\) .*found \[0\.0\]"),
    ],
)
def test_arguments_against_the_strategy_are_refused(
    tmp_path: Path, images: Dataset, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        make_trainer(tmp_path, images, [StrategyCallback(TWO_PHASES)], **arguments)


def test_a_callback_alone_refuses_two_augmentations(tmp_path: Path, images: Dataset) -> None:
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
def test_what_a_callback_alone_cannot_do_names_the_trainer_that_can(
    field: dict[str, Any], tmp_path: Path, images: Dataset
) -> None:
    strategy = Strategy("custom", (Phase(1, 1), Phase(**{"trainable_stages": 2, "epochs": 1, **field})))
    message = f"does not support {next(iter(field))} in phases.*hf_tl.StrategyTrainer"
    with pytest.raises(ConfigError, match=message):
        make_trainer(tmp_path, images, [StrategyCallback(strategy)])


@pytest.mark.parametrize(
    ("strategy", "message"),
    [
        ("auto", r"auto is not supported under Trainer.*hf_tl\.train"),
        (Strategy.transfer(head_solver="lbfgs"), r"does not support solver in phases.*hf_tl\.train"),
        (replace(Strategy.full(epochs=1), refit=True), r"refit=True.*hf_tl\.train"),
        (Strategy("impatient", (Phase(1, 1, patience=1),)), "patience needs evaluations: set eval_strategy"),
    ],
)
def test_what_trainer_cannot_do_is_refused_before_the_first_step(
    tmp_path: Path, data: ImageData, strategy: Any, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        make_strategy_trainer(tmp_path, strategy, data, eval_strategy="no")


def test_early_stopping_beside_a_callback_alone_is_refused(tmp_path: Path, images: Dataset) -> None:
    from transformers import EarlyStoppingCallback

    callbacks = [StrategyCallback(TWO_PHASES), EarlyStoppingCallback()]
    args = {"eval_strategy": "epoch", "metric_for_best_model": "loss", "load_best_model_at_end": True}
    trainer = make_trainer(tmp_path, images, callbacks, **args, save_strategy="epoch", eval_dataset=images)
    with pytest.raises(ConfigError, match=r"EarlyStoppingCallback would end all phases.*StrategyTrainer"):
        trainer.train()
