"""Groups of the images of a dataset, united from a column, from names, from near-duplicates, and from copies.

Groups that share an image are one group. An image in no group is a group of its own, with its copies.
"""

import functools
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
from datasets import ClassLabel, Dataset

from hf_tl.data.columns import GROUP, LABEL, column_of
from hf_tl.data.fingerprint import paths_of, texts_of
from hf_tl.data.grouping.series import find_series
from hf_tl.data.layout.plan import AUTO, Reading
from hf_tl.errors import ConfigError, DataError, name_some
from hf_tl.record import GroupRecord

NO_PAIRS = np.empty((0, 2), np.int64)
DIGITS_OF_DIGEST = 16
"""Hexadecimal digits of the digest that name an image in no group."""
IMAGE_BY_IMAGE = "--group_pattern none draws image by image"


@dataclass(frozen=True)
class Stored:
    """Images of a dataset, in the order of its splits."""

    splits: Mapping[str, Dataset]
    labels: tuple[str, ...]
    """Classes."""
    root: Path | None = None
    """Folder of the dataset, if it is one."""
    digests: Mapping[str, Sequence[bytes]] = field(default_factory=dict)
    """Digests of the images; without them, copies do not unite groups."""

    def contents(self) -> list[bytes]:
        """Return the digests of all images; without digests, every image has content of its own."""
        if self.digests:
            return [digest for split in self.splits for digest in self.digests[split]]
        return [b"%s %d" % (split.encode(), row) for split, rows in self.splits.items() for row in range(len(rows))]

    def names(self) -> dict[str, list[str]]:
        """Return the path of each image within the dataset by split; empty if an image has none."""
        paths = {split: paths_of(rows) for split, rows in self.splits.items()}
        if any(of_split.null_count or pc.any(pc.equal(of_split, "")).as_py() for of_split in paths.values()):
            return {}
        within = functools.cache(self._within)
        parts = {split: (path.rpartition(os.sep) for path in texts_of(of_split)) for split, of_split in paths.items()}
        return {
            split: [within(folder, separator) + name for folder, separator, name in of_split]
            for split, of_split in parts.items()
        }

    def _within(self, path: str, separator: str) -> str:
        """Return the beginning of the paths, within the dataset, of the files in a folder."""
        folder = Path(path + separator)
        is_inside = self.root is not None and folder.is_relative_to(self.root)
        relative = (folder.relative_to(self.root) if self.root is not None and is_inside else folder).as_posix()
        return "" if relative == "." else relative if relative.endswith("/") else f"{relative}/"

    def classes(self) -> dict[str, list[tuple[str, ...]]]:
        """Return the classes of each image by split."""
        single = [(name,) for name in self.labels]
        labels = {split: column_of(rows, LABEL).to_pylist() for split, rows in self.splits.items()}
        return {
            split: [single[label] if isinstance(label, int) else self._named(label) for label in of_split]
            for split, of_split in labels.items()
        }

    def _named(self, flags: Sequence[int]) -> tuple[str, ...]:
        return tuple(name for name, flag in zip(self.labels, flags, strict=True) if flag)


@dataclass(frozen=True)
class Origin:
    """Groups by one criterion: names of groups, or pairs of images."""

    text: str
    """Criterion in words, after "by": the column 'patient', series of file names."""
    names: Sequence[str | None] = ()
    """Group of each image; None for an image in no group. Empty for a criterion of pairs."""
    pairs: np.ndarray = field(default_factory=lambda: NO_PAIRS)
    """Rows of images that belong together (pairs, 2)."""


def group_images(
    images: Stored, reading: Reading, notes: list[str], *, draws: bool
) -> tuple[dict[str, tuple[str, ...]], GroupRecord | None]:
    """Return the group of each image by split, and note what the groups are.

    Args:
        images: Images of all splits.
        reading: Choices of the user.
        notes: Notes about the data, to which this adds.
        draws: Whether a split is drawn from train.

    Returns:
        Groups, and their origin; empty and None where nothing names groups.

    Raises:
        ConfigError: The pattern is no regular expression.
        DataError: Groups are asked for, and the dataset does not name any.
    """
    digests = images.contents()
    candidates = (
        _by_column(images, reading, notes),
        _by_names(images, reading, notes, draws=draws),
        _by_pictures(images, digests, notes) if reading.group_near_duplicates else None,
    )
    origins = [origin for origin in candidates if origin is not None]
    if not origins:
        return {}, None
    groups = unite(digests, origins)
    sizes = Counter(groups)
    record = GroupRecord(
        origin=" and ".join(origin.text for origin in origins),
        number=len(sizes),
        largest=max(sizes.values()),
        column=reading.group_column,
        pattern="none" if reading.group_column and reading.group_pattern == AUTO else reading.group_pattern,
        near_duplicates=reading.group_near_duplicates,
    )
    ends = np.cumsum([len(rows) for rows in images.splits.values()])
    starts = (0, *ends[:-1].tolist())
    return {
        split: tuple(groups[start:end]) for split, start, end in zip(images.splits, starts, ends.tolist(), strict=True)
    }, record


