"""Series of images recognized by their names: frames of a video, photos of a patient, views of an object.

The name of a file belongs to a series if it is an id with a digit, a separator and a running number (`IMG_2041_1`,
`video03_frame_0012`, `P001 (2)`); so does a subfolder of a class with a digit in its name (`cat/session1`). Recognition
is strict, because a false series makes splits lopsided: names that number the images of a class (`cat_001`), of a
collection (`ILSVRC2012_val_00000001`) or of a day (`20190301_123456`) form none.
"""

import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import PurePosixPath

from hf_tl.data.layout.names import COMPANIONS, split_of, stem_of, words_of

SMALLEST, LARGEST = 5, 0.5
"""Smallest number of groups of each class, and largest share of a class in one group, to split by recognized series."""
SEVERAL = 3
"""Smallest number of series with two images of a class."""
GAP, REGULAR = 60, 0.8
"""Largest mean distance between the numbers of a series, and smallest share of series that keep to it. Running numbers
are close together; times of day and numbers of images in a collection are not."""
COUNTED = (
    "frame|frm|image|img|im|picture|pic|photo|view|shot|burst|crop|patch|tile|slice|scan|sample|copy|version|aug|f|v"
)
"""Words that may precede the running number."""
NUMBER = re.compile(
    rf"[-_.~ ]+(?:(?:{COUNTED})[-_.~ ]*)?(\d+)$|[-_.~ ]*(?:(?:{COUNTED})[-_.~ ]*)?\((\d+)\)$", re.IGNORECASE
)
"""Running number at the end of a file name."""
PARTS = frozenset({"fold", "folds", "batch", "part", "parts", "set", "sets", "chunk", "shard", "split", "size"})
"""Words of ids that number parts of a collection."""
CATEGORY = re.compile(r"(19|20)\d\d|n\d{8}")
"""Ids that name a kind of images: years, and classes of WordNet."""
DATE = re.compile(r"\D*(19|20)\d\d[-_.]?[01]\d[-_.]?[0-3]\d")
"""Names that are a date, perhaps after a word."""


@dataclass(frozen=True)
class Series:
    """Series of a dataset."""

    kind: str
    """Origin of the ids: `file names` or `subfolders`."""
    names: tuple[str | None, ...]
    """Series of each image; None for an image outside of all series."""
    narrow: frozenset[str] = frozenset()
    """Classes whose training images form too few groups, or mostly one, to be split by them."""

    def sizes(self) -> Counter[str]:
        """Count the images of each series of two and more images."""
        counts = Counter(name for name in self.names if name is not None)
        return Counter({name: count for name, count in counts.items() if count > 1})


def find_series(paths: Mapping[str, Sequence[str]], classes: Mapping[str, Sequence[Iterable[str]]]) -> Series | None:
    """Recognize the series of a dataset, by subfolders of the classes or else by file names.

    Args:
        paths: Path of each image within the dataset, by split.
        classes: Classes of each image, by split.

    Returns:
        The series, of the images of all splits in order; None where names show none.

    >>> paths = [f"{name}/{name}{item}_{view}.jpg" for name in ("cat", "dog") for item in range(5) for view in (1, 2)]
    >>> series = find_series({"train": paths}, {"train": [[path[:3]] for path in paths]})
    >>> series.kind, series.names[:3]
    ('file names', ('cat0', 'cat0', 'cat1'))
    """
    candidates = [*(("subfolders", names) for names in _by_folder(paths, classes)), ("file names", _by_stem(paths))]
    candidates = [(kind, names) for kind, names in candidates if any(names)]
    labels = [tuple(of_image) for split in paths for of_image in classes[split]] if candidates else []
    training = [split == "train" for split in paths for _ in paths[split]]
    recognized: list[Series] = []
    for kind, names in candidates:
        repeated = Counter((name, label) for name, of in zip(names, labels, strict=True) if name for label in of)
        if len({name for (name, _), count in repeated.items() if count > 1}) < SEVERAL:
            continue
        sizes = _group_sizes(names, labels, training)
        narrow = {
            label for label, groups in sizes.items() if len(groups) < SMALLEST or max(groups) > LARGEST * sum(groups)
        }
        if 2 * sum(len(groups) > 1 for groups in sizes.values()) > len(sizes):  # else a name for each class
            recognized.append(Series(kind, tuple(names), frozenset(narrow)))
    return next((series for series in recognized if not series.narrow), recognized[0] if recognized else None)


