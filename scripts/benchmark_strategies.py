"""Train every strategy on the same data and print their test results as a table.

`python scripts/benchmark_strategies.py --output_dir FOLDER [--dataset digits] [--trainer] [--image_size 128 …]`

Each run is a process of its own, with the defaults of its strategy (30 epochs instead of 100 from random weights) and
all additional flags. Finished runs in `FOLDER` are not repeated, so an interrupted benchmark resumes. The table in the
README is its output.
"""

import argparse
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
        loop = [sys.executable, "-m", "hf_tl", "train", "--resume_from_checkpoint", "auto", "--report_to", "none"]
        command = [sys.executable, str(TRAINER), "--disable_tqdm", "true"] if options.trainer else loop
        metric, value, seconds = train([*command, *arguments], folder)
        if number == 0:
            print(f"| strategy | test {metric} | minutes |\n|---|--:|--:|")
        print(f"| {name} | {value:.1%} | {seconds / 60:.1f} |", flush=True)


def train(command: list[str], folder: Path) -> tuple[str, float, float]:
    """Train unless done; return the name of the primary metric, its value on the test split, and the seconds."""
    if not (folder / RECORD_FILE).exists() or read_record(folder).status != "complete":
        subprocess.run(command, check=True, stdout=sys.stderr)
    record = read_record(folder)
    primary = PROBLEM_TYPES[record.model.problem_type].primary
    return primary.name, record.measured["test"].metrics[primary.key] or 0.0, record.seconds.total


if __name__ == "__main__":
    main()
