"""Safeguards that keep transformers' `Trainer` from loading a broken checkpoint or saving broken weights."""

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
from hf_tl.errors import TrainingError, name_some
from hf_tl.views.views import TrainingViews

if TYPE_CHECKING:
    from torch.utils.data import DataLoader
    from transformers import PreTrainedModel, TrainerControl, TrainerState, TrainingArguments

logger = logging.get_logger(__name__)

PREFIX = f"{PREFIX_CHECKPOINT_DIR}-"
RESUME = "free some space, then resume from hf_tl.newest_checkpoint(args.output_dir)"


def newest_checkpoint(output_dir: str | os.PathLike[str]) -> str | None:
    """Find the newest complete checkpoint that `Trainer` wrote with a `StrategyCallback`.

    The search of Trainer itself returns the newest folder, complete or not.

    Args:
        output_dir: `output_dir` of the `TrainingArguments`.

    Returns:
        The checkpoint, or None if no complete one exists. A warning names broken ones.

    >>> newest_checkpoint("trainer") is None  # nothing was trained there yet: Trainer then starts from the beginning
    True
    """
    newest, problems = checkpoint.newest_checkpoint(Path(output_dir), PREFIX)
    for problem in problems:
        logger.warning(f"Skipping the checkpoint {problem}")
    return None if newest is None else str(newest)


class BatchWatch:
    """Recorder of the losses and images of training batches, which Trainer does not pass to callbacks.

    Hooks of torch read the loss, or the logits if Trainer computes the loss from them. The images are known by the rows
    that `TrainingViews` adds to a batch; a hook removes these before the model.
    """

    def __init__(self, model: nn.Module, images: object, *, is_smoothed: bool) -> None:
        """Watch `model` in training on `images`.

        Args:
            model: Model in training.
            images: Training dataset. Rows are known for `TrainingViews` only.
            is_smoothed: Whether Trainer smooths labels; then the logits are checked instead of the loss.
        """
        self._images = images if isinstance(images, TrainingViews) else None
        self._watched = "logits" if is_smoothed else "loss"
        self._are_finite: list[Tensor] = []
        self._rows: list[Tensor] = []
        self._hooks = [
            model.register_forward_pre_hook(self._take_rows, with_kwargs=True),
            model.register_forward_hook(self._take_loss),
        ]
        self._show_rows(True)

    def note(self, loss: Tensor, rows: Tensor | None) -> None:
        """Record the loss of a batch that was computed outside the model, and its rows."""
        self._are_finite.append(torch.isfinite(loss))
        if rows is not None:
            self._rows.append(rows)

    def is_finite(self) -> bool:
        """Return whether all losses since the last call of `begin` are finite, on all processes."""
        is_here = not self._are_finite or bool(torch.stack(self._are_finite).all())
        return bool(reduce(torch.tensor(float(is_here), device=PartialState().device), "mean") == 1)

    def rows(self) -> list[int]:
        """Return the dataset rows of the images since then, of all processes; empty if they are unknown."""
        return sorted(gather_object([row for rows in self._rows for row in rows.tolist()]))

    def begin(self) -> None:
        """Clear the batches of the previous step."""
        self._are_finite, self._rows = [], []

    def end(self) -> None:
        """Remove the hooks, and restore the dataset."""
        for hook in self._hooks:
            hook.remove()
        self._show_rows(False)

    def _show_rows(self, value: bool) -> None:
        if self._images is not None:
            self._images.includes_rows = value

    def _take_rows(self, model: nn.Module, arguments: Any, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        if (rows := options.pop("row", None)) is not None and model.training:
            self._rows.append(rows)
        return arguments, options

    def _take_loss(self, model: nn.Module, arguments: Any, output: Any) -> None:
        value = getattr(output, self._watched, None)
        if value is not None and model.training:
            self._are_finite.append(torch.isfinite(value.detach()).all())


class Safeguards(TrainerCallback):
    """Callback that commits Trainer's checkpoints before old ones are removed, and stops before weights are corrupted.

    Trainer removes old checkpoints before callbacks see the new one. So its `save_total_limit` is unset during
    training, and this callback applies the limit.
    """

    _save_total_limit: int | None = None
    _watch: BatchWatch | None = None

    def guard(self, args: "TrainingArguments", model: "PreTrainedModel", train_dataloader: "DataLoader") -> None:
        """Take over `save_total_limit` and watch the batches, when training begins."""
        if args.save_total_limit is not None:
            self._save_total_limit, args.save_total_limit = args.save_total_limit, None
        if self._watch is not None:  # from a training that ended with an error
            self._watch.end()
        self._watch = BatchWatch(model, train_dataloader.dataset, is_smoothed=args.label_smoothing_factor > 0)

    def watch(self, loss: Tensor, rows: Tensor | None) -> None:
        """Record the loss of a batch that was computed outside the model, and its rows."""
        assert self._watch is not None, "training has begun"
        self._watch.note(loss, rows)

    def release(self, args: "TrainingArguments") -> None:
        """Restore `save_total_limit`, when training ends."""
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
        """Set the epoch of `TrainingViews`, so that a resumed run sees the same augmentation."""
        if isinstance(train_dataloader.dataset, TrainingViews):
            train_dataloader.dataset.set_epoch(math.floor(state.epoch or 0))

    def on_save(
        self, args: "TrainingArguments", state: "TrainerState", control: "TrainerControl", **kwargs: Any
    ) -> None:
        """Write the manifest that completes a checkpoint, and remove old ones.

        Raises:
            CheckpointError: The checkpoint could not be written; earlier ones are untouched.
        """
        PartialState().wait_for_everyone()  # every process writes its random state
        folder = Path(str(args.output_dir), f"{PREFIX}{state.global_step}")
        if not args.should_save or not folder.is_dir():  # a hyperparameter search has its own folders
            return
        with checkpoint.writing_checkpoint(folder, RESUME):
            checkpoint.write_manifest(folder)
            if self._save_total_limit:
                best = state.best_model_checkpoint
                checkpoint.remove_others(folder, self._save_total_limit, PREFIX, None if best is None else Path(best))

    def on_pre_optimizer_step(
        self,
        args: "TrainingArguments",
        state: "TrainerState",
        control: "TrainerControl",
        model: "PreTrainedModel",
        **kwargs: Any,
    ) -> None:
        """Stop the training if the loss or a gradient is not finite; Trainer would log the loss as 0.0 and continue.

        Under fp16, overflowing gradients are normal, and the scaler skips the step.

        Raises:
            TrainingError: The loss or a gradient is not finite; the step was not applied to the weights.
        """
        assert self._watch is not None, "training has begun"
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        is_finite_loss = self._watch.is_finite()
        if is_finite_loss and (args.fp16 or torch.isfinite(torch.nn.utils.get_total_norm(gradients))):
            self._watch.begin()
            return
        rows = self._watch.rows()
        if rows:
            advice = f"Check the images of this batch (rows of the train_dataset: {name_some(rows, 64)})"
        else:
            advice = (
                "Check the images of this step for NaN; their rows are named with hf_tl.TrainingViews as train_dataset "
                "and hf_tl.collate"
            )
        raise TrainingError(
            f"{'a gradient' if is_finite_loss else 'the loss'} is not finite in step {state.global_step + 1}; the step "
            f"was not applied to the weights. {advice}, or lower the learning rate"
        )
