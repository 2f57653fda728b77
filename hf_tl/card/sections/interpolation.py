"""Sentences about weights between the start and the end of fine-tuning."""

from hf_tl.evaluation.metrics import ProblemType
from hf_tl.record import InterpolationRecord, RunRecord

HEADS = {
    "start": "the starting weights, with the head that they had when fine-tuning began",
    "end": "the starting weights, with the head of the end, because they had no trained head",
}


def interpolation_rule(record: InterpolationRecord) -> str:
    """Return the reason for the coefficient."""
    nearest = "the nearest to 0 that is right on as many validation images as the best, within one standard error"
    rules = {
        "one standard error": nearest,
        "too few images": f"the middle, because {record.images} validation images are too few to choose",
        "chosen": "chosen before training",
        "first training": "selected in the first training",
    }
    return rules[record.rule]


def interpolation_text(record: RunRecord, problem: ProblemType) -> str:
    """Describe the interpolation of the published weights; empty without it."""
    if (result := record.interpolation) is None:
        return ""
    return (
        f"The published weights are interpolated at the coefficient {result.kept:g} "
        f"({interpolation_rule(result)}). Coefficient 0: {HEADS[result.head]}. Coefficient 1: the weights at "
        "the end of training."
    )
