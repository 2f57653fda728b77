"""The front door: two models and a dataset to a comparison."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_tl.comparison.contenders import Contender, check_alike, open_images, predict, speed
from hf_tl.comparison.findings import SIGNIFICANT, Findings, decisions, find_differences
from hf_tl.data.fingerprint import row_name
from hf_tl.errors import ConfigError
from hf_tl.evaluation.metrics import MULTI_LABEL
from hf_tl.publish.folders import make_folder
from hf_tl.publish.numbers import chance_of, points

if TYPE_CHECKING:
    from hf_tl.data.datasets import ImageData
    from hf_tl.evaluation.intervals import Interval
    from hf_tl.evaluation.measure import Predictions
    from hf_tl.evaluation.metrics import ProblemType
    from hf_tl.evaluation.paired import Difference

SCHEMA_VERSION = 1
RECORD, REPORT, FIGURE = "comparison.json", "comparison.md", "comparison.png"


@dataclass(frozen=True)
class Comparison:
    """Which of two models is better on the same images, and whether that may be chance."""

    record: dict[str, Any]
    """All of it as plain values: what `comparison.json` holds."""

    @property
    def conclusion(self) -> str:
        """In one sentence."""
        return self.record["conclusion"]

    @property
    def difference(self) -> float:
        """By how much B is better than A in accuracy, or in mean average precision of multi-label images."""
        return next(iter(self.record["metrics"].values()))["difference"]

    @property
    def p_value(self) -> float:
        """How probable a difference as large is by chance."""
        return next(iter(self.record["metrics"].values()))["p_value"]

    def save(self, output_dir: str | os.PathLike[str]) -> None:
        """Write `comparison.json`, `comparison.md` and `comparison.png`.

        Raises:
            ConfigError: the folder cannot be written to.
        """
        from hf_tl.comparison.figure import plot_comparison
        from hf_tl.comparison.report import markdown

        folder = make_folder(output_dir)
        try:
            text = json.dumps(self.record, indent=2, allow_nan=False)
            (folder / RECORD).write_text(text + "\n", encoding="utf-8")
            (folder / REPORT).write_text(markdown(self.record, FIGURE), encoding="utf-8")
            plot_comparison(self.record, folder / FIGURE)
        except OSError as error:
            raise ConfigError(f"--output_dir {folder} cannot be written to: {error.strerror or error}") from error

    def __str__(self) -> str:
        from hf_tl.comparison.report import describe

        return describe(self.record)


def compare(
    first: str | os.PathLike[str],
    second: str | os.PathLike[str],
    dataset: "str | ImageData | None" = None,
    *,
    split: str = "test",
    image_column: str | None = None,
    label_column: str | None = None,
    batch_size: int = 64,
    output_dir: str | os.PathLike[str] | None = None,
) -> Comparison:
    """Compare two models of the same classes on the same images.

    Each image is told once by each model, as a pipeline would. The difference of accuracy has Tango's score interval
    and McNemar's exact test, that of mean average precision a paired bootstrap; each class is tested too, corrected
    for their number (see `hf_tl.evaluation.paired`).

    Args:
        first: A: a trained model's folder, a `RunResult`, or a Hub id; any other image classifier of transformers too.
        second: B: the same.
        dataset: what `--dataset` takes, or what `hf_tl.load_data` returned; by default the one that both were trained
            on, where it is one of the Hub or digits.
        split: `"test"`, `"validation"` or `"train"`.
        image_column: as in `load_data`.
        label_column: as in `load_data`.
        batch_size: images a step.
        output_dir: folder that the comparison is saved in.

    Raises:
        ModelError: there is no such model, or the two do not tell the same classes apart.
        DataError: the images cannot be had or must be named, or one of the models may have been trained on them.

    ```python
    found = hf_tl.compare("runs/transfer", "runs/finetune")
    print(found.conclusion)
    ```
    """
    from accelerate import Accelerator

    if output_dir is not None:
        make_folder(output_dir)  # that it cannot be is known before minutes are spent
    pair = (Contender.load("A", first), Contender.load("B", second))
    check_alike(*pair)
    data = open_images(pair, dataset, split, {"image_column": image_column, "label_column": label_column})
    accelerator, labels, problem = Accelerator(), pair[0].labels, pair[0].problem
    said = [predict(accelerator, one, data, split, labels, batch_size) for one in pair]
    findings = find_differences(problem, labels, *said)
    models = {
        one.letter: {**one.describe(), "images_per_second": round(speed(one, data, split, accelerator.device), 1)}
        for one in pair
    }
    record = {
        "schema_version": SCHEMA_VERSION,
        "conclusion": conclude(findings, problem),
        "models": models,
        "data": {
            "name": data.name,
            "revision": data.revision,
            "fingerprint": data.fingerprint,
            "split": split,
            "images": len(said[0].labels),
            "classes": len(findings.classes),
        },
        "problem_type": problem.name,
        **_results(findings),
        **_parted(findings, problem, data, split, labels, said),
    }
    found = Comparison(record)
    if output_dir is not None:
        found.save(output_dir)
    return found


def conclude(findings: Findings, problem: "ProblemType") -> str:
    """Say in one sentence what was found."""
    found = findings.metrics.values()
    if findings.is_same.all() and not any(one.value for one in found):
        return "A and B say the same of all images."
    names = {figure.key: figure.name for figure in problem.figures}
    units = [f"points of {names[key]}" if problem is MULTI_LABEL else "points" for key in findings.metrics]
    told = "; ".join(_tell(*pair) for pair in zip(found, units, strict=True))
    if any(one.p_value < SIGNIFICANT for one in found):
        return f"{told}."
    return f"{told}: these images do not tell which is better."


def _tell(found: "Difference", unit: str) -> str:
    better, sign = ("B", 1) if found.value > 0 else ("A", -1)
    bounds = sorted(sign * bound for bound in found.interval or ())
    reach = [" to ".join(points(bound).removeprefix("+") for bound in bounds)] if bounds else []
    told = f"{points(abs(found.value)).removeprefix('+')} {unit} ({', '.join([*reach, chance_of(found.p_value)])})"
    if found.p_value < SIGNIFICANT:
        return f"{better} is better by {told}, which is hardly chance"
    return f"{better} is ahead by {told}, which may be chance" if found.value else f"A and B are level, {told}"


def _results(findings: Findings) -> dict[str, Any]:
    """Write the numbers as plain values."""
    counts = {
        name: len(findings.rows_right(*is_right))
        for name, is_right in (
            ("both", (True, True)),
            ("only_A", (True, False)),
            ("only_B", (False, True)),
            ("neither", (False, False)),
        )
    }
    return {
        "metrics": {name: _difference(found) for name, found in findings.metrics.items()},
        "agreement": float(findings.is_same.mean()),
        "right": counts,
        "classes": [
            {
                "label": one.label,
                "images": one.images,
                **({} if one.difference is None else _difference(one.difference)),
                "corrected_p_value": one.p_value,
                "is_significant": one.is_significant,
            }
            for one in findings.classes
        ],
    }


def _difference(found: "Difference") -> dict[str, Any]:
    def listed(interval: "Interval | None") -> list[float] | None:
        return None if interval is None else list(interval)

    return {
        "A": found.first,
        "A_interval": listed(found.first_interval),
        "B": found.second,
        "B_interval": listed(found.second_interval),
        "difference": found.value,
        "interval": listed(found.interval),
        "p_value": found.p_value,
    }


def _parted(
    findings: Findings,
    problem: "ProblemType",
    data: "ImageData",
    split: str,
    labels: list[str],
    said: "Sequence[Predictions]",
) -> dict[str, list[dict[str, Any]]]:
    """Name the images that only one model is right on, with what each says of them."""
    told = [said[0].labels.astype(np.int64), *(decisions(problem, one.logits) for one in said)]

    def rows(*is_right: bool) -> Iterator[dict[str, Any]]:
        places = findings.rows_right(*is_right).tolist()
        images = _names(data, split, places)
        for row in places:
            yield {
                "image": row,
                "name": images[row],
                **{who: _classes(one[row], labels) for who, one in zip(("true", "A", "B"), told, strict=True)},
            }

    return {"only_A": list(rows(True, False)), "only_B": list(rows(False, True))}


def _names(data: "ImageData", split: str, rows: list[int]) -> Mapping[int, str]:
    """Name images by file and folder, not by the whole path, or by their place in the split."""
    from datasets import Image

    stored = data.splits[split].cast_column(data.image_column, Image(decode=False))
    return {row: "/".join(Path(row_name(stored[row][data.image_column], row, split)).parts[-2:]) for row in rows}


def _classes(said: Any, labels: list[str]) -> list[str]:
    """Name the class, or the classes."""
    indices = [int(said)] if np.ndim(said) == 0 else np.flatnonzero(said).tolist()
    return [labels[index] for index in indices]
