"""Groups of images that are copies of one another: byte for byte, or the same picture in another form."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from hf_tl.data.grouping.alignment import near_duplicates
from hf_tl.data.grouping.hashes import SMALLEST, similar_hashes
from hf_tl.inspection.opening import LabeledImages
from hf_tl.inspection.reading import Facts

SIMILAR = 0.7
"""Smallest cosine similarity of embeddings of a pair that is compared further."""


@dataclass(frozen=True)
class Copies:
    """Images that are copies of one another."""

    rows: tuple[int, ...]
    """Images of the group, in the order of the dataset."""
    is_exact: bool
    """Whether all files are identical, byte for byte."""
    is_across_splits: bool
    """Whether the images are in several splits: data leakage."""
    has_different_labels: bool
    kept: int | None
    """Image that stays when the others are left out; None with different labels, of which any may be wrong."""


def find_copies(images: LabeledImages, facts: Facts, neighbors: np.ndarray | None = None) -> tuple[Copies, ...]:
    """Find groups of copies: identical files, and near-duplicates.

    Candidates for near-duplicates have similar perceptual hashes, or neighboring embeddings. Those whose pixels agree
    (`hf_tl.data.grouping.alignment`) are near-duplicates.

    Args:
        images: Images.
        facts: Result of `read_images`.
        neighbors: Further candidate pairs of rows (pairs, 2).

    Returns:
        Groups, those across splits and those with different labels first.
    """
    first_of = _first_of_each_content(facts)
    exact = np.stack([first_of, np.arange(len(images))], axis=1)[facts.is_readable]
    compared = np.flatnonzero((facts.sizes.min(1) >= SMALLEST) & (first_of == np.arange(len(images))))
    candidates = compared[similar_hashes(facts.hashes[compared])]
    if neighbors is not None and len(neighbors):
        both = np.isin(neighbors, compared).all(1)
        candidates = np.unique(np.concatenate([candidates, np.sort(neighbors[both], axis=1)]), axis=0)
    near, _ = near_duplicates(candidates, lambda rows: facts.small.read(rows.tolist())[0].numpy())
    groups = [_describe(images, facts, rows) for rows in _connected(np.concatenate([exact, near]), len(images))]
    return tuple(
        sorted(groups, key=lambda group: (-group.is_across_splits, -group.has_different_labels, group.rows[0]))
    )


def _first_of_each_content(facts: Facts) -> np.ndarray:
    """Return for each image the first image with the same bytes (images,)."""
    _, first, inverse = np.unique(facts.digests.view("V32")[:, 0], return_index=True, return_inverse=True)
    return np.asarray(first[inverse.reshape(-1)])


def _connected(pairs: np.ndarray, images: int) -> Iterator[tuple[int, ...]]:
    """Yield the groups of two and more images that pairs connect."""
    if not len(pairs):
        return
    graph = coo_array((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), (images, images))
    _, component_of = connected_components(graph, directed=False)
    members: defaultdict[int, list[int]] = defaultdict(list)
    for row in np.flatnonzero(np.bincount(component_of)[component_of] > 1).tolist():
        members[int(component_of[row])].append(row)
    yield from map(tuple, members.values())


def _describe(images: LabeledImages, facts: Facts, rows: Sequence[int]) -> Copies:
    places = list(rows)
    has_different_labels = len(set(images.single_labels[places].tolist())) > 1
    # the copy in the last split stays, so that test is what it was; of equals, the largest image
    kept = max(places, key=lambda row: (images.split_of[row], int(facts.sizes[row].prod()), -row))
    return Copies(
        rows=tuple(places),
        is_exact=len({facts.digests[row].tobytes() for row in places}) == 1,
        is_across_splits=len(set(images.split_of[places].tolist())) > 1,
        has_different_labels=has_different_labels,
        kept=None if has_different_labels else kept,
    )
