"""Variants of a dataset: difficulties of real data, and controls that nothing can be learned from.

A variant is a function from (train, test) to (train, test). It is applied to the images that a cell has drawn. What is
random has a seed of its own, because cells of different seeds draw different images.
"""

import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset, Features, Value
from PIL import Image, ImageEnhance

from hf_tl.data.columns import IMAGE, LABEL
from hf_tl.evaluation.robustness.corruptions import CORRUPTIONS

GROUP = "group"
"""Column of the groups, where hf_tl knows them."""
WRONG = 0.05
"""Share of training images with the label of another class."""
IMBALANCE = 20
"""Number of images of the largest class, divided by that of the smallest."""
CORRUPTED_SIDE = 96
"""Shorter side of test images in pixels, before they are corrupted: near that of the network's input."""
ALTERATIONS = ("brightness", "crop", "jpeg")

Splits = tuple[Dataset, Dataset]


@dataclass(frozen=True)
class Variant:
    """Change of a dataset, and the cells that have it."""

    apply: Callable[[Dataset, Dataset], Splits]
    sizes: tuple[int, ...]
    """Images per class of its cells."""
    growth: float = 1.0
    """Factor on the number of training images."""
    is_control: bool = False
    """Whether no training should be advised: such cells are not trained."""


def keep(train: Dataset, test: Dataset) -> Splits:
    """Return the splits as they are."""
    return train, test


def make_series(train: Dataset, test: Dataset) -> Splits:
    """Add three light alterations of each training image, as in a series of photos of the same object."""
    return make_grouped_series(train, test)[0].remove_columns(GROUP), test


def make_grouped_series(train: Dataset, test: Dataset) -> Splits:
    """Return `make_series` with a column of the series, which hf_tl then keeps together."""
    images = [
        image
        for original in map(_pixels, train[IMAGE])
        for image in (original, *(alter(original, alteration) for alteration in ALTERATIONS))
    ]
    times = 1 + len(ALTERATIONS)
    rows = [row for row in range(len(train)) for _ in range(times)]
    labels = train[LABEL][:]
    series = rebuild(train, images, [labels[row] for row in rows])
    return _with_groups(series, rows), _with_groups(test, range(len(train), len(train) + len(test)))


def alter(image: Image.Image, alteration: str, strength: float = 1.0) -> Image.Image:
    """Return a lightly altered image of the same size.

    Args:
        image: RGB or gray image.
        alteration: One of `ALTERATIONS`.
        strength: Up to 1: brighter by 15%, cropped by 5% at each side, JPEG of quality 60.
    """
    if alteration == "brightness":
        return ImageEnhance.Brightness(image).enhance(1 + 0.15 * strength)
    if alteration == "crop":
        width, height = image.size
        x, y = (0.05 * strength * side for side in image.size)
        return image.resize(image.size, Image.Resampling.BILINEAR, box=(x, y, width - x, height - y))
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=round(100 - 40 * strength))
    return Image.open(stream).convert(image.mode)


def shift_test(train: Dataset, test: Dataset) -> Splits:
    """Corrupt each test image by the middle strength of one of five corruptions, in turn."""
    images = []
    for row, image in enumerate(map(_pixels, test[IMAGE])):
        corruption = CORRUPTIONS[row % len(CORRUPTIONS)]
        scale = CORRUPTED_SIDE / min(image.size)
        resized = image.resize([round(side * scale) for side in image.size], Image.Resampling.BILINEAR)
        images.append(corruption.apply(resized, corruption.strengths[1]))
    return train, rebuild(test, images, test[LABEL][:])


def unbalance(train: Dataset, test: Dataset) -> Splits:
    """Thin out the classes of train geometrically, from all images of the first class to 1 in 20 of the last."""
    labels = np.array(train[LABEL][:])
    classes = np.unique(labels)
    shares = IMBALANCE ** -np.linspace(0, 1, len(classes))
    rows = [
        np.flatnonzero(labels == label)[: max(2, round(share * np.sum(labels == label)))]
        for label, share in zip(classes, shares, strict=True)
    ]
    return train.select(np.sort(np.concatenate(rows)), keep_in_memory=True), test


