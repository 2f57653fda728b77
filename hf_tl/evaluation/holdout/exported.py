"""Classifier in an exported file, run by its own runtime, with what is known of its training."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import torch
from PIL import Image
from torch import Tensor, nn
from transformers.modeling_outputs import ImageClassifierOutput

from hf_tl.backbones.weights.provenance import UNRECORDED, saved_record
from hf_tl.data.decoding.images import ImageTransform
from hf_tl.data.decoding.scaling import PixelScaling, measure_scaling
from hf_tl.errors import ModelError
from hf_tl.evaluation.metrics import MULTI_LABEL, SINGLE_LABEL, ProblemType
from hf_tl.record import RECORD_FILE, LearnedFrom, LearnedSplit, RunRecord
from hf_tl.record.learned import LEARNED_FILE
from hf_tl.runtime.exported import ExportedModel
from hf_tl.runtime.origin import FileOrigin, origin_of
from hf_tl.runtime.preprocessing import apply
from hf_tl.runtime.runners import RUNTIMES
from hf_tl.runtime.whole import open_exported


@dataclass(frozen=True)
class ExportedClassifier:
    """Exported model to evaluate.

    What is known of its training is in the record that the export wrote beside the file. Digests of training images are
    not published, so they are looked for in the folder of the model, around the folder of the export or beside it.
    """

    exported: ExportedModel

    @classmethod
    def open(cls, file: Path) -> Self:
        """Open an exported file; the exceptions are those of `open_exported`.

        Raises:
            ModelError: It returns probabilities, and metrics and calibration are of logits.
        """
        exported = open_exported(file)
        if not isinstance(exported, ExportedModel):
            raise ModelError(
                f"expected an exported file that returns logits, found probabilities in {file}; name the file of the "
                f"same export without preprocessing, {RUNTIMES['onnx'].file}"
            )
        return cls(exported)

    @cached_property
    def network(self) -> nn.Module:
        """Exported file as a network of torch, without parameters."""
        return ExportedNetwork(self.exported)

    @property
    def transform(self) -> ImageTransform:
        """Transform of stored images to inputs of the network, with Pillow and NumPy."""
        return ImageTransform(ExportedPipeline(self.exported.steps), channels=self._channels)

    @cached_property
    def scaling(self) -> PixelScaling | None:
        """Map from pixel levels to inputs of the network."""
        return measure_scaling(self.transform.pipeline, (self._channels, *self.input_size))

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width of the inputs of the network."""
        size = self.exported.steps["size"]
        return size["height"], size["width"]

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names, in the order of the logits."""
        return self.exported.labels

    @property
    def problem(self) -> ProblemType:
        """Problem type of the model."""
        return MULTI_LABEL if self.exported.is_multi_label else SINGLE_LABEL

    @cached_property
    def record(self) -> RunRecord | None:
        """Record of the training of the model that was exported; None if the export states none for this file."""
        folder = self._folder
        return saved_record(str(folder)) if self._origin is not None and (folder / RECORD_FILE).is_file() else None

    @cached_property
    def learned(self) -> LearnedFrom:
        """Training images of the model that was exported; unknown without its record."""
        if self.record is None or self._origin is None:
            return UNRECORDED
        splits = self.record.learned_from
        learned = LearnedFrom.read(splits, _model_folder(self._folder, splits))
        is_of_record = self.record.weights_digest in (None, self._origin.weights_digest)
        return learned if is_of_record else learned.union(UNRECORDED)

    @cached_property
    def weights_digest(self) -> str:
        """Digest of the weights of the model; of a file with other weights (int8), the digest of the file."""
        if self._origin is not None and self._origin.is_exact:
            return self._origin.weights_digest
        return self.exported.identity

    @property
    def name(self) -> str:
        """Publishable name: those of the folder and of the file."""
        return f"{self._folder.name}/{self.exported.file.name}"

    def describe(self) -> dict[str, Any]:
        """Describe the network as plain values; what the export does not state is None."""
        origin = self._origin
        return {
            "architecture": None if origin is None else origin.architecture,
            "strategy": None if self.record is None else self.record.strategy.name,
            "parameters": None if origin is None else origin.parameters,
            "runtime": self.exported.runtime.name,
        }

    @property
    def _folder(self) -> Path:
        return self.exported.file.resolve().parent

    @property
    def _channels(self) -> int:
        return len(self.exported.steps["mean"])

    @cached_property
    def _origin(self) -> FileOrigin | None:
        return origin_of(self.exported.file)


@dataclass(frozen=True)
class ExportedPipeline:
    """Transform of an image to a tensor by the steps of an exported model."""

    steps: Mapping[str, Any]

    def __call__(self, image: Image.Image) -> Tensor:
        """Apply the steps with Pillow and NumPy."""
        return torch.from_numpy(apply(self.steps, image))


class ExportedNetwork(nn.Module):
    """Exported file as a network of torch: inputs go to its runtime, in float32, and logits come back."""

    def __init__(self, exported: ExportedModel) -> None:
        super().__init__()
        self._exported = exported

    def forward(self, pixel_values: Tensor) -> ImageClassifierOutput:
        """Run the file on a batch of inputs."""
        with torch.autocast("cpu", enabled=False):
            logits = self._exported.logits(pixel_values.cpu().contiguous().numpy())
        return ImageClassifierOutput(logits=torch.from_numpy(logits).to(pixel_values.device))


def _model_folder(folder: Path, splits: tuple[LearnedSplit, ...]) -> Path | None:
    """Return the folder with the digests of these splits, around the folder of an export or beside it."""
    return next((place for place in _places(folder) if _has_digests(place, splits)), None)


def _places(folder: Path) -> Iterator[Path]:
    yield folder.parent
    try:
        yield from sorted(folder.parent.iterdir())
    except OSError:  # a folder that may be entered, but not listed
        return


def _has_digests(place: Path, splits: tuple[LearnedSplit, ...]) -> bool:
    try:
        record = saved_record(str(place)) if (place / LEARNED_FILE).is_file() else None
    except (ModelError, OSError):  # of another model
        return False
    return record is not None and record.learned_from == splits
