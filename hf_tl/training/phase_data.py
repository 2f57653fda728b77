"""Inputs of the phases of a training: cached features of the frozen prefix where they save time, else images."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from hf_tl.data.columns import LABEL
from hf_tl.data.decoding.augmentation import PairMixer
from hf_tl.data.decoding.images import Transforms, collate
from hf_tl.data.drawing import number_units
from hf_tl.data.streaming.streams import StreamedImages, first_image
from hf_tl.distillation.cached import taught
from hf_tl.distillation.teacher import Teacher
from hf_tl.errors import ConfigError
from hf_tl.evaluation.measure import Predictions, predict_split
from hf_tl.features.features import Features
from hf_tl.features.inputs import PhaseInputs, as_read
from hf_tl.record.parts import PrecisionRecord
from hf_tl.strategy import Phase
from hf_tl.views.stream_views import StreamedViews, viewed
from hf_tl.views.views import Collate, ImageStream, TrainingViews

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class TrainingImages:
    """Images of a training, and how they become tensors."""

    train: "Dataset | StreamedImages"
    """Training split, with the columns `image` and `label`."""
    validation: "Dataset | StreamedImages | None"
    """Images for model selection, never trained on. None keeps the last weights, as in a refit."""
    transforms_of: Callable[[Phase], Transforms]
    """Function from a phase to its transforms, which differ in augmentation."""
    fingerprint: str = ""
    """Fingerprint of the data; a checkpoint of other data is rejected."""
    orders: Mapping[str, str] | None = None
    """Digest of the order of the images in each split, if known: see `ImageData`."""
    units: Mapping[str, Sequence[str | bytes]] = field(default_factory=dict)
    """Group of each image of train and validation, in row order; images of a group are not independent. Empty where it
    is unknown."""
    teacher: Teacher | None = None
    """Teacher of the phases that have a weight for it, if any."""


@dataclass
class PhaseData:
    """Images of a training, and the inputs that each phase makes of them."""

    features: Features
    transforms_of: Callable[[Phase], Transforms]
    train_images: "Dataset | StreamedImages"
    validation_images: "Dataset | StreamedImages | None"
    units: Mapping[str, Sequence[str | bytes]] = field(default_factory=dict)
    teacher: Teacher | None = None

    @classmethod
    def of(cls, features: Features, images: TrainingImages) -> Self:
        """Return the data of a training on images."""
        return cls(features, images.transforms_of, images.train, images.validation, images.units, images.teacher)

    def groups(self, split: str) -> np.ndarray | None:
        """Return the number of the group of each image of a split (images,); None where it is unknown."""
        units = self.units.get(split)
        return number_units(units) if units else None

    @cached_property
    def independent(self) -> int:
        """Number of independent validation images: of their groups."""
        groups, images = self.groups("validation"), self.validation_images
        return int(groups.max()) + 1 if groups is not None else 0 if images is None else len(images)

    def require(self, phases: Sequence[Phase]) -> None:
        """Reject phases that need random access to the images of a stream.

        Raises:
            ConfigError: A phase draws images at random.
        """
        if isinstance(self.train_images, StreamedImages):
            self.features.require(phases)

    def two_images(self, phase: Phase) -> Tensor:
        """Return a batch of the first training image, twice."""
        pixel_values = self.transforms_of(phase).eval(first_image(self.train_images))
        return torch.stack([pixel_values] * 2)

    def inputs(
        self,
        phase: Phase,
        frozen: str,
        passes: float,
        decided: bool | None = None,
        precision: PrecisionRecord | None = None,
    ) -> PhaseInputs:
        """Choose the inputs of a phase, and how logits are computed from them; see `Features.for_phase`.

        They include the logits of the teacher, if there is one (`hf_tl.distillation`).
        """
        transforms, images, measured = self.transforms_of(phase), self.train_images, self.validation_images
        features = self.features.for_phase(phase, transforms, images, measured, frozen, passes, decided, precision)
        if features is not None:
            features = taught(features, self.teacher, phase, transforms, images, self.features)
        if features is not None:
            return features
        inputs = taught(self._images(phase, transforms), self.teacher, phase, transforms, images, self.features)
        assert inputs is not None, "a teacher can see images"
        if (fast := self.features.fast_logits(phase, transforms.eval, images, passes, precision)) is None:
            return inputs
        return dataclasses.replace(inputs, logits_of=fast[0], frozen_precision=fast[1])

    def _images(self, phase: Phase, transforms: Transforms) -> PhaseInputs:
        images, config = self.train_images, self.features.config
        is_mixed = phase.mixup > 0 or phase.cutmix > 0
        mixer = PairMixer(phase.mixup, phase.cutmix, self.features.model.config.num_labels) if is_mixed else None
        measured = self.validation_images
        validation = None if measured is None else viewed(measured, transforms.eval)
        if not isinstance(images, StreamedImages):
            views = TrainingViews(images, transforms.train, config.seed)
            return PhaseInputs(views, Collate(mixer), validation, collate)
        if phase.balanced_sampling:
            raise ConfigError("--balanced_sampling needs features here: images of a stream cannot be drawn at random")
        stream = StreamedViews(images, transforms.train, config.seed, shuffled=not phase.is_solved)
        return PhaseInputs(stream, Collate(mixer), validation, collate, order=stream.order)

    def loader(self, phase: Phase, inputs: PhaseInputs, span: tuple[int, int]) -> DataLoader:
        """Create the training loader of a phase.

        Args:
            phase: Phase; it may sample the classes equally often.
            inputs: Inputs of the phase.
            span: Start and stop positions in the endless stream of training images.
        """
        config, labels = self.features.config, self.labels(phase) if phase.balanced_sampling else None
        return DataLoader(
            inputs.train,
            batch_size=config.per_device_train_batch_size,
            sampler=ImageStream(len(self.train_images), config.seed, *span, labels, inputs.order),
            collate_fn=inputs.collate,
            num_workers=self.workers(inputs.are_features),
            pin_memory=self.features.accelerator.device.type == "cuda",
            # a separate generator: starting an iteration draws a number, which would change those of dropout
            generator=torch.Generator().manual_seed(config.seed),
        )

    def some(self, phase: Phase, inputs: PhaseInputs, device: torch.device) -> Mapping[str, Any]:
        """Return the first batch of training images, or of their features, on a device."""
        from accelerate.utils import send_to_device

        size = min(self.features.config.per_device_train_batch_size, len(self.train_images))
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            return send_to_device(next(iter(self.loader(phase, inputs, (0, size)))), device)

    def workers(self, are_features: bool | None = None) -> int:
        """Return the number of loader processes: 0 for features, and for a stream, which each would read completely."""
        is_read_once = are_features or isinstance(self.train_images, StreamedImages)
        return 0 if is_read_once else self.features.config.dataloader_num_workers

    def labels(self, phase: Phase) -> list[int]:
        """Return the class of each training image."""
        return self.train_images[LABEL][:]

    def predictions(
        self, model: "PreTrainedModel", phase: Phase, images: "Dataset | StreamedImages", split: str
    ) -> Predictions:
        """Predict images with a trained model, from the cached features of its last phase where possible."""
        accelerator, config, transform = self.features.accelerator, self.features.config, self.transforms_of(phase).eval
        flip, batch_size = config.test_time_flip, config.per_device_eval_batch_size
        if (features := self.features.of_images(images, transform, split)) is not None:
            rows, logits_of = features
            return predict_split(
                accelerator, model, rows, batch_size, flip=flip, collate_fn=as_read, logits_of=logits_of
            )
        return predict_split(accelerator, model, viewed(images, transform), batch_size, self.workers(), flip=flip)
