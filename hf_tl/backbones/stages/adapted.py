"""Names of tensors in a model whose layers hold low-rank adapters.

The library peft replaces a layer by a wrapper, which holds it as `base_layer` and the matrices of the adapter as
`lora_A`, `lora_B` and so on. Stages, checkpoints and digests use the names that the tensors have without a wrapper.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

_BASE = "base_layer"
_ADAPTER = "lora_"


def is_adapter(name: str) -> bool:
    """Return whether a tensor belongs to an adapter.

    >>> is_adapter("fc1.lora_A.default.weight"), is_adapter("fc1.base_layer.weight")
    (True, False)
    """
    return any(part.startswith(_ADAPTER) for part in name.split("."))


def has_adapters(model: "nn.Module") -> bool:
    """Return whether layers of a model hold adapters."""
    return any(is_adapter(name) for name, _ in model.named_parameters())


def plain_name(name: str) -> str:
    """Return the name of a tensor in the model without adapters.

    >>> plain_name("blocks.0.fc1.base_layer.weight"), plain_name("base_layer.0.weight")
    ('blocks.0.fc1.weight', 'base_layer.0.weight')
    """
    layer, _, tensor = name.rpartition(".")
    return f"{layer.removesuffix(_BASE)}{tensor}" if layer.endswith(f".{_BASE}") else name


def adapted_weight(name: str) -> str:
    """Return the name of the weight that a tensor of an adapter adapts.

    >>> adapted_weight("blocks.0.fc1.lora_A.default.weight")
    'blocks.0.fc1.weight'
    """
    parts = name.split(".")
    first = next(index for index, part in enumerate(parts) if part.startswith(_ADAPTER))
    return ".".join([*parts[:first], "weight"])
