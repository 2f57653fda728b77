"""Streamed images: read once over the network, in stream order, and not stored.

Only the labels are stored, with the position of each image. Splits and class counts therefore work as for any dataset,
but the images allow no random access.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from itertools import accumulate, chain, islice
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import PIL.Image
from datasets import Dataset, Features, IterableDataset
from datasets.exceptions import DatasetsError
from huggingface_hub.errors import HTTPError as HubHTTPError  # type: ignore[attr-defined]
from tqdm import tqdm

from hf_tl.data.columns import IMAGE, LABEL
from hf_tl.data.decoding.images import as_stored
from hf_tl.data.decoding.opening import decode
from hf_tl.data.fingerprint import row_name
from hf_tl.errors import ConfigError, DataError, name_some
from hf_tl.reporting.console import progress_bar

PLACE = "place in the stream"
"""Column with the position of each image in the concatenated streams of the dataset."""
UNEVEN = 1.25
"""Maximum ratio of the longest share to the mean; all processes wait for the longest share."""
BATCH = 64
"""Number of images that are read before threads decode them."""


@dataclass(frozen=True, eq=False)
class Stream:
    """Stored split of a dataset, in one or more shards (files)."""

    images: IterableDataset
    """Image column alone, not decoded."""
    name: str
    """Name of the stored split."""
    shard_sizes: tuple[int, ...]
    """Number of images in each shard."""
    source: str
    """Fingerprint of the files."""
    start: int = 0
    """Position of the first image in the concatenated streams of the dataset, as in `PLACE`."""
    unreadable: frozenset[int] = frozenset()
    """Positions of images that are left out."""

    def __len__(self) -> int:
        """Count all images, including those that are left out."""
        return sum(self.shard_sizes)

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the images in their order."""
        return sha256(f"{self.source}/{sorted(self.unreadable)}".encode()).hexdigest()

    def read(self, process: int = 0, processes: int = 1) -> Iterator[tuple[int, Mapping[str, Any] | None]]:
        """Read the share of one of several processes; each image is read by one of them.

        A process gets every n-th shard. If the shares would be too unequal, every process reads all shards and keeps
        every n-th image.

        Yields:
            Position of an image in the stream, and the stored image.

        Raises:
            DataError: The stream breaks off, or its length has changed.
        """
        if self._are_shares_alike(processes):
            share = self.images.shard(processes, process, contiguous=False)
            yield from self._with_places(share, range(process, len(self.shard_sizes), processes))
        else:
            rows = islice(self.images, process, None, processes)
            yield from self._at(rows, range(process, len(self), processes))

    def read_shards(self, shards: Iterable[int]) -> Iterator[tuple[int, Mapping[str, Any] | None]]:
        """Read the given shards in order; see `read`."""
        for shard in shards:
            yield from self._with_places(self.images.shard(len(self.shard_sizes), shard), [shard])

    def _with_places(
        self, rows: IterableDataset, shards: Iterable[int]
    ) -> Iterator[tuple[int, Mapping[str, Any] | None]]:
        ends = list(accumulate(self.shard_sizes))
        spans = (range(ends[shard] - self.shard_sizes[shard], ends[shard]) for shard in shards)
        return self._at(rows, chain.from_iterable(spans))

    def _at(
        self, images: Iterable[Mapping[str, Any]], places: Iterable[int]
    ) -> Iterator[tuple[int, Mapping[str, Any] | None]]:
        rows = iter(images)
        for place in places:
            row = self._next(rows)
            if row is None:
                self._changed()
            if place not in self.unreadable:
                yield place, row[IMAGE]
        if self._next(rows) is not None:
            self._changed()

    def _are_shares_alike(self, processes: int) -> bool:
        longest = max(sum(self.shard_sizes[process::processes]) for process in range(processes))
        return len(self.shard_sizes) >= processes and longest <= UNEVEN * len(self) / processes

    def _next(self, rows: Iterator[Mapping[str, Any]]) -> Mapping[str, Any] | None:
        try:
            return next(rows, None)
        except (DatasetsError, HubHTTPError, OSError, ValueError, RuntimeError) as error:
            raise DataError(
                f"the stream of {self.name} broke off ({error}); check the network, and run again"
            ) from error

    def _changed(self) -> NoReturn:
        raise DataError(
            f"the stream of {self.name} does not hold the {len(self):,} images whose labels were read from it: "
            "its files were changed meanwhile; run again"
        )

    @cached_property
    def first(self) -> Mapping[str, Any] | None:
        """First stored image."""
        return next(iter(self.read()))[1]


