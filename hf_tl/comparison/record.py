"""Comparison as plain values: the content of `comparison.json`, from which report and figure are made."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_tl.comparison.contenders import Contender
from hf_tl.comparison.findings import SIGNIFICANT, Findings
from hf_tl.data.columns import IMAGE
from hf_tl.data.fingerprint import row_name
from hf_tl.data.learned import Leakage
from hf_tl.evaluation.intervals import Interval
from hf_tl.evaluation.measure import Predictions
from hf_tl.evaluation.metrics import MULTI_LABEL, ProblemType
from hf_tl.evaluation.paired import Difference
from hf_tl.reporting.numbers import chance_of, points

if TYPE_CHECKING:
    from hf_tl.data.datasets import ImageData

SCHEMA_VERSION = 1


def build_record(
    pair: Sequence[Contender],
    speeds: Sequence[float],
    data: "ImageData",
    leakage: Leakage,
    said: Sequence[Predictions],
    findings: Findings,
) -> dict[str, Any]:
    """Build the record of a comparison: a dictionary of plain values, without paths.

    Args:
        pair: The two models.
        speeds: Throughput of each model in images per second.
        data: Images.
        leakage: Leakage of the evaluated split.
        said: Predictions of each model, in the class order of the first.
        findings: Comparison of the predictions.
    """
    labels, problem, split = pair[0].labels, pair[0].problem, leakage.split
    return {
        "schema_version": SCHEMA_VERSION,
        "conclusion": conclude(findings, problem),
        "models": {
            one.letter: {**one.describe(), "images_per_second": round(speed, 1)}
            for one, speed in zip(pair, speeds, strict=True)
        },
        "data": {
            "name": data.name,
            "revision": data.revision,
            "fingerprint": data.fingerprint,
            "split": split,
            "images": len(findings.is_same),
            "classes": len(findings.classes),
            "leakage": leakage.to_record(),
        },
        "problem_type": problem.name,
        **_results(findings),
        **_parted(findings, problem, data, split, labels, said),
    }


def conclude(findings: Findings, problem: ProblemType) -> str:
    """Return the conclusion in one sentence."""
    found = findings.metrics.values()
    if findings.is_same.all() and not any(one.value for one in found):
        return "A and B say the same of all images."
    names = {figure.key: figure.name for figure in problem.figures}
    units = [f"points of {names[key]}" if problem is MULTI_LABEL else "points" for key in findings.metrics]
    told = "; ".join(_tell(*pair) for pair in zip(found, units, strict=True))
    if any(one.p_value < SIGNIFICANT for one in found):
        return f"{told}."
    return f"{told}: these images do not tell which is better."


def _tell(found: Difference, unit: str) -> str:
    better, sign = ("B", 1) if found.value > 0 else ("A", -1)
    bounds = sorted(sign * bound for bound in found.interval or ())
    reach = [" to ".join(points(bound).removeprefix("+") for bound in bounds)] if bounds else []
    told = f"{points(abs(found.value)).removeprefix('+')} {unit} ({', '.join([*reach, chance_of(found.p_value)])})"
    if found.p_value < SIGNIFICANT:
        return f"{better} is better by {told}, which is hardly chance"
    is_level = points(found.value) == points(0)
    return f"A and B are level, {told}" if is_level else f"{better} is ahead by {told}, which may be chance"


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
        "metrics": {name: _difference(found) for name, found in findings.metrics.items()},
        "agreement": float(findings.is_same.mean()),
        "right": counts,
        "classes": [
            {
                "label": one.label,
                "images": one.images,
                **({} if one.difference is None else _difference(one.difference)),
                "corrected_p_value": one.p_value,
                "is_significant": one.is_significant,
            }
            for one in findings.classes
        ],
    }


def _difference(found: Difference) -> dict[str, Any]:
    def listed(interval: Interval | None) -> list[float] | None:
        return None if interval is None else list(interval)

    return {
        "A": found.first,
        "A_interval": listed(found.first_interval),
        "B": found.second,
        "B_interval": listed(found.second_interval),
        "difference": found.value,
        "interval": listed(found.interval),
        "p_value": found.p_value,
    }


def _parted(
    findings: Findings,
    problem: ProblemType,
    data: "ImageData",
    split: str,
    labels: list[str],
    said: Sequence[Predictions],
) -> dict[str, list[dict[str, Any]]]:
    """List the images that only one model is right on, with the predictions of both."""
    told = [said[0].labels.astype(np.int64), *(problem.decide(one.logits) for one in said)]

    def rows(*is_right: bool) -> Iterator[dict[str, Any]]:
        for row, name in _names(data, split, findings.rows_right(*is_right).tolist()):
            classes = {who: _classes(one[row], labels) for who, one in zip(("true", "A", "B"), told, strict=True)}
            yield {"image": row, "name": name, **classes}

    return {"only_A": list(rows(True, False)), "only_B": list(rows(False, True))}


def _names(data: "ImageData", split: str, rows: Sequence[int]) -> Iterator[tuple[int, str]]:
    """Yield names of images: file and folder (not the whole path), or the row in the split."""
    from datasets import Image

    stored = data.splits[split].cast_column(IMAGE, Image(decode=False))
    for row in rows:
        yield row, "/".join(Path(row_name(stored[row][IMAGE], row, split)).parts[-2:])


def _classes(said: Any, labels: list[str]) -> list[str]:
    """Return the names of the predicted class or classes."""
    indices = [int(said)] if np.ndim(said) == 0 else np.flatnonzero(said).tolist()
    return [labels[index] for index in indices]
