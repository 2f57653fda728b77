"""Plan of a climb (`--strategy auto`) from the evidence."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hf_tl.advisor.measuring.evidence import BackboneEvidence
    from hf_tl.config import StrategyConfig


def plan_climb(backbone: "BackboneEvidence", settings: "StrategyConfig") -> dict[str, Any]:
    """Choose the stage depths of a climb and the one that the evidence favors.

    If training the head is recommended, the climb continues with the last stage, the later half of the stages, and all
    stages. If fine-tuning all stages is recommended, that depth follows the head directly. The depths between cost as
    much again, and overfit a small dataset (with five images per class of digits and of Fashion-MNIST, the climb
    through them ended 3 and 0.3 points lower). If training from scratch is recommended, it comes last: its accuracy
    must exceed that of the pretrained weights significantly.

    Args:
        backbone: Evidence of the recommended backbone.
        settings: Recommended strategy.

    Returns:
        Keyword argument `climb` of `StrategyConfig.build`.
    """
    if settings.strategy != "transfer":
        return {"stages": ("all",), "expected_rung": 2, "ends_from_scratch": settings.strategy == "scratch"}
    everything = len(backbone.depths)
    deeper = sorted({1, max(1, everything // 2), everything})
    stages = tuple("all" if depth == everything else depth for depth in deeper)
    return {"stages": stages, "expected_rung": 1}
