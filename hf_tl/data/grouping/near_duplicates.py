"""Near-duplicates among the images of a dataset, found by their pictures alone."""

import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from datasets import Dataset
from PIL import Image

from hf_tl.data.decoding.colors import upright
from hf_tl.data.decoding.opening import with_image
from hf_tl.data.fingerprint import map_images
from hf_tl.data.grouping.alignment import near_duplicates
from hf_tl.data.grouping.hashes import SIDE, SMALLEST, perceptual_hashes, similar_hashes, small_version
from hf_tl.errors import DataError
from hf_tl.reporting.console import progress_bar

BATCH = 1024
"""Number of images that are hashed at a time."""


def near_duplicates_of(splits: Mapping[str, Dataset], digests: Sequence[bytes]) -> np.ndarray:
    """Return the pairs of images of a dataset that show the same picture, as `hf-tl inspect` finds them.

    Args:
        splits: Images, in the column `image`.
        digests: Digests of the images of all splits in order; of copies, the first one is compared.

    Returns:
        Rows of all splits in order (pairs, 2).
    """
    first = {digest: row for row, digest in reversed(list(enumerate(digests)))}
    compared: list[int] = []
    with (
        tempfile.TemporaryFile() as file,
        progress_bar(total=len(digests), desc="Comparing images", unit="image") as bar,
    ):
        images = ((split, rows) for split, rows in splits.items())
        seen = (small for split, rows in images for small in map_images(rows, split, _look, bar))
        for row, small in enumerate(seen):
            if small is not None and first[digests[row]] == row:
                file.write(small.tobytes())
                compared.append(row)
        if not compared:
            return np.empty((0, 2), np.int64)
        file.flush()
        smalls = np.memmap(file, np.uint8, "r", shape=(len(compared), SIDE, SIDE))
        starts = range(0, len(smalls), BATCH)
        hashes = np.concatenate([perceptual_hashes(smalls[start : start + BATCH]) for start in starts])
        pairs, _ = near_duplicates(similar_hashes(hashes), lambda rows: smalls[rows])
    return np.array(compared)[pairs]


def _look(stored: Mapping[str, Any] | None, name: str) -> np.ndarray | None:
    """Return the small gray version of an image; None for one that is too small or unreadable, which checks report."""

    def use(image: Image.Image) -> np.ndarray | None:
        if min(image.size) < SMALLEST:
            return None
        image.draft(None, (2 * SIDE, 2 * SIDE))
        return small_version(upright(image))

    try:
        return with_image(stored or {}, name, use)
    except DataError:
        return None
