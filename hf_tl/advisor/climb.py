"""From evidence to the rungs of a climb (`--strategy auto`)."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hf_tl.advisor.evidence import BackboneEvidence
    from hf_tl.config import StrategyConfig


def plan_climb(backbone: "BackboneEvidence", settings: "StrategyConfig") -> dict[str, Any]:
    """Choose how deep the rungs go, and which of them the evidence speaks for.

    Where the head is advised, the rungs after it feel their way: the last stage, the later half of the stages,
    everything. Where everything is advised, it is the next rung: those between would cost as much again, and what they
    learn by heart of few images stays (with five images a class of digits and of Fashion-MNIST, the climb by them ended
    3 and 0.3 points below the one without). Where training from scratch is advised, it comes last: it must be surely
    better than what starts from pretrained weights.

    Args:
        backbone: that climbs.
        settings: what is recommended for it.

    Returns:
        `climb` of `StrategyConfig.build`.
    """
    if settings.strategy != "transfer":
        return {"stages": ("all",), "expected_rung": 2, "ends_from_scratch": settings.strategy == "scratch"}
    everything = len(backbone.depths)
    deeper = sorted({1, max(1, everything // 2), everything})
    stages = tuple("all" if depth == everything else depth for depth in deeper)
    return {"stages": stages, "expected_rung": 1}
