"""From evidence to the rungs of a climb (`--strategy auto`)."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hf_tl.advisor.evidence import BackboneEvidence
    from hf_tl.config import StrategyConfig


def plan_climb(backbone: "BackboneEvidence", settings: "StrategyConfig") -> dict[str, Any]:
    """Choose how deep the rungs go, and which of them the evidence speaks for.

    Where the head is advised, the rungs after it feel their way: the last stage, the later half of the stages,
    everything. Where everything is advised, it is the next rung, and with a new head, as in `full`: with the trained
    head (LP-FT) it ended 1 to 4 points lower in five of nine cells of `scripts/benchmark_advisor.py` with 20 images a
    class or more, since a head that fits already leaves the stages before it little to learn, and a point higher in
    one. Rungs between cost as much again, and what they learn by heart of few images stays. Where training from scratch
    is advised, it comes last: it must be surely better than what starts from pretrained weights.

    Args:
        backbone: that climbs.
        settings: what is recommended for it.

    Returns:
        `climb` of `StrategyConfig.build`.
    """
    if settings.strategy != "transfer":
        last = ("full", "scratch") if settings.strategy == "scratch" else ("full",)
        return {"stages": (), "last": last, "expected_rung": 2}
    everything = len(backbone.depths)
    deeper = sorted({1, max(1, everything // 2), everything})
    stages = tuple("all" if depth == everything else depth for depth in deeper)
    return {"stages": stages, "expected_rung": 1}
