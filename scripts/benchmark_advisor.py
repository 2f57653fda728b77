"""Benchmark of the advisor against training results: `python scripts/benchmark_advisor.py WORK [flags]`.

The grid has three datasets at four sizes, two backbones with ImageNet weights and one with random weights, and every
strategy with the defaults of its recipe. `train` fills it. `recommend` computes the recommendations, and `auto` trains
by `--strategy auto`, on the same images. `cost` times recommendation and training sequentially, because the other runs
may be spread over several machines. `table` prints the difference between the recommendations and the best of the grid.

Results are saved in `advisor_grid/`, one file per dataset, and are not computed again. Cheap and important runs come
first, so the benchmark can be stopped at any time. Processes on different `--data` may run in parallel: costs are CPU
seconds, not wall-clock seconds.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from advisor_grid.cells import BACKBONES, DATA, STRATEGIES, Cell, Task, cells
from advisor_grid.runs import auto, cost, recommend_for, train
from advisor_grid.tables import tables

RESULTS = Path(__file__).parent / "advisor_grid"
WORK: dict[str, Callable[[Cell, Task], dict[str, Any]]] = {
    "train": train, "recommend": recommend_for, "auto": auto, "cost": cost
}  # fmt: skip


def main() -> None:
    """Run the missing tasks, or print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", choices=[*WORK, "table"])
    parser.add_argument("--data", nargs="+", choices=DATA, default=list(DATA), help="datasets (default: all)")
    parser.add_argument("--folder", type=Path, help="image folder of the clothes, with train, validation and test")
    parser.add_argument(
        "--backbones", nargs="+", choices=BACKBONES, default=list(BACKBONES), help="backbones to train (default: all)"
    )
    parser.add_argument(
        "--strategies",
        nargs="+",
        choices=STRATEGIES,
        default=list(STRATEGIES),
        help="strategies to train (default: all)",
    )
    parser.add_argument("--max_passes", type=float, help="skip runs whose images times epochs exceed this number")
    options = parser.parse_args()
    if options.work == "table":
        print(tables({name: read(name) for name in options.data}))
        return
    wanted = [(name, cell) for name in options.data for cell in cells(name, options.folder)]
    tasks = [(cell, task) for name, cell in wanted for task in cell.tasks(options.work)]
    for cell, task in sorted(tasks, key=lambda pair: pair[1].passes * pair[0].weight(pair[1])):
        if options.max_passes is not None and task.passes > options.max_passes:
            continue
        if options.work == "train" and (
            task.backbone not in options.backbones or task.strategy not in options.strategies
        ):
            continue
        if task.name not in read(cell.data):
            result = WORK[options.work](cell, task)
            write(cell.data, task.name, result)
            print(f"{task.name}: {result.get('test_accuracy', '')}", flush=True)


def read(data: str) -> dict[str, Any]:
    """Read the results of a dataset."""
    file = RESULTS / f"{data}.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def write(data: str, name: str, result: dict[str, Any]) -> None:
    """Add a result to the file of a dataset."""
    file = RESULTS / f"{data}.json"
    lines = (f"{json.dumps(key)}: {json.dumps(value)}" for key, value in sorted({**read(data), name: result}.items()))
    partial = file.with_suffix(".partial")
    partial.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    partial.replace(file)


if __name__ == "__main__":
    main()
