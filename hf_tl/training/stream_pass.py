"""One pass over a stream: batches of transformed images with their places, read while the last batch is computed."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from hf_tl.data.fingerprint import row_name
from hf_tl.data.images import ImageTransform
from hf_tl.data.streams import Stream, decode_streamed
from hf_tl.training.views import seeded_view

Stored = tuple[int, Mapping[str, Any] | None]


def stream_batches(
    stream: Stream,
    transform: ImageTransform,
    view: tuple[int, int] | None,
    share: tuple[int, int],
    batch_size: int,
    threads: int,
) -> Iterator[tuple[list[int], Tensor]]:
    """Read, decode and transform the images of a process's share, in their order.

    Args:
        stream: is read once.
        transform: of its images.
        view: the seed and the number of a random view, which depends on an image's place alone; None for a transform
            with nothing random.
        share: which process of how many.
        batch_size: images in a batch.
        threads: for decoding; Pillow works outside Python's lock.

    Yields:
        The places of the images in the stream, and `pixel_values` of (images, channels, height, width).

    Raises:
        DataError: an image cannot be decoded, or the stream breaks off.
    """

    def transformed(stored: Stored) -> Tensor:
        place, image = stored
        decoded = decode_streamed(image, row_name(image, place, stream.name))
        if view is None:
            return transform(decoded)
        with seeded_view(*view, place):
            return transform(decoded)

    images = stream.read(*share)
    # the random numbers of a view are drawn from the one generator of the process
    with ThreadPoolExecutor(threads if view is None else 1) as pool, ThreadPoolExecutor(1) as reader:

        def load() -> tuple[list[int], Tensor] | None:
            chunk: Sequence[Stored] = list(islice(images, batch_size))
            return ([place for place, _ in chunk], torch.stack(list(pool.map(transformed, chunk)))) if chunk else None

        coming = reader.submit(load)
        while (batch := coming.result()) is not None:
            coming = reader.submit(load)
            yield batch
