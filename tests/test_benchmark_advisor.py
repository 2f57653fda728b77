"""scripts/benchmark_advisor.py: its table of the committed results, and of synthetic ones."""

import subprocess
import sys
from pathlib import Path
from typing import Any

SCRIPTS = Path(__file__).parents[1] / "scripts"
sys.path.append(str(SCRIPTS))

from advisor_grid.cells import Cell, cells  # noqa: E402
from advisor_grid.results import gather  # noqa: E402
from advisor_grid.tables import by_advice, tables  # noqa: E402


def run(accuracy: float) -> dict[str, Any]:
    return {"test_accuracy": accuracy, "seconds": 10.0}


def advice(strategy: str) -> dict[str, Any]:
    backbone = {"similarity": {"value": 0.6}, "depths": [{"linear_probe": {"accuracy": 0.5}}]}
    evidence = dict.fromkeys(("lite0", "lite1", "random"), backbone)
    return {"backbone": "lite0", "strategy": strategy, "evidence": evidence, "images_a_class": 5, "seconds": 2.0}


def climb(accuracy: float) -> dict[str, Any]:
    rungs = [{"trainable_stages": stages, "is_kept": True} for stages in (["head"], ["stem", "head"])]
    return {**run(accuracy), "rungs": rungs}


def test_regret_is_the_distance_from_the_best() -> None:
    strategies = {"transfer": 0.6, "finetune 1": 0.5, "finetune 3": 0.7, "full": 0.8}
    results = {f"5 a class, seed 0, lite0, {name}": run(accuracy) for name, accuracy in strategies.items()}
    results |= {"5 a class, seed 0, recommend": advice("transfer"), "5 a class, seed 0, auto": climb(0.75)}
    [cell] = gather({"digits": results})
    assert cell.regret(by_advice) is not None
    assert abs(cell.regret(by_advice) - 0.2) < 1e-9  # type: ignore[operator]
    text = tables({"digits": results})
    for row in (
        "| recommended strategy (rules), with its usual recipe | 1 | 20.0 | 20.0 | 20.0 | 0 of 1 | 0 of 1 |",
        "| always `full` | 1 | 0.0 | 0.0 | 0.0 | 1 of 1 | 1 of 1 |",
        "| `--strategy auto`, and what `recommend` recommends | 1 | 5.0 | 5.0 | 5.0 | 0 of 1 | 0 of 1 |",
        "`auto` ended at the recommended stage depth in 0 of 1 draws.",
    ):
        assert row in text
    assert "| digits, 5 per class | 40 | 2 (5%) | 10 (25%) |" in text


def test_leading_backbones_count_by_themselves() -> None:
    """The evidence ranks the two leading backbones in the wrong order, and both correctly above the third."""
    accuracies = {"lite0": (0.6, 0.9), "lite1": (0.7, 0.8), "random": (0.3, 0.4)}
    results = {f"5 a class, seed 0, {name}, full": run(trained) for name, (_, trained) in accuracies.items()}
    results["5 a class, seed 0, lite0, transfer"] = run(0.5)
    evidence = {name: {"depths": [{"linear_probe": {"accuracy": seen}}]} for name, (seen, _) in accuracies.items()}
    evidence["lite0"]["similarity"] = {"value": 0.6}  # type: ignore[assignment]
    recommended = {**advice("full"), "evidence": evidence, "leading": ["lite0", "lite1"]}
    text = tables({"digits": {**results, "5 a class, seed 0, recommend": recommended}})
    assert "mean 0.33 of 1 cells, 0.33 of their 1 draws." in text
    assert "Of 2 pairs, in the draws, of a backbone that does not differ significantly from the leader" in text
    assert "training puts 2 in the same order" in text
    assert "the evidence puts 1 in the wrong order, with accuracies that differ by at most 10.0 points" in text
    assert "After training, 3 of 3 pairs of backbones differ by more than two standard errors" in text
    assert "the evidence orders 2 of them correctly. With the others as ties, tau-b is 0.33." in text


