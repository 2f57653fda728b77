"""A candidate: the name of a backbone, and how it is loaded."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hf_tl.backbones.load import load_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from hf_tl.backbones.preprocessing import Preprocessing


@dataclass(frozen=True)
class Backbone:
    """What `--model`, `--weights` and `--image_size` say."""

    name: str
    """A Hub id, a local directory, or `timm:ARCH[.TAG]`."""
    weights: str | None = None
    """A local file, for `timm:ARCH`."""
    image_size: int | None = None
    """Height and width in pixels; the checkpoint's own where it is None."""

    def load(
        self, labels: Sequence[str] | None = None, *, pretrained: bool = True
    ) -> "tuple[PreTrainedModel, Preprocessing]":
        """Load it, with its own head or one for `labels`.

        Raises:
            ModelError: it cannot be had.
        """
        weights = self.weights if pretrained else None
        return load_model(self.name, labels, weights=weights, pretrained=pretrained, image_size=self.image_size)
