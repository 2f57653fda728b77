"""Classifier in torch: a saved model, or one in memory, with what is known of its training."""

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from hf_tl.backbones.libraries.class_names import class_names
from hf_tl.backbones.load import load, preprocessing_of
from hf_tl.backbones.weights.digest import digest
from hf_tl.backbones.weights.provenance import UNRECORDED, Provenance, provenance_of, saved_record
from hf_tl.data.decoding.images import ImageTransform, Transforms
from hf_tl.data.decoding.scaling import PixelScaling
from hf_tl.errors import ConfigError, ModelError
from hf_tl.evaluation.holdout.classifier import AnyModel
from hf_tl.evaluation.metrics import ProblemType, problem_type_of
from hf_tl.record import RECORD_FILE, LearnedFrom, RunRecord

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from hf_tl.backbones.libraries.preprocessing import Preprocessing


@dataclass(frozen=True)
class LoadedClassifier:
    """Classifier in torch, to predict with, to evaluate or to export."""

    model: "PreTrainedModel"
    transforms: Transforms
    source: str | None = None
    """Folder or Hub id; None for a model in memory."""
    revision: str | None = None
    """Branch, tag or commit of a model of the Hub."""

    @classmethod
    def load(cls, model: AnyModel, revision: str | None = None) -> Self:
        """Load a model, unless it is loaded.

        Args:
            model: Folder of a saved model, Hub id, `RunResult`, or a model of `load_backbone` or `load`.
            revision: Branch, tag or commit of a model of the Hub.

        Raises:
            ConfigError: The revision is of a model that is not on the Hub.
            ModelError: There is no such model, or the value is no model.
        """
        from transformers import PreTrainedModel

        if isinstance(model, str | os.PathLike):
            return cls(*load(model, revision=revision), os.fspath(model), revision)
        if revision is not None:
            raise ConfigError(f"expected a Hub id (user/name) with the revision {revision!r}, found a loaded model")
        if isinstance(model, PreTrainedModel):
            return cls(model, preprocessing_of(model).transforms())
        raise ModelError(
            "expected a model (a folder, a Hub id, the result of hf_tl.train, or a model of hf_tl.load), found "
            f"{type(model).__name__}{_advice(model)}"
        )

    @property
    def network(self) -> "PreTrainedModel":
        """Model, as a network."""
        return self.model

    @property
    def transform(self) -> ImageTransform:
        """Transform of stored images to inputs of the network."""
        return self.transforms.eval

    @property
    def scaling(self) -> PixelScaling | None:
        """Map from pixel levels to inputs of the network; None if it is not linear in each channel."""
        return self.preprocessing.scaling

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width of the inputs of the network."""
        _, height, width = self.preprocessing.input_size
        return height, width

    @cached_property
    def record(self) -> RunRecord | None:
        """Record of the training; None for a model that hf_tl did not train, or whose weights changed since.

        Raises:
            ModelError: The record cannot be read or downloaded.
        """
        if self.source is not None:
            return saved_record(self.source, self.revision)
        folder, origin = str(self.model.config.name_or_path), self.provenance.origin
        if origin.kind != "trained" or not folder or not Path(folder, RECORD_FILE).is_file():
            return None
        record = saved_record(folder)
        return record if record is not None and record.weights_digest == origin.weights_digest else None

    @cached_property
    def provenance(self) -> Provenance:
        """Origin and training images of the weights."""
        return provenance_of(self.model)

    @property
    def learned(self) -> LearnedFrom:
        """Training images of the model; those of weights that changed in memory are unknown."""
        known = self.provenance
        return known.learned.union(UNRECORDED) if known.origin.kind == "memory" else known.learned

    @cached_property
    def weights_digest(self) -> str:
        """Digest of the weights."""
        return self.provenance.origin.weights_digest or digest(self.model.state_dict())

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names, in the order of the logits."""
        return tuple(class_names(self.model.config))

    @property
    def problem(self) -> ProblemType:
        """Problem type of the model."""
        return problem_type_of(self.model)

    @property
    def name(self) -> str:
        """Publishable name: a Hub id, or the name of the folder; of a model in memory, its class."""
        if self.source is None:
            return type(self.model).__name__
        return Path(self.source).resolve().name if Path(self.source).exists() else self.source

    def describe(self) -> dict[str, Any]:
        """Describe the network as plain values, without a path, so that they can be published."""
        config = self.model.config
        return {
            "architecture": config.architecture if config.model_type == "timm_wrapper" else config.model_type,
            "strategy": ((getattr(config, "hf_tl", None) or {}).get("strategy") or {}).get("name"),
            "parameters": sum(parameter.numel() for parameter in self.model.parameters()),
            "runtime": "torch",
        }

    @property
    def preprocessing(self) -> "Preprocessing":
        """Preprocessing of the model."""
        return preprocessing_of(self.model)


def _advice(value: Any) -> str:
    if isinstance(value, tuple):
        return ": load returns (model, transforms), give the first of them"
    return ": the model comes first, then the images" if hasattr(value, "features") else ""
