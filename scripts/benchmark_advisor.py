"""The advisor against what training shows: `python scripts/benchmark_advisor.py WORK [flags]`.

A grid: three sets of images at four sizes, two backbones with their ImageNet weights and one with random ones, every
strategy with the defaults of its recipe. `train` fills it, `recommend` asks the advisor, `auto` trains by `--strategy
auto`, on the same images; `cost` times advice and training one after the other, since the rest may be run on several
machines; `table` prints how far the advice is from the best of the grid. Results are kept in
`advisor_grid/`, one file a data set, and what a file holds is not run again: cheap and important runs come first, so it
can be stopped at any time. Processes on different `--data` may run side by side: costs are seconds of a processor, not
of the clock.
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
    """Run what is missing, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", choices=[*WORK, "table"])
    parser.add_argument("--data", nargs="+", choices=DATA, default=list(DATA), help="sets of images (default: all)")
    parser.add_argument("--folder", type=Path, help="of the clothes: train, validation and test")
    parser.add_argument("--backbones", nargs="+", choices=BACKBONES, default=list(BACKBONES), help="to train")
    parser.add_argument("--strategies", nargs="+", choices=STRATEGIES, default=list(STRATEGIES), help="to train by")
    parser.add_argument("--max_passes", type=float, help="leave out runs of more images times passes than this")
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
    """Read the results of a data set."""
    file = RESULTS / f"{data}.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def write(data: str, name: str, result: dict[str, Any]) -> None:
    """Add a result."""
    file = RESULTS / f"{data}.json"
    lines = (f"{json.dumps(key)}: {json.dumps(value)}" for key, value in sorted({**read(data), name: result}.items()))
    partial = file.with_suffix(".partial")
    partial.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    partial.replace(file)


if __name__ == "__main__":
    main()