class StreamedImages:
    """Split with streamed images: all rows, or a selection.

    Args:
        stream: Stream of the images.
        rows: Labels of the images, and their positions in the stream (`PLACE`).
    """

    def __init__(self, stream: Stream, rows: Dataset) -> None:
        self.stream, self.rows = stream, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, column: str) -> Any:
        return self.rows[column]

    @property
    def features(self) -> Features:
        """Available columns: labels and positions."""
        return self.rows.features

    @cached_property
    def places(self) -> np.ndarray:
        """Positions of the images in the stream, (images,)."""
        return np.asarray(self.rows[PLACE][:], dtype=np.int64) - self.stream.start

    def select(self, rows: Sequence[int], keep_in_memory: bool = True) -> "StreamedImages":
        """Return a selection of the images; they still come in stream order."""
        return StreamedImages(self.stream, self.rows.select(rows, keep_in_memory=keep_in_memory))

    def without_unreadable(self, stream: Stream) -> "StreamedImages":
        """Return the split without unreadable images, as listed in `stream`, an updated copy of its stream."""
        kept = [row for row, place in enumerate(self.places.tolist()) if place not in stream.unreadable]
        return StreamedImages(stream, self.rows.select(kept, keep_in_memory=True))

    def with_transform(self, transform: Callable[[Any], Any]) -> NoReturn:
        """Raise an error, because streamed images do not allow random access.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError(
            "the images of a stream come in its order, and here they are needed one by one; leave out --streaming"
        )


def map_stream(
    stream: Stream, function: Callable[[Any, str], Any], progress: tqdm | None = None
) -> Iterator[tuple[int, Any]]:
    """Apply a function to each stored image and its name, in threads; yield its position and the result."""
    images = stream.read()
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        while chunk := list(islice(images, BATCH)):
            names = [row_name(image, place, stream.name) for place, image in chunk]
            results = pool.map(function, [image for _, image in chunk], names)
            yield from zip([place for place, _ in chunk], results, strict=True)
            if progress is not None:
                progress.update(len(chunk))


def decode_streamed(stored: Mapping[str, Any] | None, name: str) -> PIL.Image.Image:
    """Decode an image that was not checked before.

    Raises:
        DataError: The image cannot be decoded.
    """
    try:
        return decode(stored, name)
    except DataError as error:
        raise DataError(f"{error}, or leave out all such images with --skip_bad_images") from error


def first_image(images: "Dataset | StreamedImages") -> PIL.Image.Image:
    """Decode the first image of a split; for a stream, the first image of the whole stream."""
    if isinstance(images, StreamedImages):
        return decode(images.stream.first)
    return decode(as_stored(images)[0][IMAGE])


def leave_out(
    splits: Mapping[str, StreamedImages], is_bad: Callable[[Any, str], Any], verbose: bool
) -> tuple[dict[str, StreamedImages], list[str]]:
    """Read the streams of the given splits once, and leave out the images for which `is_bad` returns a result.

    Returns:
        Splits, and a note for each stream with such images.
    """
    streams, checked, notes = streams_of(splits), {}, []
    with progress_bar(total=sum(map(len, streams)), desc="Checking images", disable=not verbose) as progress:
        for stream in streams:
            bad = {place: result for place, result in map_stream(stream, is_bad, progress) if result is not None}
            checked[stream] = replace(stream, unreadable=frozenset(bad))
            if bad:
                names = name_some(Path(name).name for name, _ in bad.values())
                notes.append(f"{len(bad)} images of {stream.name} that cannot be read were left out: {names}")
    return {split: images.without_unreadable(checked[images.stream]) for split, images in splits.items()}, notes


def fingerprint_of_streams(splits: Mapping[str, StreamedImages], names: Sequence[str]) -> str:
    """Return a fingerprint of streamed images: their files, labels and splits."""
    digest = sha256(str(tuple(names)).encode())
    for split, images in splits.items():
        digest.update(f"{split}/{images.stream.fingerprint}/{images[LABEL][:]}".encode())
        digest.update(images.places.tobytes())
    return digest.hexdigest()


def streams_of(splits: Mapping[str, Any]) -> list[Stream]:
    """List the distinct streams of the given splits; splits drawn from train share its stream."""
    streams = {id(rows.stream): rows.stream for rows in splits.values() if isinstance(rows, StreamedImages)}
    return list(streams.values())