def test_backbones_within_the_error_of_the_test_images_are_ties() -> None:
    """The difference of 90% and 88% on 360 images has a standard error of 2.3 points."""
    trained = {"lite0": 0.9, "lite1": 0.88, "random": 0.4}
    results = {f"5 a class, seed 0, {name}, full": run(accuracy) for name, accuracy in trained.items()}
    results["5 a class, seed 0, lite0, transfer"] = run(0.5)
    evidence = {
        name: {"depths": [{"linear_probe": {"accuracy": seen}}], "similarity": {"value": 0.6}}
        for name, seen in zip(trained, (0.6, 0.7, 0.3), strict=True)
    }
    recommended = {**advice("full"), "evidence": evidence, "leading": ["lite0", "lite1"]}
    text = tables({"digits": {**results, "5 a class, seed 0, recommend": recommended}})
    assert "After training, 2 of 3 pairs" in text
    assert "the evidence orders 2 of them correctly. With the others as ties, tau-b is 0.82." in text


def test_draws_are_compared_with_one_another() -> None:
    """The evidence is the same in both draws, and right in the first; the ranking after training changes by a pair."""
    trained = ({"lite0": 0.9, "lite1": 0.8, "random": 0.4}, {"lite0": 0.8, "lite1": 0.9, "random": 0.4})
    evidence = {
        name: {"depths": [{"linear_probe": {"accuracy": seen}}], "similarity": {"value": 0.6}}
        for name, seen in trained[0].items()
    }
    recommended = {**advice("full"), "evidence": evidence, "leading": ["lite0", "lite1"]}
    results = {}
    for seed, accuracies in enumerate(trained):
        results |= {f"5 a class, seed {seed}, {name}, full": run(accuracy) for name, accuracy in accuracies.items()}
        results |= {
            f"5 a class, seed {seed}, lite0, transfer": run(0.5),
            f"5 a class, seed {seed}, recommend": recommended,
        }
    text = tables({"digits": results})
    assert "that after training is 0.67; that of two orders after training is 0.33 (1 cells)." in text


def test_what_a_gpu_ran_is_no_cost_on_a_processor() -> None:
    of_gpu = {"5 a class, seed 0, lite0, full": {**run(0.8), "device": "a GPU"}}
    [cell] = gather({"digits": of_gpu})
    assert cell.seconds is None
    [both] = gather({"digits": {**of_gpu, "5 a class, seed 0, lite0, transfer": run(0.6)}})
    passes = {task.strategy: task.passes for task in Cell("digits", 5).tasks("train") if task.backbone == "lite0"}
    assert both.seconds == 10 * (passes["transfer"] + passes["full"]) / passes["transfer"]


def test_costs_of_a_single_machine_have_a_table_of_their_own() -> None:
    timed = {"recommend": 3.0, "runs": {"transfer": 1.0, "full": 9.0}}
    passes = {(task.backbone, task.strategy): task.passes for task in Cell("digits", 5).tasks("train")}
    grid = sum(passes[backbone, strategy] for backbone in ("lite0", "lite1") for strategy in ("transfer", "full"))
    whole = 10 * grid / (passes["lite0", "transfer"] + passes["lite0", "full"])
    runs = {f"5 a class, seed 0, {name}": run(0.8) for name in ("lite0, transfer", "lite0, full", "lite1, full")}
    results = {**runs, "5 a class, seed 0, cost": timed}
    row = f"| digits, 5 per class | {whole:,.0f} | 3 ({3 / whole:.1%}) |"
    assert row in tables({"digits": results})


def test_every_run_has_a_name_of_its_own() -> None:
    names = [
        task.name
        for cell in cells("digits")
        for work in ("train", "recommend", "auto", "cost")
        for task in cell.tasks(work)
    ]
    assert len(names) == len(set(names)) > 100


def test_the_results_that_are_kept_make_a_table() -> None:
    command = [sys.executable, str(SCRIPTS / "benchmark_advisor.py"), "table"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert "| digits, 5 per class |" in printed
    assert "| recommended strategy (rules), with its usual recipe |" in printed
