"""Mixing and balancing are functions of seed, epoch and index, like the order of images and their views."""

from collections import Counter

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from hf_tl.data.decoding.augmentation import PairMixer
from hf_tl.data.decoding.images import ImageTransform
from hf_tl.views.views import Collate, ImageStream, TrainingViews

CLASSES = 3
SIZE = 12


@pytest.fixture(scope="module")
def views() -> TrainingViews:
    pixels = np.random.default_rng(0).integers(0, 256, (SIZE, 8, 8, 3), dtype=np.uint8)
    features = Features(image=Image(), label=ClassLabel(num_classes=CLASSES))
    images = Dataset.from_dict({"image": list(pixels), "label": [i % CLASSES for i in range(SIZE)]}, features=features)
    steps = [v2.RandomResizedCrop(8), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
    return TrainingViews(images, ImageTransform(v2.Compose(steps)), seed=3)


@given(
    st.integers(1, 40), st.integers(0, 9), st.integers(0, 120), st.integers(0, 120), st.booleans(),
)  # fmt: skip
def test_a_span_of_the_stream_is_the_same_wherever_it_starts(
    size: int, seed: int, start: int, more: int, is_balanced: bool
) -> None:
    labels = [index % 4 for index in range(size)] if is_balanced else None
    whole = list(ImageStream(size, seed, 0, start + more, labels))
    assert list(ImageStream(size, seed, start, start + more, labels)) == whole[start:]
    assert len(set(whole)) == len(whole)  # an image that is drawn again is another view


def test_balanced_epochs_draw_classes_equally_often() -> None:
    labels = [0] * 900 + [1] * 90 + [2] * 10
    keys = list(ImageStream(1000, 0, 0, 5000, labels))
    counts = Counter(labels[key[1]] for key in keys)
    assert all(1500 < counts[label] < 1835 for label in range(3))
    assert len({key[1] for key in keys if labels[key[1]] == 2}) == 10
    assert list(ImageStream(1000, 1, 0, 100, labels)) != keys[:100]


def test_an_image_drawn_again_looks_different(views: TrainingViews) -> None:
    first, again, later = (views[key]["pixel_values"] for key in ((0, 1), (0, 1, 1), (1, 1)))
    assert torch.equal(first, views[0, 1]["pixel_values"])
    assert not torch.equal(first, again)
    assert not torch.equal(first, later)
    assert not torch.equal(again, later)


def test_views_do_not_change_the_random_state(views: TrainingViews) -> None:
    state = torch.get_rng_state()
    Collate(PairMixer(0.4, 1.0, CLASSES))([views[0, index] for index in range(4)])
    assert torch.equal(state, torch.get_rng_state())


def batches(views: TrainingViews, batch_size: int, workers: int = 0, seed: int = 3) -> dict[str, torch.Tensor]:
    loader = DataLoader(
        views,
        batch_size,
        sampler=ImageStream(SIZE, seed, 0, 2 * SIZE),
        collate_fn=Collate(PairMixer(0.4, 1.0, CLASSES)),
        num_workers=workers,
    )
    torch.manual_seed(workers + batch_size)
    loaded = list(loader)
    return {name: torch.cat([batch[name] for batch in loaded]) for name in ("pixel_values", "labels", "index")}


@pytest.mark.parametrize(("batch_size", "workers"), [(2, 0), (4, 0), (24, 0), (4, 2)])
def test_mixing_does_not_depend_on_batches_or_workers(views: TrainingViews, batch_size: int, workers: int) -> None:
    expected = batches(views, 12)
    mixed = batches(views, batch_size, workers)
    for name, tensor in expected.items():
        assert torch.equal(tensor, mixed[name]), name


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.4, 0.0), (0.0, 1.0), (0.4, 1.0)])
def test_multi_label_targets_are_mixed_like_the_images(mixup: float, cutmix: float) -> None:
    """A black image without labels and a white one with two: the share of white is the target of both labels."""
    pixels = torch.stack([torch.zeros(3, 32, 32), torch.ones(3, 32, 32)])
    flags = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 1.0]])
    shares = set()
    for seed in range(8):
        torch.manual_seed(seed)
        images, labels = PairMixer(mixup, cutmix, CLASSES)(pixels, flags)
        share = images.mean((1, 2, 3))
        torch.testing.assert_close(labels, share[:, None] * torch.tensor([1.0, 0.0, 1.0]), atol=1e-5, rtol=0)
        shares.add(round(float(share[0]), 3))
    assert len(shares) > 4
    assert flags.tolist() == [[0, 0, 0], [1, 0, 1]]


def test_each_pair_is_mixed_with_its_own_share(views: TrainingViews) -> None:
    labels = batches(views, 12)["labels"]
    assert labels.shape == (2 * SIZE, CLASSES)
    torch.testing.assert_close(labels.sum(1), torch.ones(2 * SIZE))
    parts = {round(float(row.max()), 4) for row in labels}
    assert len(parts) > SIZE // 3
