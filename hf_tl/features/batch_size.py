"""The size of batches at which a pass over images is fastest, measured on the pass itself."""

import time
from collections.abc import Iterator

from torch import Tensor

HALVINGS = 3
"""Sizes that are tried: the largest, and this many halves of halves."""
ROUNDS = 3
"""How often each size is tried; its fastest time counts, because the first of a size prepares the kernels."""
PAYS = 4
"""How many times the images of the trials a pass must have: in a shorter one there is little left to gain."""


class BatchSize:
    """Runs the first images of a pass in batches of several sizes, and all others in the fastest.

    No image is run twice, and only the rounding of results can depend on it.

    Args:
        largest: how many images the memory takes at once.
        images: of the whole pass. Where they are few, nothing is tried and the largest size is taken.

    Attributes:
        size: the fastest as far as is known.
    """

    def __init__(self, largest: int, images: int) -> None:
        sizes = [size for halvings in range(HALVINGS + 1) if (size := largest >> halvings)]
        self.size = largest
        self._trials = sizes * ROUNDS if images >= PAYS * ROUNDS * len(sizes) * largest else []
        self._seconds: dict[int, float] = {}
        """Of an image, by size."""

    @property
    def is_measured(self) -> bool:
        """Whether all sizes have been tried."""
        return bool(self._seconds) and not self._trials

    @property
    def seconds(self) -> float:
        """Of an image, in batches of the fastest size that was tried."""
        return self._seconds[self.size]

    def batches(self, pixel_values: Tensor) -> Iterator[Tensor]:
        """Split images into batches; a trial is timed from the first batch to when the next one would be asked for.

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
