"""Predictions of a model for images, and their table."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from hf_tl.errors import name_some
from hf_tl.reporting.frames import to_frame
from hf_tl.reporting.numbers import counted, percent
from hf_tl.reporting.plain import one_line
from hf_tl.reporting.shown import Shown, shortened

if TYPE_CHECKING:
    import pandas

DIGITS = 6


@dataclass(frozen=True, repr=False)
class Prediction:
    """Predicted classes of an image."""

    image: str
    """Path of the image, or its number: `image 0`, `row 0 of the dataset`."""
    labels: tuple[str, ...] = ()
    """Classes, most probable first."""
    probabilities: tuple[float, ...] = ()
    """Probability of each of `labels`; those of a multi-label model do not sum to one."""
    error: str | None = None
    """Reason why the image could not be read, if it could not."""
    ood_score: float | None = None
    """Out-of-distribution score, where the model may abstain: the higher, the more unlike the training images."""
    abstained: bool = False
    """Whether the image has no class because it is unlike the training images."""
    embedding: np.ndarray | None = field(default=None, compare=False)
    """Input of the model's last layer, float32 (features,), averaged over places or tokens, if it was asked for."""

    @property
    def label(self) -> str | None:
        """Most probable class; None for an unreadable image, after an abstention, and below the threshold."""
        return self.labels[0] if self.labels else None

    @property
    def ranking(self) -> list[tuple[str, float]]:
        """Classes with their probabilities."""
        return list(zip(self.labels, self.probabilities, strict=True))

    def __repr__(self) -> str:
        if self.error is not None:
            return f"Prediction({self.image!r}, unreadable: {shortened(one_line(self.error))})"
        if self.abstained:
            return f"Prediction({self.image!r}: abstained, score {self.ood_score:.3f})"
        classes = [f"{one_line(label)} {percent(probability)}" for label, probability in self.ranking]
        return f"Prediction({self.image!r}: {name_some(classes, 3) or 'no class'})"


@dataclass(frozen=True)
class TableFormat:
    """Columns of a table of predictions: a row for each image."""

    ranks: int | None
    """Number of classes that have columns: `label`, `probability`, `label_2`, `probability_2`, …. None: all classes of
    an image in `labels` and `probabilities`, two columns of lists."""
    has_scores: bool = False
    """Whether there are the columns `abstained` and `ood_score`."""
    has_embeddings: bool = False
    """Whether there is the column `embedding`."""

    @property
    def columns(self) -> dict[str, type]:
        """Type of each column; `list` holds labels, probabilities, or an embedding."""
        last: dict[str, type] = {"abstained": bool, "ood_score": float} if self.has_scores else {}
        last |= {"embedding": list} if self.has_embeddings else {}
        last["error"] = str
        if self.ranks is None:
            return {"image": str, "labels": list, "probabilities": list, **last}
        places = ["", *(f"_{rank}" for rank in range(2, self.ranks + 1))]
        ranked = {f"{name}{place}": kind for place in places for name, kind in (("label", str), ("probability", float))}
        return {"image": str, **ranked, **last}

    def row(self, prediction: Prediction) -> dict[str, Any]:
        """Return the values of a prediction, by column; missing ones are None."""
        rounded = [round(value, DIGITS) for value in prediction.probabilities]
        # a file name that is no valid text cannot be written as UTF-8
        row: dict[str, Any] = {"image": prediction.image.encode("utf-8", "backslashreplace").decode("utf-8")}
        if self.ranks is None:
            has_classes = prediction.error is None
            row |= {"labels": list(prediction.labels) if has_classes else None}
            row |= {"probabilities": rounded if has_classes else None}
        else:
            names = [name for name in self.columns if name.startswith(("label", "probability"))]
            pairs = zip(prediction.labels, rounded, strict=True)
            row |= dict.fromkeys(names) | dict(zip(names, (value for pair in pairs for value in pair), strict=False))
        if self.has_scores:
            is_read = prediction.error is None
            row |= {"abstained": prediction.abstained if is_read else None}
            row |= {"ood_score": None if prediction.ood_score is None else round(prediction.ood_score, DIGITS)}
        if self.has_embeddings:
            values = prediction.embedding
            row |= {"embedding": None if values is None else values.astype(np.float64).round(DIGITS).tolist()}
        return {**row, "error": prediction.error}


@dataclass(frozen=True, repr=False)
class PredictionResult(Sequence[Prediction], Shown):
    """Predictions in the order of the images: `result[i]` is that of image `i`, also where images are unreadable.

    >>> PredictionResult((Prediction("a.jpg", ("cat",), (0.9,)), Prediction("b.jpg", error="truncated")))
    PredictionResult(2 images: cat 1, unreadable 1)
    """

    predictions: tuple[Prediction, ...]
    table: TableFormat = field(default_factory=lambda: TableFormat(1))
    """Columns of `to_pandas` and `save`."""

    @property
    def unreadable(self) -> tuple[Prediction, ...]:
        """Images that could not be read; their `error` says why."""
        return tuple(prediction for prediction in self.predictions if prediction.error is not None)

    @overload
    def __getitem__(self, index: int) -> Prediction: ...
    @overload
    def __getitem__(self, index: slice) -> "PredictionResult": ...
    def __getitem__(self, index: int | slice) -> "Prediction | PredictionResult":
        if isinstance(index, slice):
            return PredictionResult(self.predictions[index], self.table)
        return self.predictions[index]

    def __len__(self) -> int:
        return len(self.predictions)

    def __iter__(self) -> Iterator[Prediction]:
        return iter(self.predictions)

    def facts(self) -> Iterator[tuple[str, str]]:
        """Yield the number of images and the most frequent classes."""
        yield "Images", self._counts()

    def cells(self) -> list[list[str]]:
        """Return a row for each image."""
        rows = [[each.image, each.label or "", self._first(each)] for each in self.predictions]
        return [["image", "label", "probability"], *rows]

    @staticmethod
    def _first(prediction: Prediction) -> str:
        if prediction.error is not None:
            return prediction.error
        if prediction.abstained:
            return "abstained"
        return percent(prediction.probabilities[0]) if prediction.probabilities else "no class"

    def __repr__(self) -> str:
        return f"PredictionResult({self._counts()})"

    def _counts(self) -> str:
        labels = Counter(
            prediction.label or ("abstained" if prediction.abstained else "no class")
            for prediction in self
            if prediction.error is None
        )
        counts = [f"{one_line(label)} {count:,}" for label, count in labels.most_common(3)]
        others = sum(labels.values()) - sum(count for _, count in labels.most_common(3))
        counts += [f"others {others:,}"] if others else []
        counts += [f"unreadable {len(self.unreadable):,}"] if self.unreadable else []
        return f"{counted(len(self), 'image')}: {', '.join(counts)}"

    def to_pandas(self) -> "pandas.DataFrame":
        """Return a table with a row for each image, with the columns of `save`.

        Raises:
            ConfigError: pandas is not installed.
        """
        return to_frame(map(self.table.row, self), list(self.table.columns))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a table with a row for each image to `path`: `.csv`, `.jsonl` or `.parquet`.

        Raises:
            ConfigError: The name has another ending, or the file cannot be written.
        """
        from hf_tl.predicting.table import open_table

        with open_table(path, self.table) as write:
            write([self.table.row(prediction) for prediction in self.predictions])
