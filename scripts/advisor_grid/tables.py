"""The tables of the README: what each strategy reached, and how far the advice is from the best."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from statistics import mean, median
from typing import Any

from scipy.stats import kendalltau

from advisor_grid.cells import BACKBONES, IN_ALL, SEEDS, SHUFFLED, STRATEGIES
from hf_tl.advisor.rules import ENOUGH, SIMILAR

POINT = 0.01


@dataclass
class Results:
    """What is known of a data set at a size, all its seeds together."""

    data: str
    size: int
    runs: dict[tuple[str, str], list[dict[str, Any]]] = field(default_factory=lambda: defaultdict(list))
    """By backbone and strategy."""
    advice: list[dict[str, Any]] = field(default_factory=list)
    climbs: list[dict[str, Any]] = field(default_factory=list)
    shuffled: list[dict[str, Any]] = field(default_factory=list)
    """Advice on the same images with the labels of others."""

    @property
    def name(self) -> str:
        """For the table."""
        return f"{self.data}, {self.size:,} {'in all' if self.size == IN_ALL else 'a class'}"

    def accuracy(self, backbone: str, strategy: str) -> float | None:
        """Give the mean test accuracy over the seeds."""
        return mean(run["test_accuracy"] for run in found) if (found := self.runs.get((backbone, strategy))) else None

    @property
    def best(self) -> float:
        """The best mean of the grid."""
        most = max(map(len, self.runs.values()))
        known = [found for found in self.runs.values() if len(found) == most]  # one seed alone may be lucky
        return max(mean(run["test_accuracy"] for run in found) for found in known)

    @property
    def seconds(self) -> float:
        """What a seed's grid took, of what was run of it."""
        return sum(mean(run["seconds"] for run in found) for found in self.runs.values())

    @property
    def is_whole(self) -> bool:
        """Whether advice was asked for, and all but `scratch` was run from the pretrained weights of the first."""
        ran = {strategy for backbone, strategy in self.runs if backbone == "lite0"}
        return bool(self.advice) and ran >= STRATEGIES.keys() - {"scratch"}

    def regret(self, choose: Callable[[dict[str, Any]], tuple[str, str]]) -> float | None:
        """Give how far choices are from the best, in the mean of the seeds.

        Args:
            choose: from the advice of a seed to backbone and strategy.
        """
        found = [self.accuracy(*choose(advice)) for advice in self.advice]
        known = [accuracy for accuracy in found if accuracy is not None]
        return max(0.0, self.best - mean(known)) if known and len(known) == len(found) else None


def gather(results: Mapping[str, Mapping[str, Any]]) -> list[Results]:
    """Sort the results of all data sets into cells."""
    cells = {(data, size): Results(data, size) for data in results for size in SEEDS}
    for data, runs in results.items():
        for name, result in runs.items():
            size, _, *what = name.split(", ")
            cell = cells[data, int(size.split()[0])]
            if what == ["recommend"]:
                cell.advice.append(result)
            elif what == ["auto"]:
                cell.climbs.append(result)
            elif what == [SHUFFLED]:
                cell.shuffled.append(result)
            else:
                cell.runs[what[0], what[1]].append(result)
    return [cell for cell in cells.values() if cell.runs]


def by_advice(advice: dict[str, Any]) -> tuple[str, str]:
    """Do as the advisor says."""
    return advice["backbone"], advice["strategy"]


def by_thumb(advice: dict[str, Any]) -> tuple[str, str]:
    """Do as the rule of thumb says, by size and similarity alone."""
    similarity = advice["evidence"]["lite0"]["similarity"]["value"]
    is_large, is_similar = advice["images_a_class"] >= ENOUGH, similarity >= SIMILAR
    few, many = ("finetune 3", "transfer"), ("scratch", "full")
    return "lite0", (many if is_large else few)[is_similar]


RULES: dict[str, Callable[[dict[str, Any]], tuple[str, str]]] = {
    "hf_tl's advice": by_advice,
    "always the head": lambda _: ("lite0", "transfer"),
    "always everything": lambda _: ("lite0", "full"),
    "size and similarity (few or many, like or unlike)": by_thumb,
}


