"""Resumed runs of `StrategyTrainer`: the same weights, phases and record as without an interruption."""

from pathlib import Path

import pytest
import torch
from trainer.strategy_trainers import make_data, make_trainer

import hf_tl
from hf_tl.data.datasets import ImageData
from hf_tl.strategy import Phase, Strategy

STRATEGY = Strategy(
    "two",
    (
        Phase(1, 1, 0.01, augmentation="light", mixup=0.3),
        Phase(2, 2, 0.01, augmentation="medium", ema_decay=0.9, balanced_sampling=True),
    ),
)


ADAPTED = Strategy(
    "adapted",
    (
        Phase(1, 1, 0.01, augmentation="light"),
        Phase("all", 1, 0.01, tuning=hf_tl.LoRA(2), ema_decay=0.9),
        Phase("all", 1, 0.01, tuning=hf_tl.LoRA(2)),
    ),
)
STRATEGIES = {"plain": STRATEGY, "adapted": ADAPTED}


@pytest.fixture(scope="module")
def data() -> ImageData:
    return make_data()


@pytest.fixture(scope="module", params=STRATEGIES)
def whole(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, data: ImageData
) -> hf_tl.StrategyTrainer:
    output = tmp_path_factory.mktemp("whole")
    trainer = make_trainer(output, STRATEGIES[request.param], data, save_strategy="steps", save_steps=1)
    trainer.train()
    return trainer


@pytest.mark.parametrize("step", [3, 8, 13, 16, 23])
def test_a_resumed_run_is_the_uninterrupted_run(
    tmp_path: Path, data: ImageData, whole: hf_tl.StrategyTrainer, step: int
) -> None:
    checkpoint = Path(whole.args.output_dir) / f"checkpoint-{step}"
    trainer = make_trainer(tmp_path / "out", whole.strategy, data, save_strategy="steps", save_steps=100)
    trainer.train(resume_from_checkpoint=str(checkpoint))
    expected = whole.model.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in trainer.model.state_dict().items())
    first, second = whole.result.record, trainer.result.record
    assert [phase.steps for phase in second.phases] == [phase.steps for phase in first.phases]
    assert sum(phase.steps for phase in first.phases) == 24
    assert [phase.proof for phase in second.phases] == [phase.proof for phase in first.phases]
    assert second.history  # Trainer writes a checkpoint before it evaluates the same step
    assert all(entry["validation"] in [other["validation"] for other in first.history] for entry in second.history)


def test_a_resume_after_early_stopping_keeps_the_ends_of_the_phases(tmp_path: Path, data: ImageData) -> None:
    impatient = Phase(1, 8, 1.0, augmentation="none", patience=1)
    strategy = Strategy("impatient", (impatient, Phase(2, 1, 0.01, augmentation="none")))
    trainer = make_trainer(tmp_path / "out", strategy, data, save_strategy="epoch")
    trainer.train()
    ends = trainer.phases.progress.ends
    assert ends[0] < 64
    resumed = make_trainer(tmp_path / "again", strategy, data, save_strategy="epoch")
    resumed.train(resume_from_checkpoint=str(tmp_path / "out" / f"checkpoint-{ends[0]}"))
    assert resumed.phases.progress.ends == ends
    assert resumed.state.global_step == ends[1]
    assert len(resumed.phases.progress.log.phases) == 2
