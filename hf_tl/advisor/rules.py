"""The rules that turn evidence into a strategy: a table over the size of the data and its similarity.

| images a class | similar to the pretraining                 | different                              |
|----------------|--------------------------------------------|----------------------------------------|
| few            | train the head                             | tune from the stage that serves best on |
| more           | tune the later half of the stages          | tune everything                        |
| very many      | tune the later half of the stages          | tune everything; very different: from scratch |

It is the rule of thumb of the field (Stanford's CS231n, https://cs231n.github.io/transfer-learning; Yosinski et al.
2014, https://arxiv.org/abs/1411.1792), with sizes and similarity measured. Pretrained weights are given up only where
they are worth nothing and there are images enough to do without (He et al. 2019, https://arxiv.org/abs/1811.08883:
10,000 images are, 1,000 are not).
"""

import math
from dataclasses import dataclass

from hf_tl.advisor.evidence import BackboneEvidence
from hf_tl.config import StrategyConfig, StrategyName

ENOUGH, VERY_MANY = 100, 1_000
"""Images a class from which on stages of the backbone can be tuned, and trained from scratch. Measured with an
EfficientNet-Lite0 on photos of clothes: with 5, 20 and 60 images a class, tuning two stages added nothing to the head,
and tuning everything 3.0, 3.7 and 1.3 points of 372 test photos, in more than ten times the time; with about 220 (the
median of 3,068 photos in 10 classes) two stages added six points and everything eight."""
SIMILAR, NOT_AT_ALL = 0.3, 0.1
"""Similarity from which on data are similar, and below which pretraining is worth nothing: between the clothes' 0.58
and the digits' 0.04. A benchmark over more data sets would place them better."""


@dataclass(frozen=True)
class Rule:
    """A region of the plane of size and similarity, and what to do there."""

    name: str
    images: tuple[float, float]
    """A class; the first included, the last not."""
    similarity: tuple[float, float]
    """The first included, the last not."""
    strategy: StrategyName
    advice: str
    """For the figure."""
    why: str
    """A sentence for a newcomer."""

    def holds(self, images: float, similarity: float) -> bool:
        """Whether data of so many images a class and this similarity lie in the region."""
        return self.images[0] <= images < self.images[1] and self.similarity[0] <= similarity < self.similarity[1]

    def settings(self, backbone: BackboneEvidence) -> StrategyConfig:
        """Choose how many stages train."""
        if self.strategy != "finetune":
            return StrategyConfig(strategy=self.strategy)
        stages = len(backbone.depths)
        tuned = math.ceil(stages / 2) if self.similarity[0] >= SIMILAR else max(1, backbone.stages_after_best)
        return StrategyConfig(strategy="finetune", trainable_stages=1 + tuned)


UNLIKE = (
    "What the network knows fits them little, and there are images enough to change all of it, starting from the "
    "pretrained weights"
)
RULES = (
    Rule(
        "few images, similar",
        (0, ENOUGH),
        (SIMILAR, math.inf),
        "transfer",
        "train the head",
        "With so few images a class, training more than the head easily learns them by heart (overfitting), and what "
        "it may add is small and uncertain",
    ),
    Rule(
        "few images, different",
        (0, ENOUGH),
        (-math.inf, SIMILAR),
        "finetune",
        "tune from the best stage on",
        "What the last stages know is of other images, so they are tuned too, and the early ones stay as they are, "
        "since there are few images a class to learn from",
    ),
    Rule(
        "many images, similar",
        (ENOUGH, math.inf),
        (SIMILAR, math.inf),
        "finetune",
        "tune the later stages",
        "There are images enough to fit the later stages to them as well, after the head",
    ),
    Rule(
        "many images, different",
        (ENOUGH, math.inf),
        (NOT_AT_ALL, SIMILAR),
        "full",
        "tune everything",
        UNLIKE,
    ),
    Rule(
        "many images, very different",
        (ENOUGH, VERY_MANY),
        (-math.inf, NOT_AT_ALL),
        "full",
        "tune everything",
        UNLIKE,
    ),
    Rule(
        "very many images, very different",
        (VERY_MANY, math.inf),
        (-math.inf, NOT_AT_ALL),
        "scratch",
        "train from scratch",
        "What the network knows is worth no more than chance here, and there are images enough to do without it",
    ),
)
"""They cover the plane, and no two of them overlap."""


def find_rule(images: float, similarity: float) -> Rule:
    """Find the rule for data of so many images a class and this similarity."""
    return next(rule for rule in RULES if rule.holds(images, similarity))
