"""Mapping of a dataset's splits to train, validation and test; each step is noted."""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

from datasets import Dataset, Value
from datasets.features.features import FeatureType

from hf_tl.data.columns import column_of
from hf_tl.data.drawing import DRAWN, Draw, Pool, draw_splits
from hf_tl.data.image_data import ImageData
from hf_tl.data.layout.names import split_meanings
from hf_tl.data.layout.plan import Reading
from hf_tl.data.layout.tables import SPLIT_COLUMNS, find_split_column, meanings_of
from hf_tl.errors import ConfigError, DataError, name_some
from hf_tl.reporting.numbers import counted

COPIES = "are also in train or validation"
SHARED = re.compile(r"[\d,]+ groups? of (test|validation) (is|are) also in ")


def name_splits(
    splits: Mapping[str, Dataset], reading: Reading, notes: list[str], origins: Mapping[str, str] | None = None
) -> tuple[dict[str, Dataset], dict[str, str]]:
    """Rename the splits to their usual names; a single split becomes train, splits with other names are dropped.

    A single split with a column of split names is divided by it.

    Returns:
        The splits, and where each came from.

    Raises:
        DataError: There is no train split among several, or two splits have the same meaning.
    """
    origins = dict(origins or {})
    if len(splits) == 1:
        [(name, rows)] = splits.items()
        if column := _split_column(rows, reading):
            return _divide(rows, column, reading, notes)
        if split_meanings([name]).get(name) != "train":
            notes.append(f"the only split, {name}, was used as train")
        return {"train": rows}, {"train": origins.get(name, f"the only split, {name}")}
    named = splits_by_meaning(splits, reading)
    notes += [f"split {name} was left out" for name in splits if name not in named.values()]
    if "train" not in named:
        raise DataError(
            f"expected a split train, found {name_some(splits) or 'no split'}; name the split to train on: "
            "--split_folders train=NAME"
        )
    notes += [f"split {name} was used as {meaning}" for meaning, name in named.items() if name != meaning]
    return (
        {meaning: splits[name] for meaning, name in named.items()},
        {meaning: origins.get(name, f"split {name}") for meaning, name in named.items()},
    )


def splits_by_meaning(names: Iterable[str], reading: Reading) -> dict[str, str]:
    """Return the name of the split that stands for train, validation and test each, as far as there is one.

    Raises:
        DataError: Two names have the same meaning.
    """
    names = list(names)
    if reading.split_folders:
        meanings = {name: split for split, chosen in reading.split_folders.items() for name in chosen}
        built = {split for split, chosen in reading.split_folders.items() if not {*chosen} & {*names}}
        meanings = {split: split for split in built} | meanings  # splits that were built so have their usual names
    else:
        meanings = split_meanings(names)
    named: dict[str, str] = {}
    for name in names:
        meaning = meanings.get(name)
        if meaning in named:
            raise DataError(
                f"two splits mean {meaning}: {named[meaning]} and {name}; name one: --split_folders {meaning}={name}"
            )
        if meaning is not None:
            named[meaning] = name
    return named


def _divide(
    rows: Dataset, column: str, reading: Reading, notes: list[str]
) -> tuple[dict[str, Dataset], dict[str, str]]:
    """Divide rows by the values of a split column."""
    values = [str(value) for value in column_of(rows, column).to_pylist()]
    meanings = meanings_of(values, column, reading)
    splits = {
        split: rows.select([row for row, value in enumerate(values) if meanings[value] == split])
        for split in ("train", "validation", "test")
        if split in meanings.values()
    }
    if "train" not in splits:
        raise DataError(f"the column {column!r} names no training image, but {name_some(splits)}; check --split_column")
    notes.append(f"the column {column!r} names the splits")
    return splits, dict.fromkeys(splits, f"column {column}")


def choose_test(
    splits: Mapping[str, Dataset], origins: Mapping[str, str], notes: list[str]
) -> tuple[dict[str, Dataset], dict[str, str]]:
    """Use a validation split as test if there is no test split; validation is then drawn from train.

    Model selection must not use the test images. Results on the split that the dataset's authors held out are
    comparable with those of others.
    """
    splits, origins = dict(splits), dict(origins)
    if "test" not in splits and "validation" in splits:
        splits["test"] = splits.pop("validation")
        origins["test"] = origins.pop("validation", "split validation")
        notes.append("no test split: validation was used as test, and validation was drawn from train")
    return splits, origins


