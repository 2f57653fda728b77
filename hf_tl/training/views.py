"""The order in which images are seen, and their augmentation, as functions of seed, epoch and index alone.

Neither the number of workers or processes nor an interruption changes them.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from datasets import Dataset
from torch.utils.data import Sampler

from hf_tl.data.images import ImageTransform, collate

Key = tuple[int, int]
"""An epoch and the index of an image."""


class ImageStream(Sampler[Key]):
    """An endless stream of images, cut to a span: each epoch is a random order of all images, given by seed and epoch.

    Training takes equal batches from it, whatever the number of images: none is dropped, none is repeated to fill a
    batch, and a step's place in the stream says which images it sees, on any number of processes.

    >>> stream = ImageStream(size=3, seed=0, start=0, stop=6)
    >>> sorted(index for epoch, index in stream if epoch == 0), list(stream)[4:] == list(ImageStream(3, 0, 4, 6))
    ([0, 1, 2], True)
    """

    def __init__(self, size: int, seed: int, start: int, stop: int) -> None:
        """Take the span from `start` to `stop`, counted in images since the beginning of training."""
        self.size = size
        self.seed = seed
        self.start = start
        self.stop = stop

    def __len__(self) -> int:
        return self.stop - self.start

    def __iter__(self) -> Iterator[Key]:
        order: list[int] = []
        for position in range(self.start, self.stop):
            epoch, place = divmod(position, self.size)
            if place == 0 or not order:
                generator = torch.Generator().manual_seed(_mix(self.seed, epoch, 0))
                order = torch.randperm(self.size, generator=generator).tolist()
            yield epoch, order[place]


class TrainingViews(torch.utils.data.Dataset[dict[str, Any]]):
    """Augmented views of images: `views[epoch, index]` is always the same view."""

    def __init__(self, images: Dataset, transform: ImageTransform, seed: int) -> None:
        self.images = images.with_transform(transform)
        self.seed = seed

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: Key) -> dict[str, Any]:
        epoch, index = key
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_mix(self.seed, epoch, index + 1))
            return {**self.images[index], "index": index}


def collate_views(examples: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
    """Stack views into a batch that also tells their `index` (batch,) in the dataset."""
    return {**collate(examples), "index": torch.tensor([example["index"] for example in examples])}


def _mix(seed: int, epoch: int, index: int) -> int:
    """Spread three small numbers over 63 bits, so that neighbours draw unrelated random numbers."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{epoch}/{index}".encode(), digest_size=8).digest()) >> 1
