"""The rules that turn evidence into a strategy: a table over the size of the data and its similarity.

| images a class | similar to the pretraining                 | different                              |
|----------------|--------------------------------------------|----------------------------------------|
| few            | train the head                             | tune everything                        |
| more           | tune everything                            | tune everything                        |
| very many      | tune everything                            | tune everything; very different: from scratch |

Tuning only the later stages, as the rule of thumb has it between the two, was nowhere better than both by more than
noise in `scripts/benchmark_advisor.py`: rates that fall towards the early stages, and kept statistics, hold those in
place too. Else it is the rule of thumb of the field (Stanford's CS231n, https://cs231n.github.io/transfer-learning;
Yosinski et al. 2014, https://arxiv.org/abs/1411.1792), with sizes and similarity measured. Pretrained weights are given
up only where they are worth nothing and there are images enough to do without (He et al. 2019,
https://arxiv.org/abs/1811.08883: 10,000 images are, 1,000 are not).
"""

import math
from dataclasses import dataclass

from hf_tl.config import StrategyConfig, StrategyName

ENOUGH, VERY_MANY = 15, 1_000
"""Images a class from which on it pays to tune everything for similar data, and to train very different ones from
scratch. With 5 photos of clothes a class, all strategies were within three points, which is noise, and the head took
1 s in place of 38; with 20, tuning everything was five points better (`scripts/benchmark_advisor.py`). The second is of
He et al."""
SIMILAR, NOT_AT_ALL = 0.4, 0.1
"""Similarity from which on data are similar, and below which pretraining is worth nothing. The first lies between
Fashion-MNIST (0.06 to 0.38 with 5 to 100 images a class) and the clothes (0.42 to 0.58)."""


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

    @property
    def settings(self) -> StrategyConfig:
        """What to train by."""
        return StrategyConfig(strategy=self.strategy)


UNLIKE = (
    "What the network knows fits them little, so all of it is changed, more slowly than the head, starting from the "
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
        "many images, similar",
        (ENOUGH, math.inf),
        (SIMILAR, math.inf),
        "full",
        "tune everything",
        "There are images enough to fit all stages to them, starting from pretrained weights that know much of them",
    ),
    Rule("different", (0, VERY_MANY), (-math.inf, SIMILAR), "full", "tune everything", UNLIKE),
    Rule(
        "very many images, different", (VERY_MANY, math.inf), (NOT_AT_ALL, SIMILAR), "full", "tune everything", UNLIKE
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
