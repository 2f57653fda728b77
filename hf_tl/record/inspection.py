"""Counts of an inspection (`hf-tl inspect`), for the record of a run or a recommendation on the same data.

`inspection.json` holds the counts, and digests of the data that they are of. Counts of other data are never used.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from hf_tl.errors import DataError, unreadable
from hf_tl.record.codec import RecordError, decode
from hf_tl.storage.documents import read_json

INSPECTION_FILE = "inspection.json"
LeftOut = Literal["nothing", "unreadable", "suggested"]
"""Images of the inspection that the data of a run lack: none, the unreadable ones, or all that it suggests."""


@dataclass(frozen=True)
class InspectionRecord:
    """Counts of an inspection, with when and how they were found."""

    created: str
    version: str
    """Version of hf_tl."""
    model: str | None
    """Backbone whose features were compared; None for perceptual hashes alone."""
    images: int
    unreadable: int
    exact_copies: int
    """Number of groups of copies, as in the following three fields."""
    near_duplicates: int
    different_labels: int
    """Groups of either kind whose images have different labels."""
    across_splits: int | None
    """Groups of either kind in more than one split. None where the splits of the run are not those inspected."""
    label_errors: int | None
    """Suspected label errors; None if they were not looked for."""
    outliers: int | None
    left_out: LeftOut = "nothing"

    def describe(self) -> str:
        """List the counts in words; what was not looked for is named as such."""
        counts = (
            ("group", " of exact copies", self.exact_copies),
            ("group", " of near-duplicates", self.near_duplicates),
            ("group", " across splits (data leakage)", self.across_splits),
            ("group", " with different labels", self.different_labels),
            ("suspected label error", "", self.label_errors),
            ("outlier", "", self.outliers),
            ("unreadable file", "", self.unreadable),
        )
        known = ((noun if count == 1 else f"{noun}s", kind, count) for noun, kind, count in counts if count is not None)
        listed = ", ".join(f"{count:,} {noun}{kind}" for noun, kind, count in known)
        unjudged = "; label errors were not looked for" if self.label_errors is None else ""
        rest = "" if self.left_out == "nothing" else f"; of these, the {self.left_out} images are left out"
        return f"{listed} among {self.images:,} images{unjudged}{rest}"

    @property
    def method(self) -> str:
        """Return the date and the method of the inspection."""
        how = "perceptual hashes" if self.model is None else f"perceptual hashes and features of {self.model}"
        return f"{self.created[:10]}, {how}"


def default_folder(dataset: str) -> Path:
    """Return the folder that `hf-tl inspect` writes to, for a dataset of this name."""
    return Path("runs") / f"{Path(dataset).name}-inspection"


def find_inspection(
    folder: str | Path | None, dataset: str, fingerprint: str, splits: Mapping[str, str]
) -> InspectionRecord | None:
    """Read the counts of an inspection of the same images and labels.

    Args:
        folder: Output folder of `hf-tl inspect`; `default_folder(dataset)` by default.
        dataset: Name of the dataset.
        fingerprint: Fingerprint of the labeled images.
        splits: `split_digest` of each split.

    Returns:
        The counts. None without a folder, if there is no inspection of these data in the default one.

    Raises:
        DataError: The folder holds no inspection, or one of other data.
    """
    file = Path(default_folder(dataset) if folder is None else folder).expanduser() / INSPECTION_FILE
    try:
        content = read_json(file)
        counts = decode(InspectionRecord, content["counts"], str(file))
        inspected = [_read(name, data, str(file)) for name, data in dict(content["data"]).items()]
        matching = _of_data(counts, inspected, fingerprint, splits)
    except (OSError, ValueError, KeyError, TypeError, RecordError) as error:
        if folder is None:
            return None
        raise DataError(
            f"--inspection {folder}: expected a folder with the {INSPECTION_FILE} of hf-tl inspect, found "
            f"{unreadable(error)}; write it with hf-tl inspect"
        ) from error
    if matching is None and folder is not None:
        raise DataError(
            f"--inspection {folder} is of other images or labels than those of {dataset}: run hf-tl inspect again with "
            "the same flags about the data"
        )
    return matching


@dataclass(frozen=True)
class _Inspected:
    """Digests of inspected data, without the images that were left out."""

    left_out: LeftOut
    fingerprint: str
    splits: Mapping[str, str]


def _read(left_out: str, data: Any, where: str) -> _Inspected:
    return decode(_Inspected, {**data, "left_out": left_out}, f"{where}: {left_out:.80}")


def _of_data(
    counts: InspectionRecord, inspected: Iterable[_Inspected], fingerprint: str, splits: Mapping[str, str]
) -> InspectionRecord | None:
    """Return the counts if they are of the same images, without the count of leaks if the splits differ."""
    for data in inspected:
        if data.fingerprint == fingerprint:
            others = [digest for split, digest in data.splits.items() if split != "train"]
            has_splits = bool(others) and set(others) <= set(splits.values())
            leaks = counts.across_splits if has_splits else None
            return replace(counts, left_out=data.left_out, across_splits=leaks)
    return None
