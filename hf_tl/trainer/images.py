"""Training images under Trainer: their order, and the augmentation and mixing of each phase."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import Sampler

from hf_tl.data.decoding.augmentation import PairMixer
from hf_tl.data.decoding.images import Transforms, collate
from hf_tl.strategy import Phase
from hf_tl.views.views import Collate, ImageStream, Key, TrainingViews

if TYPE_CHECKING:
    from datasets import Dataset


class PhaseViews(torch.utils.data.Dataset[dict[str, Any]]):
    """Augmented views of images: `views[phase, epoch, index]` is the view that the Accelerate loop trains on.

    Args:
        images: Rows with an image and a label.
        phases: Phases of the strategy.
        transforms_of: Function from a phase to its transforms.
        seed: Random seed of the augmentation.
    """

    def __init__(
        self, images: "Dataset", phases: Sequence[Phase], transforms_of: Callable[[Phase], Transforms], seed: int
    ) -> None:
        self.size = len(images)
        self.views = [TrainingViews(images, transforms_of(phase).train, seed) for phase in phases]

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, key: Key) -> dict[str, Any]:
        phase, *place = key
        return {**self.views[phase][tuple(place)], "phase": phase}


class PhaseCollate:
    """Stack views into a batch, mixed as their phase says, with their dataset rows as `row` (batch,)."""

    def __init__(self, phases: Sequence[Phase], classes: int) -> None:
        self.collates = [
            Collate(PairMixer(phase.mixup, phase.cutmix, classes) if phase.mixup or phase.cutmix else None)
            for phase in phases
        ]

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Collate views of training images, or rows of `pixel_values` and `labels` of other images."""
        if "phase" not in examples[0]:
            return collate(examples)
        batch = self.collates[examples[0]["phase"]](examples)
        return {"row": batch.pop("index"), **batch}


class PhaseSampler(Sampler[Key]):
    """Order of the training images in an epoch: that of the Accelerate loop with the same seed.

    Args:
        size: Number of training images.
        seed: Random seed of the order.
        phases: Phases of the strategy; some may draw the classes equally often.
        labels: Class of each image, if a phase does.
        images_per_step: Images of an optimizer step, on all processes.
        step_at: Function that returns the number of optimizer steps before an epoch.
        phase_at: Function from a number of steps to the index of the phase that takes the next one.
    """

    def __init__(
        self,
        size: int,
        seed: int,
        phases: Sequence[Phase],
        labels: Sequence[int] | None,
        images_per_step: int,
        step_at: Callable[[int], int],
        phase_at: Callable[[int], int],
    ) -> None:
        self.size, self.seed, self.phases, self.labels = size, seed, phases, labels
        self.images_per_step, self.step_at, self.phase_at = images_per_step, step_at, phase_at
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[Key]:
        start, first = self.epoch * self.size, self.step_at(self.epoch)
        plain, balanced = (
            iter(ImageStream(self.size, self.seed, start, start + self.size, labels)) for labels in (None, self.labels)
        )
        for position, keys in enumerate(zip(plain, balanced, strict=True)):
            phase = self.phase_at(first + position // self.images_per_step)
            yield (phase, *keys[self.phases[phase].balanced_sampling])