def missing_fractions(own: Collection[str], *, validation_fraction: float, test_fraction: float) -> dict[str, float]:
    """Return the fractions of the splits that a dataset lacks, in drawing order.

    Raises:
        ConfigError: A fraction is not between 0 and 1.
    """
    fractions = {"validation": validation_fraction, "test": test_fraction}
    missing = {split: fractions[split] for split in DRAWN if split not in own}
    for split, fraction in missing.items():
        if not 0 < fraction < 1:
            raise ConfigError(f"expected a fraction between 0 and 1, found --{split}_fraction {fraction}")
    return missing


def draw_missing(
    pool: Pool,
    fractions: Mapping[str, float],
    seed: int,
    notes: list[str],
    learned: Collection[bytes] = frozenset(),
    *,
    include_learned: bool = False,
    criterion: str | None = None,
) -> tuple[dict[str, list[int]], dict[str, Draw]]:
    """Draw the splits that a dataset lacks from train, and note what was drawn.

    Args:
        pool: Training images.
        fractions: As in `draw_splits`.
        seed: Random seed.
        notes: Notes about the data, to which this adds.
        learned: As in `draw_splits`.
        include_learned: As in `draw_splits`.
        criterion: Criterion of the groups of the pool in words; None where nothing names groups.

    Returns:
        Rows of `pool` for each drawn split and for `train`, and the parameters of each draw.

    Raises:
        DataError: As in `draw_splits`.
    """
    if not fractions:
        return {"train": list(range(len(pool.digests)))}, {}
    rows = draw_splits(pool, fractions, seed, learned, include_learned=include_learned)
    how = "at random, all classes kept in train" if pool.is_multi_label else "stratified by class"
    how += f", by {criterion}" if criterion else ""
    remaining = len(pool.digests)
    for split in fractions:
        drawn = len(rows[split])
        groups = f", {counted(len({pool.groups[row] for row in rows[split]}), 'group')}" if pool.groups else ""
        share = f"{drawn:,} of {remaining:,} training images ({drawn / remaining:.0%}{groups})"
        notes.append(f"no {split} split: {share} were held out, {how}, seed {seed}")
        remaining -= drawn
    return rows, {split: Draw(fraction, seed) for split, fraction in fractions.items()}


def note_overlaps(data: ImageData) -> ImageData:
    """Note how many test images are copies of images in the other splits, and which groups are in several splits.

    Splits that were drawn share neither.
    """
    notes = [note for note in data.notes if not note.endswith(COPIES) and not SHARED.match(note)]
    if data.digests:
        seen = {*data.digests["train"], *data.digests["validation"]}
        if repeated := sum(digest in seen for digest in data.digests["test"]):
            notes.append(f"{repeated} images of test {COPIES}")
    notes += shared_groups(data.groups)
    return replace(data, notes=tuple(notes))


def shared_groups(groups: Mapping[str, Collection[str]]) -> list[str]:
    """Describe the groups that are in several splits.

    >>> shared_groups({"train": ["a", "b"], "test": ["b", "b", "c"]})
    ['1 group of test is also in train (2 images)']
    """
    notes = []
    for split, names in (("test", ("train", "validation")), ("validation", ("train",))):
        others = [name for name in names if name in groups]
        elsewhere = {group for other in others for group in groups[other]}
        if shared := [group for group in groups.get(split, ()) if group in elsewhere]:
            count = len(set(shared))
            what = f"{counted(count, 'group')} of {split} {'is' if count == 1 else 'are'} also in {' or '.join(others)}"
            notes.append(f"{what} ({counted(len(shared), 'image')})")
    return notes


def _split_column(rows: Dataset, reading: Reading) -> str | None:
    """Return the column that names the split of each row: the given name, else one of texts with a usual name.

    Raises:
        DataError: There is no column of the given name.
    """
    texts = {
        name: rows[name][:]
        for name, feature in rows.features.items()
        if name == reading.split_column or (name.lower() in SPLIT_COLUMNS and _is_text(feature))
    }
    return find_split_column(texts or dict.fromkeys(rows.features, ()), reading)


def _is_text(feature: FeatureType) -> bool:
    return isinstance(feature, Value) and feature.dtype in ("string", "large_string")
