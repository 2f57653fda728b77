"""Train every strategy on the same data and print their test results and costs as a table.

`python scripts/benchmark_strategies.py --output_dir FOLDER [--dataset digits] [--trainer] [--corruptions …]`

Each run is a process of its own, with the defaults of its strategy (30 epochs instead of 100 from random weights) and
all additional flags. Finished runs in `FOLDER` are not repeated, so an interrupted benchmark resumes. The table in the
README is its output.
"""

import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path

from hf_tl.evaluation.metrics import PROBLEM_TYPES
from hf_tl.record import read_record
from hf_tl.reporting.numbers import with_interval

RUNS = {
    "transfer": ["--strategy", "transfer"],
    "finetune, 1 stage": ["--strategy", "finetune", "--trainable_stages", "2"],
    "finetune, 2 stages": ["--strategy", "finetune", "--trainable_stages", "3"],
    "finetune, 3 stages": ["--strategy", "finetune", "--trainable_stages", "4"],
    "finetune, all stages": ["--strategy", "finetune", "--trainable_stages", "all"],
    "finetune, all stages, interpolated": [
        *("--strategy", "finetune", "--trainable_stages", "all"),
        *("--interpolate", "auto"),
    ],
    "gradual": ["--strategy", "gradual"],
    "lora, rank 4": ["--strategy", "lora", "--lora_rank", "4"],
    "lora, rank 16": ["--strategy", "lora", "--lora_rank", "16"],
    "lora, rank 64": ["--strategy", "lora", "--lora_rank", "64"],
    "full": ["--strategy", "full"],
    "scratch, 30 epochs": ["--strategy", "scratch", "--num_train_epochs", "30"],
}
COST_FILE = "cost.json"
TRAINER = Path(__file__).with_name("train_with_trainer.py")


def main() -> None:
    """Run the missing strategies, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, required=True, help="folder for the runs")
    parser.add_argument("--dataset", default="digits", help="as in hf-tl train")
    parser.add_argument("--only", nargs="+", choices=RUNS, default=list(RUNS), help="strategies to run")
    parser.add_argument("--trainer", action="store_true", help="under transformers' Trainer instead of Accelerate")
    options, further_flags = parser.parse_known_args()
    # flags that the script for Trainer does not have
    loop_only = {"--lora_rank", "--interpolate"}
    names = [name for name in options.only if not (options.trainer and loop_only & {*RUNS[name]})]
    for number, name in enumerate(names):
        folder = options.output_dir / re.sub(r"\W+", "-", name)
        arguments = ["--dataset", options.dataset, *RUNS[name], "--output_dir", str(folder), *further_flags]
        loop = [sys.executable, "-m", "hf_tl", "train", "--resume_from_checkpoint", "auto", "--report_to", "none"]
        command = [sys.executable, str(TRAINER), "--disable_tqdm", "true", "--seed", "0"] if options.trainer else loop
        train([*command, *arguments], folder)
        record = read_record(folder)
        primary, test = PROBLEM_TYPES[record.model.problem_type].primary, record.measured["test"]
        value = with_interval(test.metrics[primary.key] or 0.0, test.intervals.get(primary.key))
        columns = [f"test {primary.name}", "trained parameters", "minutes", "peak memory"]
        if test.robustness is not None:
            columns[1:1] = ["under corruptions"]
            corrupted = test.robustness.mean[primary.key] or 0.0
            value += f" | {with_interval(corrupted, test.robustness.intervals.get(primary.key))}"
        if number == 0:
            print(f"| strategy | {' | '.join(columns)} |")
            print(f"|---|{'--:|' * len(columns)}")
        memory = f"{json.loads((folder / COST_FILE).read_text())['peak_bytes'] / 1e9:.2f} GB"
        seconds, trained = record.seconds.total, record.model.parameters_trained
        print(f"| {name} | {value} | {trained:,} | {seconds / 60:.1f} | {memory} |", flush=True)


def train(command: list[str], folder: Path) -> None:
    """Train unless done, and write the peak memory of the process beside the model."""
    if (folder / COST_FILE).exists() and read_record(folder).status == "complete":
        return
    process = subprocess.Popen(command, stdout=sys.stderr)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"a run failed: {' '.join(command)}")
    (folder / COST_FILE).write_text(json.dumps({"peak_bytes": usage.ru_maxrss * 1024}))


if __name__ == "__main__":
    main()
