"""Low-rank adapters in the layers of a model, by the library peft (https://huggingface.co/docs/peft)."""

import copy
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from hf_tl.backbones.stages.adapted import is_adapter, plain_name
from hf_tl.backbones.stages.freezing import fixed_parameters
from hf_tl.backbones.stages.modules import inference
from hf_tl.backbones.stages.stage import list_stages, trainable_parameters
from hf_tl.errors import StageError, name_some
from hf_tl.tuning import ALL_LAYERS, LoRA

if TYPE_CHECKING:
    from peft import LoraConfig
    from peft.tuners.lora import LoraLayer

    from hf_tl.phase import Phase

ADAPTER = "default"
"""Name of the adapter in peft."""
_FORWARDS = (nn.Linear.forward, nn.Conv2d.forward)
"""Computations that an adapter can stand beside. Subclasses with another one pad or normalize in their own way."""


def adapt(model: nn.Module, phase: "Phase", pixel_values: Tensor, seed: int = 0) -> list[str]:
    """Add adapters to the layers of the stages that a phase trains, in place; the outputs stay the same.

    Args:
        model: Image classifier of transformers without adapters.
        phase: Phase whose `tuning` is a `LoRA`.
        pixel_values: Any images (batch, channels, height, width), which show which layers are called as modules.
        seed: Seed of the random matrices A; B starts at zero.

    Returns:
        Names of the adapted layers.

    Raises:
        StageError: No layer of these stages can hold an adapter.
    """
    from peft.tuners.lora import LoraModel

    lora = phase.tuning
    assert isinstance(lora, LoRA)
    names = adaptable_layers(model, phase, pixel_values)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with torch.random.fork_rng(_devices(model)):
        torch.manual_seed(seed)
        LoraModel(model, peft_config(names, lora), ADAPTER)
    for parameter in trained:
        parameter.requires_grad_()  # peft turned it off; `freeze` decides
    del model.peft_config  # peft's note, by which transformers takes the model for one of its own integration
    for _, layer in _adapted_layers(model):
        _show_geometry(layer)
    adapted = [name for name, _ in _adapted_layers(model)]
    if sorted(adapted) != sorted(names):
        raise StageError(f"peft adapted other layers than asked for: {name_some(sorted(set(adapted) ^ set(names)))}")
    return names


def _show_geometry(layer: Any) -> None:
    """Give an adapted layer the attributes that networks read from a layer beside calling it, such as `stride`."""
    for name, value in vars(layer.base_layer).items():
        if not name.startswith("_") and not hasattr(layer, name):
            setattr(layer, name, value)


def adaptable_layers(model: nn.Module, phase: "Phase", pixel_values: Tensor) -> list[str]:
    """Return the names of the layers that a phase adapts: linear and ungrouped convolutional ones of its stages.

    A layer whose weight is shared with another one, or that the network reads without calling the layer, cannot hold an
    adapter, and is left out.

    Raises:
        StageError: There is none.
    """
    assert isinstance(phase.tuning, LoRA)
    stages = list_stages(model)
    fixed = fixed_parameters(model).union(stages[-1].parameter_names)
    trainable = trainable_parameters(stages, phase.trainable_stages) - fixed
    chosen = {name: layer for name, layer in _layers(model) if f"{name}.weight" in trainable}
    if phase.tuning.targets != ALL_LAYERS:
        chosen = _matching(chosen, phase.tuning.targets)
    called = _called(model, chosen, pixel_values)
    if not called:
        names = [stage.name for stage in stages if not trainable.isdisjoint(stage.parameter_names)]
        raise StageError(
            "expected linear or convolutional layers for LoRA in the trained stages, found none that an adapter can "
            f"stand beside in {name_some(names) or 'the head alone'}: train more stages, or train them in full"
        )
    return called


