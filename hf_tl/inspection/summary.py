"""Facts and findings of an inspection as plain values: `inspection.json`, from which page and texts are written."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from hf_tl.inspection.analysis.copies import Copies
from hf_tl.inspection.analysis.findings import Findings
from hf_tl.inspection.analysis.outliers import Outliers
from hf_tl.inspection.opening import LabeledImages
from hf_tl.inspection.reading import Facts

SCHEMA_VERSION = 1
QUANTILES = {"smallest": 0, "5%": 5, "median": 50, "95%": 95, "largest": 100}
FARTHEST = 24
"""Number of images that are listed as the farthest from all others, whether they are outliers or not."""


def summarize(images: LabeledImages, facts: Facts, findings: Findings) -> dict[str, Any]:
    """Return facts and findings as plain values; images are named by file, split, label and row."""
    return {
        "schema_version": SCHEMA_VERSION,
        "dataset": images.name,
        "reading": list(images.reading),
        "images": len(images),
        "classes": list(images.classes),
        "multi_label": images.is_multi_label,
        "splits": {split: images.class_counts(split) for split in images.splits},
        "split_images": {split: int((images.split_of == place).sum()) for place, split in enumerate(images.splits)},
        "files": _files(facts),
        "unreadable": [{**image_of(images, row), "error": error} for row, error in facts.errors.items()],
        "copies": [_copies(images, group) for group in findings.copies],
        "label_errors": _label_errors(images, findings),
        "outliers": None if findings.outliers is None else _outliers(images, findings.outliers),
    }


def image_of(images: LabeledImages, row: int) -> dict[str, Any]:
    """Return the name of an image."""
    return {"file": images.file(row), "split": images.split(row), "label": images.label(row), "row": int(row)}


def _files(facts: Facts) -> dict[str, Any]:
    """Summarize sizes in pixels and bytes, aspect ratios, modes and formats of the readable files."""
    rows = facts.readable
    if not len(rows):
        return {"readable": 0}
    width, height = facts.sizes[rows].T
    sizes = Counter(map(tuple, facts.sizes[rows].tolist()))
    return {
        "readable": len(rows),
        "width": quantiles(width),
        "height": quantiles(height),
        "aspect_ratio": quantiles(width / height),
        "bytes": quantiles(facts.bytes[rows]),
        "total_bytes": int(facts.bytes.sum()),
        "modes": dict(Counter(facts.modes[rows].tolist()).most_common()),
        "formats": dict(Counter(facts.formats[rows].tolist()).most_common()),
        "sizes": {f"{w} x {h}": count for (w, h), count in sizes.most_common(8)},
    }


def quantiles(values: np.ndarray) -> dict[str, float]:
    """Return the quantiles of values."""
    levels = np.percentile(values, list(QUANTILES.values()))
    return {name: round(float(level), 3) for name, level in zip(QUANTILES, levels, strict=True)}


def _copies(images: LabeledImages, group: Copies) -> dict[str, Any]:
    return {
        "kind": "exact copies" if group.is_exact else "near-duplicates",
        "across_splits": group.is_across_splits,
        "different_labels": group.has_different_labels,
        "images": [image_of(images, row) for row in group.rows],
        "kept": None if group.kept is None else images.file(group.kept),
    }


def _label_errors(images: LabeledImages, findings: Findings) -> dict[str, Any] | None:
    errors = findings.label_errors
    if errors is None:
        return None
    suspected = zip(
        errors.suspected.tolist(),
        errors.own[errors.is_suspected].tolist(),
        errors.suggested[errors.is_suspected].tolist(),
        strict=True,
    )
    return {
        "judged": len(errors.rows),
        "probe": errors.accuracy.to_record(),
        "images": [
            {**image_of(images, row), "probability": round(own, 6), "suggested": images.classes[suggested]}
            for row, own, suggested in suspected
        ],
    }


def _outliers(images: LabeledImages, outliers: Outliers) -> dict[str, Any]:
    return {
        "fence": round(outliers.fence, 4),
        "count": outliers.count,
        "images": [
            {**image_of(images, row), "distance": round(distance, 4), "is_outlier": distance > outliers.fence}
            for row, distance in zip(
                outliers.rows[: max(FARTHEST, outliers.count)].tolist(),
                outliers.distances[: max(FARTHEST, outliers.count)].tolist(),
                strict=True,
            )
        ],
    }


def count_copies(groups: Sequence[dict[str, Any]], *names: str) -> int:
    """Count the groups of copies of a kind, or with properties: `across_splits`, `different_labels`."""
    return sum(all(group[name] if name in group else group["kind"] == name for name in names) for group in groups)