def tables(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Write them."""
    cells = gather(results)
    return "\n".join(
        [*_accuracies(cells), "", *_regrets(cells), "", *_costs(cells), "", *_ranking(cells), *_shuffled(cells)]
    )


def _accuracies(cells: list[Results]) -> Iterator[str]:
    yield "| data | similarity | " + " | ".join(STRATEGIES) + " | best of all | advised | its accuracy | `auto` |"
    yield "|---|--:|" + "--:|" * (len(STRATEGIES) + 1) + "---|--:|--:|"
    for cell in cells:
        similarity = [advice["evidence"]["lite0"]["similarity"]["value"] for advice in cell.advice]
        advised = [" ".join(by_advice(advice)) for advice in cell.advice]
        regret = cell.regret(by_advice) if cell.advice else None
        columns = [
            cell.name,
            f"{mean(similarity):.2f}" if similarity else "",
            *(_percent(cell.accuracy("lite0", strategy)) for strategy in STRATEGIES),
            _percent(cell.best),
            "; ".join(dict.fromkeys(advised)),
            "" if regret is None else _percent(cell.best - regret),
            _percent(mean(climb["test_accuracy"] for climb in cell.climbs)) if cell.climbs else "",
        ]
        yield f"| {' | '.join(columns)} |"


def _regrets(cells: list[Results]) -> Iterator[str]:
    yield "| choice | cells | mean regret | median | worst | within 1 point |\n|---|--:|--:|--:|--:|--:|"
    whole = [cell for cell in cells if cell.is_whole]
    for name, choose in RULES.items():
        yield from _regret_row(name, [regret for cell in whole if (regret := cell.regret(choose)) is not None])
    yield from _regret_row(
        "`--strategy auto`",
        [cell.best - mean(climb["test_accuracy"] for climb in cell.climbs) for cell in cells if cell.climbs],
    )


def _regret_row(name: str, found: list[float]) -> Iterator[str]:
    if found:
        within = sum(regret <= POINT + 1e-9 for regret in found)
        numbers = " | ".join(f"{100 * value:.1f}" for value in (mean(found), median(found), max(found)))
        yield f"| {name} | {len(found)} | {numbers} | {within} of {len(found)} |"


def _costs(cells: list[Results]) -> Iterator[str]:
    yield "| data | the grid, processor seconds | `recommend` | `auto`, with its evidence |\n|---|--:|--:|--:|"
    for cell in cells:
        asked = mean(advice["seconds"] for advice in cell.advice) if cell.advice else None
        climbed = mean(climb["seconds"] for climb in cell.climbs) if cell.climbs else None
        shares = ["" if one is None else f"{one:,.0f} ({one / cell.seconds:.0%})" for one in (asked, climbed)]
        yield f"| {cell.name} | {cell.seconds:,.0f} | {shares[0]} | {shares[1]} |"


def _ranking(cells: list[Results]) -> Iterator[str]:
    found = []
    for cell in cells:
        common = [s for s in STRATEGIES if all(cell.accuracy(b, s) is not None for b in BACKBONES)]
        if not cell.advice or not common:
            continue
        true = [max(cell.accuracy(backbone, strategy) or 0.0 for strategy in common) for backbone in BACKBONES]
        expected = [mean(_head(advice, backbone) for advice in cell.advice) for backbone in BACKBONES]
        found.append(kendalltau(expected, true).statistic)
    if found:
        told = f"mean {mean(found):.2f} of {len(found)} cells"
        yield f"Kendall's tau of the backbones' order by evidence and after training: {told}."


def _shuffled(cells: list[Results]) -> Iterator[str]:
    said = [advice["rule"] for cell in cells for advice in cell.shuffled]
    counts = ", ".join(f'"{rule}" {said.count(rule)}' for rule in dict.fromkeys(said))
    if said:
        yield f"Of {len(said)} cells with shuffled labels the advisor said: {counts}."


def _head(advice: dict[str, Any], backbone: str) -> float:
    return max(depth["linear_probe"]["accuracy"] for depth in advice["evidence"][backbone]["depths"])


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"
