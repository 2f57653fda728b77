"""Plan of the recommended training: its strategy, and the stage depths of `--strategy auto`."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from hf_tl.config import StrategyConfig
from hf_tl.strategy import Strategy
from hf_tl.training.refit import is_given_back
from hf_tl.tuning import LoRA

if TYPE_CHECKING:
    from hf_tl.advisor.deciding.decision import Decision
    from hf_tl.advisor.measuring.evidence import BackboneEvidence
    from hf_tl.data.datasets import ImageData


@dataclass(frozen=True)
class Plan:
    """Recommended training."""

    settings: StrategyConfig
    """Flags of the strategy."""
    strategy: Strategy
    """Strategy with its phases."""
    climb: Mapping[str, Any]
    """Stage depths that `--strategy auto` searches, see `plan_climb`."""


def plan_training(decision: "Decision", data: "ImageData") -> Plan | None:
    """Plan the training that a decision recommends; None if it recommends none."""
    if decision.settings is None:
        return None
    images = len(data.splits["train"])
    climb = plan_climb(decision.backbone, decision.settings)
    settings = _match_climb(decision.settings, climb, data)
    return Plan(settings, settings.build(1, images, family=decision.backbone.family), climb)


def plan_climb(backbone: "BackboneEvidence", settings: StrategyConfig) -> dict[str, Any]:
    """Choose the stage depths of a climb and the depth that the evidence favors.

    If training the head is recommended, the climb continues with the last stage, the later half of the stages, and all
    stages. If another strategy is recommended, its depth follows the head directly. The depths between cost as
    much again, and overfit a small dataset (with five images per class of digits and of Fashion-MNIST, the climb
    through them ended 3 and 0.3 points lower). If training from scratch is recommended, it comes last: its accuracy
    must exceed that of the pretrained weights significantly.

    Args:
        backbone: Evidence of the recommended backbone.
        settings: Recommended strategy.

    Returns:
        Keyword argument `climb` of `StrategyConfig.build`.
    """
    everything = len(backbone.depths)
    if settings.strategy in ("full", "scratch"):
        return {"stages": ("all",), "expected_rung": 2, "ends_from_scratch": settings.strategy == "scratch"}
    if settings.strategy == "lora":
        return {"stages": ("all",), "expected_rung": 2, "tuning": LoRA()}
    if settings.strategy == "finetune":
        assert isinstance(settings.trainable_stages, int)
        return {"stages": (settings.trainable_stages - 1, "all"), "expected_rung": 2}
    deeper = sorted({1, max(1, everything // 2), everything})
    stages = tuple("all" if depth == everything else depth for depth in deeper)
    return {"stages": stages, "expected_rung": 1}


def _match_climb(settings: StrategyConfig, stage_depths: Mapping[str, Any], data: "ImageData") -> StrategyConfig:
    """Return the settings that match the end of a climb to this strategy: its epochs, and its refit on all images."""
    climb = StrategyConfig(strategy="auto").build(images=len(data.splits["train"]), climb=stage_depths)
    if not climb.refit:
        return settings
    settings = replace(settings, refit=is_given_back(data) or None)
    if settings.strategy != "full":  # a head is trained as in the first phase, and random weights as in the last
        return settings
    assert climb.expected_rung is not None
    [phase] = climb.done(climb.expected_rung).at_once().phases
    return replace(settings, num_train_epochs=phase.epochs)
