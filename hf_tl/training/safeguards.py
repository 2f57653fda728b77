"""What keeps a run of transformers' `Trainer` from loading a broken checkpoint, or saving broken weights."""

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import PartialState
from transformers import TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import logging

from hf_tl.errors import CheckpointError, TrainingError
from hf_tl.training import checkpoint
from hf_tl.training.views import TrainingViews

if TYPE_CHECKING:
    from torch.utils.data import DataLoader
    from transformers import PreTrainedModel, TrainerControl, TrainerState, TrainingArguments

logger = logging.get_logger(__name__)

PREFIX = f"{PREFIX_CHECKPOINT_DIR}-"


def newest_checkpoint(output_dir: str | os.PathLike[str]) -> str | None:
    """Find the newest whole checkpoint that `Trainer` wrote with a `StrategyCallback`.

    Trainer's own search takes the newest folder, whole or not.

    Args:
        output_dir: of the `TrainingArguments`.

    Returns:
        The checkpoint, or None if there is no whole one; broken ones are named in a warning.

    ```python
    trainer.train(resume_from_checkpoint=hf_tl.newest_checkpoint(args.output_dir))
    ```
    """
    found, problems = checkpoint.newest_checkpoint(Path(output_dir), PREFIX)
    for problem in problems:
        logger.warning(f"Left out the checkpoint {problem}")
    return None if found is None else str(found)


class Safeguards(TrainerCallback):
    """Commits Trainer's checkpoints, removes old ones only then, and stops before weights go bad.

    Trainer removes old checkpoints before callbacks see the new one. So it is told of no `save_total_limit` while it
    trains, and the limit is kept here.
    """

    _save_total_limit: int | None = None

    def guard(self, args: "TrainingArguments") -> None:
        """Take over the limit of checkpoints, when training begins."""
        if args.save_total_limit is not None:
            self._save_total_limit, args.save_total_limit = args.save_total_limit, None

    def release(self, args: "TrainingArguments") -> None:
        """Give the limit back, when training ends."""
        args.save_total_limit = self._save_total_limit

    def on_epoch_begin(
        self,
        args: "TrainingArguments",
        state: "TrainerState",
        control: "TrainerControl",
        train_dataloader: "DataLoader",
        **kwargs: Any,
    ) -> None:
        """Tell `TrainingViews` the epoch, so that a resumed run sees the same augmentation."""
        if isinstance(train_dataloader.dataset, TrainingViews):
            train_dataloader.dataset.set_epoch(math.floor(state.epoch or 0))

    def on_save(
        self, args: "TrainingArguments", state: "TrainerState", control: "TrainerControl", **kwargs: Any
    ) -> None:
        """Write the manifest that makes a checkpoint whole, and remove the old ones.

        Raises:
            CheckpointError: it could not be written; the checkpoints before it are untouched.
        """
        PartialState().wait_for_everyone()  # every process writes its random state
        folder = Path(str(args.output_dir), f"{PREFIX}{state.global_step}")
        if not args.should_save or not folder.is_dir():  # a search of hyperparameters has folders of its own
            return
        try:
            checkpoint.write_manifest(folder)
            if self._save_total_limit:
                best = state.best_model_checkpoint
                checkpoint.remove_others(folder, self._save_total_limit, PREFIX, None if best is None else Path(best))
        except OSError as error:
            raise CheckpointError(
                f"the checkpoint {folder} could not be written: {error.strerror or error}; those before it are "
                "untouched. Free space, then go on from hf_tl.newest_checkpoint"
            ) from error

    def on_pre_optimizer_step(
        self,
        args: "TrainingArguments",
        state: "TrainerState",
        control: "TrainerControl",
        model: "PreTrainedModel",
        **kwargs: Any,
    ) -> None:
        """Stop where a gradient is no number. Trainer would log the loss as 0.0 and go on.

        Under fp16 a gradient that overflows is usual: the scaler leaves the step out.

        Raises:
            TrainingError: a gradient is not finite; the weights are as they were before the step.
        """
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        if not args.fp16 and not torch.isfinite(torch.nn.utils.get_total_norm(gradients)):
            raise TrainingError(
                f"a gradient is not finite in step {state.global_step + 1}; the weights are as they were before it. "
                "Look at the images of that step for values that are no numbers, or lower the learning rate"
            )
