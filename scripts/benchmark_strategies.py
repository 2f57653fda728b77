"""Train every strategy on the same data and print their test results as a table.

`python scripts/benchmark_strategies.py --output_dir FOLDER [--dataset digits] [--trainer] [--image_size 128 …]`

Each run is a process of its own, with the defaults of its strategy (30 epochs instead of 100 from random weights) and
all additional flags. Finished runs in `FOLDER` are not repeated, so an interrupted benchmark resumes. The table in the
README is its output.
"""

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path

from hf_tl.evaluation.metrics import PROBLEM_TYPES
from hf_tl.record import RECORD_FILE, read_record

RUNS = {
    "transfer": ["--strategy", "transfer"],
    "finetune, 1 stage": ["--strategy", "finetune", "--trainable_stages", "2"],
    "finetune, 2 stages": ["--strategy", "finetune", "--trainable_stages", "3"],
    "finetune, 3 stages": ["--strategy", "finetune", "--trainable_stages", "4"],
    "gradual": ["--strategy", "gradual"],
    "full": ["--strategy", "full"],
    "scratch, 30 epochs": ["--strategy", "scratch", "--num_train_epochs", "30"],
}
TRAINER = Path(__file__).with_name("train_with_trainer.py")


def main() -> None:
    """Run the missing strategies, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, required=True, help="folder for the runs")
    parser.add_argument("--dataset", default="digits", help="as in hf-tl train")
    parser.add_argument("--only", nargs="+", choices=RUNS, default=list(RUNS), help="strategies to run")
    parser.add_argument("--trainer", action="store_true", help="under transformers' Trainer instead of Accelerate")
    options, further_flags = parser.parse_known_args()
    for number, name in enumerate(options.only):
        folder = options.output_dir / re.sub(r"\W+", "-", name)
        arguments = ["--dataset", options.dataset, *RUNS[name], "--output_dir", str(folder), *further_flags]
        metric, value, seconds = (run_trainer if options.trainer else run_accelerate)(arguments, folder)
        if number == 0:
            print(f"| strategy | test {metric} | minutes |\n|---|--:|--:|")
        print(f"| {name} | {value:.1%} | {seconds / 60:.1f} |", flush=True)


def run_accelerate(arguments: list[str], folder: Path) -> tuple[str, float, float]:
    """Train with Accelerate; return the name of the model selection metric, its value and the seconds."""
    if not (folder / RECORD_FILE).exists() or read_record(folder).status != "complete":
        command = [sys.executable, "-m", "hf_tl", "train", *arguments, "--resume_from_checkpoint", "auto"]
        subprocess.run([*command, "--report_to", "none"], check=True, stdout=sys.stderr)
    record = read_record(folder)
    primary = PROBLEM_TYPES[record.model.problem_type].primary
    return primary.name, record.measured["test"].metrics[primary.key] or 0.0, record.seconds.total


def run_trainer(arguments: list[str], folder: Path) -> tuple[str, float, float]:
    """Train with transformers' Trainer; return the same values as `run_accelerate`."""
    result = folder / "result.json"
    if not result.exists():
        done = subprocess.run([sys.executable, str(TRAINER), *arguments], check=True, stdout=subprocess.PIPE, text=True)
        metric, value, seconds = re.findall(r"test (.+) ([\d.]+)% after ([\d.]+) s", done.stdout)[-1]
        result.write_text(json.dumps([metric, float(value) / 100, float(seconds)]), encoding="utf-8")
    metric, value, seconds = json.loads(result.read_text(encoding="utf-8"))
    return metric, value, seconds


if __name__ == "__main__":
    main()
