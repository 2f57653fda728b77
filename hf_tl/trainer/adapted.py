"""Phases with LoRA under Trainer: adapters stay in the layers for the whole run, and are removed at its end.

Trainer wraps the model once, and builds its optimizer once. So the adapters of all phases are added before, at zero,
and added to the weights of their layers when their phase ends. A checkpoint holds the plain model, which loads
anywhere, and beside it the tensors from which a run resumes exactly.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import Trainer

from hf_tl.backbones.stages.adapted import has_adapters, is_adapter, plain_name
from hf_tl.backbones.stages.freezing import freeze
from hf_tl.backbones.stages.stage import list_stages
from hf_tl.checkpoints.saving import names_trained_by
from hf_tl.errors import ConfigError
from hf_tl.lora.layers import adapt, adapter_tensors, merge, plain_tensors
from hf_tl.tuning import LoRA

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

    from hf_tl.backbones.libraries.preprocessing import Preprocessing
    from hf_tl.strategy import Phase
    from hf_tl.trainer.callback import StrategyCallback

EXACT_FILE = "adapted.safetensors"
"""Trained tensors of a model with adapters, in a checkpoint."""


def phase_of_adapters(phases: Sequence["Phase"]) -> "Phase | None":
    """Return the deepest phase with LoRA, None without one.

    Raises:
        ConfigError: Phases use different adapters, or the deepest one does not contain the others.
    """
    adapted = [phase for phase in phases if phase.is_adapted]
    if not adapted:
        return None
    if any(isinstance(phase.tuning, LoRA) and phase.tuning.dora for phase in adapted) and any(
        phase.trainable_stages != 1 for phase in phases if not phase.is_adapted
    ):
        raise ConfigError(
            "Trainer holds DoRA's magnitudes for the whole run, those of the weights before it, found a phase that "
            "trains stages of the backbone in full: use LoRA without dora, or train with hf_tl.train (Accelerate)"
        )
    stages = [phase.trainable_stages for phase in adapted]
    is_ordered = len(set(stages)) == 1 or all(isinstance(depth, int) or depth == "all" for depth in stages)
    if len({phase.tuning for phase in adapted}) > 1 or not is_ordered:
        raise ConfigError(
            "Trainer holds one set of adapters for all phases, found phases with different LoRA, or with named stages "
            "that differ. Use one LoRA and numbers of stages, or train with hf_tl.train (Accelerate)"
        )
    return max(adapted, key=lambda phase: float("inf") if phase.trainable_stages == "all" else _depth(phase))


def _depth(phase: "Phase") -> int:
    return phase.trainable_stages if isinstance(phase.trainable_stages, int) else 0


class AdaptedTrainer(Trainer):
    """Trainer whose model holds adapters while it trains phases with LoRA."""

    phases: "StrategyCallback"
    preprocessing: "Preprocessing"

    def create_optimizer(self, *arguments: Any, **options: Any) -> Any:
        """Add the adapters, as in the checkpoint that the run resumes from, and create Trainer's optimizer."""
        deepest = phase_of_adapters(self.phases.strategy.phases)
        if deepest is not None and not has_adapters(self.model):
            size, phases = self.preprocessing.input_size, self.phases.strategy.phases
            first = next(index for index, phase in enumerate(phases) if phase.is_adapted)
            adapt(self.model, deepest, torch.zeros(2, *size, device=self.model.device), self.args.seed + first)
            self.model.to(self.args.device)
            let_train(self.model, self.phases.strategy.phases)
            exact = self.phases.resumed_from and self.phases.resumed_from / EXACT_FILE
            if exact and exact.is_file():
                self.model.load_state_dict(load_file(exact), strict=False)
        return super().create_optimizer(*arguments, **options)

    def _load_best_model(self) -> None:
        exact = Path(str(self.state.best_model_checkpoint), EXACT_FILE)
        if not exact.is_file():
            super()._load_best_model()
            return
        self.phases.leave(self.state.global_step, self.model)
        self.model.load_state_dict(load_file(exact), strict=False)


def let_train(model: "nn.Module", phases: Sequence["Phase"]) -> None:
    """Let all parameters that any phase trains require a gradient; the weights for adapters that are not there yet."""
    trained: set[str] = set()
    for phase in phases:
        freeze(model, phase)
        trained |= {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trained)


def remove_adapters(model: "nn.Module") -> dict[str, Tensor]:
    """Add the adapters to the weights of their layers, remove them, and return their tensors."""
    adapters = {name: tensor.detach().clone() for name, tensor in adapter_tensors(model).items()}
    merge(model)
    return adapters


def save_exact(folder: Path, model: "PreTrainedModel", phases: Sequence["Phase"]) -> None:
    """Add the tensors of a model with adapters to a checkpoint; nothing is written without adapters."""
    if has_adapters(model):
        trained = names_trained_by(phases, list_stages(model))
        tensors = {
            name: tensor.contiguous()
            for name, tensor in model.state_dict().items()
            if is_adapter(name) or plain_name(name) in trained
        }
        save_file(tensors, folder / EXACT_FILE)


def settle(model: "nn.Module") -> None:
    """Add the adapters to the weights of their layers, and set them to zero."""
    merged = plain_tensors(model)
    with torch.no_grad():
        for name, parameter in _base_weights(model):
            parameter.copy_(merged[plain_name(name)])
        for name, tensor in adapter_tensors(model).items():
            if ".lora_B." in name:
                tensor.zero_()


def _base_weights(model: "nn.Module") -> Iterator[tuple[str, "nn.Parameter"]]:
    return ((name, parameter) for name, parameter in model.named_parameters() if name.endswith(".base_layer.weight"))
