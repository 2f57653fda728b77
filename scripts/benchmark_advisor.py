"""Benchmark of the advisor against training results: `python scripts/benchmark_advisor.py WORK [flags]`.

The grid has four datasets at four sizes, some of them in difficult variants; three backbones with ImageNet weights, a
ViT from a folder, and one with random weights; and every strategy with the defaults of its recipe. `train` fills it.
`recommend` computes the recommendations by rules, also for controls that nothing can be learned from, `trials` those
after trials, and `auto` trains by `--strategy auto`, on the same images. `cost` times recommendation and training
sequentially, because the other runs may be spread over several machines. `table` prints the difference between the
recommendations and the best of the grid, and how well rules that were fitted on all datasets but one choose for the
other one.

    python scripts/benchmark_advisor.py train --data trash --folder ../shared/data/trash_160.zip --variants plain series

Results are saved in `advisor_grid/`, one file per dataset, and are not computed again. Cheap and important runs come
first, so the benchmark can be stopped at any time. Processes on different `--data` may run in parallel: costs are CPU
seconds, not wall-clock seconds. Backbones without installed weights are skipped.
"""

import argparse
import json
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from advisor_grid.backbones import BACKBONES, candidates
from advisor_grid.cells import STRATEGIES, Cell, Files, Task, cells
from advisor_grid.held_out import held_out_tables
from advisor_grid.runs import auto, cost, recommend_for, train, tried
from advisor_grid.sources import DATA
from advisor_grid.tables import tables
from advisor_grid.variants import VARIANTS

RESULTS = Path(__file__).parent / "advisor_grid"
WORK: dict[str, Callable[[Cell, Task], dict[str, Any]]] = {
    "train": train, "recommend": recommend_for, "trials": tried, "auto": auto, "cost": cost
}  # fmt: skip


def main() -> None:
    """Run the missing tasks, or print the tables."""
    options = parse()
    if options.work == "table":
        results = {name: read(name) for name in options.data}
        print(f"{tables(results)}\n\n{held_out_tables(results)}")
        return
    files = Files(options.folder, options.vit)
    pairs = [
        (cell, task)
        for name in options.data
        for cell in cells(name, files)
        for task in cell.tasks(options.work)
        if is_wanted(cell, task, options)
    ]
    for cell, task in sorted(pairs, key=lambda pair: pair[1].passes * pair[0].weight(pair[1])):
        if task.name not in read(cell.data):
            result = WORK[options.work](cell, task)
            write(cell.data, task.name, result)
            print(f"{cell.data}, {task.name}: {result.get('test_accuracy', result.get('rule', ''))}", flush=True)


def parse() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", choices=[*WORK, "table"])
    choices: dict[str, tuple[Collection[str], str]] = {
        "--data": (DATA, "datasets"),
        "--variants": (VARIANTS, "variants"),
        "--backbones": (BACKBONES, "backbones to train"),
        "--strategies": (STRATEGIES, "strategies to train"),
    }
    for flag, (names, meaning) in choices.items():
        parser.add_argument(flag, nargs="+", choices=list(names), default=list(names), help=f"{meaning} (default: all)")
    parser.add_argument("--folder", type=Path, help="folder or zip archive of the photos: of the clothes or the trash")
    parser.add_argument("--vit", type=Path, help="checkpoint folder of a ViT-S/14, the backbone vit")
    parser.add_argument("--max_passes", type=float, help="skip runs whose images times epochs exceed this number")
    options = parser.parse_args()
    photos = [name for name in options.data if DATA[name].photos is not None]
    if options.folder is not None and len(photos) > 1:
        parser.error(f"--folder holds the photos of one dataset: choose one of {', '.join(photos)} with --data")
    return options


def is_wanted(cell: Cell, task: Task, options: argparse.Namespace) -> bool:
    """Return whether the flags select a run, and its backbone is available."""
    if cell.variant not in options.variants:
        return False
    if options.max_passes is not None and task.passes > options.max_passes:
        return False
    if options.work != "train":
        return True
    available = candidates(DATA[cell.data].input_size, options.vit)
    chosen = task.backbone in options.backbones and task.strategy in options.strategies
    return chosen and task.backbone in available


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
