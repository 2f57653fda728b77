"""The order in which images are seen, and their augmentation, as functions of seed, epoch and index alone.

Neither the number of workers or processes nor an interruption changes them.
"""

import hashlib
from collections.abc import Iterator
from typing import Any

import torch
from datasets import Dataset
from torch.utils.data import Sampler

from hf_tl.data.images import ImageTransform

Key = tuple[int, int]
"""An epoch and the index of an image."""


class EpochSampler(Sampler[Key]):
    """All images of an epoch in a random order given by the seed and the epoch's number.

    >>> sampler = EpochSampler(3, seed=0)
    >>> sorted(index for _, index in sampler), list(sampler) == list(sampler)
    ([0, 1, 2], True)
    """

    def __init__(self, size: int, seed: int) -> None:
        self.size = size
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order comes next."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[Key]:
        order = torch.randperm(self.size, generator=torch.Generator().manual_seed(_mix(self.seed, self.epoch, 0)))
        return ((self.epoch, index) for index in order.tolist())


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
            return self.images[index]


def _mix(seed: int, epoch: int, index: int) -> int:
    """Spread three small numbers over 63 bits, so that neighbours draw unrelated random numbers."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{epoch}/{index}".encode(), digest_size=8).digest()) >> 1
