"""Class names in the config of a model, in the order of the logits."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hf_tl.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


def class_names(config: "PreTrainedConfig") -> list[str]:
    """Return the class names of a config, in the order of the logits.

    `AutoConfig.from_pretrained(..., id2label={"0": "cat"})`, as in transformers' example scripts, leaves texts as keys.

    Raises:
        ConfigError: A class has no name.

    >>> from transformers import ResNetConfig
    >>> config = ResNetConfig()
    >>> config.id2label = {"0": "cat", "1": "dog"}
    >>> class_names(config)
    ['cat', 'dog']
    """
    names = {int(index): name for index, name in config.id2label.items() if isinstance(name, str)}
    if missing := [index for index in range(config.num_labels) if index not in names]:
        raise ConfigError(
            f"expected a name for each of {config.num_labels} classes in the config of "
            f"{config.name_or_path or 'the model'} (id2label), found none for class "
            f"{missing[0]}: set config.id2label = dict(enumerate(names))"
        )
    return [names[index] for index in range(config.num_labels)]


def set_class_names(config: "PreTrainedConfig", names: Sequence[str]) -> None:
    """Write the class names into a config, in the order of the logits, replacing all older names."""
    config.id2label = dict(enumerate(names))
    config.label2id = {name: index for index, name in enumerate(names)}
    if config.model_type == "timm_wrapper":
        # saved instead of id2label; if set in the checkpoint, it would take precedence
        config.label_names = list(names)
        config.num_classes = len(names)


def check_classes(config: "PreTrainedConfig", names: Sequence[str]) -> None:
    """Check that a model has the classes of a dataset, in their order.

    Raises:
        ConfigError: The classes or their order differ.
    """
    own = class_names(config)
    if own != list(names):
        raise ConfigError(
            f"expected a model with the classes of the dataset, {list(names[:5])}, found {own[:5]}: pass the labels "
            "of the dataset to load_backbone, in their order"
        )
