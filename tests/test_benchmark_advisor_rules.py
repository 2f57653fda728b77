"""scripts/advisor_grid/held_out.py: rules are judged on the dataset that they were not fitted to."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[1] / "scripts"))

from advisor_grid.decision_rules import ACTIONS, CANDIDATES, FACTS, Candidate, Example, Leaf, Threshold
from advisor_grid.held_out import bootstrap_interval, fit_rules, held_out_tables, judge, make_examples


def example(data: str, similarity: float, *regrets: float, images: float = 20) -> Example:
    facts = dict.fromkeys(FACTS, 0.0) | {"similarity": similarity, "images per class": images}
    return Example(data, "plain", "", facts, dict(zip(ACTIONS, regrets, strict=True)), None)


def run(accuracy: float) -> dict[str, Any]:
    return {"test_accuracy": accuracy, "seconds": 10.0}


def cell(accuracies: dict[str, float], recommended: str, similarity: float = 0.5) -> dict[str, Any]:
    """Return the results of a cell with five images per class and a seed."""
    backbone = {"similarity": {"value": similarity}, "depths": [{"linear_probe": {"accuracy": 0.5}}]}
    advice = {"backbone": "lite0", "strategy": recommended, "evidence": {"lite0": backbone}, "images_a_class": 4.0}
    runs = {f"5 a class, seed 0, lite0, {strategy}": run(accuracy) for strategy, accuracy in accuracies.items()}
    return {**runs, "5 a class, seed 0, recommend": {**advice, "rule": "", "seconds": 2.0, "leading": ["lite0"]}}


def test_a_rule_is_not_fitted_to_the_dataset_that_it_is_judged_on() -> None:
    """The head is best on two datasets alone, and there is no way to know of the third."""
    examples = [example("digits", 0.5, 0.1, 0.1, 0.0), example("fashion", 0.5, 0.1, 0.1, 0.0)]
    examples += [example("trash", 0.5, 0.0, 0.2, 0.3)]
    rules = fit_rules(examples)
    assert rules["always the best on average", "trash"] == Leaf("transfer")
    assert rules["always the best on average", "digits"] == Leaf("full")
    assert judge(examples, rules)["always the best on average"] == [0.1, 0.1, 0.3]
    assert judge(examples, rules)["always `full`"] == [0.1, 0.1, 0.0]


def test_the_search_finds_the_best_tree() -> None:
    """Strategies by size and similarity, as a tree of depth 2; a single threshold cannot separate them."""
    best = {(5, 0.2): 0, (5, 0.8): 2, (50, 0.2): 1, (50, 0.8): 1}
    examples = [
        example("digits", similarity, *(0.0 if place == number else 0.1 for place in range(3)), images=images)
        for (images, similarity), number in best.items()
    ]
    facts = ("images per class", "similarity")
    tree = Candidate(facts, 2).fit(examples)
    assert isinstance(tree, Threshold)
    assert [tree.choose(item.facts) for item in examples] == [ACTIONS[number] for number in best.values()]
    assert str(tree) == (
        "images per class below 27.5: (similarity below 0.5: `full`, else `transfer`), else `finetune 3`"
    )
    shallow = Candidate(facts, 1).fit(examples)
    assert sum(item.regrets[shallow.choose(item.facts)] for item in examples) == pytest.approx(0.1)


def test_thresholds_that_gain_nothing_are_left_out() -> None:
    examples = [example("digits", value, 0.0, 0.1, 0.2) for value in (0.1, 0.5, 0.9)]
    assert all(
        candidate.fit(examples) == Leaf("full") for name, candidate in CANDIDATES.items() if "always" not in name
    )


def test_the_interval_is_wider_where_datasets_differ() -> None:
    datasets = ["digits"] * 10 + ["fashion"] * 10
    apart = [0.0] * 10 + [0.1] * 10
    mixed = [0.0, 0.1] * 10
    (low, high), (mixed_low, mixed_high) = (bootstrap_interval(datasets, values) for values in (apart, mixed))
    assert (low, high) == pytest.approx((0.0, 0.1))
    assert 0 < mixed_low < np.mean(mixed) < mixed_high < 0.1


def test_the_table_has_each_rule_and_the_recommendation() -> None:
    strategies = {"transfer": 0.6, "finetune 3": 0.7, "full": 0.8, "lora": 0.9}
    results = {
        "digits": cell(strategies, "transfer"),
        "fashion": cell(strategies, "full"),
        "trash": cell({"transfer": 0.6, "full": 0.5}, "full"),
    }
    first, second = make_examples(results)
    assert (first.name, second.name) == ("digits, 5 per class, lite0", "fashion, 5 per class, lite0")
    assert first.facts["images in all"] == 50
    text = held_out_tables(results)
    recommended = "| recommended strategy (rules), with its usual recipe"
    assert f"{recommended} | 2 | 20.0 (10.0 to 30.0) | 20.0 | 30.0 | 0 of 2 |" in text
    assert "| always `full` | 2 | 10.0 (10.0 to 10.0) | 10.0 | 10.0 | 0 of 2 |  |" in text
    assert "| always `transfer` | 2 | 30.0 (30.0 to 30.0) | 30.0 | 30.0 | 0 of 2 | 20.0 (20.0 to 20.0) |" in text
    assert "| mean regret on the dataset that is left out | digits (1 cells) | fashion (1 cells) |" in text
    assert f"{recommended} | 30.0 | 10.0 |" in text
    assert "| mean regret by variant | plain (2 cells) |" in text


def test_a_dataset_alone_has_no_table() -> None:
    results = {"digits": cell({"transfer": 0.6, "finetune 3": 0.7, "full": 0.8}, "full")}
    assert "expected cells of at least two datasets" in held_out_tables(results)
