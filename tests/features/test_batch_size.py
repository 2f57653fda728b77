"""Batches of a pass: every image once, in order, and most of them in the fastest size."""

import time

import torch

from hf_tl.features.batch_size import MIN_IMAGES_PER_TRIED_IMAGE, TRIALS_PER_SIZE, BatchSize

LARGEST_BATCH = 16
TRIED_IMAGES = 4 * TRIALS_PER_SIZE * LARGEST_BATCH


def run(images: int, *, slow: dict[int, float]) -> tuple[list[int], BatchSize]:
    """Run a pass with slower batches of some sizes; return the size of each batch, and the chooser."""
    pixels = torch.arange(images).view(-1, 1)
    batch_size = BatchSize(LARGEST_BATCH, images)
    seen, sizes = [], []
    for chunk in pixels.split(LARGEST_BATCH):
        for batch in batch_size.batches(chunk):
            time.sleep(slow.get(len(batch), 1e-3) * len(batch))
            seen += batch.flatten().tolist()
            sizes.append(len(batch))
    assert seen == list(range(images))
    return sizes, batch_size


def test_the_fastest_size_is_taken_after_the_trials() -> None:
    sizes, batch_size = run(MIN_IMAGES_PER_TRIED_IMAGE * TRIED_IMAGES, slow={4: 1e-5})
    assert set(sizes) == {16, 8, 4, 2}
    assert batch_size.is_measured
    assert batch_size.size == 4
    assert set(sizes[-LARGEST_BATCH:]) == {4}


def test_a_short_pass_tries_nothing() -> None:
    sizes, batch_size = run(MIN_IMAGES_PER_TRIED_IMAGE * TRIED_IMAGES - 1, slow={4: 1e-5})
    assert not batch_size.is_measured
    assert set(sizes[:-1]) == {LARGEST_BATCH}


def test_a_slow_first_batch_does_not_exclude_a_size() -> None:
    """The first batches of a size include its warm-up."""
    pixels = torch.zeros(LARGEST_BATCH, 1)
    batch_size, seen = BatchSize(LARGEST_BATCH, MIN_IMAGES_PER_TRIED_IMAGE * TRIED_IMAGES), set()
    for _ in range(4 * TRIALS_PER_SIZE):
        for number, batch in enumerate(batch_size.batches(pixels)):
            is_first = number == 0 and len(batch) not in seen
            seen.add(len(batch))
            time.sleep(0.2 if is_first else {8: 1e-3}.get(len(batch), 1e-2))
    assert batch_size.size == 8


def test_a_batch_size_of_one_is_kept() -> None:
    batch_size = BatchSize(1, 1000)
    assert [len(batch) for batch in batch_size.batches(torch.zeros(1, 1))] == [1]
