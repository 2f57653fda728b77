"""Hold-out splits of images in groups: no group on both sides, every class in train, shares as near as groups allow."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from hf_tl.data.drawing import Pool, draw_splits
from hf_tl.errors import DataError
from hf_tl.record.learned import DIGEST_BYTES

CLASSES = 4
FRACTIONS = st.fixed_dictionaries(
    {"test": st.sampled_from([0.1, 0.2, 0.5]), "validation": st.sampled_from([0.1, 0.2, 0.5])}
)
SEEDS = st.integers(0, 9)
SIZES = st.lists(st.tuples(st.integers(1, 12), st.integers(0, CLASSES - 1)), min_size=15, max_size=60)
"""Images and class of each group."""
MEMBERS = st.lists(st.lists(st.integers(0, CLASSES - 1), min_size=1, max_size=9), min_size=15, max_size=40)
"""Class of each image of each group."""
FLAGS = st.lists(
    st.lists(st.lists(st.booleans(), min_size=CLASSES, max_size=CLASSES), min_size=1, max_size=6),
    min_size=15,
    max_size=40,
)
"""Flags of the classes of each image of each group."""
DRAWS = 400


def digest(number: int) -> bytes:
    return number.to_bytes(32, "little")


def pool_of(members: list[list[int]] | list[list[list[bool]]]) -> Pool:
    """Return a pool of groups, from the labels of their images; all images differ."""
    labels = np.array([label for group in members for label in group], dtype=np.int64)
    groups = [f"group {number}" for number, group in enumerate(members) for _ in group]
    classes = tuple(f"class {number}" for number in range(CLASSES))
    return Pool([digest(row) for row in range(len(groups))], labels, classes, groups)


def groups_in(pool: Pool, rows: list[int]) -> set[str]:
    return {pool.groups[row] for row in rows}


def groups_by_class(pool: Pool, rows: list[int] | None = None) -> list[set[str]]:
    groups: list[set[str]] = [set() for _ in range(CLASSES)]
    for row in range(len(pool.groups)) if rows is None else rows:
        for label in pool.classes_of(row):
            groups[label].add(pool.groups[row])
    return groups


def check(pool: Pool, splits: dict[str, list[int]]) -> None:
    """Check that the splits share no image and no group, and that train has every class."""
    assert sorted(row for rows in splits.values() for row in rows) == list(range(len(pool.groups)))
    sides = [groups_in(pool, rows) for rows in splits.values()]
    assert len(set().union(*sides)) == sum(map(len, sides))
    assert (pool.counts(splits["train"])[pool.counts() > 0] > 0).all()


def is_drawable(pool: Pool, minimum: int = 3) -> bool:
    return all(len(groups) >= minimum for groups in groups_by_class(pool) if groups)


@settings(deadline=None, max_examples=DRAWS)
@given(SIZES, FRACTIONS, SEEDS)
def test_groups_of_one_class(sizes: list[tuple[int, int]], fractions: dict[str, float], seed: int) -> None:
    pool = pool_of([[label] * images for images, label in sizes])
    if not is_drawable(pool):
        with pytest.raises(DataError, match=r"(?s)fewer than 3 groups of images.*group_pattern=.none."):
            draw_splits(pool, fractions, seed)
        return
    splits = draw_splits(pool, fractions, seed)
    check(pool, splits)
    available = list(range(len(pool.groups)))
    for spare, (split, fraction) in zip((2, 1), fractions.items(), strict=True):
        before, after = pool.counts(available), pool.counts(splits[split])
        available = [row for row in available if row not in set(splits[split])]
        drawn = groups_by_class(pool, splits[split])
        for label, groups in enumerate(groups_by_class(pool, available)):
            largest = max((images for images, of_group in sizes if of_group == label), default=0)
            if len(groups) > spare and len(drawn[label]) > 1:  # else no other could be spared, or each is too large
                assert abs(after[label] - fraction * before[label]) <= largest / 2 + 1
            assert after[label] > 0 or not before[label]


def test_a_group_more_where_that_is_nearer() -> None:
    """Draw 21 of 91 images in groups of seven for a share of 20%, rather than 14."""
    pool = pool_of([[number % 2] * 7 for number in range(26)])
    splits = draw_splits(pool, {"test": 0.2}, 0)
    assert pool.counts(splits["test"])[:2].tolist() == [21, 21]


@settings(deadline=None, max_examples=DRAWS)
@given(MEMBERS, FRACTIONS, SEEDS)
def test_groups_of_several_classes(members: list[list[int]], fractions: dict[str, float], seed: int) -> None:
    pool = pool_of(members)
    if not is_drawable(pool):
        with pytest.raises(DataError, match="fewer than 3 groups of images"):
            draw_splits(pool, fractions, seed)
        return
    splits = draw_splits(pool, fractions, seed)
    check(pool, splits)
    largest = max(map(len, members))
    assert len(splits["test"]) <= fractions["test"] * len(pool.groups) + CLASSES * (largest + 1)


@settings(deadline=None, max_examples=DRAWS)
@given(FLAGS, FRACTIONS, SEEDS)
def test_groups_of_images_with_several_labels(
    flags: list[list[list[bool]]], fractions: dict[str, float], seed: int
) -> None:
    pool = pool_of(flags)
    assume(pool.counts().any() and is_drawable(pool, 4))
    splits = draw_splits(pool, fractions, seed)
    check(pool, splits)


@settings(deadline=None, max_examples=100)
@given(MEMBERS, SEEDS, st.randoms())
def test_groups_of_training_images_of_the_starting_weights_stay_in_train(
    members: list[list[int]], seed: int, random: object
) -> None:
    pool = pool_of(members)
    learned = {image[:DIGEST_BYTES] for image in random.sample(list(pool.digests), 5)}  # type: ignore[attr-defined]
    touched = {group for group, image in zip(pool.groups, pool.digests, strict=True) if image[:DIGEST_BYTES] in learned}
    try:
        splits = draw_splits(pool, {"test": 0.2, "validation": 0.1}, seed, learned)
    except DataError:
        return
    check(pool, splits)
    assert touched <= groups_in(pool, splits["train"])


def test_no_split_is_drawn_where_every_group_holds_a_training_image() -> None:
    pool = pool_of([[number % 2] * 4 for number in range(20)])
    learned = {image[:DIGEST_BYTES] for image in pool.digests[::4]}
    with pytest.raises(DataError, match=r"learned from 20 of 80 images.*spare another group.*group_pattern=.none."):
        draw_splits(pool, {"test": 0.2}, 0, learned)
    assert len(draw_splits(pool.without_groups(), {"test": 0.2}, 0, learned)["test"]) == 16


def test_an_added_image_moves_few_groups() -> None:
    """A group that grows by an image stays where it is, or moves with at most one other of its class for each split."""
    moved = []
    for seed in range(40):
        members = [[number % CLASSES] * (3 + number % 5) for number in range(60)]
        before = draw_splits(pool_of(members), {"test": 0.2, "validation": 0.1}, seed)
        members[seed].append(seed % CLASSES)
        grown = pool_of(members)
        after = draw_splits(grown, {"test": 0.2, "validation": 0.1}, seed)
        old = pool_of([[number % CLASSES] * (3 + number % 5) for number in range(60)])
        moved.append(sum(len(groups_in(old, before[split]) - groups_in(grown, after[split])) for split in before))
    assert np.median(moved) <= 2


def test_the_order_of_the_images_does_not_matter() -> None:
    pool = pool_of([[number % CLASSES] * (1 + number % 7) for number in range(50)])
    splits = draw_splits(pool, {"test": 0.2, "validation": 0.1}, 3)
    order = np.random.default_rng(0).permutation(len(pool.groups)).tolist()
    shuffled = pool.select(order)
    again = draw_splits(shuffled, {"test": 0.2, "validation": 0.1}, 3)
    assert {split: groups_in(pool, rows) for split, rows in splits.items()} == {
        split: groups_in(shuffled, rows) for split, rows in again.items()
    }
