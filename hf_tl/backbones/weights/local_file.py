"""Weights from a local file: safe reading, conversion of known key names, and a check that they fit."""

import hashlib
import inspect
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from timm.models import adapt_input_conv, model_entrypoint
from torch import Tensor, nn

from hf_tl.errors import ModelError, name_some

_WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model")
"""Keys under which training scripts store the weights in a checkpoint, averaged weights first (as timm does)."""

_FILTERS = (
    *("checkpoint_filter_fn", "checkpoint_filter_fn_classifier"),
    *("_filter_fn", "_filter_torchvision_pretrained"),
)
"""Names that timm's modules use for the function that converts the original checkpoints of an architecture."""

# Names of EfficientNet-PyTorch (github.com/lukemelas/EfficientNet-PyTorch) and its Lite variants, and timm's names. The
# blocks of the first stage are depthwise separable, without an expansion.
_STEM_AND_HEAD = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
_SEPARABLE = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_INVERTED = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
    "_se_reduce": "se.conv_reduce",
    "_se_expand": "se.conv_expand",
}


def read_weights(file: str | Path) -> dict[str, Tensor]:
    """Read a state dict from a safetensors file or a torch checkpoint, without running any code in it.

    Raises:
        ModelError: The file is missing, is not a checkpoint, or holds more than tensors.
    """
    path = Path(file)
    if not path.is_file():
        kind = "a folder" if path.is_dir() else "no such file"
        raise ModelError(
            f"--weights {path.name}: expected a .safetensors file or a torch checkpoint, found {kind}; correct the path"
        )
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except SafetensorError as error:
            raise ModelError(f"--weights {path.name} is not a complete safetensors file: {error}") from error
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises anything from KeyError to UnpicklingError on a bad file
        raise ModelError(
            f"expected tensors only in --weights {path.name}, found a file that cannot be read as such "
            f"({type(error).__name__}); convert it to safetensors if you trust it"
        ) from error
    while isinstance(content, Mapping) and (wrapper := next((key for key in _WRAPPERS if key in content), None)):
        content = content[wrapper]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ModelError(f"expected a mapping of names to tensors in --weights {path.name}, found no state dict")
    return {name.removeprefix("module."): tensor for name, tensor in content.items()}


def load_weights(model: nn.Module, file: str | Path, head_parameters: frozenset[str]) -> bool:
    """Load the backbone weights of `file` into `model`, and the head's weights if they fit, in place.

    The file may be in timm's format, or in any that timm itself converts (torchvision's, or that of the original
    authors).

    Returns:
        Whether the head was loaded too.

    Raises:
        ModelError: Weights other than the head's are missing, unexpected or of another shape.
    """
    expected = model.state_dict()
    weights = _with_timm_names(read_weights(file), expected)
    try:
        weights = convert_weights(weights, model)
    except Exception as error:  # timm's functions are written for certain checkpoints and raise anything on others
        raise ModelError(
            f"--weights {Path(file).name} does not fit {type(model).__name__}: timm cannot convert it "
            f"({type(error).__name__}: {error})"
        ) from error
    wrong_shape = [name for name in weights.keys() & expected.keys() if weights[name].shape != expected[name].shape]
    wrong_type = [
        name
        for name in weights.keys() & expected.keys()
        if expected[name].is_floating_point() and not weights[name].is_floating_point()
    ]
    wrong = {*wrong_shape, *wrong_type}
    fitting = {name: tensor for name, tensor in weights.items() if name in expected and name not in wrong}
    problems = {
        "missing": set(expected) - set(weights),
        "not in the architecture": set(weights) - set(expected),
        "of another shape": set(wrong_shape),
        "of integers": set(wrong_type),
    }
    head_modules = {name.rpartition(".")[0] for name in head_parameters}
    mismatches = [
        f"{kind}: {name_some(sorted(names))}"
        for kind, all_names in problems.items()
        if (names := {name for name in all_names if name.rpartition(".")[0] not in head_modules})
    ]
    if mismatches:
        raise ModelError(f"--weights {Path(file).name} does not fit {type(model).__name__}; {'; '.join(mismatches)}")
    model.load_state_dict(fitting, strict=False)
    return head_parameters <= fitting.keys()


def convert_weights(weights: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Convert a checkpoint for a timm model, as timm does with the weights that it downloads.

    Keys get timm's names, position embeddings are resized to the model's image size, and the first convolution is
    adapted to the model's number of channels. Anything that cannot be converted is unchanged.
    """
    settings = cast(dict[str, Any], model.pretrained_cfg)
    module = sys.modules[model_entrypoint(settings["architecture"]).__module__]
    if convert := next((getattr(module, name) for name in _FILTERS if hasattr(module, name)), None):
        takes_model = "model" in inspect.signature(convert).parameters
        weights = convert(dict(weights), model) if takes_model else convert(dict(weights))
    converted, expected = dict(weights), model.state_dict()
    first = settings.get("first_conv") or ()
    for name in (f"{conv}.weight" for conv in ([first] if isinstance(first, str) else first)):
        if name in converted and name in expected and converted[name].shape[1] == 3:
            converted[name] = adapt_input_conv(expected[name].shape[1], converted[name])
    return converted


def sha256_of(file: str | Path) -> str:
    """Compute the SHA-256 of a file."""
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _with_timm_names(weights: dict[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename EfficientNet-PyTorch's keys (blocks numbered consecutively) to timm's (numbered by stage and block)."""
    if "_conv_stem.weight" not in weights:
        return weights
    matches = (re.match(r"blocks\.(\d+)\.(\d+)\.", name) for name in expected)
    blocks = sorted({(int(match[1]), int(match[2])) for match in matches if match})
    return {_timm_name(name, blocks): tensor for name, tensor in weights.items()}


def _timm_name(name: str, blocks: list[tuple[int, int]]) -> str:
    if match := re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(.+)", name):
        index, layer, leaf = int(match[1]), match[2], match[3]
        if index < len(blocks):
            stage, block = blocks[index]
            names = _SEPARABLE if stage == 0 else _INVERTED
            return f"blocks.{stage}.{block}.{names.get(layer, layer)}.{leaf}"
    layer, _, leaf = name.partition(".")
    return f"{_STEM_AND_HEAD.get(layer, layer)}.{leaf}"
