"""From evidence to the rungs of a climb (`--strategy auto`)."""

from typing import TYPE_CHECKING, Any

from hf_tl.advisor.rules import later_half

if TYPE_CHECKING:
    from hf_tl.advisor.evidence import BackboneEvidence
    from hf_tl.config import StrategyConfig


def plan_climb(backbone: "BackboneEvidence", settings: "StrategyConfig") -> dict[str, Any]:
    """Choose how deep the rungs go, and which of them the evidence speaks for.

    The rungs after the head's: the last stage; as deep as is recommended, or else the later half; everything.

    Args:
        backbone: that climbs.
        settings: what is recommended for it, from pretrained weights.

    Returns:
        `stages` and `expected_rung` of `Strategy.auto`.
    """
    everything = len(backbone.depths)
    tuned = {"transfer": 0, "full": everything}.get(settings.strategy, (settings.trainable_stages or 1) - 1)
    between = tuned if 1 < tuned < everything else later_half(everything)
    deeper = sorted({1, between, everything, *([tuned] if tuned else [])})
    stages = tuple("all" if depth == everything else depth for depth in deeper)
    return {"stages": stages, "expected_rung": 1 + (deeper.index(tuned) + 1 if tuned else 0)}
