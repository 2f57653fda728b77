"""Images that an inspection suggests to leave out, as a list for `--exclude_list`.

Label errors and outliers are suggested in train only: a test split without its hard images would flatter every model.
"""

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

from hf_tl.inspection.analysis.copies import Copies
from hf_tl.inspection.analysis.findings import Findings
from hf_tl.inspection.opening import LabeledImages
from hf_tl.inspection.reading import Facts


@dataclass(frozen=True)
class Exclusion:
    """An image to leave out, and the reason."""

    file: str
    """Path within the dataset, or the row in its split."""
    digest: str
    """SHA-256 of the length and bytes of the file, in hexadecimal."""
    split: str
    label: str
    reason: str
    detail: str


def suggest_exclusions(images: LabeledImages, facts: Facts, findings: Findings) -> dict[int, Exclusion]:
    """Return the images to leave out by row, each with its first reason.

    Args:
        images: Images.
        facts: Result of `read_images`.
        findings: What was found among them.
    """
    reasons: dict[int, tuple[str, str]] = {}
    for row, reason, detail in _reasons(images, facts, findings):
        reasons.setdefault(row, (reason, detail))
    return {
        row: Exclusion(
            images.file(row), facts.digests[row].tobytes().hex(), images.split(row), images.label(row), reason, detail
        )
        for row, (reason, detail) in reasons.items()
    }


def _reasons(images: LabeledImages, facts: Facts, findings: Findings) -> Iterator[tuple[int, str, str]]:
    for row in facts.errors:
        yield row, "unreadable", ""
    for group in findings.copies:
        for row in group.rows:
            if row != group.kept:
                yield row, *_describe(images, group)
    if findings.label_errors is not None:
        errors = findings.label_errors
        for row, suggested in zip(errors.suspected.tolist(), errors.suggested[errors.is_suspected], strict=True):
            if images.split(row) == "train":
                yield row, "suspected label error", f"perhaps {images.classes[suggested]}"
    if findings.outliers is not None:
        for row in findings.outliers.rows[: findings.outliers.count].tolist():
            if images.split(row) == "train":
                yield row, "outlier", ""


def _describe(images: LabeledImages, group: Copies) -> tuple[str, str]:
    kind = "copy" if group.is_exact else "near-duplicate"
    if group.kept is None:
        return f"{kind} with another label", ", ".join(dict.fromkeys(map(images.label, group.rows)))
    return kind, f"of {images.file(group.kept)}"


def to_csv(exclusions: Sequence[Exclusion]) -> str:
    """Format exclusions as CSV text."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = [field.name for field in fields(Exclusion)]
    writer.writerow(names)
    writer.writerows([getattr(exclusion, name) for name in names] for exclusion in exclusions)
    return text.getvalue()
