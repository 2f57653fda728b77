"""Terminal summary of a finished export."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hf_tl.evaluation.metrics import PROBLEM_TYPES
from hf_tl.exporting.export import REPORT_FILE
from hf_tl.exporting.preprocessing import FILE as PREPROCESSING_FILE
from hf_tl.reporting.numbers import megabytes, percent, range_of

DEPRECATED = "torch deprecates TorchScript and names torch.export as its successor: --format torch_export"


def summarize(folder: Path) -> str:
    """Summarize what was written, what was verified, and what int8 costs in accuracy."""
    report = json.loads((folder / REPORT_FILE).read_text(encoding="utf-8"))
    verified, int8 = report["verified"], report.get("int8")
    differences, whole = verified["differences"], verified["without_hf_tl"]
    *some, last = map(str, verified["batch_sizes"])
    written = f"{report['file']} ({megabytes(report['bytes'])})"
    if int8 is not None:
        written += f", {int8['file']} ({megabytes(int8['bytes'])})"
    return "\n".join(
        [
            f"Exported  {folder}: {written}, {PREPROCESSING_FILE}, {REPORT_FILE}",
            f"Verified  on {verified['images']} images of {report['data']['name']} ({verified['split']}), "
            f"in batches of {', '.join(some)} and {last}",
            f"          logits differ by at most {differences['logits']:.1g}, probabilities by "
            f"{differences['probabilities']:.1g}, predictions agree on {percent(differences['same_prediction'])}",
            f"          by {PREPROCESSING_FILE}, in Pillow and NumPy: pixels differ by "
            f"{whole['pixel_levels']['mean']:.1g} of 255 levels, predictions agree on "
            f"{percent(whole['differences']['same_prediction'])}",
            *([] if int8 is None else _describe_int8(int8, report["model"]["problem_type"])),
            *([f"Note      {DEPRECATED}"] if report["format"] == "torchscript" else []),
        ]
    )


def _describe_int8(int8: Mapping[str, Any], problem_type: str) -> list[str]:
    problem = PROBLEM_TYPES[problem_type]
    name = next(figure.name for figure in problem.figures if figure.key == problem.accuracy)
    shares, times = int8[problem.accuracy], int8["milliseconds_per_image"]
    low, high = (100 * bound for bound in shares["difference"]["interval"])
    lines = [
        f"{title:<10}{name} {percent(shares[key]['value'])} "
        f"({range_of(shares[key]['interval'], is_percentage=True)}) on {int8['images']:,} images, "
        f"{times[key]:.1f} ms an image on one thread"
        for title, key in (("float32", "float32"), ("int8", "int8"))
    ]
    if problem.primary.key != problem.accuracy:
        values = (percent(int8["metrics"][key][problem.primary.key]) for key in ("float32", "int8"))
        lines.append(f"          {problem.primary.name} " + " and ".join(values))
    difference = 100 * shares["difference"]["value"]
    lines.append(f"          int8 against float32: {difference:+.1f} points ({low:+.1f} to {high:+.1f})")
    lines += [f"Leakage   {note}" for note in int8["leakage"]["notes"]]
    return lines