def _layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the linear and ungrouped convolutional layers whose weights are their own."""
    owners: dict[int, int] = {}
    for _, module in model.named_modules(remove_duplicate=False):
        for parameter in module.parameters(recurse=False):
            owners[id(parameter)] = owners.get(id(parameter), 0) + 1
    for name, module in model.named_modules():
        is_plain = type(module).forward in _FORWARDS and not hasattr(module, "parametrizations")
        if is_plain and owners.get(id(module.weight)) == 1 and not _is_unsupported(module):
            yield name, module


def _is_unsupported(layer: nn.Module) -> bool:
    """Return whether peft would build a matrix A of another geometry: it ignores dilation and padding modes."""
    return isinstance(layer, nn.Conv2d) and (
        layer.groups > 1 or set(layer.dilation) != {1} or layer.padding_mode != "zeros"
    )


def _matching(layers: dict[str, nn.Module], targets: str) -> dict[str, nn.Module]:
    pattern = targets.removeprefix("re:")
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise StageError(f"{pattern!r} (targets of LoRA) is not a regular expression: {error}") from error
    if not (matching := {name: layer for name, layer in layers.items() if expression.search(name)}):
        raise StageError(
            f"no layer of the trained stages matches {pattern!r} (targets of LoRA); their names are {name_some(layers)}"
        )
    return matching


def _called(model: nn.Module, layers: dict[str, nn.Module], pixel_values: Tensor) -> list[str]:
    """Return the layers that a pass calls; of others it reads the weights, and would not see an adapter."""
    called: set[str] = set()
    hooks = [layer.register_forward_pre_hook(lambda *_, name=name: called.add(name)) for name, layer in layers.items()]
    try:
        with inference(model):
            model(pixel_values=pixel_values)
    finally:
        for hook in hooks:
            hook.remove()
    return [name for name in layers if name in called]


def _devices(model: nn.Module) -> list[torch.device]:
    return list({parameter.device for parameter in model.parameters() if parameter.is_cuda})


def peft_config(names: Sequence[str], lora: LoRA, head: Sequence[str] = ()) -> "LoraConfig":
    """Return peft's settings of an adapter.

    Args:
        names: Names of the adapted layers.
        lora: Settings.
        head: Modules that are trained in full, which peft saves whole.
    """
    from peft import LoraConfig

    return LoraConfig(
        r=lora.rank,
        lora_alpha=lora.rank if lora.alpha is None else lora.alpha,  # type: ignore[arg-type]  # a float scales as well
        lora_dropout=lora.dropout,
        target_modules="|".join(map(re.escape, sorted(names))),
        use_dora=lora.dora,
        modules_to_save=list(head) or None,
    )


def adapter_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of the adapters, by their names in the model."""
    return {name: tensor for name, tensor in model.state_dict().items() if is_adapter(name)}


def plain_tensors(model: nn.Module, *, merged: bool = True) -> dict[str, Tensor]:
    """Return the tensors of a model as they are named without adapters.

    Args:
        model: Model, with adapters or without.
        merged: Whether the weights of adapted layers are those with the adapter added. Defaults to True.
    """
    tensors = {plain_name(name): tensor for name, tensor in model.state_dict().items() if not is_adapter(name)}
    if merged:
        tensors |= {f"{name}.weight": _merged(layer).get_base_layer().weight for name, layer in _adapted_layers(model)}
    return tensors


def merge(model: nn.Module) -> None:
    """Add the adapters to the weights of their layers, and remove them, in place."""
    modules = dict(model.named_modules())
    for name, layer in [*_adapted_layers(model)]:
        parent, _, own = name.rpartition(".")
        setattr(modules[parent], own, _merged(layer).get_base_layer())


def _merged(layer: "LoraLayer") -> Any:
    """Return a copy of a layer whose weight has the adapter added."""
    merged = copy.deepcopy(layer)
    with torch.no_grad():
        merged.merge()  # type: ignore[operator]  # peft's layers define it one by one
    return merged


def _adapted_layers(model: nn.Module) -> Iterator[tuple[str, "LoraLayer"]]:
    for name, module in model.named_modules():
        if hasattr(module, "lora_A") and hasattr(module, "base_layer"):
            yield name, module
