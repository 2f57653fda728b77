"""A pass of the frozen prefix over images, which computes cached features as fast as the hardware allows."""

import contextlib
import copy
import itertools
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from hf_tl.backbones.prefix.boundary import Boundary
from hf_tl.backbones.prefix.compiling import compile_prefix
from hf_tl.backbones.prefix.folding import are_close, folded_where_equal
from hf_tl.backbones.stages.adapted import plain_name
from hf_tl.backbones.stages.freezing import frozen_tensors
from hf_tl.backbones.stages.modules import inference
from hf_tl.backbones.stages.stage import list_stages
from hf_tl.backbones.weights.digest import digest
from hf_tl.config import TrainingConfig
from hf_tl.data.decoding.images import ImageTransform, Transforms, collate
from hf_tl.data.decoding.pixels import pixel_batches, resized_side
from hf_tl.data.streaming.streams import StreamedImages, first_image
from hf_tl.errors import StageError
from hf_tl.features.batch_size import BatchSize
from hf_tl.features.description import Layout
from hf_tl.features.feature_store import FeatureRows
from hf_tl.features.stream_pass import stream_batches
from hf_tl.processes.precision import BFLOAT16, FLOAT32, OF_THE_RUN, precise
from hf_tl.record.parts import PrecisionRecord
from hf_tl.reporting.console import progress_bar, say
from hf_tl.strategy import Phase
from hf_tl.views.views import TrainingViews

if TYPE_CHECKING:
    from accelerate import Accelerator
    from datasets import Dataset
    from transformers import PreTrainedModel

    from hf_tl.data.streaming.streams import Stream

Prefix = Callable[[Tensor], list[Tensor]]
"""Function from `pixel_values` (images, channels, height, width) to the feature tensors (images, rows, *shape)."""
TIMED_IMAGES = 16
"""Number of images that are timed for the estimate."""
COMPILATION_SAVING, COMPILATION_SECONDS = 0.1, 20
"""Fraction of a pass that compilation saves, and its duration in seconds. On CPUs inductor made a folded
EfficientNet-Lite0 10% and a ResNet-50 19% faster, for 8 to 12 seconds of one core."""
MIN_REDUCED_SIDE_RATIO = 2
"""Smallest ratio of the side of reduced images to the side that the transform resizes to, so that resizing gives nearly
the same pixels."""


@dataclass(frozen=True)
class FeatureSet:
    """Images of one pass, with their transform and view."""

    images: "Dataset | StreamedImages"
    transform: ImageTransform
    split: str
    view: tuple[int, int] | None = None
    """Seed and number of a random view; None if the transform is deterministic."""
    reduced: int = 0
    """Smallest side in pixels of JPEGs decoded at a fraction of their size; 0 means full size."""

    @property
    def stored(self) -> "Dataset | Stream":
        """Images to process: a stream as a whole, once for all of its splits."""
        return self.images.stream if isinstance(self.images, StreamedImages) else self.images

    def sample(self, device: torch.device) -> Tensor:
        """Return the first images, transformed (images, channels, height, width).

        Of a stream it is one image, because streams are read once.
        """
        if isinstance(self.images, StreamedImages):
            return self.transform(first_image(self.images))[None].to(device)
        rows = range(min(TIMED_IMAGES, len(self.images)))
        return next(pixel_batches(self.images, self.transform, rows, TIMED_IMAGES, device))


def list_feature_sets(
    config: TrainingConfig,
    phase: Phase,
    transforms: Transforms,
    train: "Dataset | StreamedImages",
    validation: "Dataset | StreamedImages | None",
) -> list[FeatureSet]:
    """List the inputs of a phase: each view of the training images, and the validation images, if any.

    Only training images may be decoded at a reduced size: the model is evaluated on images as users will provide them.
    """
    evaluated = [] if validation is None else [FeatureSet(validation, transforms.eval, "validation")]
    if phase.augmentation == "none":
        reduced = MIN_REDUCED_SIDE_RATIO * resized_side(transforms.train) if config.decode_reduced else 0
        return [FeatureSet(train, transforms.train, "train", reduced=reduced), *evaluated]
    views = range(config.cached_views or 1)
    # random crops may take a small part, which needs full resolution
    return [*(FeatureSet(train, transforms.train, "train", (config.seed, view)) for view in views), *evaluated]


def run_precision(accelerator: "Accelerator", record: PrecisionRecord) -> contextlib.AbstractContextManager[Any]:
    """Return the context in which a frozen prefix runs: its own precision, or that of the run."""
    return accelerator.autocast() if record.precision == OF_THE_RUN else precise(record.precision, accelerator.device)


