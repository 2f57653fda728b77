"""Tables of the README: accuracy of each strategy, and regret of the recommendations."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations, permutations, starmap
from statistics import mean, median
from typing import Any

from scipy.stats import kendalltau

from advisor_grid.cells import STRATEGIES
from advisor_grid.results import Results, gather
from advisor_grid.sources import DATA
from advisor_grid.variants import PLAIN, VARIANTS

MANY, LIKE = 100, 0.4
"""Images per class and similarity from which on the rule of thumb considers data large and similar."""
POINTS = {"half a point": 0.005, "1 point": 0.01}


def by_advice(advice: dict[str, Any]) -> tuple[str, str]:
    """Return the recommended backbone and strategy."""
    return advice["backbone"], advice["strategy"]


def by_thumb(advice: dict[str, Any]) -> tuple[str, str]:
    """Return the choice of the rule of thumb, by size and similarity alone."""
    similarity = advice["evidence"]["lite0"]["similarity"]["value"]
    is_large, is_similar = advice["images_a_class"] >= MANY, similarity >= LIKE
    small, large = ("finetune 3", "transfer"), ("scratch", "full")
    return "lite0", (large if is_large else small)[is_similar]


def is_as_advised(advice: dict[str, Any], climb: dict[str, Any]) -> bool:
    """Return whether a climb ended at the recommended depth: its refit is then the recommended training."""
    deepest = [rung for rung in climb["rungs"] if rung["is_kept"]][-1]["trainable_stages"]
    return advice["strategy"] == ("transfer" if len(deepest) == 1 else "full" if "stem" in deepest else None)


AUTO = "`--strategy auto`, and what `recommend` recommends"
RULES: dict[str, Callable[[dict[str, Any]], tuple[str, str]]] = {
    "recommended strategy (rules), with its usual recipe": by_advice,
    "always `transfer`": lambda _: ("lite0", "transfer"),
    "always `full`": lambda _: ("lite0", "full"),
    "rule of thumb (few or many images, similar or not)": by_thumb,
}


def tables(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Return all tables as Markdown."""
    gathered = gather(results)
    controls = [cell for cell in gathered if VARIANTS[cell.variant].is_control]
    cells = [cell for cell in gathered if cell.runs]
    return "\n".join(
        [*_accuracies(cells), "", *_regrets(cells), "", *_costs(cells), "", *_ranking(cells), "", *_controls(controls)]
    )


def _accuracies(cells: list[Results]) -> Iterator[str]:
    yield (
        "| data | seeds | similarity | "
        + " | ".join(STRATEGIES)
        + " | best of all | recommended | with its usual recipe | `auto` |"
    )
    yield "|---|--:|--:|" + "--:|" * (len(STRATEGIES) + 1) + "---|--:|--:|"
    for cell in cells:
        advice = [cell.advice[seed] for seed in cell.seeds if seed in cell.advice]
        similarity = [draw["evidence"]["lite0"]["similarity"]["value"] for draw in advice]
        columns = [
            cell.name,
            str(len(cell.seeds)),
            f"{mean(similarity):.2f}" if similarity else "",
            *(_percent(cell.accuracy("lite0", strategy)) for strategy in STRATEGIES),
            _percent(cell.best),
            "; ".join(dict.fromkeys(" ".join(filter(None, by_advice(draw))) or "no training" for draw in advice)),
            _percent(cell.reached(by_advice)),
            "" if cell.climbed is None else _percent(cell.climbed[0]),
        ]
        if cell.seeds:
            yield f"| {' | '.join(columns)} |"


