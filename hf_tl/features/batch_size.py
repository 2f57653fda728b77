"""Batch size at which a pass over images is fastest, measured during the pass."""

import time
from collections.abc import Iterator

from torch import Tensor

HALVINGS = 3
"""Number of halvings: the sizes tried are the largest one, its half, its quarter and so on."""
TRIALS_PER_SIZE = 3
"""Number of trials per size. The fastest counts, because the first one prepares the kernels."""
MIN_IMAGES_PER_TRIED_IMAGE = 4
"""Minimum length of a pass, as a multiple of the images of all trials; in a shorter one there is little to gain."""


class BatchSize:
    """Split a pass into batches: the first images in several sizes, all others in the fastest size.

    No image is processed twice, and only rounding can depend on the sizes.

    Args:
        largest: Largest number of images that fit into memory.
        images: Number of images of the whole pass. In a short pass nothing is tried, and the largest size is used.

    Attributes:
        size: The fastest size so far.
    """

    def __init__(self, largest: int, images: int) -> None:
        sizes = [size for halvings in range(HALVINGS + 1) if (size := largest >> halvings)]
        self.size = largest
        self._trials = (
            sizes * TRIALS_PER_SIZE
            if images >= MIN_IMAGES_PER_TRIED_IMAGE * TRIALS_PER_SIZE * len(sizes) * largest
            else []
        )
        self._seconds: dict[int, float] = {}
        """Seconds per image, by batch size."""

    @property
    def is_measured(self) -> bool:
        """Return whether all sizes have been tried."""
        return bool(self._seconds) and not self._trials

    @property
    def seconds(self) -> float:
        """Seconds per image at the fastest size tried so far."""
        return self._seconds[self.size]

    def batches(self, pixel_values: Tensor) -> Iterator[Tensor]:
        """Split images into batches. A trial is timed from its first batch to the request for the next one.

        Args:
            pixel_values: (images, channels, height, width), at most the largest size.
        """
        if not self._trials:
            yield from pixel_values.split(self.size)
            return
        size = self._trials.pop(0)
        start = time.perf_counter()
        yield from pixel_values.split(size)
        seconds = (time.perf_counter() - start) / len(pixel_values)
        self._seconds[size] = min(seconds, self._seconds.get(size, seconds))
        self.size = min(self._seconds, key=self._seconds.__getitem__)
