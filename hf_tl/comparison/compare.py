"""Comparison of two models on a dataset."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hf_tl.comparison.contenders import check_alike, measure_speed, open_images, predict
from hf_tl.comparison.findings import find_differences
from hf_tl.comparison.record import build_record
from hf_tl.data.image_data import AnyDataset
from hf_tl.evaluation.holdout.classifier import AnyModel
from hf_tl.evaluation.holdout.opening import load_classifier
from hf_tl.ranges import COUNT, check_argument
from hf_tl.renamed import OLD_SOURCE, renamed
from hf_tl.reporting.frames import to_frame
from hf_tl.reporting.html import picture_of
from hf_tl.reporting.shown import Shown
from hf_tl.storage.folders import make_folder, report_folder

if TYPE_CHECKING:
    import pandas

RECORD, REPORT, FIGURE = "comparison.json", "comparison.md", "comparison.png"


@dataclass(frozen=True, repr=False)
class Comparison(Shown):
    """Result of a comparison of two models on the same images; `print` shows all of it, a notebook the figure too.

    >>> import hf_tl
    >>> comparison = hf_tl.compare("photos-model", "photos-model", dataset="photos")
    >>> comparison.save("comparison")
    >>> sorted(os.listdir("comparison"))
    ['comparison.json', 'comparison.md', 'comparison.png']
    """

    record: dict[str, Any]
    """All results as plain values: the content of `comparison.json`."""

    @property
    def conclusion(self) -> str:
        """Conclusion in one sentence."""
        return self.record["conclusion"]

    @property
    def difference(self) -> float:
        """Difference B - A of the accuracy, or of the mean average precision for multi-label images."""
        return next(iter(self.record["metrics"].values()))["difference"]

    @property
    def p_value(self) -> float:
        """P-value of the difference."""
        return next(iter(self.record["metrics"].values()))["p_value"]

    def facts(self) -> Iterator[tuple[str, str]]:
        """Yield both models, the images and the conclusion."""
        from hf_tl.comparison.report import facts_of

        yield from facts_of(self.record)

    def pictures(self) -> Iterator[tuple[str, bytes]]:
        """Yield the figure of both models by class."""
        from hf_tl.comparison.figure import plot_comparison

        yield "Accuracy of A and B by class", picture_of(lambda path: plot_comparison(self.record, path))

    def to_pandas(self) -> "pandas.DataFrame":
        """Return a table with a row for each class: images, both models, their difference, interval and p-value.

        Raises:
            ConfigError: pandas is not installed.
        """
        from hf_tl.comparison.report import class_records

        return to_frame(class_records(self.record))

    def save(self, output_dir: str | os.PathLike[str]) -> None:
        """Write `comparison.json`, `comparison.md` and `comparison.png`.

        Earlier files of these names stay until all new ones are complete.

        Raises:
            ConfigError: The folder is not writable.
        """
        from hf_tl.comparison.figure import plot_comparison
        from hf_tl.comparison.report import markdown

        with report_folder(output_dir, RECORD) as partial:
            text = json.dumps(self.record, indent=2, allow_nan=False)
            (partial / RECORD).write_text(text + "\n", encoding="utf-8")
            (partial / REPORT).write_text(markdown(self.record, FIGURE), encoding="utf-8")
            plot_comparison(self.record, partial / FIGURE)

    def __str__(self) -> str:
        from hf_tl.comparison.report import describe

        return describe(self.record)


@renamed(**OLD_SOURCE)
def compare(
    first: AnyModel,
    second: AnyModel,
    dataset: AnyDataset | None = None,
    *,
    split: str | None = None,
    batch_size: int = 64,
    include_training_images: bool = False,
    output_dir: str | os.PathLike[str] | None = None,
    **reading: Any,
) -> Comparison:
    """Compare two models with the same classes on the same images.

    Both models predict each image once, as a pipeline would. The difference in accuracy is tested with Tango's score
    interval and McNemar's exact test, that in mean average precision with a paired bootstrap. Each class is tested too,
    with a correction for multiple testing (see `hf_tl.evaluation.paired`). Training images of either model are
    excluded. All images of a dataset without splits are used, except for the dataset of the training, whose splits are
    drawn again.

    Args:
        first: Model A: folder of a trained model, `RunResult`, Hub id, any other transformers image classifier, a
            loaded model, or folder or file of an exported model, which its own runtime runs.
        second: Model B, likewise.
        dataset: A name, a folder, a table, `datasets.Dataset`, `DatasetDict`, or the result of `hf_tl.load_data`
            (default: the dataset that both were trained on, if it is a Hub dataset or digits).
        split: `"test"`, `"validation"` or `"train"` of a dataset with splits (default: test, or validation).
        batch_size: Number of images per step.
        include_training_images: Whether to compare on training images of the models too, and count them.
        output_dir: Folder to save the comparison in.
        reading: Other arguments of `load_data` about how to read the dataset, for example `label_column`.

    Raises:
        ModelError: There is no such model, or the two do not have the same classes.
        DataError: The images cannot be loaded, the dataset must be named, or too many images are training images.

    >>> import hf_tl
    >>> comparison = hf_tl.compare("photos-model", "photos-model", dataset="photos")
    >>> comparison.difference, comparison.p_value
    (0.0, 1.0)
    """
    from accelerate import Accelerator

    check_argument("batch_size", batch_size, COUNT)
    if output_dir is not None:
        make_folder(output_dir)  # fail early, before minutes of computation
    pair = {"A": load_classifier(first), "B": load_classifier(second)}
    check_alike(*pair.values())
    holdout, leakage = open_images(pair, dataset, split, reading).measurable(
        include_training_images=include_training_images
    )
    accelerator, labels, problem = Accelerator(), pair["A"].labels, pair["A"].problem
    predictions = [predict(accelerator, contender, holdout.images, labels, batch_size) for contender in pair.values()]
    speeds = [measure_speed(contender, holdout.images) for contender in pair.values()]
    findings = find_differences(problem, labels, *predictions)
    comparison = Comparison(build_record(pair, speeds, holdout, leakage, predictions, findings))
    if output_dir is not None:
        comparison.save(output_dir)
    return comparison