def _regrets(cells: list[Results]) -> Iterator[str]:
    yield f"| choice | cells | mean regret | median | worst | {' | '.join(f'within {name}' for name in POINTS)} |"
    yield "|---|--:|--:|--:|--:|" + "--:|" * len(POINTS)
    for name, choose in RULES.items():
        yield from _regret_row(name, [regret for cell in cells if (regret := cell.regret(choose)) is not None])
    tried = [regret for cell in cells if (regret := cell.regret(by_advice, cell.trials)) is not None]
    yield from _regret_row("recommended strategy after trials, with its usual recipe", tried)
    climbed = [accuracies for cell in cells if (accuracies := cell.climbed) is not None]
    yield from _regret_row(AUTO, [best - reached for reached, best in climbed])
    pairs = [(cell.advice[seed], climb) for cell in cells for seed, climb in cell.climbs.items() if seed in cell.advice]
    same = sum(starmap(is_as_advised, pairs))
    advice = [cell.advice[seed] for cell in cells for seed in cell.seeds if seed in cell.advice]
    untrained = sum(draw["strategy"] is None for draw in advice)
    yield f"\nIn {untrained} of {len(advice)} draws no training is recommended; they count for no rule."
    yield f"`auto` ended at the recommended stage depth in {same} of {len(pairs)} draws."


def _regret_row(name: str, regrets: list[float]) -> Iterator[str]:
    if regrets:
        within = [sum(regret <= points + 1e-9 for regret in regrets) for points in POINTS.values()]
        shares = " | ".join(f"{count} of {len(regrets)}" for count in within)
        numbers = " | ".join(f"{100 * value:.1f}" for value in (mean(regrets), median(regrets), max(regrets)))
        yield f"| {name} | {len(regrets)} | {numbers} | {shares} |"


def _costs(cells: list[Results]) -> Iterator[str]:
    yield "| data | whole grid, CPU seconds | `recommend` | `auto`, with its evidence |\n|---|--:|--:|--:|"
    for cell in cells:
        if cell.seconds is None or not cell.seeds or cell.variant != PLAIN:
            continue
        advised = mean(advice["seconds"] for advice in cell.advice.values()) if cell.advice else None
        climbed = mean(climb["seconds"] for climb in cell.climbs.values()) if cell.climbs else None
        shares = [
            "" if seconds is None else f"{seconds:,.0f} ({seconds / cell.seconds:.0%})"
            for seconds in (advised, climbed)
        ]
        yield f"| {cell.name} | {cell.seconds:,.0f} | {shares[0]} | {shares[1]} |"
    timed = [(cell, costs) for cell in cells for costs in cell.timed.values()]
    if timed:
        yield "\n| data, on one machine | whole grid, CPU seconds | `recommend` |\n|---|--:|--:|"
    for cell, costs in timed:
        whole = cell.whole({("lite0", strategy): seconds for strategy, seconds in costs["runs"].items()})
        assert whole is not None
        yield f"| {cell.name} | {whole:,.0f} | {costs['recommend']:,.0f} ({costs['recommend'] / whole:.1%}) |"


def _ranking(cells: list[Results]) -> Iterator[str]:
    """Compare the ranking of the backbones by evidence with that after training, in each cell and each draw."""
    ranked = [(cell, orders) for cell in cells if (orders := _orders(cell, cell.ranked_seeds)) is not None]
    of_cells = [orders for _, orders in ranked]
    of_draws = [
        (orders, cell.ranked, cell.advice[seed]["leading"])
        for cell in cells
        for seed in cell.ranked_seeds
        if (orders := _orders(cell, [seed])) is not None
    ]
    if not of_cells:
        return
    taus = [
        [kendalltau(*orders).statistic for orders in group] for group in (of_cells, [orders for orders, *_ in of_draws])
    ]
    yield (
        f"Kendall's tau of the backbones' order by evidence and after training: mean {mean(taus[0]):.2f} of "
        f"{len(taus[0])} cells, {mean(taus[1]):.2f} of their {len(taus[1])} draws."
    )
    if between := list(_between_draws(cells)):
        by_evidence, by_training = map(mean, zip(*between, strict=True))
        yield (
            "Between different draws of a cell, the mean tau of the order by evidence and that after training is "
            f"{by_evidence:.2f}; that of two orders after training is {by_training:.2f} ({len(between)} cells)."
        )
    known = [list(_is_right_where_known(*orders, DATA[cell.data].test)) for cell, orders in ranked]
    pairs = [math.comb(len(cell.ranked), 2) for cell, _ in ranked]
    yield (
        f"After training, {sum(map(len, known))} of {sum(pairs)} pairs of backbones differ by more than two standard "
        f"errors of the test accuracy; the evidence orders {sum(map(sum, known))} of them correctly. With the others "
        f"as ties, tau-b is {mean(map(_tau_b, known, pairs)):.2f}."
    )
    agreements = [
        is_same
        for (_, true), backbones, leading in of_draws
        for is_same in _leaders_are_better(dict(zip(backbones, true, strict=True)), leading)
    ]
    yield (
        f"Of {len(agreements)} pairs, in the draws, of a backbone that does not differ significantly from the leader "
        f"by evidence and a backbone that does, training puts {sum(agreements)} in the same order."
    )
    gaps = [
        (second - first, (seen[1] - seen[0]) * (second - first))
        for evidence, true in of_cells
        for seen, (first, second) in zip(combinations(evidence, 2), combinations(true, 2), strict=True)
    ]
    wrong = [abs(gap) for gap, agreement in gaps if agreement < 0]
    largest = f", with accuracies that differ by at most {100 * max(wrong):.1f} points" if wrong else ""
    yield f"Of {len(gaps)} pairs of backbones in the cells, the evidence puts {len(wrong)} in the wrong order{largest}."


