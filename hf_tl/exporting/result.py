"""Result of an export: its folder and its report."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_tl.evaluation.intervals import share_interval
from hf_tl.evaluation.metrics import PROBLEM_TYPES
from hf_tl.record import RECORD_FILE
from hf_tl.reporting.numbers import counted, megabytes, percent, with_interval
from hf_tl.reporting.shown import Shown
from hf_tl.runtime.origin import FILE as REPORT_FILE
from hf_tl.runtime.preprocessing import FILE as PREPROCESSING_FILE
from hf_tl.wording import worded

DEPRECATED = "torch deprecates TorchScript and names torch.export as its successor: --format torch_export"


@dataclass(frozen=True, repr=False)
class ExportResult(Shown):
    """Verified export; usable as the path of its folder.

    >>> import hf_tl
    >>> exported = hf_tl.export("photos-model", "torch_export", "exported", dataset="photos")
    >>> exported.file.name, exported.record["verified"]["images"]
    ('model.pt2', 8)
    """

    output_dir: Path
    """Folder with the model file, `preprocessing.json` and `export.json`."""
    record: dict[str, Any]
    """Contents of `export.json`: what was verified and measured."""

    def __fspath__(self) -> str:
        return str(self.output_dir)

    def __truediv__(self, name: str) -> Path:
        """Return the path of a file in the folder."""
        return self.output_dir / name

    @property
    def file(self) -> Path:
        """Model file."""
        return self.output_dir / str(self.record["file"])

    def __str__(self) -> str:
        return worded("\n".join(f"{title:<10}{text}" for title, text in _lines(self.output_dir, self.record)))

    def facts(self) -> Iterator[tuple[str, str]]:
        """Yield the folder, the model file and its verification."""
        verified = self.record["verified"]
        yield "Saved in", str(self.output_dir)
        yield "File", f"{self.record['file']} ({megabytes(self.record['bytes'])})"
        same = _agreement(verified, verified["images"])
        yield "Verified", f"on {counted(verified['images'], 'image')}: predictions agree on {same}"
        if (int8 := self.record.get("int8")) is not None:
            difference = int8_difference(int8, self.record["model"]["problem_type"])
            yield "int8", f"{int8['file']} ({megabytes(int8['bytes'])}); against float32: {difference}"


def _lines(folder: Path, report: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what was written, what was verified, and what int8 costs in accuracy."""
    verified, int8, whole = report["verified"], report.get("int8"), report.get("with_preprocessing")
    differences, steps = verified["differences"], verified["without_hf_tl"]
    *some, last = map(str, verified["batch_sizes"])
    written = f"{report['file']} ({megabytes(report['bytes'])})"
    if int8 is not None:
        written += f", {int8['file']} ({megabytes(int8['bytes'])})"
    if whole is not None:
        written += f", {whole['file']} ({megabytes(whole['bytes'])})"
    others = (PREPROCESSING_FILE, REPORT_FILE, *([RECORD_FILE] if (folder / RECORD_FILE).is_file() else []))
    yield "Exported", f"{os.fspath(folder)}: {written}, {', '.join(others)}"
    yield from (("Data", note) for note in report["data"].get("notes", ()))
    yield (
        "Verified",
        f"on {verified['images']} images of {report['data']['name']} ({verified['split']}), "
        f"in batches of {', '.join(some)} and {last}",
    )
    yield (
        "",
        f"logits differ by at most {differences['logits']:.1g}, probabilities by "
        f"{differences['probabilities']:.1g}, predictions agree on {_agreement(verified, verified['images'])}",
    )
    yield (
        "",
        f"by {PREPROCESSING_FILE}, in Pillow and NumPy: pixels differ by "
        f"{steps['pixel_levels']['mean']:.1g} of 255 levels, predictions agree on "
        f"{_agreement(steps, verified['images'])}",
    )
    if (scores := verified.get("ood_scores")) is not None:
        yield "", f"out-of-distribution scores differ by at most {scores:.1g}"
    if whole is not None:
        yield from _whole_lines(whole)
    if int8 is not None:
        yield from _int8_lines(int8, report["model"]["problem_type"])
    if "needs" in report:
        release = report["needs"]["onnx"]
        yield "Needs", f"a runtime for ONNX {release} (opset {report['opset']}, IR version {report['ir_version']})"
    if report["format"] == "torchscript":
        yield "Note", DEPRECATED


def _whole_lines(whole: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    levels = whole["pixel_levels"]
    yield (
        "",
        f"with preprocessing inside, by ONNX Runtime: {percent(levels['share'])} of the pixel values differ, by at "
        f"most {levels['largest']:.0f} of 255 levels; probabilities differ by {whole['probabilities']:.1g}, "
        f"predictions agree on "
        f"{with_interval(whole['same_prediction'], share_interval(whole['same_prediction'], whole['images']))}",
    )


def _agreement(verified: Mapping[str, Any], images: int) -> str:
    """Format the share of images for which the exported model makes the same prediction."""
    share = verified["differences"]["same_prediction"]
    return with_interval(share, share_interval(share, images))


def _int8_lines(int8: Mapping[str, Any], problem_type: str) -> Iterator[tuple[str, str]]:
    problem = PROBLEM_TYPES[problem_type]
    name = next(figure.name for figure in problem.figures if figure.key == problem.accuracy)
    shares, times = int8[problem.accuracy], int8["milliseconds_per_image"]
    for key in ("float32", "int8"):
        yield (
            key,
            f"{name} {with_interval(shares[key]['value'], shares[key]['interval'])} on {int8['images']:,} images, "
            f"{times[key]:.1f} ms an image on one thread",
        )
    if problem.primary.key != problem.accuracy:
        values = (percent(int8["metrics"][key][problem.primary.key]) for key in ("float32", "int8"))
        yield "", f"{problem.primary.name} " + " and ".join(values)
    yield "", f"int8 against float32: {int8_difference(int8, problem_type)}"
    yield from (("Leakage", note) for note in int8["leakage"]["notes"])


def int8_difference(int8: Mapping[str, Any], problem_type: str) -> str:
    """Format the difference of accuracy that quantization makes, with its interval."""
    difference = int8[PROBLEM_TYPES[problem_type].accuracy]["difference"]
    low, high = (100 * bound for bound in difference["interval"])
    return f"{100 * difference['value']:+.1f} points ({low:+.1f} to {high:+.1f})"
