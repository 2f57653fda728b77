"""Recommendation as text for the terminal."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from hf_tl.advisor.deciding.decision import leading, ranking
from hf_tl.advisor.measuring.evidence import BackboneEvidence

if TYPE_CHECKING:
    from hf_tl.advisor.recommend import Recommendation

INDENT = " " * 10


def describe(found: "Recommendation") -> str:
    """Format the evidence, the recommendation and its reason."""
    return "\n".join(_lines(found))


def _lines(found: "Recommendation") -> Iterator[str]:
    data, counts = found.data, found.data["class_counts"]
    yield (
        f"Data      {data['name']}: {data['training_images']:,} training images in {len(counts)} classes, "
        f"{min(counts):,} to {max(counts):,} a class; measured on {data['measured_on']:,} of train and validation"
    )
    yield from (f"Warning   {warning}" for warning in found.warnings)
    yield from (f"Missing   {name}: {reason}" for name, reason in found.unavailable.items())
    for backbone in found.evidence:
        yield from _evidence(backbone, data["training_images"])
    if found.backbone is not None and len(found.evidence) > 1:
        yield from _ranking(found.evidence)
    yield f"Advice    {found.advice}" + (f": {found.backbone}" if found.backbone else "")
    if found.strategy is not None:
        phases = "; ".join(f"{_stages(phase.trainable_stages)}, {phase.length}" for phase in found.strategy.phases)
        again = "; then from the start on the validation images too" if found.strategy.refit else ""
        yield f"Strategy  {found.strategy.name}: {phases}{again}"
    yield f"Reason    {found.reason}"
    if found.cost is not None:
        yield f"Cost      {found.cost}"
    if found.command is not None:
        yield f"Train     {found.command}"


def _stages(trainable: object) -> str:
    return {"all": "all stages", 1: "the head"}.get(trainable, f"the last {trainable} stages")  # type: ignore[call-overload]


def _ranking(backbones: Sequence[BackboneEvidence]) -> Iterator[str]:
    leaders = leading(backbones)
    for place, backbone in enumerate(ranking(backbones), 1):
        remark = ", within chance of the first" if place > 1 and any(backbone is one for one in leaders) else ""
        heading = "Ranking" if place == 1 else ""
        yield f"{heading:<10}{place}. {backbone.name}: {backbone.best.linear.accuracy.value:.1%}{remark}"
    if len(leaders) > 1:
        yield f"{INDENT}the smallest of the {len(leaders)} that are within chance is taken"


def _evidence(backbone: BackboneEvidence, training_images: int) -> Iterator[str]:
    width = max(5, *(len(depth.stage) for depth in backbone.depths))
    side = backbone.input_size[-1]
    yield f"Backbone  {backbone.name}, {backbone.parameters:,} parameters, {side} px"
    yield f"{INDENT}{'stage':<{width}}  {'linear probe':<24} {'neighbors':>10} {'LogME':>8} {'H-score':>8}"
    for depth in backbone.depths:
        is_early = depth is not backbone.head
        mark = f"  <- serves best{f' (p {backbone.best_p_value:.2g})' * is_early}" if depth is backbone.best else ""
        yield (
            f"{INDENT}{depth.stage:<{width}}  {depth.linear.accuracy!s:<24} {depth.neighbors.accuracy.value:>10.1%} "
            f"{depth.logme:>8.3f} {depth.h_score:>8.2f}{mark}"
        )
    similarity = backbone.similarity
    yield (
        f"{INDENT}similarity {similarity}: on {similarity.pretrained.images} images "
        f"{1 - similarity.pretrained.value:.1%} wrong, with random weights {1 - similarity.untrained.value:.1%}"
    )
    if (source := backbone.source) is not None:
        yield (
            f"{INDENT}source head of {source.classes:,} classes: confidence {source.confidence:.2f}, entropy "
            f"{source.entropy:.2f}, NCE {source.nce:.2f} and LEEP {source.leep:.2f} of {-source.label_entropy:.2f}"
        )
    if (curve := backbone.curve) is not None:
        yield (
            f"{INDENT}a head's error: {curve.errors[0]:.1%} with {curve.sizes[0]:,} images, {curve.errors[-1]:.1%} "
            f"with {curve.sizes[-1]:,}; extrapolated: {curve.error_at(training_images):.1%} with "
            f"{training_images:,}, {curve.error_at(2 * training_images):.1%} with twice as many"
        )