def _orders(cell: Results, seeds: Sequence[str]) -> tuple[list[float], list[float]] | None:
    """Return for each backbone the probe accuracy, and the best accuracy of the strategies run for all."""
    ran = [s for s in STRATEGIES if seeds and all(cell.accuracy(b, s, seeds) is not None for b in cell.ranked)]
    if not ran or len(cell.ranked) < 2:
        return None
    evidence = [mean(_head(cell.advice[seed], backbone) for seed in seeds) for backbone in cell.ranked]
    return evidence, [max(cell.accuracy(backbone, s, seeds) or 0.0 for s in ran) for backbone in cell.ranked]


def _between_draws(cells: list[Results]) -> Iterator[tuple[float, float]]:
    """Compare the ranking after training of a cell's draws with rankings of its other draws, a limit set by chance.

    Yields:
        Mean tau of each cell with the ranking by evidence, and with the ranking after training.
    """
    for cell in cells:
        orders = [pair for seed in cell.ranked_seeds if (pair := _orders(cell, [seed])) is not None]
        if len(orders) > 1:
            pairs = list(permutations(orders, 2))
            by_evidence, by_training = (
                mean(kendalltau(other[kind], trained).statistic for other, (_, trained) in pairs) for kind in (0, 1)
            )
            yield by_evidence, by_training


def _is_right_where_known(evidence: Sequence[float], true: Sequence[float], images: int) -> Iterator[bool]:
    """Yield whether the evidence is correct, for each pair of accuracies more than two standard errors apart."""
    for seen, (first, second) in zip(combinations(evidence, 2), combinations(true, 2), strict=True):
        error = math.sqrt((first * (1 - first) + second * (1 - second)) / images)
        if abs(second - first) > 2 * error:
            yield (seen[1] - seen[0]) * (second - first) > 0


def _tau_b(is_right: Sequence[bool], pairs: int) -> float:
    """Return Kendall's tau-b of all pairs of backbones from those that are not tied after training."""
    return (2 * sum(is_right) - len(is_right)) / math.sqrt(pairs * len(is_right)) if is_right else 0.0


def _leaders_are_better(trained: Mapping[str, float], leading: Sequence[str]) -> list[bool]:
    """Return for each pair of a leading and another backbone whether training agrees."""
    others = [backbone for backbone in trained if backbone not in leading]
    return [trained[first] > trained[other] for first in leading if first in trained for other in others]


def _controls(cells: list[Results]) -> Iterator[str]:
    if cells:
        yield "| control | cells | no training advised | rules that decided |\n|---|--:|--:|---|"
    for variant in dict.fromkeys(cell.variant for cell in cells):
        draws = [advice for cell in cells if cell.variant == variant for advice in cell.advice.values()]
        rules = [advice["rule"] for advice in draws]
        counts = ", ".join(f'"{rule}" {rules.count(rule)}' for rule in dict.fromkeys(rules))
        untrained = sum(advice["strategy"] is None for advice in draws)
        yield f"| {variant} | {len(draws)} | {untrained} | {counts} |"


def _head(advice: dict[str, Any], backbone: str) -> float:
    return max(depth["linear_probe"]["accuracy"] for depth in advice["evidence"][backbone]["depths"])


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"
