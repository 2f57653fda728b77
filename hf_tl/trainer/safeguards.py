"""What keeps a run of transformers' `Trainer` from loading a broken checkpoint, or saving broken weights."""

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object, reduce
from torch import Tensor, nn
from transformers import TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import logging

from hf_tl.checkpoints import checkpoint
from hf_tl.errors import CheckpointError, TrainingError, name_some
from hf_tl.views.views import TrainingViews

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


class BatchWatch:
    """Notes the losses and the images of the batches that a model trains on; Trainer tells callbacks neither.

    Hooks of torch see what goes in and comes out: the loss, or where Trainer computes it from the logits, these. The
    images are known by the rows that `TrainingViews` tell meanwhile, and that no model takes.
    """

    def __init__(self, model: nn.Module, images: object, *, is_smoothed: bool) -> None:
        """Watch `model` in training on `images`; `is_smoothed` if Trainer smooths labels, and so needs all logits."""
        self._images = images if isinstance(images, TrainingViews) else None
        self._watched = "logits" if is_smoothed else "loss"
        self._are_finite: list[Tensor] = []
        self._rows: list[Tensor] = []
        self._hooks = [
            model.register_forward_pre_hook(self._take_rows, with_kwargs=True),
            model.register_forward_hook(self._take_loss),
        ]
        self._tell_rows(True)

    def is_finite(self) -> bool:
        """Tell whether all losses since the last call of `begin` are finite, on all processes."""
        is_here = not self._are_finite or bool(torch.stack(self._are_finite).all())
        return bool(reduce(torch.tensor(float(is_here), device=PartialState().device), "mean") == 1)

    def rows(self) -> list[int]:
        """Give the rows in the dataset of the images since then, of all processes; none if they are not known."""
        return sorted(gather_object([row for rows in self._rows for row in rows.tolist()]))

    def begin(self) -> None:
        """Forget the batches of the step before."""
        self._are_finite, self._rows = [], []

    def end(self) -> None:
        """Leave the model and the images as they were."""
        for hook in self._hooks:
            hook.remove()
        self._tell_rows(False)

    def _tell_rows(self, value: bool) -> None:
        if self._images is not None:
            self._images.tells_rows = value

    def _take_rows(self, model: nn.Module, arguments: Any, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        if (rows := options.pop("row", None)) is not None and model.training:
            self._rows.append(rows)
        return arguments, options

    def _take_loss(self, model: nn.Module, arguments: Any, output: Any) -> None:
        value = getattr(output, self._watched, None)
        if value is not None and model.training:
            self._are_finite.append(torch.isfinite(value.detach()).all())


class Safeguards(TrainerCallback):
    """Commits Trainer's checkpoints, removes old ones only then, and stops before weights go bad.

    Trainer removes old checkpoints before callbacks see the new one. So it is told of no `save_total_limit` while it
    trains, and the limit is kept here.
    """

    _save_total_limit: int | None = None
    _watch: BatchWatch | None = None

    def guard(self, args: "TrainingArguments", model: "PreTrainedModel", train_dataloader: "DataLoader") -> None:
        """Take over the limit of checkpoints and watch the batches, when training begins."""
        if args.save_total_limit is not None:
            self._save_total_limit, args.save_total_limit = args.save_total_limit, None
        if self._watch is not None:  # of a training that ended with an error
            self._watch.end()
        self._watch = BatchWatch(model, train_dataloader.dataset, is_smoothed=args.label_smoothing_factor > 0)

    def release(self, args: "TrainingArguments") -> None:
        """Give the limit back, when training ends."""
        args.save_total_limit = self._save_total_limit
        if self._watch is not None:
            self._watch.end()
            self._watch = None

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
        """Stop where the loss or a gradient is no number. Trainer would log such a loss as 0.0 and go on.

        Under fp16 a gradient that overflows is usual: the scaler leaves the step out.

        Raises:
            TrainingError: the loss or a gradient is not finite; the weights are as they were before the step.
        """
        assert self._watch is not None, "training has begun"
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        is_finite_loss = self._watch.is_finite()
        if is_finite_loss and (args.fp16 or torch.isfinite(torch.nn.utils.get_total_norm(gradients))):
            self._watch.begin()
            return
        rows = self._watch.rows()
        images = f"The images of that batch, by their row in the train_dataset: {name_some(rows, 64)}. Look at them"
        if not rows:
            images = (
                "Which images it had is known with hf_tl.TrainingViews as train_dataset and hf_tl.collate. Look at the "
                "images of that step for values that are no numbers"
            )
        raise TrainingError(
            f"{'a gradient' if is_finite_loss else 'the loss'} is not finite in step {state.global_step + 1}; the "
            f"weights are as they were before it. {images}, or lower the learning rate"
        )
