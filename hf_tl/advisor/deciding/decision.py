"""Decision between backbones and strategies, with its reason in two sentences."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from hf_tl.advisor.deciding.rules import NOT_AT_ALL, SIMILAR, find_rule
from hf_tl.advisor.measuring.evidence import SIGNIFICANT, BackboneEvidence
from hf_tl.advisor.measuring.probes import Probe, probe_p_value
from hf_tl.advisor.trials.results import Trial, choose_trial, gain_p_value, next_best, paired_gain
from hf_tl.config import StrategyConfig
from hf_tl.head.head_solver import FOLDS
from hf_tl.reporting.numbers import chance_of, points, with_interval
from hf_tl.strategy_config import Preference

SOLVED_RULE, SOLVED, SOLVED_AT_LEAST = "a head is enough", 0.99, 0.97
"""Name of the rule, accuracy of a head, and lower end of its interval, at which deeper training cannot gain much."""
TRIALS = "trials"
"""Name of the decision by trials."""
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

    @property
    def is_open(self) -> bool:
        """Whether trials may choose another strategy: a training is recommended, and the head is not enough."""
        return self.settings is not None and self.name != SOLVED_RULE

    @property
    def is_tried(self) -> bool:
        """Whether trials have decided."""
        return self.name == TRIALS


def decide(backbones: Sequence[BackboneEvidence], images: float) -> Decision:
    """Choose a backbone and a strategy.

    Args:
        backbones: Evidence of each measured backbone, at least one.
        images: Median number of training images per class.
    """
    p_value = len(backbones) * min(backbone.p_value for backbone in backbones)
    by_random = [backbone.gap.random_p_value for backbone in backbones if backbone.gap and backbone.gap.is_evident]
    if p_value >= SIGNIFICANT and not any(len(backbones) * p_value < SIGNIFICANT for p_value in by_random):
        return _no_training(min(backbones, key=lambda backbone: backbone.p_value))
    backbone = choose_backbone(backbones)
    accuracy = backbone.head.linear.accuracy
    learned = round(accuracy.images * (1 - 1 / FOLDS))
    result = (
        f"A linear classifier on frozen features of {backbone.name}, trained on {learned:,} images, has an accuracy of "
        f"{accuracy}{'' if backbone.gap is None else ' where whole series are held out'}"
    )
    if p_value >= SIGNIFICANT:
        result += ", which may be chance: there are too few series to tell how accurate a model is on others"
    if accuracy.value >= SOLVED and accuracy.interval[0] >= SOLVED_AT_LEAST:
        reason = f"{result}. Training more than the head could gain almost nothing."
        return Decision(SOLVED_RULE, backbone, StrategyConfig(strategy="transfer"), "train the head", reason)
    rule = find_rule(images, backbone.similarity.value)
    reason = f"{result}, and {_describe_similarity(backbone)}. {rule.why}."
    return Decision(rule.name, backbone, rule.settings, rule.advice, reason)


def decide_by_trials(decision: Decision, trials: Sequence[Trial], prefer: Preference) -> Decision:
    """Replace the strategy of a decision by that of the best trial, if there are trials."""
    if not trials:
        return decision
    chosen = choose_trial(trials, prefer)
    other = next_best(trials, chosen)
    gain, p_value = paired_gain(other, chosen)[0], gain_p_value(other, chosen)
    preferred = "shorter" if chosen.seconds < other.seconds else "longer"
    held_out = "held-out images" if decision.backbone.gap is None else "held-out series"
    reason = (
        f"Trained in cross-validation on {decision.backbone.name}: {chosen.advice}, {chosen.accuracy} on {held_out}; "
        f"{other.advice}, {other.accuracy}. The difference is {points(gain)} points ({chance_of(p_value)})"
        f"{'' if gain >= 0 else f', and the {preferred} training was preferred'}."
    )
    return replace(decision, name=TRIALS, settings=chosen.settings, advice=chosen.advice, reason=reason)


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
    return [backbone for backbone in backbones if probe_p_value(leader.best.linear, backbone.best.linear) >= level]


def _no_training(backbone: BackboneEvidence) -> Decision:
    probe: Probe = min((depth.linear for depth in backbone.depths), key=lambda probe: probe.p_value)
    accuracy = probe.accuracy
    result = (
        f"The best linear classifier on frozen features of {backbone.name} has an accuracy of {accuracy} on "
        f"{accuracy.images:,} images, with {probe.chance:.1%} by chance"
    )
    if accuracy.interval[1] - probe.chance < NOTHING:
        reason = (
            f"{result}: nothing can be learned, because the labels do not depend on the images. Check the labels "
            "before training: they may be shuffled, or describe something that the images do not show."
        )
        return Decision("nothing can be learned", backbone, None, "no training", reason)
    reason = (
        f"{result}: the difference is not significant. The images are too few to decide whether the labels can be "
        "learned: add images."
    )
    return Decision("too few images to tell", backbone, None, "no training yet", reason)


def _describe_similarity(backbone: BackboneEvidence) -> str:
    similarity = backbone.similarity
    share = with_interval(similarity.value, similarity.interval)
    removed = f"pretraining removes {share} of the errors of random weights"
    if similarity.value >= SIMILAR:
        return f"{removed}: the images are similar to the pretraining data"
    if similarity.value >= NOT_AT_ALL:
        return f"{removed}: the images differ from the pretraining data"
    return f"{removed}: the images are very different from the pretraining data"
