"""Rows of a card's tables about the choice of the strategy: the advisor's evidence and the tried stage depths."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hf_tl.card.settings import published_name
from hf_tl.evaluation.intervals import share_interval
from hf_tl.evaluation.metrics import PROBLEM_TYPES
from hf_tl.record import RunRecord
from hf_tl.reporting.numbers import NOTHING, duration, p_value, points, with_interval

PUBLISHED = (
    *("schema_version", "backbone", "strategy", "rule", "advice", "reason", "cost"),
    *("data", "evidence", "warnings"),
)
PUBLISHED_LATER = ("trials", "expected")
"""Entries that recommendations before November 2026 lack."""
PUBLISHED_OF_DATA = (
    *("name", "fingerprint", "classes", "training_images", "class_counts", "median_class"),
    *("measured_on", "available", "copies", "conflicts", "notes"),
)
"""Entries of a recommendation that a run's record contains; the other ones contain paths."""


def published_advice(recommendation: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of a recommendation that a run's record contains, with the last name of each path.

    Args:
        recommendation: Result of `Recommendation.to_record()`.

    Raises:
        LookupError, TypeError, ValueError, AttributeError: The record is malformed.
    """
    evidence_rows(recommendation)  # raises if the card cannot show it
    names = {backbone["backbone"]: published_name(backbone["backbone"]) for backbone in recommendation["evidence"]}
    names |= {name: Path(name).name for group in recommendation["data"]["groups_of_copies"] for name in group["names"]}
    entries = {name: recommendation[name] for name in PUBLISHED}
    entries |= {name: recommendation[name] for name in PUBLISHED_LATER if name in recommendation}
    entries["data"] = {name: recommendation["data"][name] for name in PUBLISHED_OF_DATA}
    published: dict[str, Any] = _renamed(entries, sorted(names.items(), key=lambda pair: -len(pair[0])))
    return published


def _renamed(value: Any, names: list[tuple[str, str]]) -> Any:
    """Replace names in all texts of a record, the longest first."""
    if isinstance(value, Mapping):
        return {key: _renamed(item, names) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_renamed(item, names) for item in value]
    if isinstance(value, str):
        for name, new in names:
            value = value.replace(name, new) if name != new else value
    return value


def evidence_rows(recommendation: Mapping[str, Any] | None) -> list[dict[str, str]]:
    """Return the advisor's measurements of each backbone; empty without a recommendation."""
    return [] if recommendation is None else [_evidence_row(backbone) for backbone in recommendation["evidence"]]


def _evidence_row(backbone: Mapping[str, Any]) -> dict[str, str]:
    head, similarity = backbone["depths"][-1], backbone["similarity"]
    return {
        "backbone": backbone["backbone"],
        "parameters": f"{backbone['parameters']:,}",
        "head": _probe(head["linear_probe"]),
        "best": backbone["best_depth"],
        "neighbors": _probe(head["nearest_neighbors"]),
        "logme": f"{head['logme']:.3f}",
        "similarity": "{:.2f} ({:.2f}–{:.2f})".format(similarity["value"], *similarity["interval"]),
    }


def rung_rows(record: RunRecord) -> list[dict[str, Any]]:
    """Return the result of each stage depth that was tried, with that of a head from class names as depth 0."""
    if not record.rungs:
        return []
    trained = [_rung_row(number, rung) for number, rung in enumerate(record.rungs, 1)]
    return [*_zero_shot_row(record, is_kept=not any(rung["is_kept"] for rung in record.rungs)), *trained]


def _zero_shot_row(record: RunRecord, *, is_kept: bool) -> list[dict[str, Any]]:
    result = None if record.text_head is None else record.text_head.zero_shot.get("validation")
    if result is None:
        return []
    share = result.metrics[PROBLEM_TYPES[record.model.problem_type].accuracy]
    blank = dict.fromkeys(("gain", "p_value", "time"), NOTHING)
    return [
        {
            **blank,
            "number": 0,
            "first_stage": None,
            "last_stage": None,
            "from_random_weights": False,
            "parameters": "0",
            "accuracy": with_interval(share, share_interval(share, result.images), is_titled=True),
            "images": f"{result.images:,}",
            "verdict": "kept" if is_kept else "the start",
        }
    ]


def _rung_row(number: int, rung: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "number": number,
        "first_stage": rung["trainable_stages"][0],
        "last_stage": rung["trainable_stages"][-1],
        "from_random_weights": rung.get("from_random_weights", False),
        "parameters": f"{rung['parameters_trained']:,}",
        "accuracy": with_interval(rung["accuracy"], rung["interval"], is_titled=True),
        "images": f"{rung['images']:,}",
        "gain": NOTHING if rung["gain"] is None else points(rung["gain"]),
        "p_value": p_value(rung["p_value"]),
        "time": duration(rung["seconds"]),
        "verdict": f"{'kept' if rung['is_kept'] else 'reverted'}: {rung['why']}",
    }


def _probe(accuracy: Mapping[str, Any]) -> str:
    return with_interval(accuracy["accuracy"], accuracy["interval"], is_titled=True)
