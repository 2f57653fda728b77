"""Statements about abstention and prediction sets."""

from hf_tl.abstention.scores import SCORES
from hf_tl.record import AbstentionRecord
from hf_tl.reporting.numbers import decimal, percent, range_of


def abstention_lines(record: AbstentionRecord | None) -> dict[str, str]:
    """Return titled sentences about when a model abstains and what its prediction sets hold; empty if neither is known.

    The keys are `Abstention`, and where images were measured `Accepted` and `Prediction sets`.
    """
    if record is None:
        return {}
    lines = {
        "Abstention": (
            f"{SCORES[record.score].title}, threshold {decimal(record.threshold)}: {percent(record.accept)} of "
            f"{record.validation_images:,} validation images are accepted; separates them from scrambled copies with "
            f"an AUROC of {decimal(record.separation[record.score])}"
        )
    }
    if (measured := record.measured) is not None:
        images = f"{measured.images:,} {measured.split} images"
        accepted, covered = (
            f"(95% CI {range_of(interval, is_percentage=True)})"
            for interval in (measured.accepted_interval, measured.covered_interval)
        )
        lines["Accepted"] = f"{percent(measured.accepted)} of {images} {accepted}"
        lines["Prediction sets"] = (
            f"hold the class of {percent(measured.covered)} of {images} {covered}, with {measured.set_size:.2f} "
            f"classes in the mean; wanted for each class: {percent(record.coverage)}; least: "
            f"{measured.covered_least_label} {percent(measured.covered_least)}"
        )
    return lines
