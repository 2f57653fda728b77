"""Comparison as plain values: the content of `comparison.json`, from which report and figure are made."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_tl.comparison.findings import SIGNIFICANT, Findings
from hf_tl.data.columns import IMAGE
from hf_tl.data.fingerprint import row_name
from hf_tl.data.learned import Leakage
from hf_tl.evaluation.holdout.classifier import Classifier
from hf_tl.evaluation.holdout.images import Holdout
from hf_tl.evaluation.intervals import Interval
from hf_tl.evaluation.measure import Predictions
from hf_tl.evaluation.metrics import MULTI_LABEL, ProblemType
from hf_tl.evaluation.paired import Difference
from hf_tl.reporting.numbers import chance_of, points

if TYPE_CHECKING:
    from hf_tl.data.datasets import ImageData

SCHEMA_VERSION = 1


def build_record(
    pair: Mapping[str, Classifier],
    speeds: Sequence[float],
    holdout: Holdout,
    leakage: Leakage,
    predictions: Sequence[Predictions],
    findings: Findings,
) -> dict[str, Any]:
    """Build the record of a comparison: a dictionary of plain values, without paths.

    Args:
        pair: The two models, by their letters.
        speeds: Throughput of each model in images per second.
        holdout: Images.
        leakage: Leakage of the evaluated split.
        predictions: Predictions of each model, in the class order of the first.
        findings: Comparison of the predictions.
    """
    data, labels, problem, split = holdout.data, pair["A"].labels, pair["A"].problem, holdout.split
    return {
        "schema_version": SCHEMA_VERSION,
        "conclusion": conclude(findings, problem),
        "models": {
            letter: {"name": contender.name, **contender.describe(), "images_per_second": round(speed, 1)}
            for (letter, contender), speed in zip(pair.items(), speeds, strict=True)
        },
        "data": {
            "name": data.name,
            "revision": data.revision,
            "fingerprint": data.fingerprint,
            "split": split,
            "images": len(findings.is_same),
            "classes": len(findings.classes),
            "notes": list(holdout.notes),
            "leakage": leakage.to_record(),
        },
        "problem_type": problem.name,
        **_results(findings),
        **_disagreements(findings, problem, data, split, labels, predictions),
    }


def conclude(findings: Findings, problem: ProblemType) -> str:
    """Return the conclusion in one sentence."""
    differences = findings.metrics.values()
    if findings.is_same.all() and not any(difference.value for difference in differences):
        return "A and B make the same predictions for all images."
    names = {figure.key: figure.name for figure in problem.figures}
    units = [f"points of {names[key]}" if problem is MULTI_LABEL else "points" for key in findings.metrics]
    return "; ".join(_conclude_metric(*pair) for pair in zip(differences, units, strict=True)) + "."


def _conclude_metric(difference: Difference, unit: str) -> str:
    better, sign = ("B", 1) if difference.value > 0 else ("A", -1)
    bounds = sorted(sign * bound for bound in difference.interval or ())
    interval = ["95% CI " + " to ".join(points(bound).removeprefix("+") for bound in bounds)] if bounds else []
    statistics = ", ".join([*interval, chance_of(difference.p_value)])
    size = f"{points(abs(difference.value)).removeprefix('+')} {unit} ({statistics})"
    if difference.p_value < SIGNIFICANT:
        return f"{better} is significantly better, by {size}"
    if points(difference.value) == points(0):
        return f"A and B do not differ significantly: {size}"
    return f"{better} is better by {size}, which is not significant"


def _results(findings: Findings) -> dict[str, Any]:
    """Return the numbers as plain values."""
    counts = {
        name: len(findings.rows_right(*is_right))
        for name, is_right in (
            ("both", (True, True)),
            ("only_A", (True, False)),
            ("only_B", (False, True)),
            ("neither", (False, False)),
        )
    }
    return {
        "metrics": {name: _difference(difference) for name, difference in findings.metrics.items()},
        "agreement": float(findings.is_same.mean()),
        "right": counts,
        "classes": [
            {
                "label": finding.label,
                "images": finding.images,
                **({} if finding.difference is None else _difference(finding.difference)),
                "corrected_p_value": finding.p_value,
                "is_significant": finding.is_significant,
            }
            for finding in findings.classes
        ],
    }


def _difference(difference: Difference) -> dict[str, Any]:
    def listed(interval: Interval | None) -> list[float] | None:
        return None if interval is None else list(interval)

    return {
        "A": difference.first,
        "A_interval": listed(difference.first_interval),
        "B": difference.second,
        "B_interval": listed(difference.second_interval),
        "difference": difference.value,
        "interval": listed(difference.interval),
        "p_value": difference.p_value,
    }


def _disagreements(
    findings: Findings,
    problem: ProblemType,
    data: "ImageData",
    split: str,
    labels: Sequence[str],
    predictions: Sequence[Predictions],
) -> dict[str, list[dict[str, Any]]]:
    """List the images that only one model classifies correctly, with the predictions of both."""
    decisions = [predictions[0].labels.astype(np.int64), *(problem.decide(output.logits) for output in predictions)]
    columns = dict(zip(("true", "A", "B"), decisions, strict=True))

    def rows(*is_right: bool) -> Iterator[dict[str, Any]]:
        for row, name in _names(data, split, findings.rows_right(*is_right).tolist()):
            classes = {column: _classes(values[row], labels) for column, values in columns.items()}
            yield {"image": row, "name": name, **classes}

    return {"only_A": list(rows(True, False)), "only_B": list(rows(False, True))}


def _names(data: "ImageData", split: str, rows: Sequence[int]) -> Iterator[tuple[int, str]]:
    """Yield names of images: file and folder (not the whole path), or the row in the split."""
    from datasets import Image

    stored = data.splits[split].cast_column(IMAGE, Image(decode=False))
    for row in rows:
        yield row, "/".join(Path(row_name(stored[row][IMAGE], row, split)).parts[-2:])


def _classes(decision: Any, labels: Sequence[str]) -> list[str]:
    """Return the names of the decided class, or of several classes."""
    indices = [int(decision)] if np.ndim(decision) == 0 else np.flatnonzero(decision).tolist()
    return [labels[index] for index in indices]
