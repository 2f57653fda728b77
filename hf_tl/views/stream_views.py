"""Images of a stream for training and evaluation without cached features, read block by block.

An epoch reads the shards in random order and shuffles the images within each block, like the shuffle buffer of an
`IterableDataset`. The order depends only on seed and epoch, so a run resumes from any step, and any number of processes
see each image once.
"""

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from PIL import Image
from torch.utils.data import Dataset

from hf_tl.data.columns import IMAGE, LABEL
from hf_tl.data.decoding.images import ImageTransform
from hf_tl.data.fingerprint import row_name
from hf_tl.data.streaming.streams import StreamedImages, decode_streamed
from hf_tl.views.views import Key, seeded_view, view_seed

BLOCK_IMAGES = 1000
"""Number of encoded images in memory; also the default shuffle buffer of `IterableDataset`."""


class StreamedViews(Dataset[dict[str, Any]]):
    """Views of streamed images with the interface of `TrainingViews`: `views[epoch, index]`; fast in their `order`.

    Args:
        images: Images of a stream.
        transform: Transform of the images.
        seed: Random seed of the augmentation, as in `TrainingViews`, and of the order. None if nothing is random.
        shuffled: Whether to shuffle each epoch; otherwise it follows the order of the stream.
        block: Number of encoded images in memory, which are shuffled among themselves.
    """

    def __init__(
        self,
        images: StreamedImages,
        transform: ImageTransform,
        seed: int | None = None,
        *,
        shuffled: bool = False,
        block: int = BLOCK_IMAGES,
    ) -> None:
        self.images, self.transform, self.seed, self.shuffled, self.block = images, transform, seed, shuffled, block
        self.labels = images[LABEL][:]
        self.includes_rows = False
        self._epoch: int | None = None
        self._held: dict[int, Mapping[str, Any] | None] = {}
        self._number = -1

    def __len__(self) -> int:
        return len(self.images)

    def order(self, epoch: int) -> list[int]:
        """Return the order of the images in an epoch."""
        reading = self._reading(epoch)[0]
        if not self.shuffled:
            return reading.tolist()
        random = np.random.default_rng([self.seed or 0, epoch, 1])
        blocks = (reading[first : first + self.block] for first in range(0, len(reading), self.block))
        return np.concatenate([random.permutation(block) for block in blocks]).tolist()

    def _reading(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the reading order of the images (images,) and of the shards (shards,)."""
        stream, places = self.images.stream, self.images.places
        ends = np.cumsum(stream.shard_sizes)
        shards = np.arange(len(ends))
        if self.shuffled:
            shards = np.random.default_rng([self.seed or 0, epoch, 0]).permutation(shards)
        turn = np.empty_like(shards)
        turn[shards] = np.arange(len(shards))
        shard_of = np.searchsorted(ends, places, side="right")
        return np.lexsort((places, turn[shard_of])), shards

    def __getitem__(self, key: Key | int) -> dict[str, Any]:
        return self.__getitems__([key])[0]

    def __getitems__(self, keys: Sequence[Key | int]) -> list[dict[str, Any]]:
        """Return the views of a batch; images outside the current block are read first."""
        whole = [(0, key) if isinstance(key, int) else key for key in keys]
        stored = [self._stored(epoch, index) for epoch, index, *_ in whole]
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            decoded = list(pool.map(self._decoded, whole, stored))
            if self.seed is None:
                return list(pool.map(self._view, whole, decoded))
        # sequential, because views draw from the random number generator of the process
        return [self._view(key, image) for key, image in zip(whole, decoded, strict=True)]

    def _decoded(self, key: Key, stored: Mapping[str, Any] | None) -> Image.Image:
        return decode_streamed(stored, row_name(stored, int(self.images.places[key[1]]), self.images.stream.name))

    def _view(self, key: Key, image: Image.Image) -> dict[str, Any]:
        epoch, index, *repeat = key
        seed = view_seed(self.seed or 0, epoch, index, *repeat)
        columns = {IMAGE: [image], LABEL: [self.labels[index]]}
        with contextlib.nullcontext() if self.seed is None else seeded_view(self.seed, epoch, index, *repeat):
            batch = self.transform(columns)
        view = {"pixel_values": batch["pixel_values"][0], "labels": batch["labels"][0], "index": index, "seed": seed}
        return {**view, "row": index} if self.includes_rows else view

    def _stored(self, epoch: int, index: int) -> Mapping[str, Any] | None:
        """Return an image of the current block, or read on to its block."""
        if epoch != self._epoch:
            self._open(epoch)
        number = int(self._turn[index]) // self.block
        if number < self._number or self._number < 0:
            self._images = self._read_from(number * self.block)
            self._number = number - 1
        while self._number < number:
            self._number += 1
            first = self._number * self.block
            self._held = {int(index): next(self._images) for index in self._order[first : first + self.block]}
        return self._held[index]

    def _open(self, epoch: int) -> None:
        self._order, self._shards = self._reading(epoch)
        self._turn = np.empty_like(self._order)
        self._turn[self._order] = np.arange(len(self._order))
        self._epoch, self._number, self._held = epoch, -1, {}

    def _read_from(self, first: int) -> Iterator[Mapping[str, Any] | None]:
        """Read images in order from a given position on; earlier shards are not opened."""
        stream, places = self.images.stream, self.images.places[self._order[first:]]
        ends = np.cumsum(stream.shard_sizes)
        shard = np.searchsorted(ends, places[0], side="right")
        start = int(np.flatnonzero(self._shards == shard)[0])
        wanted = iter(places.tolist())
        place = next(wanted, None)
        for position, stored in stream.read_shards(self._shards[start:].tolist()):
            if position == place:
                yield stored
                place = next(wanted, None)
                if place is None:
                    return


def viewed(images: Any, transform: ImageTransform) -> Any:
    """Return the transformed rows of a split (a `datasets.Dataset` or `StreamedImages`) for evaluation."""
    return StreamedViews(images, transform) if isinstance(images, StreamedImages) else transform.over(images)
