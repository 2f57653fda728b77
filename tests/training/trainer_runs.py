"""Small runs with transformers' Trainer."""

import os
from pathlib import Path
from typing import Any

import torch
from training import small_runs
from training.small_runs import Run, make_images, make_model, make_transforms, snapshot, timeless
from transformers import Trainer, TrainerCallback, TrainingArguments, set_seed

import hf_tl
from hf_tl.data.decoding.images import collate
from hf_tl.trainer.callback import StrategyCallback
from hf_tl.views.views import TrainingViews


def make_trainer(run: Run) -> Trainer:
    settings = {"per_device_train_batch_size": 4, "report_to": "none", "disable_tqdm": True, "use_cpu": True}
    settings |= {"logging_steps": 1, "save_strategy": "steps", **run.config}
    model = make_model(run)
    args = TrainingArguments(run.output, **settings)
    set_seed(run.seed)
    rows = TrainingViews(make_images(run), make_transforms(run).train)
    callbacks = [StrategyCallback(run.strategy), Interruption(run)]
    return Trainer(model, args, train_dataset=rows, data_collator=collate, callbacks=callbacks)


def train_with_trainer(run: Run) -> dict[str, Any]:
    resume = run.config.pop("resume_from_checkpoint", None)
    trainer = make_trainer(run)
    trainer.train(resume_from_checkpoint=hf_tl.newest_checkpoint(run.output) if resume == "auto" else resume)
    last = trainer.state.global_step
    return {
        "last step": last,
        "weights": snapshot(trainer.model),
        "log": timeless(trainer.state.log_history),
        "optimizer": trainer.optimizer.state_dict(),
        # random state of the last checkpoint: a run without remaining steps draws no number
        "random state": torch.load(Path(run.output, f"checkpoint-{last}", "rng_state.pth"), weights_only=False)["cpu"],
    }


class Interruption(TrainerCallback):
    """Callback that sends the signal of a `Run` with Trainer."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def on_step_begin(self, *arguments: Any, **kwargs: Any) -> None:
        small_runs.report_progress()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        small_runs.report_progress()
        if self.run.signal_at is not None and state.global_step == self.run.signal_at[0]:
            os.kill(os.getpid(), self.run.signal_at[2])
