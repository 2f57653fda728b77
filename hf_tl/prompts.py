"""Settings of a head from class names (`--head_init text`): prompts and the text model."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self

from hf_tl.errors import ConfigError, name_some

HeadInit = Literal["text"]
TEMPLATES = (
    "itap of a {}.", "a bad photo of the {}.", "a origami {}.", "a photo of the large {}.", "a {} in a video game.",
    "art of the {}.", "a photo of the small {}.",
)  # fmt: skip
"""Templates without `--prompt`: the seven that CLIP's authors selected among their 80 for ImageNet
(https://github.com/openai/CLIP/blob/main/notebooks/Prompt_Engineering_for_ImageNet.ipynb)."""
NEEDS_WEIGHTS = (
    "--head_init text needs pretrained weights, found random weights: leave out --head_init text, or train from "
    "pretrained weights (no --no_pretrained, no --strategy scratch)"
)
SEPARATOR = "|"
"""Character between the templates of `--prompt`."""


@dataclass(frozen=True)
class TextInit:
    """Request for a head from class names."""

    templates: tuple[str, ...] = TEMPLATES
    """Prompts with `{}` in place of the class name."""
    model: str | None = None
    """Checkpoint with the text tower (default: that of the backbone itself)."""

    @classmethod
    def of(cls, head_init: str | None, prompt: str | None, text_model: str | None) -> Self | None:
        """Return the request of the settings of these names; None without one.

        Raises:
            ConfigError: A setting has no use without `--head_init text`, or a template no place for the class name.

        >>> TextInit.of("text", "a photo of a {}.|a drawing of a {}.", None).templates
        ('a photo of a {}.', 'a drawing of a {}.')
        """
        if head_init is None:
            for name, value in (("prompt", prompt), ("text_model", text_model)):
                if value is not None:
                    raise ConfigError(f"--{name} is for a head from class names: add --head_init text, or leave it out")
            return None
        return cls(TEMPLATES if prompt is None else _split(prompt), text_model)


def _split(prompt: str) -> tuple[str, ...]:
    templates = tuple(template.strip() for template in prompt.split(SEPARATOR))
    if wrong := [template for template in templates if "{}" not in template]:
        raise ConfigError(
            f"--prompt takes templates with {{}} in place of the class name, separated by {SEPARATOR}, found "
            f'{wrong[0]!r}: write a template such as "a photo of a {{}}."'
        )
    return templates


def check_class_names(labels: Sequence[str]) -> None:
    """Reject class names that say nothing about the images.

    Raises:
        ConfigError: A name has no letter.
    """
    if numbers := [label for label in labels if not re.search(r"[^\W\d_]", label)]:
        raise ConfigError(
            f"--head_init text needs class names in words, found {name_some(numbers, 5)}, which say nothing about the "
            "images: rename the classes, or leave out --head_init text"
        )
