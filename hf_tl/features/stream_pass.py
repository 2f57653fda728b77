"""A pass over a stream: batches of transformed images with their positions, read ahead of the computation."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from hf_tl.data.decoding.images import ImageTransform
from hf_tl.data.fingerprint import row_name
from hf_tl.data.streaming.streams import Stream, decode_streamed
from hf_tl.views.views import seeded_view

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
        stream: Stream, read once.
        transform: Transform of its images.
        view: Seed and number of a random view, which depends only on an image's position. None for a deterministic
            transform.
        share: Index of the process, and number of processes.
        batch_size: Images per batch.
        threads: Number of decoding threads; Pillow releases Python's lock.

    Yields:
        The positions of the images in the stream, and `pixel_values` (images, channels, height, width).

    Raises:
        DataError: An image cannot be decoded, or the stream is interrupted.
    """

    def decoded(stored: Stored) -> Image.Image:
        place, image = stored
        return decode_streamed(image, row_name(image, place, stream.name))

    images = stream.read(*share)
    with ThreadPoolExecutor(threads) as pool, ThreadPoolExecutor(1) as reader:

        def transformed(places: Sequence[int], chunk: Iterable[Image.Image]) -> Iterable[Tensor]:
            if view is None:
                yield from pool.map(transform, chunk)
                return
            # sequential, because views draw from the random number generator of the process
            for place, image in zip(places, chunk, strict=True):
                with seeded_view(*view, place):
                    yield transform(image)

        def load() -> tuple[list[int], Tensor] | None:
            chunk: Sequence[Stored] = list(islice(images, batch_size))
            places = [place for place, _ in chunk]
            return (places, torch.stack(list(transformed(places, pool.map(decoded, chunk))))) if chunk else None

        coming = reader.submit(load)
        while (batch := coming.result()) is not None:
            coming = reader.submit(load)
            yield batch