def unite(digests: Sequence[bytes], origins: Sequence[Origin]) -> list[str]:
    """Return the group of each image: images are together that share a digest, or a group of any origin.

    A group has the first of the names in it, or else the beginning of the first digest.

    >>> unite([b"1", b"2", b"3", b"4"], [Origin("a", ["x", None, "y", "x"]), Origin("b", pairs=np.array([[1, 2]]))])
    ['x', 'y', 'y', 'x']
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    images = len(digests)
    several = sum(bool(origin.names) for origin in origins) > 1
    nodes: dict[tuple[int, str | bytes], int] = {}
    edges = [NO_PAIRS, *(origin.pairs for origin in origins)]
    for number, names in enumerate([digests, *(origin.names for origin in origins)]):
        members = [(row, name) for row, name in enumerate(names) if name is not None]
        edges.append(
            np.array(
                [(row, nodes.setdefault((number, name), images + len(nodes))) for row, name in members], np.int64
            ).reshape(-1, 2)
        )
    pairs, size = np.concatenate(edges), images + len(nodes)
    graph = coo_array((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), (size, size))
    component_of = connected_components(graph, directed=False)[1].tolist()
    texts: defaultdict[int, list[tuple[bool, str]]] = defaultdict(list)
    for (number, name), node in nodes.items():
        if isinstance(name, bytes):
            texts[component_of[node]].append((True, name.hex()[:DIGITS_OF_DIGEST]))
        else:
            texts[component_of[node]].append((False, f"{origins[number - 1].text}: {name}" if several else name))
    first = {component: min(names)[1] for component, names in texts.items()}
    return [first[component] for component in component_of[:images]]


def _by_column(images: Stored, reading: Reading, notes: list[str]) -> Origin | None:
    """Group by the values of a column; an empty value names no group."""
    if reading.group_column is None:
        return None
    names = [name for rows in images.splits.values() for name in _values(rows)]
    sizes = Counter(name for name in names if name is not None)
    if not sizes:
        raise DataError(
            f"the column {reading.group_column!r} holds no value, so it names no groups; fill it, or leave out "
            "--group_column"
        )
    without = len(names) - sum(sizes.values())
    alone = f"; {without:,} images without a value are groups of their own" if without else ""
    notes.append(
        f"the column {reading.group_column!r} names {len(sizes):,} groups, the largest of {max(sizes.values()):,} "
        f"images{alone}"
    )
    return Origin(f"the column {reading.group_column}", names)


def _values(rows: Dataset) -> Iterable[str | None]:
    feature, values = rows.features[GROUP], rows[GROUP][:]
    if isinstance(feature, ClassLabel):
        values = [None if value is None or value < 0 else feature.names[value] for value in values]
    return (None if value is None or value != value or value == "" else str(value) for value in values)


def _by_names(images: Stored, reading: Reading, notes: list[str], *, draws: bool) -> Origin | None:
    """Group by a pattern of file names, or by series that names show."""
    pattern = reading.group_pattern
    if pattern == "none" or (pattern == AUTO and reading.group_column is not None):
        return None
    names = images.names()
    return _by_series(names, images, notes, draws=draws) if pattern == AUTO else _by_pattern(names, pattern, notes)


def _by_series(names: Mapping[str, Sequence[str]], images: Stored, notes: list[str], *, draws: bool) -> Origin | None:
    series = find_series(names, images.classes()) if names else None
    if series is None:
        return None
    sizes = series.sizes()
    largest, count = max(sizes.items(), key=lambda item: (item[1], item[0]))
    what = f"{len(sizes):,} series, such as {largest} ({count:,} images)"
    if series.narrow:
        if draws:
            notes.append(
                f"{series.kind} look like {what}, but too few of them, or mostly one, hold the training images of "
                f"{name_some(sorted(series.narrow))}: images were drawn one by one, and a series may be in several "
                "splits; name groups with --group_pattern PATTERN or --group_column"
            )
        return None
    stays = f": each stays in one split; {IMAGE_BY_IMAGE}" if draws else ""
    notes.append(f"{series.kind} form {what}{stays}")
    return Origin("series of file names" if series.kind == "file names" else series.kind, series.names)


def _by_pattern(names: Mapping[str, Sequence[str]], pattern: str, notes: list[str]) -> Origin:
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise ConfigError(
            f"expected --group_pattern to be auto, none or a regular expression, found {pattern!r} ({error})"
        ) from error
    if not names:
        raise DataError(
            "--group_pattern needs the names of files, which this dataset does not have; use --group_column"
        )
    files = [name for of_split in names.values() for name in of_split]
    groups = [_group_in(expression.search(name)) for name in files]
    sizes = Counter(group for group in groups if group is not None)
    if not sizes:
        raise DataError(f"--group_pattern {pattern!r} matches no file name, such as {files[0]!r}; change the pattern")
    without = len(groups) - sum(sizes.values())
    alone = f"; {without:,} images that it does not match are groups of their own" if without else ""
    notes.append(
        f"the pattern {pattern} of file names names {len(sizes):,} groups, the largest of {max(sizes.values()):,} "
        f"images{alone}"
    )
    return Origin(f"the pattern {pattern} of file names", groups)


def _by_pictures(images: Stored, digests: Sequence[bytes], notes: list[str]) -> Origin | None:
    """Group near-duplicates; None if there are none."""
    from hf_tl.data.grouping.near_duplicates import near_duplicates_of

    pairs = near_duplicates_of(images.splits, digests)
    count = len(np.unique(pairs))
    notes.append(f"{count:,} images are near-duplicates of others" if count else "no near-duplicates were found")
    return Origin("near-duplicates", pairs=pairs) if count else None


def _group_in(match: re.Match[str] | None) -> str | None:
    """Return the first group of a match, or the whole match of a pattern without groups."""
    return None if match is None else (match[1] if match.re.groups else match[0]) or None
