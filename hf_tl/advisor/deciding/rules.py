"""Rules that map the size of the data and their similarity to the pretraining data to a strategy.

| images/class   | similar to the pretraining data | different                                          |
|----------------|---------------------------------|----------------------------------------------------|
| below 15       | train the head                  | fine-tune all stages                               |
| 15 to 1,000    | fine-tune all stages            | fine-tune all stages                               |
| above 1,000    | fine-tune all stages            | fine-tune all stages; very different: from scratch |

These are the field's rules of thumb (Stanford's CS231n, https://cs231n.github.io/transfer-learning; Yosinski et al.
2014, https://arxiv.org/abs/1411.1792), with measured size and similarity, and one exception. Fine-tuning the later
stages alone was nowhere significantly better than both alternatives in `scripts/benchmark_advisor.py`: learning rates
that fall towards the early stages, and frozen batch statistics, protect the early stages too. Training from scratch is
recommended only where pretraining does not help and there are enough images (He et al. 2019,
https://arxiv.org/abs/1811.08883: 10,000 images are enough, 1,000 are not).
"""

import math
from dataclasses import dataclass

from hf_tl.config import StrategyConfig, StrategyName

ENOUGH, VERY_MANY = 15, 1_000
"""Images per class from which on to fine-tune all stages on similar data, and to train from scratch on very different
data. With 5 photos of clothes per class, all strategies were within three points, which is noise, and the head took 1 s
instead of 38 s. With 20, fine-tuning all stages was five points better (`scripts/benchmark_advisor.py`). The second
number is from He et al."""
SIMILAR, NOT_AT_ALL = 0.4, 0.1
"""Similarity from which on data are similar, and below which pretraining does not help. The first lies between
Fashion-MNIST (0.06 to 0.38 with 5 to 100 images per class) and the clothes (0.42 to 0.58)."""


@dataclass(frozen=True)
class Rule:
    """Region in the plane of size and similarity, with the strategy for it."""

    name: str
    images: tuple[float, float]
    """Images per class; the first number included, the second not."""
    similarity: tuple[float, float]
    """Similarity; the first number included, the second not."""
    strategy: StrategyName
    advice: str
    """Label in the figure."""
    why: str
    """Explanation in a sentence for newcomers."""

    def holds(self, images: float, similarity: float) -> bool:
        """Return whether (images per class, similarity) lies in this region."""
        return self.images[0] <= images < self.images[1] and self.similarity[0] <= similarity < self.similarity[1]

    @property
    def settings(self) -> StrategyConfig:
        """Return the recommended strategy."""
        return StrategyConfig(strategy=self.strategy)


UNLIKE = (
    "The pretrained features suit these images little, so all stages are fine-tuned from the pretrained weights, at "
    "lower learning rates than the head"
)
RULES = (
    Rule(
        "few images, similar",
        (0, ENOUGH),
        (SIMILAR, math.inf),
        "transfer",
        "train the head",
        "With so few images per class, training more than the head easily overfits, and its gain is small and "
        "uncertain",
    ),
    Rule(
        "many images, similar",
        (ENOUGH, math.inf),
        (SIMILAR, math.inf),
        "full",
        "fine-tune all stages",
        "There are enough images to fine-tune all stages, from pretrained weights that suit them",
    ),
    Rule("different", (0, VERY_MANY), (-math.inf, SIMILAR), "full", "fine-tune all stages", UNLIKE),
    Rule(
        "very many images, different",
        (VERY_MANY, math.inf),
        (NOT_AT_ALL, SIMILAR),
        "full",
        "fine-tune all stages",
        UNLIKE,
    ),
    Rule(
        "very many images, very different",
        (VERY_MANY, math.inf),
        (-math.inf, NOT_AT_ALL),
        "scratch",
        "train from scratch",
        "The pretrained features are no better than those of random weights, and there are enough images to train "
        "without pretraining",
    ),
)
"""Rules in order; their regions cover the plane and do not overlap."""


def find_rule(images: float, similarity: float) -> Rule:
    """Return the rule for a number of images per class and a similarity."""
    return next(rule for rule in RULES if rule.holds(images, similarity))
