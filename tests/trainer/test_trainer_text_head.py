"""`StrategyTrainer` trains on from a head from class names as the Accelerate loop does."""

from pathlib import Path
from typing import Any

import pytest
from backbones.two_towers import PROMPT, colored, write_towers
from transformers import TrainerCallback, TrainingArguments

import hf_tl
from hf_tl.data.datasets import ImageData
from hf_tl.errors import ConfigError
from hf_tl.strategy import Phase, Strategy

PHASES = Strategy("phases", (Phase(1, 2, 0.01, augmentation="none", head_penalty=3.0),))


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_towers(tmp_path_factory.mktemp("towers") / "tiny-clip", "clip"))


@pytest.fixture(scope="module")
def data() -> ImageData:
    # 64 training images, eight batches
    return hf_tl.load_data(colored(90), dataset_name="colors", test_fraction=0.2, validation_fraction=8 / 72)


def make_trainer(
    clip: str, data: ImageData, folder: Path, strategy: Any = PHASES, **settings: Any
) -> hf_tl.StrategyTrainer:
    model, transforms = hf_tl.load_backbone(clip, data.labels, head_init="text", prompt=PROMPT)
    defaults: dict[str, Any] = {"report_to": "none", "disable_tqdm": True, "use_cpu": True, "save_strategy": "no"}
    sizes: dict[str, Any] = {"per_device_train_batch_size": 8, "eval_strategy": "epoch", "seed": 0}
    args = TrainingArguments(str(folder), **{**defaults, **sizes, **settings})
    return hf_tl.StrategyTrainer(model, args, strategy=strategy, data=data, transforms=transforms)


def test_losses_and_zero_shot_results_are_those_of_the_accelerate_loop(
    clip: str, data: ImageData, tmp_path: Path
) -> None:
    model, transforms = hf_tl.load_backbone(clip, data.labels, head_init="text", prompt=PROMPT)
    settings: dict[str, Any] = {"per_device_train_batch_size": 8, "feature_cache": "off", "report_to": "none"}
    loop = hf_tl.train(model, data, PHASES, transforms=transforms, output_dir=str(tmp_path / "loop"), **settings)
    trainer = make_trainer(clip, data, tmp_path / "trainer")
    trainer.train()
    record = trainer.result.record
    losses = [[entry["train_loss"] for entry in each.history] for each in (record, loop.record)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    assert record.text_head == loop.record.text_head
    assert record.text_head is not None
    assert set(record.text_head.zero_shot) == {"validation", "test"}
    assert record.origin.head == "text"
    card = (tmp_path / "trainer" / "README.md").read_text()
    assert "Zero-shot test accuracy, before training" in card
    assert PROMPT in card


def test_a_strategy_by_name_keeps_the_head_near_its_text(clip: str, data: ImageData, tmp_path: Path) -> None:
    trainer = make_trainer(clip, data, tmp_path, "finetune")
    assert {phase.head_penalty for phase in trainer.strategy.phases} == {1.0}
    chosen = make_trainer(clip, data, tmp_path, Strategy.finetune(head_penalty=0.5))
    assert {phase.head_penalty for phase in chosen.strategy.phases} == {0.5}
    with pytest.raises(ConfigError, match="fits it anew"):
        make_trainer(clip, data, tmp_path, Strategy.transfer(head_solver="lbfgs"))


def test_a_resumed_run_is_drawn_to_the_same_weights(clip: str, data: ImageData, tmp_path: Path) -> None:
    """The penalty is of the text head, not of the weights in the checkpoint."""
    saving: dict[str, Any] = {"save_strategy": "epoch"}
    whole = make_trainer(clip, data, tmp_path / "whole", **saving)
    whole.train()
    trainer = make_trainer(clip, data, tmp_path / "run", **saving)

    class Stop(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            control.should_training_stop = state.global_step == 10

    trainer.add_callback(Stop())
    trainer.train()
    resumed = make_trainer(clip, data, tmp_path / "run", **saving)
    resumed.train(resume_from_checkpoint=hf_tl.newest_checkpoint(tmp_path / "run"))
    assert resumed.result.record.weights_digest == whole.result.record.weights_digest
    assert resumed.result.record.text_head == whole.result.record.text_head
