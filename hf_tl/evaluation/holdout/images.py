"""Images to evaluate models on: a split of a dataset, or all images of a dataset without splits."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

from datasets import Dataset, DatasetDict

from hf_tl.config import SOURCE
from hf_tl.data.datasets import load_arguments, source_of
from hf_tl.data.image_data import AnyDataset, ImageData
from hf_tl.data.index.digests import identify
from hf_tl.data.layout.plan import Reading
from hf_tl.data.layout.reading import make_reading
from hf_tl.data.learned import Leakage, resolve
from hf_tl.data.sources.source import Source
from hf_tl.data.splits import name_splits, splits_by_meaning
from hf_tl.errors import ConfigError, DataError, name_some, nearest
from hf_tl.evaluation.holdout.classifier import Classifier
from hf_tl.evaluation.holdout.labels import images_of, match_labels, without_labels
from hf_tl.evaluation.leakage import measurable, open_again
from hf_tl.record import LearnedFrom, split_digest
from hf_tl.record.learned import DIGEST_BYTES

ALL = "all"
"""Name of the only split of a dataset without splits."""


@dataclass(frozen=True)
class Holdout:
    """Labeled images of one split, with the classes of the models."""

    data: ImageData
    """Data with this split alone."""
    split: str
    learned: Mapping[str, LearnedFrom]
    """Training images of each model, as far as the dataset tells, by the name of the model in messages."""
    notes: tuple[str, ...] = ()
    """Notes on images and classes that were left out."""
    train: Dataset | None = None
    """Images of the training split, without labels, if the dataset has one."""

    @property
    def images(self) -> Dataset:
        """Images in the column `image`, and their classes in the column `label`."""
        return self.data.splits[self.split]

    def measurable(self, *, include_training_images: bool = False) -> tuple["Holdout", Leakage]:
        """Leave out the training images of the models, unless they are to be counted.

        Raises:
            DataError: The remaining images do not allow an evaluation.
        """
        data, leakage = measurable(
            self.data, self.learned, [self.split], include_training_images=include_training_images
        )
        return replace(self, data=data), leakage[self.split]


@dataclass(frozen=True)
class _Chosen:
    """Stored rows to evaluate on, and how to read them."""

    rows: Dataset
    split: str
    source: Source
    reading: Reading
    train: Dataset | None


def open_holdout(
    dataset: AnyDataset | None,
    models: Mapping[str, Classifier],
    split: str | None,
    reading: Mapping[str, Any],
    *,
    needs_labels: bool = True,
    skip_bad_images: bool = False,
) -> Holdout:
    """Open the images to evaluate models on; `evaluate`, `compare` and `export` share this.

    A dataset without splits is evaluated as a whole, unless it is the one of the training, whose splits are drawn
    again. Images without a label, and of classes that the models do not know, are left out, with a note.

    Args:
        dataset: Dataset (default: the one of the training).
        models: Models by their names in messages. All have the same classes; those of the first decide the order.
        split: Split to evaluate on (default: test, or validation where there is no test split).
        reading: Arguments of `load_data` about how to read the dataset.
        needs_labels: Whether images are measured; else all images are returned, without labels.
        skip_bad_images: Whether to leave out unreadable images, with a note, instead of raising an error.

    Raises:
        ConfigError: `split` is given for a dataset without splits, or the dataset must be named.
        DataError: The images cannot be opened, or none remains.
    """
    first = next(iter(models.values()))
    learned = reduce(LearnedFrom.union, (model.learned for model in models.values()))
    if dataset is None:
        dataset, reading = open_again(first.record, learned, None, **reading), {}
    chosen, training = _choose(dataset, models, learned, split, reading)
    notes = list(chosen.source.notes)
    choices = chosen.source.complete(chosen.reading)
    read = match_labels if needs_labels else without_labels
    rows = read(chosen.rows, chosen.split, first.labels, first.problem, choices, notes, skip_bad_images=skip_bad_images)
    digests = identify({chosen.split: rows}, chosen.source.root)[chosen.split]
    data = ImageData(
        splits=DatasetDict({chosen.split: rows}),
        labels=first.labels,
        name=chosen.source.name,
        revision=chosen.source.revision,
        license=chosen.source.license,
        notes=tuple(notes),
        source=chosen.source.kind,
        digests={chosen.split: digests},
        groups=_groups_of(digests, chosen.split, training),
        problem_type=first.problem.name,
    )
    known = {
        name: model.learned if training is None else resolve(model.learned, training) for name, model in models.items()
    }
    train = None if chosen.train is None else images_of(chosen.train, choices)
    return Holdout(data, chosen.split, known, data.notes, train)


def _groups_of(digests: tuple[bytes, ...], split: str, training: ImageData | None) -> dict[str, tuple[str, ...]]:
    """Return the groups by which the training split these images; empty without groups, or for other images."""
    if training is None or not training.groups:
        return {}
    groups: dict[bytes, str] = {}
    for name, of_split in training.groups.items():
        groups.update(zip(training.digests[name], of_split, strict=True))
    return {split: tuple(groups[digest] for digest in digests)} if groups.keys() >= {*digests} else {}


def _choose(
    dataset: AnyDataset,
    models: Mapping[str, Classifier],
    learned: LearnedFrom,
    split: str | None,
    reading: Mapping[str, Any],
) -> tuple[_Chosen, ImageData | None]:
    """Choose the rows to evaluate on; return also the dataset as the training split it, if it was opened so."""
    arguments = load_arguments(reading)
    version = {name: arguments.pop(name, None) for name in SOURCE}
    choices = make_reading(**arguments)
    source = source_of(dataset, choices, **version)
    splits = _own_splits(source, choices)
    wanted = split or "test"
    trained = [model for model in models.values() if model.record is not None]
    training = None
    if trained and not (wanted in splits and learned.is_complete):
        training = _as_in_training(dataset, learned, trained[0], reading)
    if training is not None and wanted not in splits and any(_is_of_training(training, model) for model in trained):
        drawn = source_of(training).splits
        if wanted not in drawn:
            raise _no_split(wanted, drawn)
        source = replace(source, image_column=None, label_column=None)
        return _Chosen(drawn[wanted], wanted, source, Reading(), drawn["train"]), training
    if not splits:
        if split is not None:
            raise ConfigError(
                f"--split {split}: {source.name} has no splits; leave --split out to evaluate on all of its images"
            )
        [rows] = source.splits.values()
        return _Chosen(rows, ALL, source, choices, None), training
    if split is None and wanted not in splits and "validation" in splits:
        wanted = "validation"
    if wanted not in splits:
        raise _no_split(wanted, splits)
    return _Chosen(splits[wanted], wanted, source, choices, splits.get("train")), training


def _no_split(split: str, splits: Mapping[str, Any]) -> DataError:
    return DataError(f"--split {split}: the dataset has the splits {name_some(splits)}{nearest(split, splits)}")


def _own_splits(source: Source, reading: Reading) -> dict[str, Dataset]:
    """Return the splits train, validation and test of a dataset; none if it is not split."""
    if len(source.splits) > 1:
        return {split: source.splits[name] for split, name in splits_by_meaning(source.splits, reading).items()}
    splits, _ = name_splits(source.splits, reading, [])
    return splits if len(splits) > 1 else {}


def _as_in_training(
    dataset: AnyDataset, learned: LearnedFrom, model: Classifier, reading: Mapping[str, Any]
) -> ImageData | None:
    """Open a dataset with the splits that the training drew; None if it could not be trained on."""
    try:
        return open_again(model.record, learned, dataset, **reading)
    except DataError:
        return None


def _is_of_training(data: ImageData, model: Classifier) -> bool:
    """Return whether a dataset is that of a model's training, perhaps with more images."""
    digests = {digest[:DIGEST_BYTES] for rows in data.digests.values() for digest in rows}
    learned = resolve(model.learned, data)
    if learned.digests and learned.digests <= digests:
        return True
    test = None if model.record is None else model.record.data.splits.get("test")
    return test is not None and "test" in data.digests and test.digest == split_digest(data.digests["test"])
