"""Perceptual hashes and the comparison of pictures."""

from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageOps
from scenes import cropped, recompressed, scene

from hf_tl.data.grouping import hashes
from hf_tl.data.grouping.alignment import near_duplicates
from hf_tl.data.grouping.hashes import SIDE, perceptual_hashes, similar_hashes


def small(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("L").resize((SIDE, SIDE), Image.Resampling.BILINEAR))


def test_similar_hashes_are_those_of_all_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hashes, "QUERIES", 16)
    monkeypatch.setattr(hashes, "REFERENCES", 7)
    random = np.random.default_rng(0)
    base = random.integers(0, 2**63, 20, dtype=np.uint64)
    values = np.concatenate([base, base ^ np.uint64(0b111), random.integers(0, 2**63, 30, dtype=np.uint64)])
    expected = [
        [row, other]
        for row in range(len(values))
        for other in range(row + 1, len(values))
        if bin(int(values[row]) ^ int(values[other])).count("1") <= 18
    ]
    assert sorted(similar_hashes(values, 18, nearest=100).tolist()) == expected
    assert len(expected) >= 20


def test_the_most_similar_hashes_count() -> None:
    values = [0, 0b1, 0b11, 0b111, 0b1111]
    assert similar_hashes(values, 4, nearest=1).tolist() == [[0, 1], [1, 2], [2, 3], [3, 4]]


ALTERED: dict[str, Callable[[Image.Image], Image.Image]] = {
    "resized": lambda image: image.resize((70, 50)),
    "enlarged": lambda image: image.resize((200, 130)),
    "recompressed": recompressed,
    "cropped": cropped,
    "cropped at the end": lambda image: cropped(image, 0.05, 0.05),
    "gray": lambda image: image.convert("L"),
    "brighter": lambda image: image.point(lambda value: 30 + 0.8 * value),
}


@pytest.mark.parametrize("change", ALTERED)
def test_altered_copies_are_found_among_many_pictures(change: str) -> None:
    originals = [scene(number) for number in range(40)]
    altered = [ALTERED[change](scene(number)) for number in range(40)]
    stack = np.stack([small(image) for image in [*originals, *altered]])
    pairs, similarity = near_duplicates(similar_hashes(perceptual_hashes(stack)), lambda rows: stack[rows])
    selected = {tuple(pair) for pair in pairs.tolist()}
    assert selected <= {(number, number + 40) for number in range(40)}
    assert len(selected) >= 38  # recall of 95%
    assert similarity.min() >= 0.991


@pytest.mark.parametrize(
    "change",
    [lambda image: cropped(image, 0.1, 0.1, 0.75), lambda image: ImageOps.mirror(image), lambda _: scene(99)],
    ids=["a detail", "mirrored", "another picture"],
)
def test_other_pictures_are_no_near_duplicates(change: Callable[[Image.Image], Image.Image]) -> None:
    stack = np.stack([small(image) for number in range(20) for image in (scene(number), change(scene(number)))])
    pairs = np.arange(40).reshape(20, 2)
    assert not len(near_duplicates(pairs, lambda rows: stack[rows])[0])


def test_pictures_of_one_color_resemble_nothing() -> None:
    stack = np.stack([np.full((SIDE, SIDE), value, np.uint8) for value in (0, 0, 255, 255)])
    assert not len(near_duplicates(np.array([[0, 1], [0, 2], [2, 3]]), lambda rows: stack[rows])[0])
