"""A teacher under transformers' Trainer, and on several processes: as in one process of the Accelerate loop."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import DatasetDict
from distillation.taught import backbone, losses, make_dataset, train_student
from trainer.strategy_trainers import make_args
from transformers import Trainer

import hf_tl
from hf_tl.errors import CheckpointError, ConfigError
from hf_tl.record import read_record
from hf_tl.strategy import Phase, Strategy

BATCH = 12
HEAD = Phase(1, 1, 0.01, augmentation="none", distillation_weight=0.7)
MIXED = Phase("all", 1, 0.003, batch_norm="keep", mixup=0.4, distillation_weight=0.9)


def make_trainer(output: Path, strategy: Any, teacher: Any, **settings: Any) -> hf_tl.StrategyTrainer:
    model, transforms = backbone()
    args = make_args(output, per_device_train_batch_size=BATCH, **settings)
    data = hf_tl.load_data(own_data())
    return hf_tl.StrategyTrainer(model, args, strategy=strategy, data=data, transforms=transforms, teacher=teacher)


def own_data() -> Any:
    return DatasetDict(train=make_dataset(3 * BATCH), validation=make_dataset(8, 1), test=make_dataset(8, 2))


def test_trainer_teaches_as_the_accelerate_loop(tmp_path: Path, teacher: Path) -> None:
    strategy = Strategy("both", (HEAD, MIXED))
    loop = train_student(tmp_path / "loop", teacher, strategy, own_data())
    trainer = make_trainer(tmp_path / "trainer", strategy, teacher)
    trainer.train()
    record = trainer.result.record
    assert [entry["train_loss"] for entry in record.history] == pytest.approx(losses(loop), rel=1e-3)
    assert record.teacher == loop.record.teacher
    assert record.learned_from == loop.record.learned_from
    assert read_record(tmp_path / "trainer").teacher == loop.record.teacher


def test_trainer_resumes_with_its_teacher_alone(tmp_path: Path, teacher: Path) -> None:
    settings = {"save_strategy": "steps", "save_steps": 2}
    strategy = Strategy("mixed", (MIXED,))
    whole = make_trainer(tmp_path / "out", strategy, teacher, **settings)
    whole.train()
    checkpoint = str(tmp_path / "out" / "checkpoint-2")
    resumed = make_trainer(tmp_path / "again", strategy, teacher, **settings)
    resumed.train(resume_from_checkpoint=checkpoint)
    states = whole.model.state_dict(), resumed.model.state_dict()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    other, _ = hf_tl.load(teacher)
    with torch.no_grad():
        next(iter(other.parameters())).mul_(1.5)
    with pytest.raises(CheckpointError, match="teacher was"):
        make_trainer(tmp_path / "other", strategy, other, **settings).train(resume_from_checkpoint=checkpoint)


def test_a_callback_alone_has_no_teacher(tmp_path: Path) -> None:
    model, args = backbone()[0], make_args(tmp_path, eval_strategy="no")
    with pytest.raises(ConfigError, match="distillation_weight"):
        Trainer(model, args, callbacks=[hf_tl.StrategyCallback(Strategy("one", (HEAD,)))])


def test_a_weight_without_teacher_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs a teacher"):
        make_trainer(tmp_path, Strategy("one", (HEAD,)), None)


@pytest.mark.slow
@pytest.mark.parametrize("feature_cache", ["off", "on"])
def test_two_processes_teach_as_one(tmp_path: Path, teacher: Path, feature_cache: str) -> None:
    results = []
    for processes in (1, 2):
        output = tmp_path / f"{processes}"
        task = json.dumps([str(teacher), str(output), str(tmp_path / f"cache{processes}"), feature_cache, processes])
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        paths = f"{Path(__file__).parents[2]}{os.pathsep}{Path(__file__).parents[1]}"
        environment = {**os.environ, "PYTHONPATH": paths, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, *launcher, __file__, task]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        assert ("Caching logits of the teacher for 36 images" in done.stdout) == (feature_cache == "on")
        results.append(read_record(output))
    alone, together = ([entry["train_loss"] for entry in record.history] for record in results)
    assert together == pytest.approx(alone, rel=1e-4)
    assert results[0].teacher == results[1].teacher
    assert [phase.uses_features for phase in results[1].phases] == [feature_cache == "on", False]


def run_process(teacher: str, output: str, cache: str, feature_cache: str, processes: int) -> None:
    settings = {"feature_cache": feature_cache, "feature_cache_dir": cache}
    settings |= {"per_device_train_batch_size": BATCH // processes}
    train_student(Path(output), teacher, Strategy("both", (HEAD, MIXED)), own_data(), **settings)


if __name__ == "__main__":
    run_process(*json.loads(sys.argv[1]))
