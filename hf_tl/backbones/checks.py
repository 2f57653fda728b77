"""Checks of the arguments of a loader, and of the model that it loaded."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hf_tl.backbones.candidates import check_revision
from hf_tl.config import ModelConfig, TrainingConfig
from hf_tl.errors import ConfigError, ModelError, name_some
from hf_tl.prompts import NEEDS_WEIGHTS, TextInit
from hf_tl.ranges import check_value
from hf_tl.strategy_config import kind_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def check_settings(name: str, settings: Mapping[str, Any], seed: int) -> None:
    """Check the types and ranges of arguments, which are those of the flags."""
    if not isinstance(name, str):
        raise ConfigError(f"expected the name of a model, found {kind_of(name)}: write a Hub id, a folder or timm:ARCH")
    if settings["in_chans"] not in (None, 1, 3):
        raise ConfigError(f"expected --in_chans 3 (color images) or 1 (gray images), found {settings['in_chans']!r}")
    for setting, value in settings.items():
        check_value(ModelConfig, setting, value)
    check_value(TrainingConfig, "seed", seed)
    check_revision(name, settings["model_revision"])


def checked_text(head_init: Any, prompt: Any, text_model: Any, *, pretrained: bool) -> TextInit | None:
    """Check the arguments of a head from class names, and return the request; None without one."""
    for name, value in {"head_init": head_init, "prompt": prompt, "text_model": text_model}.items():
        check_value(ModelConfig, name, value)
    text = TextInit.of(head_init, prompt, text_model)
    if text is not None and not pretrained:
        raise ConfigError(NEEDS_WEIGHTS)
    return text


def check_labels(labels: Sequence[str]) -> None:
    """Check the class names.

    Raises:
        ConfigError: The names are not a list of at least two distinct strings.
    """
    if isinstance(labels, str) or not isinstance(labels, Sequence) or not all(isinstance(name, str) for name in labels):
        shown = repr(labels) if isinstance(labels, list | tuple) else kind_of(labels)
        hint = "write the class names, or data.labels of hf_tl.load_data"
        raise ConfigError(f"expected labels as a list of strings, found {shown:.80}: {hint}")
    if len(labels) < 2:
        raise ConfigError(f"expected at least two classes, found {len(labels)}: {name_some(labels)}")
    if duplicates := sorted({label for label in labels if list(labels).count(label) > 1}):
        raise ConfigError(f"expected distinct class names, found duplicates: {name_some(duplicates)}")


def check_image_size(model: "PreTrainedModel", image_size: int | None) -> None:
    """Check that the patches of a model cover images of a size that was chosen.

    Raises:
        ConfigError: The size is not a multiple of the patch size, so the network would not see the last pixels.
    """
    patch = patch_size(model)
    if image_size is None or image_size % patch == 0:
        return
    below = image_size // patch * patch
    sizes = " or ".join(str(size) for size in (below, below + patch) if size)
    raise ConfigError(
        f"expected an --image_size that is a multiple of {patch} pixels, the patch size of the backbone, found "
        f"{image_size}: choose {sizes}"
    )


def patch_size(model: "PreTrainedModel") -> int:
    """Return the width of the patches that the first layer cuts an image into; 1 for overlapping windows.

    A first convolution cuts an image into patches if it moves by its own width and pads nothing.
    """
    from torch import nn

    first = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
    if first is None or first.padding not in ("valid", (0, 0)) or first.kernel_size != first.stride:
        return 1
    return first.stride[0]


def check_runs(model: "PreTrainedModel", input_size: tuple[int, int, int]) -> None:
    """Run a black image through a model.

    Raises:
        ModelError: The model cannot be run on images of this size, or returns no logits of the classes.
    """
    import torch

    channels, height, width = input_size
    takes = f"{channels} x {height} x {width} (channels x height x width)"
    try:
        with torch.inference_mode():
            output = model(pixel_values=torch.zeros(1, *input_size))
    except (RuntimeError, ValueError, TypeError, AssertionError, LookupError, AttributeError, ArithmeticError) as error:
        name = model.config.name_or_path
        raise ModelError(
            f"{type(model).__name__}{f' of {name}' if name else ''} cannot be run on an image of {takes}: "
            f"{error!s:.500}; choose another --image_size"
        ) from error
    if getattr(output, "logits", None) is None:
        raise ModelError(
            f"expected a model that returns logits, found {type(model).__name__}, which returns {name_some(output)} "
            "and no logits: no loss can be computed and no pipeline can use it; choose another model"
        )
    if (shape := tuple(output.logits.shape)) != (expected := (1, model.config.num_labels)):
        raise ModelError(
            f"expected logits of shape {expected} for an image, found {shape} of {type(model).__name__} of "
            f"{model.config.name_or_path}: its config.json asks for another output, as global_pool='' does with timm"
        )
