import math
import re
import resource
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from training.launched_runs import launch
from training.small_runs import (
    FLAT,
    Run,
    make_images,
    make_model,
    make_training,
    make_transforms,
    resumed,
    stopped_at,
    train,
)
from training.trainer_runs import make_trainer
from transformers import Trainer, TrainingArguments

from hf_tl.checkpoints.checkpoint import find_damage, newest_checkpoint
from hf_tl.data.decoding.images import collate
from hf_tl.errors import CheckpointError, TrainingError
from hf_tl.strategy import Strategy
from hf_tl.trainer.callback import StrategyCallback

MESSAGES = {"image": "the loss is not finite", "loss": "the loss is not finite", "gradient": "a gradient is not finite"}


def assert_finite(tensors: dict[str, Tensor]) -> None:
    assert all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values())


def assert_saved_finite(output: Path) -> None:
    newest, problems = newest_checkpoint(output / "checkpoints")
    assert newest is not None
    assert problems == []
    assert_finite(load_file(newest / "weights.safetensors"))


@pytest.mark.parametrize("fault", MESSAGES)
def test_what_is_no_number_stops_before_the_optimizer_step(tmp_path: Path, fault: str) -> None:
    good = train(Run(str(tmp_path / "good")))
    training = make_training(Run(str(tmp_path / "bad"), config={"save_steps": 1}, fault=fault))
    with pytest.raises(TrainingError, match=MESSAGES[fault]) as error:
        training.run()
    step = training.state.step + 1
    assert f"in step {step};" in str(error.value)
    rows = sorted(good.seen[step])
    assert f"row in the training split: {', '.join(map(str, rows))}." in str(error.value)
    if fault == "gradient":
        assert step == 6
    else:
        assert FLAT in rows
        assert not any(FLAT in good.seen[earlier] for earlier in range(1, step))
    weights = dict(training.model.named_parameters())
    assert_finite({name: tensor.detach() for name, tensor in weights.items()})
    before = training.weights[step - 1]
    assert all(torch.equal(weights[name].detach(), before[name]) for name in weights), "the step was taken"
    assert_saved_finite(tmp_path / "bad")


@pytest.fixture(scope="module")
def batches(tmp_path_factory: pytest.TempPathFactory) -> list[list[int]]:
    """Return the rows of each step with Trainer."""
    trainer = make_trainer(Run(str(tmp_path_factory.mktemp("good")), config={"save_strategy": "no"}))
    seen: list[list[int]] = []

    def collate_and_note(examples: list[dict[str, Any]]) -> dict[str, Tensor]:
        seen.append(sorted(example["index"] for example in examples))
        return collate(examples)

    trainer.data_collator = collate_and_note
    trainer.train()
    return seen


@pytest.mark.parametrize("fault", MESSAGES)
@pytest.mark.parametrize(("workers", "accumulation"), [(0, 1), (2, 1), (0, 2)])
def test_trainer_stops_before_the_weights_go_bad(
    tmp_path: Path, batches: list[list[int]], fault: str, workers: int, accumulation: int
) -> None:
    config = {"dataloader_num_workers": workers, "gradient_accumulation_steps": accumulation}
    trainer = make_trainer(Run(str(tmp_path), config={"save_steps": 1, **config}, fault=fault))
    with pytest.raises(TrainingError, match=MESSAGES[fault]) as error:
        trainer.train()
    step = trainer.state.global_step + 1
    named = re.search(rf"in step {step};.*\(rows of the train_dataset: ([\d, ]+)\)", str(error.value))
    assert named is not None, error.value
    rows = [int(row) for row in named[1].split(", ")]
    first = (step - 1) * accumulation
    assert rows == sorted(row for batch in batches[first : first + accumulation] for row in batch)
    assert FLAT in rows or fault == "gradient"
    assert_finite(dict(trainer.model.named_parameters()))
    if step > 1:
        assert_finite(load_file(tmp_path / f"checkpoint-{step - 1}" / "model.safetensors"))
        assert find_damage(tmp_path / f"checkpoint-{step - 1}") is None


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_without_views_trainer_says_that_the_images_are_not_known(tmp_path: Path, smoothing: float) -> None:
    run = Run(str(tmp_path), fault="loss")
    strategy = Strategy("smooth", tuple(replace(phase, label_smoothing=smoothing) for phase in run.strategy.phases))
    rows = make_images(run).with_transform(make_transforms(run).train)
    args = TrainingArguments(run.output, use_cpu=True, report_to="none", label_smoothing_factor=smoothing)
    trainer = Trainer(
        make_model(run), args, train_dataset=rows, data_collator=collate, callbacks=[StrategyCallback(strategy)]
    )
    with pytest.raises(TrainingError, match=r"the loss is not finite in step \d;.* named with hf_tl\.TrainingViews"):
        trainer.train()


def test_after_training_the_views_can_be_evaluated(tmp_path: Path) -> None:
    """The rows are reported while the model is monitored, and not afterwards."""
    trainer = make_trainer(Run(str(tmp_path), config={"save_strategy": "no"}))
    trainer.train()
    assert math.isfinite(trainer.evaluate(trainer.train_dataset)["eval_loss"])
    assert not trainer.model._forward_pre_hooks
    assert not trainer.model._forward_hooks


def test_trainer_alone_continues(tmp_path: Path) -> None:
    """Control: the fault that the callback detects."""
    trainer = make_trainer(Run(str(tmp_path), config={"save_strategy": "no"}, fault="gradient"))
    guard = trainer.callback_handler.callbacks[1]
    guard.on_pre_optimizer_step = lambda *arguments, **kwargs: None
    trainer.train()
    assert not torch.isfinite(trainer.model.timm_model.fc.weight).all()


@pytest.mark.slow
def test_a_process_ends_with_an_error(tmp_path: Path) -> None:
    process = launch(Run(str(tmp_path), fault="image"))
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2
    assert errors.count("error: the loss is not finite") == 1


@pytest.fixture
def full_disk() -> Iterator[None]:
    """Limit file sizes to 20 kB, which the writer sees as a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def half_trained(tmp_path: Path) -> Run:
    run = Run(str(tmp_path), config={"save_steps": 1})
    stopped_at(run, 2)
    return run


def test_a_full_disk(half_trained: Run, full_disk: None) -> None:
    folder = Path(half_trained.output, "checkpoints")
    with pytest.raises(CheckpointError, match=f"{folder}/step-00000003 cannot be written: File too large"):
        train(resumed(half_trained))
    assert sorted(path.name for path in folder.iterdir()) == ["step-00000001", "step-00000002"]
    assert newest_checkpoint(folder) == (folder / "step-00000002", [])


def test_an_output_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="step-00000001 cannot be written: Not a directory"):
        train(Run(str(tmp_path / "file"), config={"save_steps": 1}))