def parts_of(feature_set: FeatureSet, order: str, frozen: str) -> dict[str, Any]:
    """Return what the features of a set depend on, apart from the network around the frozen tensors.

    Args:
        feature_set: Feature set.
        order: Digest of its images in their order.
        frozen: Digest of the frozen tensors.
    """
    from importlib.metadata import version

    return {
        "frozen tensors": frozen,
        "images": order,
        "transform": feature_set.transform.describe(),
        "view": None if feature_set.view is None else list(feature_set.view),
        "reduced": feature_set.reduced,
        "versions": {name: version(name) for name in ("torch", "torchvision", "transformers", "timm", "pillow")},
    }


class FeaturePass:
    """Pass of the frozen prefix of a network.

    Args:
        accelerator: Accelerator; its processes share the images.
        model: Model, frozen as when the boundary was found.
        config: Precision and batch sizes.
        boundary: End of the prefix.
        frozen: Digest of the frozen tensors.

    Attributes:
        precision: Precision in which the features are computed and stored.
    """

    def __init__(
        self,
        accelerator: "Accelerator",
        model: "PreTrainedModel",
        config: TrainingConfig,
        boundary: Boundary,
        frozen: str,
    ) -> None:
        self.accelerator, self.model, self.config = accelerator, model, config
        self.boundary, self.frozen, self.precision = boundary, frozen, PrecisionRecord(FLOAT32)
        # layers with adapters come after the boundary, and lose their wrapper when the phase ends
        self._frozen_names = {name for name in frozen_tensors(model) if plain_name(name) == name}
        self._made_of = self._digest()

    title = "Features"
    """Title of the progress bar."""

    @property
    def place(self) -> str:
        """Part of the network that the images pass."""
        return f"before {first_trained(self.model)}"

    def in_precision(self, precision: PrecisionRecord) -> Self:
        """Return this pass in another precision."""
        other = copy.copy(self)
        other.precision = precision
        return other

    def is_current(self) -> bool:
        """Return whether the frozen tensors are still those of the features; the model may have other weights now."""
        return self._digest() == self._made_of

    def _digest(self) -> str:
        tensors = {**dict(self.model.named_parameters()), **dict(self.model.named_buffers())}
        return digest({name: tensor for name, tensor in tensors.items() if name in self._frozen_names})

    @property
    def layouts(self) -> list[Layout]:
        """Storage layout of each tensor of the features."""
        stored = torch.bfloat16 if self.precision.precision == BFLOAT16 else None
        return [
            Layout(leaf.row_shape, stored if stored is not None and leaf.dtype.is_floating_point else leaf.dtype)
            for leaf in self.boundary.leaves
        ]

    @property
    def bytes_per_image(self) -> int:
        """Bytes that the features of an image take on disk."""
        return sum(layout.bytes for layout in self.layouts)

    def made_of(self, feature_set: FeatureSet, order: str) -> dict[str, Any]:
        """Return everything that the features of a set depend on.

        Args:
            feature_set: Feature set.
            order: Digest of its images in their order.
        """
        return {
            **parts_of(feature_set, order, self.frozen),
            "boundary": self.boundary.digest(),
            "network": [type(self.model).__name__, network_settings(self.model)],
            "dtype": [str(layout.dtype) for layout in self.layouts],
            "precision": self._precision_name,
        }

    @property
    def _precision_name(self) -> str:
        """Accelerate's name of the precision."""
        if self.precision.precision == OF_THE_RUN:
            return str(self.accelerator.mixed_precision)
        return "bf16" if self.precision.precision == BFLOAT16 else "no"

    def seconds_per_image(self, feature_set: FeatureSet) -> float:
        """Time some images of a set from the file to the features."""
        timed = range(min(TIMED_IMAGES, len(feature_set.images)))
        seconds = 0.0
        with self.prefix(next(self._pixels(feature_set, timed))) as prefix:
            for _ in range(2):  # the first time is the warm-up
                start = time.perf_counter()
                for pixel_values in self._pixels(feature_set, timed):
                    [features.cpu() for features in prefix(pixel_values)]
                seconds = time.perf_counter() - start
        return seconds / len(timed)

    def fill(self, rows: FeatureRows, feature_set: FeatureSet) -> None:
        """Compute the features of this process's share of a set.

        Raises:
            OSError: The features cannot be written to disk.
            DataError: An image cannot be decoded.
        """
        size, rank, images = self.accelerator.num_processes, self.accelerator.process_index, len(feature_set.stored)
        loaded = self._batches(feature_set, rank, size)
        if (first := next(loaded, None)) is None:
            return
        what = feature_set.split if feature_set.view is None else f"{feature_set.split}, view {feature_set.view[1] + 1}"
        batch_size = BatchSize(self.config.per_device_eval_batch_size, images // size)
        with (
            self.prefix(first[1]) as prefix,
            progress_bar(total=images, desc=f"{self.title} of {what}", unit="image", disable=rank > 0) as progress,
        ):
            remaining, is_compilation_decided = images // size, False
            for places, pixel_values in itertools.chain([first], loaded):
                done = 0
                for batch in batch_size.batches(pixel_values):
                    rows.write_at(places[done : done + len(batch)], prefix(batch))
                    done += len(batch)
                remaining -= len(pixel_values)
                progress.update(len(pixel_values) * size)
                if batch_size.is_measured and not is_compilation_decided:
                    is_compilation_decided = True
                    progress.set_postfix({"batch size": batch_size.size}, refresh=False)
                    if remaining * batch_size.seconds * COMPILATION_SAVING > COMPILATION_SECONDS:
                        prefix = self._compiled(prefix, pixel_values[: batch_size.size], is_main=not rank)

    @contextlib.contextmanager
    def prefix(self, pixel_values: Tensor) -> Iterator[Prefix]:
        """Optimize the prefix while the context is open: inference mode, and BatchNorm folded.

        Args:
            pixel_values: Images on which folding must not change the features.
        """
        samples = pixel_values[:2]
        self.model.to(self.accelerator.device)  # while a sharded copy trains, it waits in the memory of the CPU
        with (
            inference(self.model),
            self._precise(),
            folded_where_equal(self.model, lambda: self.boundary.features(self.model, samples)),
        ):
            yield lambda pixel_values: self.boundary.features(self.model, pixel_values)

    def _compiled(self, prefix: Prefix, batch: Tensor, is_main: bool) -> Prefix:
        """Compile the prefix for one batch size; other sizes, and everything if compilation fails, run uncompiled."""
        try:
            compiled = compile_prefix(self.boundary, self.model, batch)
            if not are_close(compiled(batch), prefix(batch)):
                raise StageError("the compiled prefix gives different features")
        except StageError as error:
            if is_main:
                say(None, f"Running the frozen stages without compilation: {error}")
            return prefix
        return lambda pixel_values: (compiled if len(pixel_values) == len(batch) else prefix)(pixel_values)

    def _precise(self) -> contextlib.AbstractContextManager[Any]:
        return run_precision(self.accelerator, self.precision)

    def _batches(self, feature_set: FeatureSet, rank: int, size: int) -> Iterator[tuple[Sequence[int], Tensor]]:
        """Yield the images of a process's share in batches, each with its row numbers."""
        if isinstance(feature_set.images, StreamedImages):
            batch, threads = self.config.per_device_eval_batch_size, min(8, os.cpu_count() or 1)
            stream = feature_set.images.stream
            for places, pixels in stream_batches(
                stream, feature_set.transform, feature_set.view, (rank, size), batch, threads
            ):
                yield places, pixels.to(self.accelerator.device).contiguous(memory_format=torch.channels_last)
            return
        images = len(feature_set.images)
        first = rank * images // size
        for pixels in self._pixels(feature_set, range(first, (rank + 1) * images // size)):
            yield range(first, first + len(pixels)), pixels
            first += len(pixels)

    def _pixels(self, feature_set: FeatureSet, own: range) -> Iterator[Tensor]:
        batch, device = self.config.per_device_eval_batch_size, self.accelerator.device
        if feature_set.view is None:
            ahead = 0 if device.type == "cpu" else 1  # one batch keeps all cores of a CPU busy
            yield from pixel_batches(
                feature_set.images, feature_set.transform, own, batch, device, feature_set.reduced, ahead
            )
            return
        seed, view = feature_set.view
        loader = DataLoader(
            TrainingViews(feature_set.images, feature_set.transform, seed),
            batch_size=batch,
            sampler=[(view, index) for index in own],
            collate_fn=collate,
            num_workers=self.config.dataloader_num_workers,
            # a separate generator: starting an iteration draws a number, and training must not depend on cache hits
            generator=torch.Generator(),
        )
        for loaded in loader:
            yield loaded["pixel_values"].to(device).contiguous(memory_format=torch.channels_last)


SETTINGS_WITHOUT_EFFECT = (
    *("_name_or_path", "architectures", "hf_tl", "id2label", "label2id", "label_names", "num_classes", "num_labels"),
    *("problem_type", "transformers_version"),
)
"""Settings of a network that do not affect its frozen prefix."""


def network_settings(model: "PreTrainedModel") -> dict[str, Any]:
    """Return the settings that affect the features of the same weights, such as pooling, activation and epsilon."""
    settings = json.loads(model.config.to_json_string(use_diff=False))
    return {name: value for name, value in settings.items() if name not in SETTINGS_WITHOUT_EFFECT}


def first_trained(model: "PreTrainedModel") -> str:
    """Return the name of the first stage that trains."""
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    return next(stage.name for stage in list_stages(model) if not trained.isdisjoint(stage.parameter_names))