def mislabel(train: Dataset, test: Dataset) -> Splits:
    """Give 5% of the training images, at least one, the label of another class."""
    chance, labels = np.random.default_rng(0), np.array(train[LABEL][:])
    rows = chance.choice(len(labels), max(1, round(WRONG * len(labels))), replace=False)
    classes = train.features[LABEL].num_classes
    labels[rows] = (labels[rows] + chance.integers(1, classes, len(rows))) % classes
    return relabel(train, labels.tolist()), test


def shuffle_labels(train: Dataset, test: Dataset) -> Splits:
    """Shuffle the labels of train."""
    return relabel(train, np.random.default_rng(0).permutation(train[LABEL][:]).tolist()), test


def make_noise(train: Dataset, test: Dataset) -> Splits:
    """Replace the training images by uniform noise of the same sizes."""
    chance = np.random.default_rng(0)
    shapes = [np.asarray(_pixels(image)).shape for image in train[IMAGE]]
    noise = (Image.fromarray(chance.integers(0, 256, shape, dtype=np.uint8)) for shape in shapes)
    return rebuild(train, noise, train[LABEL][:]), test


def repeat_first(train: Dataset, test: Dataset) -> Splits:
    """Replace the training images of each class by copies of its first image, byte for byte."""
    labels = train[LABEL][:]
    return train.select([labels.index(label) for label in labels], keep_in_memory=True), test


def alter_first(train: Dataset, test: Dataset) -> Splits:
    """Replace the training images of each class by different light alterations of its first image."""
    chance, labels = np.random.default_rng(0), train[LABEL][:]
    firsts = {label: _pixels(train[labels.index(label)][IMAGE]) for label in sorted(set(labels))}
    altered = [
        alter(firsts[label], ALTERATIONS[row % len(ALTERATIONS)], chance.uniform()) for row, label in enumerate(labels)
    ]
    return rebuild(train, altered, labels), test


def rebuild(like: Dataset, images: Iterable[Image.Image], labels: Sequence[int]) -> Dataset:
    """Return a dataset with the features of another."""
    features = Features({name: like.features[name] for name in (IMAGE, LABEL)})
    return Dataset.from_dict({IMAGE: list(images), LABEL: list(labels)}, features=features)


def relabel(rows: Dataset, labels: Sequence[int]) -> Dataset:
    """Return a dataset with other labels."""
    feature = rows.features[LABEL]
    return rows.remove_columns(LABEL).add_column(LABEL, list(labels), feature=feature)


def _with_groups(rows: Dataset, groups: Sequence[int]) -> Dataset:
    return rows.add_column(GROUP, [f"series {group}" for group in groups], feature=Value("string"))


def _pixels(image: Any) -> Image.Image:
    """Return the image in RGB, or in gray where it is gray."""
    return image if image.mode == "L" else image.convert("RGB")


PLAIN, SHUFFLED = "plain", "labels shuffled"
ALL_SIZES = (5, 20, 100, 2_000)
VARIANTS = {
    PLAIN: Variant(keep, ALL_SIZES),
    "series": Variant(make_series, (5, 20), growth=4),
    "series in groups": Variant(make_grouped_series, (5, 20), growth=4),
    "shift": Variant(shift_test, (5, 20, 100)),
    "imbalance": Variant(unbalance, (20, 100), growth=0.35),
    "wrong labels": Variant(mislabel, (20, 100)),
    SHUFFLED: Variant(shuffle_labels, ALL_SIZES, is_control=True),
    "noise": Variant(make_noise, ALL_SIZES, is_control=True),
    "duplicates": Variant(repeat_first, ALL_SIZES, is_control=True),
    "near-duplicates": Variant(alter_first, ALL_SIZES, is_control=True),
}
"""Variants by name; the first one changes nothing."""
