"""Decision between backbones and strategies, with its reason in two sentences."""

from collections.abc import Sequence
from dataclasses import dataclass

from hf_tl.advisor.measuring.evidence import SIGNIFICANT, BackboneEvidence
from hf_tl.advisor.measuring.probes import Probe
from hf_tl.advisor.deciding.rules import NOT_AT_ALL, SIMILAR, find_rule
from hf_tl.config import StrategyConfig
from hf_tl.evaluation.paired import difference_p_value
from hf_tl.head.head_solver import FOLDS

SOLVED, SOLVED_AT_LEAST = 0.99, 0.97
"""Accuracy of a head, and lower end of its interval, at which deeper training cannot gain much."""
NOTHING = 0.15
"""Accuracy above chance. Below it with 95% confidence, nothing can be learned; otherwise the sample is too small to
decide."""


@dataclass(frozen=True)
class Decision:
    """Recommended action and its reason."""

    name: str
    """Name of the rule."""
    backbone: BackboneEvidence
    """Recommended backbone; the best one where no training is recommended."""
    settings: StrategyConfig | None
    """Recommended strategy; None where no training is recommended."""
    advice: str
    reason: str
    """Reason in two sentences."""


def decide(backbones: Sequence[BackboneEvidence], images: float) -> Decision:
    """Choose a backbone and a strategy.

    Args:
        backbones: Evidence of each measured backbone, at least one.
        images: Median number of training images per class.
    """
    p_value = len(backbones) * min(backbone.p_value for backbone in backbones)
    if p_value >= SIGNIFICANT:
        return _no_training(min(backbones, key=lambda backbone: backbone.p_value))
    backbone = choose_backbone(backbones)
    accuracy = backbone.head.linear.accuracy
    learned = round(accuracy.images * (1 - 1 / FOLDS))
    found = (
        f"A head alone, on what {backbone.name} already knows, gets {accuracy} of the images right when it learns from "
        f"{learned:,}"
    )
    if accuracy.value >= SOLVED and accuracy.interval[0] >= SOLVED_AT_LEAST:
        reason = f"{found}. There is next to nothing left to gain by training more than that."
        return Decision("a head is enough", backbone, StrategyConfig(strategy="transfer"), "train the head", reason)
    rule = find_rule(images, backbone.similarity.value)
    reason = f"{found}, and {_describe_similarity(backbone)}. {rule.why}."
    return Decision(rule.name, backbone, rule.settings, rule.advice, reason)


def ranking(backbones: Sequence[BackboneEvidence]) -> list[BackboneEvidence]:
    """Sort the backbones by the linear probe accuracy of their best depth, highest first."""
    return sorted(backbones, key=lambda backbone: -backbone.best.linear.accuracy.value)


def choose_backbone(backbones: Sequence[BackboneEvidence]) -> BackboneEvidence:
    """Return the smallest of the leading backbones."""
    return min(leading(backbones), key=lambda backbone: backbone.parameters)


def leading(backbones: Sequence[BackboneEvidence]) -> list[BackboneEvidence]:
    """Return the backbones whose best depth does not differ significantly from that of the first one."""
    leader = ranking(backbones)[0]
    level = SIGNIFICANT / max(1, len(backbones) - 1)
    return [one for one in backbones if _difference(leader, one) >= level]


def _difference(first: BackboneEvidence, second: BackboneEvidence) -> float:
    return difference_p_value(first.best.linear.is_right, second.best.linear.is_right)


def _no_training(backbone: BackboneEvidence) -> Decision:
    probe: Probe = min((depth.linear for depth in backbone.depths), key=lambda probe: probe.p_value)
    accuracy = probe.accuracy
    found = (
        f"The best that a classifier on the features of {backbone.name} gets right is {accuracy} of {accuracy.images} "
        f"images, and guessing gets {probe.chance:.1%}"
    )
    if accuracy.interval[1] - probe.chance < NOTHING:
        reason = (
            f"{found}: nothing can be learned here, the labels do not follow from the images. Look at the labels "
            "before any training; they may be shuffled, or tell of something that the images do not show."
        )
        return Decision("nothing can be learned", backbone, None, "no training", reason)
    reason = f"{found}, which may be chance. Whether anything can be learned cannot be said from so few: add images."
    return Decision("too few images to tell", backbone, None, "no training yet", reason)


def _describe_similarity(backbone: BackboneEvidence) -> str:
    similarity = backbone.similarity
    removed = f"its pretraining removes {similarity.value:.0%} of the errors that random weights make"
    if similarity.value >= SIMILAR:
        return f"{removed}: these images are like those that it learned from"
    if similarity.value >= NOT_AT_ALL:
        return f"{removed}: these images are rather unlike those that it learned from"
    return f"{removed}: these images are nothing like those that it learned from"
