"""Mapping of a dataset's splits to train, validation and test; each step is noted."""

from collections.abc import Collection, Mapping

from datasets import Dataset

from hf_tl.data.drawing import DRAWN, Draw, Pool, draw_splits
from hf_tl.data.sources import SPLIT_NAMES
from hf_tl.errors import ConfigError, DataError, name_some


def name_splits(splits: Mapping[str, Dataset], notes: list[str]) -> dict[str, Dataset]:
    """Rename the splits to their usual names; a single split becomes train, splits with other names are dropped.

    Raises:
        DataError: There is no train split among several, or two splits have the same meaning.
    """
    if len(splits) == 1:
        [(name, rows)] = splits.items()
        if SPLIT_NAMES.get(name.lower()) != "train":
            notes.append(f"the only split, {name}, was used as train")
        return {"train": rows}
    named: dict[str, str] = {}
    for name in splits:
        meaning = SPLIT_NAMES.get(name.lower())
        if meaning is None:
            notes.append(f"split {name} was left out")
        elif meaning in named:
            raise DataError(f"two splits mean {meaning}: {named[meaning]} and {name}; remove or rename one")
        else:
            named[meaning] = name
    if "train" not in named:
        raise DataError(f"expected a split train, found {name_some(splits) or 'no split'}; rename the one to train on")
    notes += [f"split {name} was used as {meaning}" for meaning, name in named.items() if name != meaning]
    return {meaning: splits[name] for meaning, name in named.items()}


def choose_test(splits: Mapping[str, Dataset], notes: list[str]) -> dict[str, Dataset]:
    """Use a validation split as test if there is no test split; validation is then drawn from train.

    Model selection must not use the test images. Results on the split that the dataset's authors held out are
    comparable with those of others.
    """
    splits = dict(splits)
    if "test" not in splits and "validation" in splits:
        splits["test"] = splits.pop("validation")
        notes.append("no test split: validation was used as test, and validation was drawn from train")
    return splits


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
) -> tuple[dict[str, list[int]], dict[str, Draw]]:
    """Draw the splits that a dataset lacks from train, and note what was drawn.

    Returns:
        Rows of `pool` for each drawn split and for `train`, and the parameters of each draw.

    Raises:
        DataError: As in `draw_splits`.
    """
    if not fractions:
        return {"train": list(range(len(pool.digests)))}, {}
    rows = draw_splits(pool, fractions, seed, learned, include_learned=include_learned)
    how = "at random, all classes kept in train" if pool.is_multi_label else "stratified by class"
    left = len(pool.digests)
    for split in fractions:
        drawn = len(rows[split])
        share = f"{drawn:,} of {left:,} training images ({drawn / left:.0%})"
        notes.append(f"no {split} split: {share} were held out, {how}, seed {seed}")
        left -= drawn
    return rows, {split: Draw(fraction, seed) for split, fraction in fractions.items()}
