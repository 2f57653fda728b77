"""The command that looks at a dataset before training."""

import shlex
from argparse import Namespace
from pathlib import Path

from hf_tl.config import READING, DataConfig, ModelConfig, TrainingConfig
from hf_tl.parser import DATASET, Parser, own_values

EXAMPLES = (
    "hf-tl inspect ./flowers                            # files, classes, copies and leakage",
    "hf-tl inspect ./flowers --model demo -o out        # and label errors and outliers",
    "hf-tl train --dataset ./flowers --exclude_list out/exclusions.csv",
)


def inspect_parser() -> Parser:
    """Make the parser of `hf-tl inspect`."""
    parser = Parser("inspect", "Show what is in a dataset: classes, copies, leakage, label errors.", EXAMPLES)
    parser.add_argument("dataset", metavar="DATASET", help=DATASET)
    text = "pretrained backbone that finds label errors and outliers; demo: the demo's (default: none)"
    parser.add_argument("--model", metavar="MODEL", help=text)
    parser.add_setting(ModelConfig, "weights", "local weights file, for --model timm:ARCH")
    for name in ("dataset_config", "dataset_revision", *READING):
        parser.add_setting(DataConfig, name)
    parser.add_setting(TrainingConfig, "seed", "random seed (contact sheet, folds)")
    parser.add_output_dir("inspection.html, inspection.json and exclusions.csv (default: runs/DATASET-inspection)")
    return parser


def inspect(options: Namespace) -> None:
    """Print a summary of a dataset, and write its page."""
    from hf_tl.inspection.inspect import inspect as examine
    from hf_tl.inspection.result import EXCLUSIONS, PAGE
    from hf_tl.processes.memory import keep_freed_memory
    from hf_tl.record.inspection import default_folder

    keep_freed_memory()
    values = own_values(options)
    output_dir = values.pop("output_dir")
    inspection = examine(**values, output_dir=output_dir)
    if output_dir is None:
        output_dir = str(default_folder(inspection.record["dataset"]))
        inspection.save(output_dir)
    print(inspection)
    if inspection.exclusions:
        flags = ["--dataset", options.dataset, "--exclude_list", str(Path(output_dir) / EXCLUSIONS)]
        print(f"{'Train':<10}{shlex.join(['hf-tl', 'train', *flags])}")
    print(f"{'Page':<10}{Path(output_dir) / PAGE}")
