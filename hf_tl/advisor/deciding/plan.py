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
    climb = plan_climb(decision)
    settings = _match_climb(decision.settings, climb, data)
    return Plan(settings, settings.build(1, images, family=decision.backbone.family), climb)


def plan_climb(decision: "Decision") -> dict[str, Any]:
    """Choose the stage depths of a climb: from the head to the recommended depth, where it ends.

    Cross-validation on all images of the sample has compared the depths: trials have trained them, or the rule is that
    of the benchmark. A validation split is a tenth of the images, which cannot tell more. The depths between the head
    and the recommended one cost as much again, and overfit a small dataset (with five images per class of digits and of
    Fashion-MNIST, the climb through them ended 3 and 0.3 points lower). If the rule recommends training from scratch,
    it follows the training of all stages, whose accuracy it must exceed significantly.

    Args:
        decision: Recommended strategy.

    Returns:
        Keyword argument `climb` of `StrategyConfig.build`.
    """
    settings = decision.settings
    assert settings is not None
    if settings.strategy == "transfer":
        return {"stages": (), "expected_rung": 1}
    if settings.strategy == "scratch":
        return {"stages": () if decision.is_tried else ("all",), "expected_rung": 2, "ends_from_scratch": True}
    if settings.strategy == "lora":
        return {"stages": ("all",), "expected_rung": 2, "tuning": LoRA()}
    depth = "all" if settings.strategy == "full" else settings.trainable_stages
    return {"stages": (depth - 1 if isinstance(depth, int) else depth,), "expected_rung": 2}


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
