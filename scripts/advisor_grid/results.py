"""Results of the grid by cell."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean
from typing import Any

from advisor_grid.backbones import BACKBONES
from advisor_grid.cells import IN_ALL, Cell, Task, cells
from advisor_grid.variants import PLAIN

Advice = Mapping[str, dict[str, Any]]
"""Recommendations by seed."""
Choice = Callable[[dict[str, Any]], tuple[str, str]]
"""Function from a recommendation to backbone and strategy."""


@dataclass
class Results:
    """Results for a dataset of a given size in a variant, over all its seeds."""

    data: str
    size: int
    variant: str = PLAIN
    runs: dict[tuple[str, str], dict[str, dict[str, Any]]] = field(default_factory=lambda: defaultdict(dict))
    """Results by (backbone, strategy) and seed."""
    advice: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Recommendations by seed; the fields below are by seed, too."""
    trials: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Recommendations after trials."""
    climbs: dict[str, dict[str, Any]] = field(default_factory=dict)
    timed: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Time of recommendation and training on one machine."""

    @property
    def name(self) -> str:
        """Return the name of the cell in the tables."""
        size = f"{self.data}, {self.size:,} {'in all' if self.size == IN_ALL else 'per class'}"
        return size if self.variant == PLAIN else f"{size}, {self.variant}"

    @property
    def cell(self) -> Cell:
        """Return the cell of the first seed."""
        return Cell(self.data, self.size, variant=self.variant)

    @property
    def seeds(self) -> list[str]:
        """Return the seeds with runs of `transfer` and `full` from the pretrained weights of the first backbone."""
        return sorted(
            set.intersection(*(set(self.runs.get(("lite0", strategy), {})) for strategy in ("transfer", "full")))
        )

    @property
    def ranked(self) -> list[str]:
        """Return the backbones with evidence and runs of `full`."""
        evidence = {backbone for advice in self.advice.values() for backbone in advice["evidence"]}
        return [backbone for backbone in BACKBONES if backbone in evidence and (backbone, "full") in self.runs]

    @property
    def ranked_seeds(self) -> list[str]:
        """Return the seeds with a recommendation and a `full` run of each ranked backbone."""
        runs = (self.runs[backbone, "full"].keys() for backbone in self.ranked)
        return sorted(set.intersection(set(self.advice), *map(set, runs)))

    def accuracy(self, backbone: str, strategy: str, seeds: Sequence[str] | None = None) -> float | None:
        """Return the mean test accuracy over seeds, by default all of `seeds`; None if a run is missing."""
        runs, seeds = self.runs.get((backbone, strategy), {}), self.seeds if seeds is None else seeds
        return mean(runs[seed]["test_accuracy"] for seed in seeds) if seeds and runs.keys() >= set(seeds) else None

    @property
    def best(self) -> float | None:
        """Return the best mean accuracy of the grid."""
        return max((known for run in self.runs if (known := self.accuracy(*run)) is not None), default=None)

    @property
    def seconds(self) -> float | None:
        """Return the CPU seconds of a seed's grid, extrapolated from the runs on CPUs; None without any."""
        return self.whole(
            {
                run: mean(seconds)
                for run, results in self.runs.items()
                if (seconds := [result["seconds"] for result in results.values() if "device" not in result])
            }
        )

    def whole(self, known: Mapping[tuple[str, str], float]) -> float | None:
        """Extrapolate from the seconds of some runs to a seed's grid, in proportion to their cost.

        The grid has all pairs of a backbone and a strategy that the cell was trained with.
        """
        ran = [set(names) for names in zip(*self.runs, strict=True)]
        tasks = [task for task in self.cell.tasks("train") if task.backbone in ran[0] and task.strategy in ran[1]]
        passes = {(task.backbone, task.strategy): task.passes for task in tasks}
        return sum(known.values()) * sum(passes.values()) / sum(passes[run] for run in known) if known else None

    def reached(self, choose: Choice, advice: Advice | None = None) -> float | None:
        """Return the mean accuracy of a choice in the seeds whose recommendation is a training.

        Args:
            choose: Function from a recommendation to backbone and strategy.
            advice: Recommendations by seed (default: those by rules, which must then be complete).
        """
        seeds, advice = self._judged(advice), self.advice if advice is None else advice
        accuracies = [self.accuracy(*choose(advice[seed]), [seed]) for seed in seeds]
        known = [accuracy for accuracy in accuracies if accuracy is not None]
        return mean(known) if known and len(known) == len(accuracies) else None

    def regret(self, choose: Choice, advice: Advice | None = None) -> float | None:
        """Return the difference between the best mean accuracy of the grid and `reached`, in the same seeds."""
        reached, seeds = self.reached(choose, advice), self._judged(advice)
        known = [accuracy for run in self.runs if (accuracy := self.accuracy(*run, seeds)) is not None]
        return None if reached is None else max(known) - reached

    def _judged(self, advice: Advice | None) -> list[str]:
        """Return the seeds whose recommendation is a training."""
        if advice is None and not self.advice.keys() >= set(self.seeds):
            return []
        by_seed = self.advice if advice is None else advice
        return [seed for seed in self.seeds if by_seed.get(seed, {}).get("strategy") is not None]

    @property
    def climbed(self) -> tuple[float, float] | None:
        """Return the mean accuracy of climbs, and the best of the grid with the same seeds; None if incomplete."""
        seeds = sorted(self.climbs)
        known = [accuracy for run in self.runs if (accuracy := self.accuracy(*run, seeds)) is not None]
        if not seeds or self.accuracy("lite0", "full", seeds) is None:
            return None
        return mean(self.climbs[seed]["test_accuracy"] for seed in seeds), max(known)


def gather(results: Mapping[str, Mapping[str, Any]]) -> list[Results]:
    """Group the results of all datasets by cell; those without any are left out."""
    gathered: dict[tuple[str, int, str], Results] = {}
    for cell, work, task in ((cell, work, task) for data in results for cell, work, task in _tasks(data)):
        if (result := results[cell.data].get(task.name)) is None:
            continue
        key = cell.data, cell.size, cell.variant
        kinds = gathered.setdefault(key, Results(*key))
        by_seed = {
            "train": kinds.runs[task.backbone, task.strategy] if work == "train" else {},
            "recommend": kinds.advice,
            "trials": kinds.trials,
            "auto": kinds.climbs,
            "cost": kinds.timed,
        }[work]
        by_seed[f"seed {cell.seed}"] = result
    return list(gathered.values())


def _tasks(data: str) -> Iterator[tuple[Cell, str, Task]]:
    for cell in cells(data):
        for work in ("train", "recommend", "trials", "auto", "cost"):
            yield from ((cell, work, task) for task in cell.tasks(work))
