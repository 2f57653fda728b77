"""Weights before fine-tuning under Trainer, kept for the interpolation after it."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import TrainerCallback

from hf_tl.backbones.stages.stage import list_stages
from hf_tl.checkpoints.saving import names_trained_by
from hf_tl.checkpoints.state import START
from hf_tl.lora.layers import plain_tensors
from hf_tl.trainer.safeguards import PREFIX
from hf_tl.training.interpolation import StartingPoint

if TYPE_CHECKING:
    from transformers import PreTrainedModel, TrainerControl, TrainerState, TrainingArguments

    from hf_tl.trainer.callback import StrategyCallback


class StartCallback(TrainerCallback):
    """Keep the weights when fine-tuning begins, also in checkpoints.

    It is called before the callback of the phases, which changes the model when a phase begins and completes
    checkpoints.
    """

    def __init__(self, phases: "StrategyCallback") -> None:
        self.phases = phases
        self.point = StartingPoint()

    def on_train_begin(
        self,
        args: "TrainingArguments",
        state: "TrainerState",
        control: "TrainerControl",
        model: "PreTrainedModel",
        **kwargs: Any,
    ) -> None:
        """Read the weights of the checkpoint of a resumed run, or keep those at the first step."""
        folder = self.phases.resumed_from
        if folder is not None and (folder / START).is_file():
            self.point.weights = load_file(folder / START)
        elif not state.global_step:
            self._begin(0, model)

    def on_step_begin(
        self,
        args: "TrainingArguments",
        state: "TrainerState",
        control: "TrainerControl",
        model: "PreTrainedModel",
        **kwargs: Any,
    ) -> None:
        """Keep the weights at the first step of a later phase."""
        progress, step = self.phases.progress, state.global_step
        if progress is not None and step and step == progress.first_step(phase := progress.phase_at(step)):
            self._begin(phase, model)

    def on_save(
        self, args: "TrainingArguments", state: "TrainerState", control: "TrainerControl", **kwargs: Any
    ) -> None:
        """Add the weights to the checkpoint."""
        folder = Path(str(args.output_dir), f"{PREFIX}{state.global_step}")
        if self.point.weights and args.should_save and folder.is_dir():
            save_file({name: tensor.contiguous() for name, tensor in self.point.weights.items()}, folder / START)

    def _begin(self, phase: int, model: "PreTrainedModel") -> None:
        def copy_weights() -> dict[str, Tensor]:
            names = names_trained_by(self.phases.strategy.phases, list_stages(model))
            return {name: t.detach().to("cpu", copy=True) for name, t in plain_tensors(model).items() if name in names}

        self.point.begin(phase, copy_weights)
