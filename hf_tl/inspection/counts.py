"""Counts of an inspection, and digests by which a run recognizes the data that they are of."""

import os
from collections.abc import Collection
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from hf_tl import __version__
from hf_tl.data.fingerprint import fingerprint_of
from hf_tl.inspection.analysis.findings import Findings
from hf_tl.inspection.opening import LabeledImages
from hf_tl.inspection.reading import Facts
from hf_tl.record import InspectionRecord, split_digest


def count_findings(images: LabeledImages, facts: Facts, findings: Findings, model: str | None) -> InspectionRecord:
    """Count what was found, with the date, and the name of the backbone without its path."""
    copies, errors, outliers = findings.copies, findings.label_errors, findings.outliers
    return InspectionRecord(
        created=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        version=__version__,
        model=Path(model).resolve().name if model is not None and os.path.exists(model) else model,
        images=len(images),
        unreadable=len(facts.errors),
        exact_copies=sum(group.is_exact for group in copies),
        near_duplicates=sum(not group.is_exact for group in copies),
        different_labels=sum(group.has_different_labels for group in copies),
        across_splits=sum(group.is_across_splits for group in copies),
        label_errors=None if errors is None else int(errors.is_suspected.sum()),
        outliers=None if outliers is None else outliers.count,
    )


def digest_data(images: LabeledImages, facts: Facts, suggested: Collection[int]) -> dict[str, Any]:
    """Return the fingerprint of the data and a digest of each split, by what a run may leave out.

    Args:
        images: Images.
        facts: Result of `read_images`.
        suggested: Rows that the inspection suggests to leave out.
    """
    rows = np.arange(len(images))
    kept = {"nothing": rows, "unreadable": facts.readable, "suggested": np.setdiff1d(rows, list(suggested))}
    return {left_out: _digest_rows(images, facts, chosen) for left_out, chosen in kept.items()}


def _digest_rows(images: LabeledImages, facts: Facts, rows: np.ndarray) -> dict[str, Any]:
    digests = [facts.digests[row].tobytes() for row in rows]
    split_of = images.split_of[rows]
    return {
        "fingerprint": fingerprint_of(digests, images.labels[rows].tolist(), images.classes),
        "splits": {
            split: split_digest([digest for digest, place in zip(digests, split_of, strict=True) if place == number])
            for number, split in enumerate(images.splits)
        },
    }
