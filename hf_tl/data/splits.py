"""From the splits that a dataset has to train, validation and test; each step that was taken is noted."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from datasets import Dataset, DatasetDict, Features, Value

from hf_tl.data.columns import LABEL, holds_lists
from hf_tl.data.multi_label import flags_of
from hf_tl.data.sources import SPLIT_NAMES
from hf_tl.errors import ConfigError, DataError, name_some


def name_splits(splits: Mapping[str, Dataset], notes: list[str]) -> dict[str, Dataset]:
    """Give the splits their usual names; a single split becomes train, splits with other names are left out.

    Raises:
        DataError: there is no train split among several, or two splits have the same meaning.
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


def complete_splits(
    splits: Mapping[str, Dataset],
    notes: list[str],
    *,
    validation_fraction: float,
    test_fraction: float,
    seed: int,
) -> tuple[DatasetDict, frozenset[str]]:
    """Set apart from train what is missing, stratified by class; at random where images have several classes.

    A validation split without a test split becomes the test split, and validation is set apart from train: what a
    model is chosen by must not be what it is judged by, and the split that the dataset's authors held out is the one
    whose results compare with others'.

    Returns:
        The three splits, and the names of those that were set apart.

    Raises:
        ConfigError: a fraction is not between 0 and 1.
        DataError: a class has too few images.
    """
    splits = dict(splits)
    is_multi_label = holds_lists(splits["train"].features[LABEL])
    how = "drawn at random but for the last image of a class" if is_multi_label else "stratified by class"
    if "test" not in splits and "validation" in splits:
        splits["test"] = splits.pop("validation")
        notes.append("no test split: validation was used as test, and validation was set apart from train")
    fractions = {"test": test_fraction, "validation": validation_fraction}
    missing = {split: fraction for split, fraction in fractions.items() if split not in splits}
    _require_fractions(missing)
    if not is_multi_label:
        _require_images(splits["train"], missing)
    for split, fraction in missing.items():
        train = splits["train"]
        draw = _draw_any if is_multi_label else _draw_stratified
        apart = draw(train, fraction, seed, split)
        rest = sorted(set(range(len(train))) - set(apart))
        splits["train"], splits[split] = (train.select(rows, keep_in_memory=True) for rows in (rest, sorted(apart)))
        share = f"{len(splits[split])} images ({fraction:.0%})"
        notes.append(f"no {split} split: {share} of train were set apart, {how}, seed {seed}")
    return DatasetDict({split: splits[split] for split in ("train", "validation", "test")}), frozenset(missing)


def _require_fractions(missing: Mapping[str, float]) -> None:
    for split, fraction in missing.items():
        if not 0 < fraction < 1:
            raise ConfigError(f"expected a fraction between 0 and 1, found --{split}_fraction {fraction}")


def _require_images(train: Dataset, missing: Mapping[str, float]) -> None:
    counts = Counter(train[LABEL][:])
    names = train.features[LABEL].names
    minimum = 1 + len(missing)
    if small := [f"{names[label]} ({count})" for label, count in sorted(counts.items()) if count < minimum]:
        raise DataError(
            f"classes with fewer than {minimum} images, too few to set apart {' and '.join(missing)}: "
            f"{name_some(small)}; add images, remove the class, or provide the splits"
        )


def _draw_stratified(train: Dataset, fraction: float, seed: int, split: str) -> Sequence[int]:
    labels = train[LABEL][:]
    classes = len(set(labels))
    # Stratifying needs room for one image of each class on both sides.
    size = min(max(math.ceil(fraction * len(train)), classes), len(train) - classes)
    # Only row numbers are drawn: datasets would write those of stored data into its folder, which may be the user's.
    features = Features({"row": Value("int64"), "label": train.features[LABEL]})
    rows = Dataset.from_dict({"row": range(len(labels)), "label": labels}, features=features)
    return rows.train_test_split(test_size=size, stratify_by_column="label", seed=seed)["test"]["row"][:]


def _draw_any(train: Dataset, fraction: float, seed: int, split: str) -> Sequence[int]:
    """Draw the same share of images with and without labels at random, but none with the last positive of a class.

    Raises:
        DataError: none of what can be drawn has a label.
    """
    flags = flags_of(train)
    left = flags.sum(axis=0, dtype=np.int64)
    has_label: list[bool] = np.any(flags, axis=1).tolist()
    labeled = math.ceil(fraction * sum(has_label))
    room = {True: labeled, False: math.ceil(fraction * len(train)) - labeled}
    drawn: list[int] = []
    for row in np.random.default_rng(seed).permutation(len(train)).tolist():
        if room[has_label[row]] and (left - flags[row])[left > 0].all():
            drawn.append(row)
            room[has_label[row]] -= 1
            left -= flags[row]
    if not flags[drawn].any():
        raise DataError(
            f"too few images with labels to set apart {split} and keep every class in train; add images, or provide "
            "the split"
        )
    return drawn
