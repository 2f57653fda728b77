"""Order and augmentation of training images, as functions of seed, epoch and index alone.

They do not depend on the number of workers or processes, nor on interruptions.
"""

import contextlib
import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from datasets import Dataset
from torch.utils.data import Sampler

from hf_tl.data.decoding.augmentation import PairMixer
from hf_tl.data.decoding.images import ImageTransform, collate

Key = tuple[int, ...]
"""Epoch and index of an image; and, with sampling with replacement, its number of previous draws in the epoch."""


class ImageStream(Sampler[Key]):
    """Endless stream of images, cut to a span. Each epoch is a random order of all images, given by seed and epoch.

    Training takes equal batches from it, whatever the number of images: no image is dropped or repeated to fill a
    batch. The position of a step in the stream determines its images, for any number of processes.

    With labels, an epoch draws the same number of images with replacement, every class equally often (class-balanced
    sampling, Kang et al. 2020, https://arxiv.org/abs/1910.09217).

    >>> stream = ImageStream(size=3, seed=0, start=0, stop=6)
    >>> sorted(index for epoch, index in stream if epoch == 0), list(stream)[4:] == list(ImageStream(3, 0, 4, 6))
    ([0, 1, 2], True)
    """

    def __init__(
        self,
        size: int,
        seed: int,
        start: int,
        stop: int,
        labels: Sequence[int] | None = None,
        order: Callable[[int], Sequence[int]] | None = None,
    ) -> None:
        """Set the span from `start` to `stop`, counted in images since the beginning of training.

        `order` replaces the random order of an epoch, for a dataset without random access.
        """
        self.order = order
        self.size = size
        self.weights = None if labels is None else _inverse_frequencies(labels)
        self.seed = seed
        self.start = start
        self.stop = stop

    def __len__(self) -> int:
        return self.stop - self.start

    def __iter__(self) -> Iterator[Key]:
        order: list[Key] = []
        for position in range(self.start, self.stop):
            epoch, place = divmod(position, self.size)
            if place == 0 or not order:
                order = self._order(epoch)
            yield order[place]

    def _order(self, epoch: int) -> list[Key]:
        if self.order is not None:
            return [(epoch, index) for index in self.order(epoch)]
        generator = torch.Generator().manual_seed(_mix(self.seed, epoch, 0))
        if self.weights is None:
            return [(epoch, index) for index in torch.randperm(self.size, generator=generator).tolist()]
        draws = torch.multinomial(self.weights, self.size, replacement=True, generator=generator).tolist()
        seen: Counter[int] = Counter()
        order: list[Key] = []
        for index in draws:
            order.append((epoch, index, seen[index]) if seen[index] else (epoch, index))
            seen[index] += 1
        return order


class TrainingViews(torch.utils.data.Dataset[dict[str, Any]]):
    """Augmented views of images: `views[epoch, index]` always returns the same view.

    As the `train_dataset` of transformers' `Trainer` with a `StrategyCallback`, it gives a resumed run the same views:
    `views[index]` is that of the epoch that the callback sets.

    Args:
        images: Rows with an image and a label.
        transform: Augmentation and preprocessing, for example `transforms.train` of `load_backbone`.
        seed: Random seed of the augmentation.

    >>> import hf_tl
    >>> data, strategy = hf_tl.load_data("photos"), hf_tl.Strategy.transfer(epochs=1)
    >>> model, transforms = hf_tl.load_backbone("backbone", data.labels, strategy)
    >>> views = hf_tl.TrainingViews(data.splits["train"], transforms.train, seed=1)
    >>> bool((views[0, 3]["pixel_values"] == views[0, 3]["pixel_values"]).all())
    True
    """

    def __init__(self, images: Dataset, transform: ImageTransform, seed: int = 0) -> None:
        self.images = transform.over(images)
        self.seed = seed
        self.epoch = 0
        self.includes_rows = False
        """Whether `collate` adds the rows of a batch to it, as `row` (batch,)."""

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the views for a bare index. Persistent workers do not see the change."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: Key | int) -> dict[str, Any]:
        epoch, index, *repeat = (self.epoch, key) if isinstance(key, int) else key
        seed = view_seed(self.seed, epoch, index, *repeat)
        with _seeded(seed):
            view = {**self.images[index], "index": index, "seed": seed}
        return {**view, "row": index} if self.includes_rows else view


class Collate:
    """Stack views into a batch with their `index` (batch,) in the dataset, and optionally mix them in pairs.

    The two images of a pair are neighbors in the stream, and the seed of the first view determines their mixing. So
    mixing does not depend on the number of workers or processes.
    """

    def __init__(self, mixer: PairMixer | None = None) -> None:
        self.mixer = mixer

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Collate a batch; `labels` are probabilities (batch, classes) if images are mixed."""
        batch = {**collate(examples), "index": torch.tensor([example["index"] for example in examples])}
        if self.mixer is None:
            return batch
        pixel_values, labels = [], []
        for first in range(0, len(examples), 2):
            pair = slice(first, first + 2)
            with _seeded(_mix(examples[first]["seed"])):
                mixed = self.mixer(batch["pixel_values"][pair], batch["labels"][pair])
            pixel_values.append(mixed[0])
            labels.append(mixed[1])
        return {**batch, "pixel_values": torch.cat(pixel_values), "labels": torch.cat(labels)}


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed the random numbers of the CPU in the context, and restore their state after it. GPUs are not affected."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def seeded_view(seed: int, epoch: int, index: int, *repeat: int) -> contextlib.AbstractContextManager[None]:
    """Seed the augmentation of an image in an epoch, as `TrainingViews` does."""
    return _seeded(view_seed(seed, epoch, index, *repeat))


def view_seed(seed: int, epoch: int, index: int, *repeat: int) -> int:
    """Return the seed of an image's view in an epoch."""
    return _mix(seed, epoch, index + 1, *repeat)


def _inverse_frequencies(labels: Sequence[int]) -> torch.Tensor:
    """Return the inverse class count of each image, (images,)."""
    classes = torch.as_tensor(labels)
    return 1 / torch.bincount(classes)[classes].double()


def _mix(*numbers: int) -> int:
    """Hash small numbers to 63 bits, so that nearby numbers give unrelated random numbers."""
    return int.from_bytes(hashlib.blake2b("/".join(map(str, numbers)).encode(), digest_size=8).digest()) >> 1
