"""Resumed runs of transformers' Trainer, and the strategy in saved models."""

import json
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from torch import Tensor
from trainer.recorded_trainer import TWO_PHASES, make_trainer, moved, snapshot

from hf_tl.strategy import Strategy
from hf_tl.trainer.callback import StrategyCallback


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, images: Dataset) -> Path:
    output = tmp_path_factory.mktemp("uninterrupted")
    callbacks = [StrategyCallback(TWO_PHASES)]
    make_trainer(output, images, callbacks, save_strategy="steps", save_steps=1).train()
    return output


def resume(output: Path, images: Dataset, checkpoint: Path) -> dict[str, Tensor]:
    # another seed: equal results came from the checkpoint
    trainer = make_trainer(output, images, [StrategyCallback(TWO_PHASES)], seed=1)
    trainer.train(resume_from_checkpoint=str(checkpoint))
    return snapshot(trainer.model)


def final_weights(output: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    weights = load_file(output / "checkpoint-10" / "model.safetensors")
    # transformers 5.3 saves them without the prefix
    return {f"timm_model.{name.removeprefix('timm_model.')}": tensor for name, tensor in weights.items()}


@pytest.mark.parametrize("step", [2, 3, 4, 5, 7, 9])
def test_resume_continues_bit_by_bit(tmp_path: Path, images: Dataset, uninterrupted: Path, step: int) -> None:
    weights = resume(tmp_path, images, uninterrupted / f"checkpoint-{step}")
    expected = final_weights(uninterrupted)
    assert weights.keys() == expected.keys()
    assert not moved(expected, weights)


def test_resume_without_the_optimizers_state_differs(tmp_path: Path, images: Dataset, uninterrupted: Path) -> None:
    """Control of the test above."""
    checkpoint = tmp_path / "checkpoint-7"
    checkpoint.mkdir()
    for file in (uninterrupted / "checkpoint-7").iterdir():
        (checkpoint / file.name).write_bytes(file.read_bytes())
    state = torch.load(checkpoint / "optimizer.pt", weights_only=True)
    torch.save({**state, "state": {}}, checkpoint / "optimizer.pt")
    assert moved(final_weights(uninterrupted), resume(tmp_path, images, checkpoint))


def test_one_trainer_can_train_again_and_resume(tmp_path: Path, images: Dataset, uninterrupted: Path) -> None:
    trainer = make_trainer(tmp_path, images, [StrategyCallback(TWO_PHASES)], seed=1)
    trainer.train()
    trainer.train(resume_from_checkpoint=str(uninterrupted / "checkpoint-6"))
    assert not moved(final_weights(uninterrupted), snapshot(trainer.model))


def test_the_saved_model_records_its_strategy(uninterrupted: Path) -> None:
    config = json.loads((uninterrupted / "checkpoint-10" / "config.json").read_text())
    assert config["hf_tl"]["schema_version"] == 2
    assert Strategy.from_record(config["hf_tl"]["strategy"]) == TWO_PHASES
