"""Rules that map the size of the data and their similarity to the pretraining data to a strategy.

| images/class   | similar to the pretraining data, or different | very different         |
|----------------|-----------------------------------------------|------------------------|
| below 1,000    | fine-tune all stages                          | fine-tune all stages   |
| above 1,000    | fine-tune all stages                          | train from scratch     |

Rules decide where trials (`hf_tl.advisor.trials`) would take too long. The field's rules of thumb (Stanford's
CS231n, https://cs231n.github.io/transfer-learning) also train the head alone where images are few and similar. On
datasets that it was not made from, no such threshold was better than fine-tuning all stages always
(`scripts/benchmark_advisor.py`, one dataset left out in turn), so that there is none. Training from scratch is
recommended only where pretraining does not help and there are enough images (He et al. 2019,
https://arxiv.org/abs/1811.08883: 10,000 images are enough, 1,000 are not); no dataset of the benchmark is that large.
"""

import math
from dataclasses import dataclass

from hf_tl.config import StrategyConfig, StrategyName

VERY_MANY = 1_000
"""Images per class from which on to train from scratch on very different data (He et al.)."""
SIMILAR, NOT_AT_ALL = 0.4, 0.1
"""Similarity from which on data are called similar, and below which pretraining does not help. The first lies between
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


RULES = (
    Rule(
        "similar",
        (0, math.inf),
        (SIMILAR, math.inf),
        "full",
        "fine-tune all stages",
        "The pretrained weights suit these images, and fine-tuning all stages was at least as accurate as training the "
        "head in all sizes of data that were measured",
    ),
    Rule(
        "different",
        (0, math.inf),
        (NOT_AT_ALL, SIMILAR),
        "full",
        "fine-tune all stages",
        "The pretrained features suit these images little, so all stages are fine-tuned from the pretrained weights, "
        "at lower learning rates than the head",
    ),
    Rule(
        "very different",
        (0, VERY_MANY),
        (-math.inf, NOT_AT_ALL),
        "full",
        "fine-tune all stages",
        "The pretrained features are hardly better than those of random weights, but there are not enough images to "
        "train without pretraining",
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
