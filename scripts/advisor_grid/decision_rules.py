"""Rules that map facts known before training to a strategy: fixed ones, and trees that minimize regret."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

ACTIONS = ("full", "finetune 3", "transfer")
"""Strategies that rules choose from, which most cells were trained with; of equal ones, the first is chosen."""
FACTS = ("images per class", "images in all", "classes", "similarity", "vision transformer")
"""Facts that are known before training; the last one is 0 or 1."""
NEGLIGIBLE = 1e-9
"""Smallest decrease of the mean regret that is worth a threshold."""


@dataclass(frozen=True)
class Example:
    """Results of a backbone in a cell, for rules to be fitted to and judged on."""

    data: str
    """Name of the dataset."""
    variant: str
    """Name of its variant."""
    name: str
    """Name of the cell and the backbone."""
    facts: Mapping[str, float]
    """Value of each of `FACTS`."""
    regrets: Mapping[str, float]
    """Difference from the best strategy, for each strategy that was run."""
    recommended: float | None
    """Regret of the recommended strategy; None without a recommendation or without that run."""


@dataclass(frozen=True)
class Leaf:
    """Rule that always chooses the same strategy."""

    strategy: str

    def choose(self, facts: Mapping[str, float]) -> str:
        """Return the strategy."""
        return self.strategy

    def __str__(self) -> str:
        return f"`{self.strategy}`"


@dataclass(frozen=True)
class Threshold:
    """Rule with a threshold on a fact, and a rule for each side of it."""

    fact: str
    value: float
    below: "Tree"
    above: "Tree"

    def choose(self, facts: Mapping[str, float]) -> str:
        """Return the strategy for these facts."""
        return (self.below if facts[self.fact] < self.value else self.above).choose(facts)

    def __str__(self) -> str:
        def nested(tree: Tree) -> str:
            return f"({tree})" if isinstance(tree, Threshold) else str(tree)

        return f"{self.fact} below {self.value:.3g}: {nested(self.below)}, else {nested(self.above)}"


Tree = Leaf | Threshold


@dataclass(frozen=True)
class Candidate:
    """Kind of rule that is fitted to examples."""

    facts: tuple[str, ...] = ()
    """Facts that it may use."""
    depth: int = 0
    """Largest number of thresholds in sequence."""
    strategies: tuple[str, ...] = ACTIONS
    """Strategies that it chooses from."""

    def fit(self, examples: Sequence[Example]) -> Tree:
        """Return the tree with the lowest mean regret, of all trees of this depth; the smallest one of equal ones.

        >>> examples = [
        ...     Example("digits", "plain", "", {"similarity": value}, {"full": full, "transfer": head}, None)
        ...     for value, full, head in ((0.1, 0, 9), (0.4, 0, 2), (0.6, 1, 0))
        ... ]
        >>> print(Candidate(("similarity",), 1, ("full", "transfer")).fit(examples))
        similarity below 0.5: `full`, else `transfer`
        """
        facts = np.array([[example.facts[fact] for fact in self.facts] for example in examples])
        regrets = np.array([[example.regrets[strategy] for strategy in self.strategies] for example in examples])
        return self._search(facts, regrets, self.depth)[1]

    def _search(self, facts: np.ndarray, regrets: np.ndarray, depth: int) -> tuple[float, Tree]:
        """Return the lowest sum of regrets, and its tree."""
        sums = regrets.sum(axis=0)
        best: tuple[float, Tree] = float(sums.min()), Leaf(self.strategies[int(sums.argmin())])
        for column, fact in enumerate(self.facts if depth else ()):
            values = np.unique(facts[:, column])
            for value in (values[:-1] + values[1:]) / 2:
                is_below = facts[:, column] < value
                below = self._search(facts[is_below], regrets[is_below], depth - 1)
                above = self._search(facts[~is_below], regrets[~is_below], depth - 1)
                regret = below[0] + above[0]
                if regret < best[0] - NEGLIGIBLE:
                    best = regret, Threshold(fact, float(value), below[1], above[1])
        return best


CANDIDATES = {
    "always `full`": Candidate(strategies=("full",)),
    "always `transfer`": Candidate(strategies=("transfer",)),
    "always `finetune 3`": Candidate(strategies=("finetune 3",)),
    "always the best on average": Candidate(),
    "one threshold on images per class or similarity": Candidate(("images per class", "similarity"), 1),
    "images per class x similarity": Candidate(("images per class", "similarity"), 2),
    "one threshold on any fact": Candidate(FACTS, 1),
    "tree of depth 2 on all facts": Candidate(FACTS, 2),
}
"""Rules by name; the first one is what others must beat."""
