"""Result of an inspection: numbers, page and list of suggested exclusions."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_tl.inspection.exclusions import Exclusion, to_csv
from hf_tl.inspection.summary import count_copies
from hf_tl.record.inspection import INSPECTION_FILE
from hf_tl.reporting.frames import to_frame
from hf_tl.reporting.numbers import counted, percent, with_interval
from hf_tl.reporting.shown import Shown
from hf_tl.storage.folders import report_folder

if TYPE_CHECKING:
    import pandas

RECORD, PAGE, EXCLUSIONS = INSPECTION_FILE, "inspection.html", "exclusions.csv"
SHOWN = ("Data", "Files", "Copies", "Labels", "Exclude")
"""Lines of the summary that a short view shows."""
BAR, BARS = "━", 30
"""Character of a bar, and the length of the longest."""


@dataclass(frozen=True, repr=False)
class Inspection(Shown):
    """Inspection of a dataset before training; `print` shows its findings, and `save` writes its page.

    >>> import hf_tl
    >>> inspection = hf_tl.inspect("photos")
    >>> inspection.images, inspection.unreadable, inspection.copies
    (40, [], [])
    """

    record: dict[str, Any]
    """Facts and findings as plain values: the content of `inspection.json`."""
    exclusions: tuple[Exclusion, ...]
    """Images that are suggested to be left out, with reasons."""
    page: str = field(repr=False)
    """HTML page with its pictures inside."""

    @property
    def images(self) -> int:
        """Number of labeled images."""
        return int(self.record["images"])

    @property
    def unreadable(self) -> list[str]:
        """Names of the unreadable files."""
        return [image["file"] for image in self.record["unreadable"]]

    @property
    def copies(self) -> list[list[str]]:
        """Groups of files that are copies or near-duplicates, those across splits first."""
        return [[image["file"] for image in group["images"]] for group in self.record["copies"]]

    @property
    def leaks(self) -> int:
        """Number of groups of copies across splits."""
        return count_copies(self.record["copies"], "across_splits")

    @property
    def label_errors(self) -> list[str] | None:
        """Names of the images whose labels are suspect, the least probable first; None if not looked for."""
        errors = self.record["label_errors"]
        return None if errors is None else [image["file"] for image in errors["images"]]

    @property
    def outliers(self) -> list[str] | None:
        """Names of the outliers, the farthest first; None if not looked for."""
        outliers = self.record["outliers"]
        return None if outliers is None else [image["file"] for image in outliers["images"] if image["is_outlier"]]

    def save(self, output_dir: str | Path) -> None:
        """Write `inspection.html`, `inspection.json` and `exclusions.csv`, in place of earlier ones.

        Raises:
            ConfigError: The folder cannot be written to.
        """
        with report_folder(output_dir, RECORD) as partial:
            (partial / PAGE).write_text(self.page, encoding="utf-8")
            (partial / EXCLUSIONS).write_text(to_csv(self.exclusions), encoding="utf-8")
            text = json.dumps(self.record, indent=1, ensure_ascii=False, allow_nan=False)
            (partial / RECORD).write_text(f"{text}\n", encoding="utf-8")

    def __str__(self) -> str:
        return "\n".join(f"{title:<10}{text}" for title, text in self._lines())

    def facts(self) -> Iterator[tuple[str, str]]:
        """Yield the counts of images and findings."""
        lines = [(title, text) for title, text in self._lines() if title in SHOWN]
        yield from lines[:5]
        yield "Next", 'inspection.save("DIR"): page, JSON and exclusions.csv; inspection.to_pandas()'

    def cells(self) -> list[list[str]]:
        """Return the number of images of each class by split, with a bar for each class."""
        counts = self.record["splits"]
        totals = [sum(numbers) for numbers in zip(*counts.values(), strict=True)]
        rows = zip(self.record["classes"], *counts.values(), totals, strict=True)
        longest = max([1, *totals])
        return [
            ["class", *counts, ""],
            *([str(name), *map(str, numbers), BAR * round(BARS * total / longest)] for name, *numbers, total in rows),
        ]

    def to_pandas(self) -> "pandas.DataFrame":
        """Return a table with a row for each finding: its kind, the image, and what was found.

        Raises:
            ConfigError: pandas is not installed.
        """
        return to_frame(self._findings(), ["finding", "file", "split", "label", "detail"])

    def _findings(self) -> Iterator[dict[str, Any]]:
        record = self.record
        findings = [("unreadable", image, image["error"]) for image in record["unreadable"]]
        for number, group in enumerate(record["copies"], 1):
            findings += [(group["kind"], image, f"group {number}") for image in group["images"]]
        for image in (record["label_errors"] or {"images": ()})["images"]:
            detail = f"probability {image['probability']:.3g}; {image['suggested']} is more probable"
            findings.append(("label error", image, detail))
        for image in (record["outliers"] or {"images": ()})["images"]:
            findings += [("outlier", image, f"distance {image['distance']:.3g}")] if image["is_outlier"] else []
        for kind, image, detail in findings:
            yield {"finding": kind, **{name: image[name] for name in ("file", "split", "label")}, "detail": detail}

    def _lines(self) -> Iterator[tuple[str, str]]:
        record, copies = self.record, self.record["copies"]
        splits = ", ".join(f"{split} {count:,}" for split, count in record["split_images"].items())
        yield "Data", f"{record['dataset']}: {self.images:,} images in {len(record['classes']):,} classes ({splits})"
        for line in record["reading"]:
            yield "Reading", line
        yield "Files", f"{record['files']['readable']:,} readable, {len(self.unreadable):,} unreadable"
        for image in record["unreadable"][:5]:
            yield "", f"{image['file']}: {image['error']}"
        exact, near = (count_copies(copies, kind) for kind in ("exact copies", "near-duplicates"))
        across, different = (count_copies(copies, name) for name in ("across_splits", "different_labels"))
        yield (
            "Copies",
            f"{counted(exact, 'group')} of exact copies, {near:,} of near-duplicates; {across:,} across splits (data "
            f"leakage), {different:,} with different labels",
        )
        if (errors := record["label_errors"]) is not None:
            suspected = len(errors["images"])
            accuracy = with_interval(errors["probe"]["accuracy"], errors["probe"]["interval"])
            yield (
                "Labels",
                f"{suspected:,} of {errors['judged']:,} suspect ({percent(suspected / errors['judged'])}); accuracy of "
                f"the linear probe {accuracy}",
            )
        if record["training_images"]:
            yield (
                "Warning",
                f"{record['settings']['model']} was trained on {record['training_images']:,} of these images: it hides "
                "their label errors; inspect with other weights",
            )
        if (outliers := record["outliers"]) is not None:
            yield "Outliers", f"{outliers['count']:,}"
        if not record["settings"]["model"]:
            yield "Labels", "not judged: label errors and outliers need --model"
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in record["exclusions"]["reasons"].items())
        yield "Exclude", f"{len(self.exclusions):,} images are suggested{f': {reasons}' if reasons else ''}"
