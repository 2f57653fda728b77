"""Regret of rules on datasets that they were not fitted to: leave one dataset out."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import mean, median
from typing import Any

import numpy as np

from advisor_grid.cells import STRATEGIES
from advisor_grid.decision_rules import ACTIONS, CANDIDATES, Example, Tree
from advisor_grid.results import Results, gather

PRETRAINED = ("lite0", "lite1", "lite2", "vit")
"""Backbones that rules are judged on."""
RECOMMENDED = "recommended strategy (rules), with its usual recipe"
BASELINE = next(iter(CANDIDATES))
POINT, RESAMPLES = 0.01, 4_000
Regrets = dict[str, list[float | None]]
"""Regrets by rule, in the order of the examples."""


def make_examples(results: Mapping[str, Mapping[str, Any]]) -> list[Example]:
    """Return the results of pretrained backbones in cells with a recommendation and runs of all `ACTIONS`."""
    pairs = ((cell, backbone) for cell in gather(results) for backbone in PRETRAINED)
    return [example for pair in pairs if (example := _example(*pair)) is not None]


def _example(cell: Results, backbone: str) -> Example | None:
    """Return the means over the seeds with all `ACTIONS` and a recommended training; None without such a seed."""
    ran = (cell.runs.get((backbone, strategy), {}).keys() for strategy in ACTIONS)
    trained = {seed for seed, advice in cell.advice.items() if advice["strategy"] and backbone in advice["evidence"]}
    seeds = sorted(trained.intersection(*ran))
    if not seeds:
        return None
    accuracies = {
        strategy: accuracy
        for strategy in STRATEGIES
        if (accuracy := cell.accuracy(backbone, strategy, seeds)) is not None
    }
    best = max(accuracies.values())
    facts = {
        "images per class": mean(cell.advice[seed]["images_a_class"] for seed in seeds),
        "images in all": float(cell.cell.images_in_all),
        "classes": float(cell.cell.classes),
        "similarity": mean(cell.advice[seed]["evidence"][backbone]["similarity"]["value"] for seed in seeds),
        "vision transformer": float(backbone == "vit"),
    }
    reached = [cell.accuracy(backbone, cell.advice[seed]["strategy"], [seed]) for seed in seeds]
    known = [accuracy for accuracy in reached if accuracy is not None]
    return Example(
        data=cell.data,
        variant=cell.variant,
        name=f"{cell.name}, {backbone}",
        facts=facts,
        regrets={strategy: best - accuracy for strategy, accuracy in accuracies.items()},
        recommended=best - mean(known) if len(known) == len(reached) else None,
    )


def fit_rules(examples: Sequence[Example]) -> dict[tuple[str, str], Tree]:
    """Fit each candidate to all datasets but one; by name of the candidate and the dataset that is left out."""
    datasets = dict.fromkeys(example.data for example in examples)
    return {
        (name, data): candidate.fit([example for example in examples if example.data != data])
        for name, candidate in CANDIDATES.items()
        for data in datasets
    }


def judge(examples: Sequence[Example], rules: Mapping[tuple[str, str], Tree]) -> Regrets:
    """Return the regrets of all rules, each on the dataset that it was not fitted to, and of the recommendations."""
    judged: Regrets = {
        name: [example.regrets[rules[name, example.data].choose(example.facts)] for example in examples]
        for name in CANDIDATES
    }
    return {RECOMMENDED: [example.recommended for example in examples], **judged}


def bootstrap_interval(datasets: Sequence[str], values: Sequence[float]) -> tuple[float, float]:
    """Return the 95% interval of a mean over cells, from resamples of the datasets and of the cells within each.

    >>> bootstrap_interval(["digits", "digits", "trash"], [0.5, 0.5, 0.5])
    (0.5, 0.5)
    """
    chance = np.random.default_rng(0)
    groups = [np.array([value for at, value in zip(datasets, values, strict=True) if at == name])
              for name in dict.fromkeys(datasets)]  # fmt: skip
    means = [
        np.concatenate([chance.choice(groups[group], len(groups[group])) for group in drawn]).mean()
        for drawn in chance.integers(0, len(groups), (RESAMPLES, len(groups)))
    ]
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


def held_out_tables(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the tables of the rules as Markdown; a note where fewer than two datasets have complete cells."""
    examples = make_examples(results)
    if len({example.data for example in examples}) < 2:
        return "Leave one dataset out: expected cells of at least two datasets with all strategies of the rules."
    rules = fit_rules(examples)
    regrets = judge(examples, rules)
    parts = (
        _summary(examples, regrets),
        _means(examples, regrets, "on the dataset that is left out", lambda example: example.data),
        _means(examples, regrets, "by variant", lambda example: example.variant),
        _fitted(rules),
        _by_cell(examples, regrets),
    )
    return "\n\n".join("\n".join(part) for part in parts)


def _summary(examples: Sequence[Example], regrets: Regrets) -> Iterator[str]:
    yield "Leave one dataset out: regret in points, each rule on the dataset that it was not fitted to."
    yield f"\n| choice | cells | mean (95% CI) | median | worst | within 1 point | mean minus that of {BASELINE} |"
    yield "|---|--:|--:|--:|--:|--:|--:|"
    for name, values in regrets.items():
        known = [(example.data, value) for example, value in zip(examples, values, strict=True) if value is not None]
        gains = [
            (example.data, value - baseline)
            for example, value, baseline in zip(examples, values, regrets[BASELINE], strict=True)
            if value is not None and baseline is not None
        ]
        if not known:
            continue
        numbers = [value for _, value in known]
        within = sum(value <= POINT + 1e-9 for value in numbers)
        columns = [
            name,
            str(len(numbers)),
            _with_interval(known),
            _points(median(numbers)),
            _points(max(numbers)),
            f"{within} of {len(numbers)}",
            "" if name == BASELINE else _with_interval(gains),
        ]
        yield f"| {' | '.join(columns)} |"


def _means(examples: Sequence[Example], regrets: Regrets, title: str, key: Callable[[Example], str]) -> Iterator[str]:
    """Yield the table of mean regrets by a property of the cells."""
    keys = [key(example) for example in examples]
    names = list(dict.fromkeys(keys))
    yield f"| mean regret {title} | {' | '.join(f'{name} ({keys.count(name)} cells)' for name in names)} |"
    yield "|---|" + "--:|" * len(names)
    for rule, values in regrets.items():
        columns = [
            [value for at, value in zip(keys, values, strict=True) if at == name and value is not None]
            for name in names
        ]
        yield f"| {rule} | {' | '.join(_points(mean(column) if column else None) for column in columns)} |"


def _fitted(rules: Mapping[tuple[str, str], Tree]) -> Iterator[str]:
    yield "| rule | without | fitted to the other datasets |\n|---|---|---|"
    yield from (f"| {name} | {data} | {tree} |" for (name, data), tree in rules.items() if CANDIDATES[name].depth)


def _by_cell(examples: Sequence[Example], regrets: Regrets) -> Iterator[str]:
    yield f"| cell | similarity | {' | '.join(regrets)} |\n|---|--:|{'--:|' * len(regrets)}"
    for row, example in enumerate(examples):
        columns = [_points(values[row]) for values in regrets.values()]
        yield f"| {example.name} | {example.facts['similarity']:.2f} | {' | '.join(columns)} |"


def _with_interval(values: Sequence[tuple[str, float]]) -> str:
    datasets, numbers = zip(*values, strict=True)
    low, high = bootstrap_interval(datasets, numbers)
    return f"{_points(mean(numbers))} ({_points(low)} to {_points(high)})"


def _points(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"
