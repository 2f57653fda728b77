"""Random hold-out splits: by content, stratified, with every class in train."""

import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_tl.data.datasets import load_data
from hf_tl.data.drawing import Pool, draw_splits
from hf_tl.errors import DataError
from hf_tl.record.learned import DIGEST_BYTES


def digest(number: int) -> bytes:
    return number.to_bytes(32, "little")


def pool_of(images: list[tuple[int, int]]) -> Pool:
    """Return a pool of (content, class)."""
    classes = tuple(f"class {label}" for label in range(1 + max(label for _, label in images)))
    return Pool([digest(content) for content, _ in images], np.array([label for _, label in images]), classes)


def contents(pool: Pool, splits: dict[str, list[int]]) -> dict[str, set[bytes]]:
    return {split: {pool.digests[row] for row in rows} for split, rows in splits.items()}


SHARES = st.sampled_from([0.1, 0.2, 0.5, 0.9])
FRACTIONS = st.fixed_dictionaries({"test": SHARES, "validation": SHARES})
IMAGES = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 4)), min_size=10, max_size=90)


@settings(deadline=None, max_examples=300)
@given(IMAGES, FRACTIONS, st.integers(0, 9))
def test_every_class_is_in_train_and_in_what_is_drawn(
    images: list[tuple[int, int]], fractions: dict[str, float], seed: int
) -> None:
    """Draw with copies, copies under other labels, tiny classes and large shares; or the split is refused."""
    pool = pool_of(images)
    different = Counter(label for _, label in set(images))
    if min(different.values()) < 3:
        with pytest.raises(DataError, match="classes with fewer than 3 different images"):
            draw_splits(pool, fractions, seed)
        return
    splits = draw_splits(pool, fractions, seed)
    assert sorted(row for rows in splits.values() for row in rows) == list(range(len(images)))
    shown = contents(pool, splits)
    for split in ("test", "validation"):
        assert not shown[split] & shown["train"]
    assert not shown["test"] & shown["validation"]
    has_images = pool.counts() > 0
    assert (pool.counts(splits["train"])[has_images] > 0).all()
    is_conflict = len({content for content, _ in images}) < len(set(images))
    if not is_conflict:  # an image in two classes is drawn with one of them
        for split in ("test", "validation"):
            assert (pool.counts(splits[split])[has_images] > 0).all()


@settings(deadline=None, max_examples=100)
@given(st.lists(st.integers(0, 3), min_size=30, max_size=120), FRACTIONS, st.integers(0, 9), st.randoms())
def test_the_order_of_the_images_does_not_matter(
    labels: list[int], fractions: dict[str, float], seed: int, shuffle: random.Random
) -> None:
    images = [(number, label) for number, label in enumerate([*labels, *range(4), *range(4), *range(4)])]
    drawn = contents(pool_of(images), draw_splits(pool_of(images), fractions, seed))
    shuffle.shuffle(images)
    assert contents(pool_of(images), draw_splits(pool_of(images), fractions, seed)) == drawn


def test_added_images_move_few_others() -> None:
    """Move at most one image of a class moves per added image and boundary; a split by row would move nearly all."""
    images = [(number, number % 5) for number in range(400)]
    fractions, moved = {"test": 0.2, "validation": 0.1}, []
    for seed in range(20):
        before = contents(pool_of(images), draw_splits(pool_of(images), fractions, seed))
        more = [*images, (1000 + seed, 0), (2000 + seed, 3)]
        after = contents(pool_of(more), draw_splits(pool_of(more), fractions, seed))
        moved.append(sum(len(before[split] - after[split]) for split in before))
    assert max(moved) <= 4
    assert draw_splits(pool_of(images), fractions, 0) != draw_splits(pool_of(images), fractions, 1)


def test_shares_are_those_that_were_asked_for() -> None:
    pool = pool_of([(number, number % 7) for number in range(703)])
    splits = draw_splits(pool, {"test": 0.2, "validation": 0.1}, 0)
    assert {split: len(rows) for split, rows in splits.items()} == {"test": 141, "validation": 57, "train": 505}
    assert np.ptp(pool.counts(splits["test"])) <= 1


def test_notes_state_the_share_that_was_taken(rows) -> None:  # type: ignore[no-untyped-def]
    """One image of each of many small classes is a third of them, whatever share was requested."""
    data = load_data(rows([number // 3 for number in range(30)]))
    assert data.notes == (
        "no test split: 10 of 30 training images (33%) were held out, stratified by class, seed 0",
        "no validation split: 10 of 20 training images (50%) were held out, stratified by class, seed 0",
    )
    assert {split: draw.share for split, draw in data.draws.items()} == {"test": 0.2, "validation": 0.1}


def test_copies_stay_on_one_side_and_large_groups_do_not_fill_a_split() -> None:
    copies = [(7, 0)] * 40
    pool = pool_of([*copies, *((100 + number, 0) for number in range(40)), *((200 + n, 1) for n in range(40))])
    for seed in range(30):
        splits = draw_splits(pool, {"test": 0.1, "validation": 0.1}, seed)
        assert len(splits["test"]) == 12
        assert sum(digest(7) in shown for shown in contents(pool, splits).values()) == 1


def test_what_the_starting_weights_learned_from_stays_in_train() -> None:
    pool = pool_of([(number, number % 2) for number in range(40)])
    fractions = {"test": 0.2, "validation": 0.1}
    for seed in range(20):
        learned = {digest(number)[:DIGEST_BYTES] for number in random.Random(seed).sample(range(40), 25)}
        drawn = contents(pool, draw_splits(pool, fractions, seed, learned))
        held_out = {image[:DIGEST_BYTES] for split in fractions for image in drawn[split]}
        assert not held_out & learned
        assert 8 <= len(held_out) <= 12
    everything = {image[:DIGEST_BYTES] for image in pool.digests}
    with pytest.raises(DataError, match=r"learned from 40 of 40 images.*include_training_images=True"):
        draw_splits(pool, fractions, 0, everything)
    assert draw_splits(pool, fractions, 0, everything, include_learned=True) == draw_splits(pool, fractions, 0)


def test_images_of_several_classes() -> None:
    flags = np.random.default_rng(0).integers(0, 2, (200, 4))
    pool = Pool([digest(number // 2) for number in range(200)], flags, tuple("abcd"))  # each image twice
    splits = draw_splits(pool, {"test": 0.2, "validation": 0.1}, 0)
    shown = contents(pool, splits)
    assert not shown["test"] & shown["train"]
    assert abs(len(splits["test"]) - 40) <= 1
    assert (pool.counts(splits["train"]) > 0).all()


def test_few_images_are_shared_out() -> None:
    """After a refit only the images of the test split are unused: validation gets a part of them."""
    pool = pool_of([(number, number % 2) for number in range(60)])
    fractions = {"test": 0.2, "validation": 0.1}
    first = draw_splits(pool, fractions, 0)
    learned = {pool.digests[row][:DIGEST_BYTES] for row in (*first["train"], *first["validation"])}
    splits = draw_splits(pool, fractions, 5, learned)
    assert set(splits["test"]) | set(splits["validation"]) == set(first["test"])
    assert {split: len(rows) for split, rows in splits.items()} == {"test": 8, "validation": 4, "train": 48}
    free = draw_splits(pool, fractions, 5, {pool.digests[row][:DIGEST_BYTES] for row in first["train"]})
    assert {split: len(rows) for split, rows in free.items()} == {split: len(rows) for split, rows in first.items()}
