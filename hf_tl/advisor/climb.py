"""From evidence to the rungs of a climb (`--strategy auto`)."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hf_tl.advisor.evidence import BackboneEvidence
    from hf_tl.config import StrategyConfig


def plan_climb(backbone: "BackboneEvidence", settings: "StrategyConfig") -> dict[str, Any]:
    """Choose how deep the rungs go, and which of them the evidence speaks for.

    The rungs after the head's: the last stage; the later half of the stages; everything.

    Args:
        backbone: that climbs.
        settings: what is recommended for it, from pretrained weights.

    Returns:
        `stages` and `expected_rung` of `Strategy.auto`.
    """
    everything = len(backbone.depths)
    deeper = sorted({1, max(1, everything // 2), everything})
    stages = tuple("all" if depth == everything else depth for depth in deeper)
    return {"stages": stages, "expected_rung": 1 if settings.strategy == "transfer" else 1 + len(stages)}
