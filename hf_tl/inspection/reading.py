"""The pass over all images: each file is read and decoded once, whatever is computed from it."""

import contextlib
import functools
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from hf_tl.data.columns import IMAGE
from hf_tl.data.decoding.colors import upright
from hf_tl.data.decoding.images import ImageTransform
from hf_tl.data.decoding.opening import with_image
from hf_tl.data.decoding.stored import digest_image, stored_bytes
from hf_tl.data.grouping.hashes import SIDE, perceptual_hashes, small_version
from hf_tl.errors import DataError
from hf_tl.features.description import Layout
from hf_tl.features.feature_store import FeatureRows
from hf_tl.inspection.embedding import Embedder
from hf_tl.inspection.opening import LabeledImages
from hf_tl.reporting.console import progress_bar
from hf_tl.storage.blocks import allocate

BATCH = 64


@dataclass(frozen=True)
class Look:
    """Facts about a file, and what is computed from its pixels; an error for a file that is no readable image."""

    digest: bytes
    bytes: int
    error: str | None = None
    size: tuple[int, int] = (0, 0)
    mode: str = ""
    format: str = ""
    small: np.ndarray | None = None
    """Small gray version (64, 64), uint8."""
    pixel_values: Tensor | None = None
    """Input of the backbone (channels, height, width)."""


@dataclass(frozen=True)
class Facts:
    """Facts about all images of a dataset, in their order."""

    digests: np.ndarray
    """SHA-256 of each encoded image (images, 32), uint8."""
    bytes: np.ndarray
    """Size of each encoded image (images,), int64."""
    sizes: np.ndarray
    """Width and height in pixels, upright (images, 2), int32; 0 for an unreadable file."""
    modes: np.ndarray
    """Pillow modes (images,)."""
    formats: np.ndarray
    """File formats (images,)."""
    hashes: np.ndarray
    """Perceptual hash of each image (images,), uint64."""
    small: FeatureRows
    """Small gray versions (images, 64, 64), uint8."""
    errors: dict[int, str] = field(default_factory=dict)
    """Error of each unreadable image, by row."""
    features: FeatureRows | None = None
    """Features of the backbone (images, values); None without a backbone."""

    @property
    def is_readable(self) -> np.ndarray:
        """Whether each image can be read, bool, (images,)."""
        return self.sizes[:, 0] > 0

    @property
    def readable(self) -> np.ndarray:
        """Rows of the images that can be read."""
        return np.flatnonzero(self.is_readable)

    def close(self) -> None:
        """Close the files of the small versions and the features."""
        for rows in filter(None, (self.small, self.features)):
            rows.close()


def look(stored: Mapping[str, Any] | None, name: str, transform: ImageTransform | None) -> Look:
    """Read and decode an image.

    Args:
        stored: Encoded image, or the path of its file.
        name: Name of the image in errors.
        transform: Transform to the input of a backbone. Without it, JPEGs are decoded at a part of their size.
    """
    try:
        data = stored_bytes(stored or {})
    except OSError as error:
        return Look(digest_image(None, name), 0, f"the file cannot be read ({error.strerror or error})")
    path = (stored or {}).get("path")
    encoded = {"bytes": data, "path": path}
    digest, length = digest_image(encoded, name), len(data or b"")

    def use(image: Image.Image) -> Look:
        size, mode, kind = image.size, image.mode, image.format or ""
        if transform is None:
            image.draft(None, (2 * SIDE, 2 * SIDE))
        image = upright(image)
        is_turned = (size[0] > size[1]) != (image.width > image.height)
        small, pixel_values = small_version(image), None if transform is None else transform(image)
        return Look(digest, length, None, size[::-1] if is_turned else size, mode, kind, small, pixel_values)

    try:
        return with_image(encoded, name, use)
    except DataError as error:
        return Look(digest, length, str(error).removeprefix(f"{path or name}: "))


def read_images(images: LabeledImages, folder: Path, embedder: Embedder | None = None) -> Facts:
    """Read all images once, and compute their features.

    Args:
        images: Images to read.
        folder: Empty folder for what would not fit into memory: small versions of the images, and features.
        embedder: Backbone of the features; None for none.

    Raises:
        ModelError: The features of the backbone are not finite.
        OSError: The disk of the folder is full.
    """
    count = len(images)
    facts = Facts(
        digests=np.zeros((count, 32), np.uint8),
        bytes=np.zeros(count, np.int64),
        sizes=np.zeros((count, 2), np.int32),
        modes=np.full(count, "", object),
        formats=np.full(count, "", object),
        hashes=np.zeros(count, np.uint64),
        small=_rows(folder / "small", Layout((SIDE, SIDE), torch.uint8), count),
    )
    transform = None if embedder is None else embedder.transform
    features: FeatureRows | None = None
    with (
        progress_bar(total=count, desc="Reading images", unit="image") as bar,
        ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool,
        contextlib.ExitStack() as stack,
    ):
        for first in range(0, count, BATCH):
            rows = range(first, min(first + BATCH, count))
            looks = _looks(images, rows, transform, pool)
            _write(facts, rows, looks)
            readable = {row: seen.pixel_values for row, seen in zip(rows, looks, strict=True) if seen.error is None}
            if embedder is not None and readable:
                pixel_values = torch.stack(list(readable.values()))  # type: ignore[arg-type]
                if features is None:
                    stack.enter_context(embedder.ready(pixel_values))
                values = embedder.features(pixel_values)
                if features is None:
                    features = _rows(folder / "features", Layout(tuple(values.shape[1:]), torch.float32), count)
                features.write_at(list(readable), [values])
            bar.update(len(rows))
    return replace(facts, features=features)


def _rows(folder: Path, layout: Layout, count: int) -> FeatureRows:
    folder.mkdir()
    allocate(folder / "0.bin", count * layout.bytes)
    return FeatureRows(folder, [layout], count, writable=True)


def _looks(
    images: LabeledImages, rows: Sequence[int], transform: ImageTransform | None, pool: ThreadPoolExecutor
) -> list[Look]:
    stored = images.rows[rows][IMAGE]
    names = [images.file(row, image) for row, image in zip(rows, stored, strict=True)]
    return list(pool.map(functools.partial(look, transform=transform), stored, names))


def _write(facts: Facts, rows: range, looks: Sequence[Look]) -> None:
    small = np.zeros((len(rows), SIDE, SIDE), np.uint8)
    for place, (row, seen) in enumerate(zip(rows, looks, strict=True)):
        facts.digests[row] = np.frombuffer(seen.digest, np.uint8)
        facts.bytes[row], facts.sizes[row] = seen.bytes, seen.size
        facts.modes[row], facts.formats[row] = seen.mode, seen.format
        if seen.small is not None:
            small[place] = seen.small
        if seen.error is not None:
            facts.errors[row] = seen.error
    facts.hashes[rows.start : rows.stop] = perceptual_hashes(small)
    facts.small.write(rows.start, [torch.from_numpy(small)])
