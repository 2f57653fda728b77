"""The adapter of a training by itself: a few megabytes, in the format of the library peft."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from hf_tl.backbones.stages.adapted import adapted_weight, is_adapter
from hf_tl.backbones.stages.paths import parent_of
from hf_tl.backbones.stages.stage import Stage, trainable_parameters
from hf_tl.lora.layers import ADAPTER, peft_config
from hf_tl.tuning import LoRA

if TYPE_CHECKING:
    from hf_tl.phase import Phase

FOLDER = "adapter"
"""Folder of the adapter inside the folder of a model."""
CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
FILES = (f"{FOLDER}/{CONFIG_FILE}", f"{FOLDER}/{WEIGHTS_FILE}")
_PREFIX = "base_model.model."
"""Prefix of peft's names: its wrapper around the model."""


@dataclass(frozen=True)
class Adapter:
    """Matrices of adapted layers, and layers trained in full, that turn a starting model into the trained one."""

    lora: LoRA
    matrices: Mapping[str, Tensor]
    """Tensors of the adapters, by their names in the model during the phase."""
    layers: Mapping[str, Tensor]
    """Tensors of the layers that were trained in full, such as the head."""

    def write(self, folder: Path, base_model: str | None) -> None:
        """Write the adapter so that `peft.PeftModel.from_pretrained(starting model, folder)` loads it.

        Args:
            folder: Folder of the model.
            base_model: Hub id of the starting model, if it has one.

        Raises:
            OSError: The disk is full or read-only.
        """
        from safetensors.torch import save

        adapted = sorted({parent_of(adapted_weight(name)) for name in self.matrices})
        config = peft_config(adapted, self.lora, sorted({parent_of(name) for name in self.layers}))
        config.base_model_name_or_path, config.inference_mode = base_model, True
        tensors = {_peft_name(name): tensor.contiguous() for name, tensor in {**self.matrices, **self.layers}.items()}
        (folder / FOLDER).mkdir(exist_ok=True)
        values = {name: sorted(value) if isinstance(value, set) else value for name, value in config.to_dict().items()}
        (folder / FOLDER / CONFIG_FILE).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
        (folder / FOLDER / WEIGHTS_FILE).write_bytes(save(tensors, metadata={"format": "pt"}))


def adapter_of(phases: Sequence["Phase"], stages: Sequence[Stage], tensors: Mapping[str, Tensor]) -> Adapter | None:
    """Return the adapter of a training.

    Args:
        phases: Phases that produced the weights.
        stages: Stages of the model.
        tensors: Trained tensors; those of adapters have their names in the model during the phase.

    Returns:
        The adapter; None if the last phase trained none, if the weights before it were selected (zero-shot), or if the
        layers that it adapts were trained in full before, so that it does not fit the starting model.
    """
    *earlier, last = phases
    if not isinstance(last.tuning, LoRA) or any(phase.from_random_weights or phase.is_adapted for phase in earlier):
        return None
    matrices = {name: tensor for name, tensor in tensors.items() if is_adapter(name)}
    full = {name for phase in earlier for name in trainable_parameters(stages, phase.trainable_stages)}
    full.update(stages[-1].parameter_names)
    whole = _whole_layers(tensors, full)
    fits = all(phase.norm == "frozen" for phase in phases) and whole.isdisjoint(map(adapted_weight, matrices))
    layers = {name: tensor for name, tensor in tensors.items() if name in whole}
    return Adapter(last.tuning, matrices, layers) if matrices and fits and full <= whole else None


def _whole_layers(tensors: Iterable[str], names: set[str]) -> set[str]:
    """Return the tensors of the innermost modules that hold the named ones, which peft saves as a whole."""
    modules = {parent_of(name) for name in names}
    nested = {module for module in modules if any(parent_of(name).startswith(f"{module}.") for name in tensors)}
    return {name for name in tensors if parent_of(name) in modules - nested}


def _peft_name(name: str) -> str:
    """Return peft's name of a tensor in its files, which leave out the name of the adapter.

    >>> _peft_name("fc1.lora_A.default.weight"), _peft_name("head.weight")
    ('base_model.model.fc1.lora_A.weight', 'base_model.model.head.weight')
    """
    if not is_adapter(name):
        return _PREFIX + name
    short = name.replace(f".{ADAPTER}.", ".").removesuffix(f".{ADAPTER}")
    return _PREFIX + (short.removesuffix(".weight") if ".lora_magnitude_vector" in short else short)