def _by_stem(paths: Mapping[str, Sequence[str]]) -> list[str | None]:
    """Return the id in each file name; none if the numbers behind the ids are no running numbers."""
    stems = [stem_of(path) for split in paths for path in paths[split]]
    parsed = [_parse(stem) for stem in stems]
    numbers: defaultdict[str, set[int]] = defaultdict(set)
    for entry in filter(None, parsed):
        numbers[entry[0]].add(entry[1])
    several = [values for values in numbers.values() if len(values) > 1]
    regular = [values for values in several if max(values) - min(values) <= GAP * (len(values) - 1)]
    if len(regular) < REGULAR * len(several):
        return [None] * len(stems)
    ids = [entry[0] if entry else stem for stem, entry in zip(stems, parsed, strict=True)]
    return [name if name in numbers else None for name in ids]


def _parse(stem: str) -> tuple[str, int] | None:
    """Return the id and the running number in a file name."""
    if stem.isalnum():  # no separator, which `NUMBER` begins with
        return None
    match = NUMBER.search(stem)
    if match is None or DATE.fullmatch(stem):
        return None
    name = stem[: match.start()]
    return (name, int(match[1] or match[2])) if _is_id(name) else None


@lru_cache(100_000)
def _is_id(name: str) -> bool:
    if not re.search(r"\d", name) or CATEGORY.fullmatch(name):
        return False
    return split_of(name) is None and not PARTS & set(words_of(name))


def _by_folder(
    paths: Mapping[str, Sequence[str]], classes: Mapping[str, Sequence[Iterable[str]]]
) -> Iterator[list[str | None]]:
    """Yield for each level of subfolders the subfolder of each image, if subfolders there have ids."""
    folders = [parts for split in paths for parts in _below_classes(paths[split], classes[split])]
    for level in range(max(map(len, folders), default=0)):
        if all(_is_folder_id(name) for name in {parts[level] for parts in folders if len(parts) > level}):
            yield ["/".join(parts[: level + 1]) if len(parts) > level else None for parts in folders]


def _below_classes(paths: Sequence[str], classes: Sequence[Iterable[str]]) -> list[tuple[str, ...]]:
    """Return the folders of each image below those that all images of a class share."""
    parents = [path.rpartition("/")[0] for path in paths]
    parts = {parent: PurePosixPath(parent).parts for parent in set(parents)}
    by_class: defaultdict[str, set[tuple[str, ...]]] = defaultdict(set)
    for parent, labels in set(zip(parents, map(tuple, classes), strict=True)):
        for label in labels:
            by_class[label].add(parts[parent])
    depth = min((_shared_depth(of_class) for of_class in by_class.values()), default=0)
    below = {parent: folders[depth:] for parent, folders in parts.items()}
    return [below[parent] for parent in parents]


def _shared_depth(folders: Collection[tuple[str, ...]]) -> int:
    """Return the number of outermost folders that all paths share."""
    return sum(1 for _ in itertools.takewhile(lambda names: len(set(names)) == 1, zip(*folders, strict=False)))


def _is_folder_id(name: str) -> bool:
    words = [word for word in words_of(name) if not word.isdigit()]
    is_part = bool(words) and all(word in COMPANIONS | PARTS or split_of(word) for word in words)
    return re.search(r"\d", name) is not None and not CATEGORY.fullmatch(name) and not is_part


def _group_sizes(
    names: Sequence[str | None], labels: Sequence[Iterable[str]], training: Sequence[bool]
) -> dict[str, list[int]]:
    """Return the sizes of the groups of each class among the training images; an image without a name is a group."""
    groups: defaultdict[str, Counter[str | int]] = defaultdict(Counter)
    for row, (name, of_image, is_training) in enumerate(zip(names, labels, training, strict=True)):
        for label in of_image if is_training else ():
            groups[label][row if name is None else name] += 1
    return {label: list(sizes.values()) for label, sizes in groups.items()}
