"""The model of a training: whole or sharded over the processes, with adapters during a phase with LoRA."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hf_tl.backbones.stages.adapted import has_adapters, is_adapter
from hf_tl.backbones.stages.freezing import freeze
from hf_tl.backbones.stages.stage import list_stages
from hf_tl.backbones.weights.digest import whole
from hf_tl.lora.layers import adapt, adapter_tensors, merge, plain_tensors
from hf_tl.processes.sharding import load_whole, shard

if TYPE_CHECKING:
    from collections.abc import Container, Mapping

    from accelerate import Accelerator
    from transformers import PreTrainedModel

    from hf_tl.strategy import Phase


class HeldModel:
    """Model in training.

    A sharded copy trains. The whole model runs the frozen part of a phase, on each process for itself, and holds
    adapters while they are added and merged.

    Args:
        accelerator: Accelerator; its class determines whether to shard.
        model: Model to train in place.
        pixel_values: Any two images (2, channels, height, width), which show which layers a pass calls.
        trained: Names of the tensors that some phase trains; no others can change.
    """

    def __init__(
        self, accelerator: "Accelerator", model: "PreTrainedModel", pixel_values: Tensor, trained: "Container[str]"
    ) -> None:
        self._accelerator, self._pixel_values, self._trained = accelerator, pixel_values, trained
        self._whole = model
        self.model = model
        """Model that the phases train: a sharded copy, or the model itself."""
        self._shard()

    def _shard(self) -> None:
        self.model = shard(self._accelerator, self._whole, list_stages(self._whole), self._pixel_values)

    @torch.no_grad()
    def _gather(self) -> None:
        """Copy the weights of the processes into the whole model. All processes must call this."""
        if self.model is not self._whole:
            own = self._whole.state_dict()
            for name, tensor in self.model.state_dict().items():
                own[name].copy_(whole(tensor))

    def follow(self, phase: "Phase") -> None:
        """Give the whole model the weights and the frozen stages of a sharded copy. All processes must call this."""
        if self.model is not self._whole:
            self._gather()
            freeze(self._whole, phase)

    def park(self, *, is_used: bool) -> None:
        """Move the whole model to the memory of the CPU while a sharded copy trains, unless each step uses it."""
        if self.model is not self._whole and not is_used:
            self._whole.to("cpu")

    def adapt(self, phase: "Phase", seed: int) -> None:
        """Add the adapters of a phase with LoRA.

        Raises:
            StageError: No layer of its stages can hold an adapter.
        """
        self._gather()
        adapt(self._whole, phase, self._pixel_values.to(self._whole.device), seed)
        self._shard()

    def merge(self) -> None:
        """Add the adapters to the weights of their layers."""
        self._gather()
        merge(self._whole)
        self._shard()

    def load(self, tensors: "Mapping[str, Tensor]") -> None:
        """Load whole tensors, which every process has; those of adapters are left out."""
        tensors = {name: tensor for name, tensor in tensors.items() if not is_adapter(name)}
        load_whole(self.model, tensors)
        if self.model is not self._whole:
            self._whole.load_state_dict(tensors, strict=False)

    def tensors(self, *, merged: bool) -> dict[str, Tensor]:
        """Return the whole trained tensors by their names without adapters. All processes must call this.

        Args:
            merged: Whether the weights of adapted layers are those with the adapter added.
        """
        model = self._accelerator.unwrap_model(self.model)
        if merged and has_adapters(self._whole):  # whole layers are merged, not parts of them
            self._gather()
            model = self._whole
        state = plain_tensors(model, merged=merged)
        return {name: whole(tensor.detach()) for name, tensor in state.items() if name in self._trained}

    def copies(self) -> dict[str, Tensor]:
        """Return copies of the trained tensors, merged, and of the adapters. All processes must call this."""
        adapters = {name: whole(tensor.detach()) for name, tensor in adapter_tensors(self.model).items()}
        return {name: tensor.to("cpu", copy=True) for name, tensor in (self.tensors(merged=True) | adapters).items()}

    def release(self) -> "PreTrainedModel":
        """Return the whole model, on the device. Its weights are those of the last call of `load`, or older."""
        self.model = self._whole.to(self._accelerator.device)
        return self.model
