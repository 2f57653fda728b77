"""Recommendation as text for the terminal."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from hf_tl.advisor.deciding.decision import leading, ranking
from hf_tl.advisor.measuring.evidence import SIGNIFICANT, BackboneEvidence
from hf_tl.advisor.measuring.probes import Accuracy
from hf_tl.advisor.measuring.series import describe_series
from hf_tl.advisor.trials.results import describe_trials
from hf_tl.reporting.numbers import chance_of, percent, with_interval

if TYPE_CHECKING:
    from hf_tl.advisor.recommendation import Recommendation
    from hf_tl.strategy import Phase

INDENT = " " * 10


def describe(recommendation: "Recommendation") -> str:
    """Format the evidence, the recommendation and its reason."""
    return "\n".join(_lines(recommendation))


def facts_of(recommendation: "Recommendation") -> Iterator[tuple[str, str]]:
    """Yield the data, the advice with the accuracy of its evidence, the reason, the cost and the next step."""
    data = recommendation.data
    yield "Data", f"{data['name']}: {data['training_images']:,} training images, {len(data['classes'])} classes"
    yield "Advice", recommendation.advice + (f": {recommendation.backbone}" if recommendation.backbone else "")
    if (best := _chosen(recommendation)) is not None:
        accuracy = best.best.linear.accuracy
        yield "Evidence", f"accuracy of the linear probe {accuracy}, {accuracy.images:,} images"
    yield "Reason", recommendation.reason
    if recommendation.expected is not None:
        yield "Expect", str(recommendation.expected)
    if recommendation.cost is not None:
        yield "Cost", str(recommendation.cost)
    if recommendation.backbone is not None:
        yield "Next", "hf_tl.train(recommendation.backbone, dataset, recommendation.strategy)"


def candidate_records(recommendation: "Recommendation") -> Iterator[dict[str, Any]]:
    """Yield the measurements of each candidate by name, best first, then the reasons of those not measured."""
    for backbone in ranking(recommendation.evidence):
        accuracy, neighbors = backbone.best.linear.accuracy, backbone.best.neighbors.accuracy
        curve = {} if backbone.curve is None else backbone.curve.to_record()
        yield {
            "backbone": backbone.name,
            "is_recommended": backbone.name == recommendation.backbone,
            "parameters": backbone.parameters,
            "image_size": backbone.input_size[-1],
            "best_stage": backbone.best.stage,
            "accuracy": accuracy.value,
            "low": accuracy.interval[0],
            "high": accuracy.interval[1],
            "neighbors": neighbors.value,
            "neighbors_low": neighbors.interval[0],
            "neighbors_high": neighbors.interval[1],
            "logme": backbone.best.logme,
            "similarity": backbone.similarity.value,
            "similarity_low": backbone.similarity.interval[0],
            "similarity_high": backbone.similarity.interval[1],
            **{f"curve_{name}": curve.get(name) for name in ("sizes", "errors", "intervals")},
            "error": None,
        }
    for name, reason in recommendation.unavailable.items():
        yield {"backbone": name, "is_recommended": False, "error": reason}


def _chosen(recommendation: "Recommendation") -> BackboneEvidence | None:
    named = (each for each in recommendation.evidence if each.name == recommendation.backbone)
    return next(named, recommendation.evidence[0] if recommendation.evidence else None)


def _lines(recommendation: "Recommendation") -> Iterator[str]:
    data, counts = recommendation.data, recommendation.data["class_counts"]
    trials = recommendation.trials.results
    yield (
        f"Data      {data['name']}: {data['training_images']:,} training images, {len(counts)} classes, "
        f"{min(counts):,} to {max(counts):,} per class; measured on {data['measured_on']:,} of {data['available']:,} "
        "images of train and validation"
    )
    yield from _inspection(recommendation)
    yield from (f"Warning   {warning}" for warning in recommendation.warnings)
    yield from (f"Skipped   {name}: {reason}" for name, reason in recommendation.unavailable.items())
    for backbone in recommendation.evidence:
        yield from _evidence(backbone, data["training_images"])
    if recommendation.backbone is not None and len(recommendation.evidence) > 1:
        yield from _ranking(recommendation.evidence)
    for heading, line in zip(("Trials", *[""] * len(trials)), describe_trials(trials), strict=False):
        yield f"{heading:<10}{line}"
    yield from (f"{INDENT}{name}: not tried, {why}" for name, why in recommendation.trials.refused.items())
    yield f"Advice    {recommendation.advice}" + (f": {recommendation.backbone}" if recommendation.backbone else "")
    if recommendation.strategy is not None:
        phases = "; ".join(f"{_stages(phase)}, {phase.length}" for phase in recommendation.strategy.phases)
        refit = "; then retrain from scratch on train + validation" if recommendation.strategy.refit else ""
        yield f"Strategy  {recommendation.strategy.name}: {phases}{refit}"
    yield f"Reason    {recommendation.reason}"
    if recommendation.expected is not None:
        yield f"Expect    {recommendation.expected}"
    if recommendation.cost is not None:
        yield f"Cost      {recommendation.cost}"
    if recommendation.command is not None:
        yield f"Train     {recommendation.command}"


def _inspection(recommendation: "Recommendation") -> Iterator[str]:
    """Yield the counts of an inspection of the data, or the command that would count."""
    counts, command = recommendation.inspection, recommendation.inspect_command
    if counts is not None:
        shown = "" if command is None else f"; show them: {command}"
        yield f"Inspected {counts.method}: {counts.describe()}{shown}"
    elif command is not None:
        yield f"Inspected not yet; to count copies, data leakage and label errors: {command}"


def _stages(phase: "Phase") -> str:
    match phase.trainable_stages:
        case "all":
            return "all stages"
        case 1:
            return "the head"
        case count:
            return f"the last {count} stages"


def _ranking(backbones: Sequence[BackboneEvidence]) -> Iterator[str]:
    leaders = leading(backbones)
    for place, backbone in enumerate(ranking(backbones), 1):
        is_level = place > 1 and any(backbone is leader for leader in leaders)
        remark = " (difference from the first not significant)" if is_level else ""
        heading = "Ranking" if place == 1 else ""
        yield f"{heading:<10}{place}. {backbone.name}: {backbone.best.linear.accuracy}{remark}"
    if len(leaders) > 1:
        yield f"{INDENT}chosen: the smallest of the {len(leaders)} without a significant difference"


def _evidence(backbone: BackboneEvidence, training_images: int) -> Iterator[str]:
    cached = "; features from the cache of an earlier run" if backbone.reuses_features else ""
    yield f"Backbone  {backbone.name}: {backbone.parameters:,} parameters, {backbone.input_size[-1]} px{cached}"
    yield from _depth_table(backbone)
    similarity = backbone.similarity
    yield (
        f"{INDENT}similarity to the pretraining data {similarity}: accuracy of the linear probe "
        f"{_share(similarity.pretrained)}, with random weights {_share(similarity.untrained)}, of "
        f"{similarity.pretrained.images:,} images"
    )
    if (gap := backbone.gap) is not None:
        yield f"{INDENT}{describe_series(gap.series)}: {gap}"
    if (source := backbone.source) is not None:
        yield (
            f"{INDENT}pretrained head ({source.classes:,} classes): mean confidence {source.confidence:.2f}, "
            f"normalized entropy {source.entropy:.2f}; NCE {source.nce:.2f}, LEEP {source.leep:.2f} (chance: "
            f"{-source.label_entropy:.2f})"
        )
    if (curve := backbone.curve) is not None:
        yield (
            f"{INDENT}error of the last linear probe: {with_interval(curve.errors[0], curve.intervals[0])} with "
            f"{curve.sizes[0]:,} images, {with_interval(curve.errors[-1], curve.intervals[-1], is_titled=True)} with "
            f"{curve.sizes[-1]:,}; extrapolated: {percent(curve.error_at(training_images))} with {training_images:,}, "
            f"{percent(curve.error_at(2 * training_images))} with {2 * training_images:,}"
        )


def _depth_table(backbone: BackboneEvidence) -> Iterator[str]:
    """Yield a line for each depth, with the best linear probe marked."""
    stages = max(len("stage"), *(len(depth.stage) for depth in backbone.depths))
    shares = f"{'linear probe (95% CI)':<22} {'neighbors (95% CI)':<20}"
    yield f"{INDENT}{'stage':<{stages}}  {shares} {'LogME':>8} {'H-score':>8}"
    for depth in backbone.depths:
        probe, neighbors = _share(depth.linear.accuracy), _share(depth.neighbors.accuracy)
        mark = f"  <- {_best_remark(backbone)}" if depth is backbone.best else ""
        yield (
            f"{INDENT}{depth.stage:<{stages}}  {probe:<22} {neighbors:<20} "
            f"{depth.logme:>8.3f} {depth.h_score:>8.2f}{mark}"
        )


def _share(accuracy: Accuracy) -> str:
    """Format an accuracy with its 95% interval."""
    return with_interval(accuracy.value, accuracy.interval, is_titled=True)


def _best_remark(backbone: BackboneEvidence) -> str:
    if backbone.best is backbone.head:
        return "best linear probe"
    p_value = backbone.best_p_value
    significance = "significantly better than the last" if p_value < SIGNIFICANT else "difference not significant"
    return f"best linear probe ({significance}, {chance_of(p_value)})"
