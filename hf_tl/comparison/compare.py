"""Comparison of two models on a dataset."""

import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hf_tl.comparison.contenders import Contender, check_alike, measure_speed, open_images, predict
from hf_tl.comparison.findings import find_differences
from hf_tl.comparison.record import build_record
from hf_tl.evaluation.leakage import measurable
from hf_tl.evaluation.predict import images_for
from hf_tl.storage.folders import make_folder, report_folder

if TYPE_CHECKING:
    from hf_tl.data.datasets import ImageData

RECORD, REPORT, FIGURE = "comparison.json", "comparison.md", "comparison.png"


@dataclass(frozen=True)
class Comparison:
    """Result of a comparison of two models on the same images.

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


def compare(
    first: str | os.PathLike[str],
    second: str | os.PathLike[str],
    dataset: "str | ImageData | None" = None,
    *,
    split: str = "test",
    image_column: str | None = None,
    label_column: str | None = None,
    batch_size: int = 64,
    include_training_images: bool = False,
    output_dir: str | os.PathLike[str] | None = None,
) -> Comparison:
    """Compare two models with the same classes on the same images.

    Both models predict each image once, as a pipeline would. The difference in accuracy is tested with Tango's score
    interval and McNemar's exact test, that in mean average precision with a paired bootstrap. Each class is tested too,
    with a correction for multiple testing (see `hf_tl.evaluation.paired`). Training images of either model are
    excluded.

    Args:
        first: Model A: folder of a trained model, `RunResult`, Hub id, or any other transformers image classifier.
        second: Model B, likewise.
        dataset: Value of `--dataset`, or result of `hf_tl.load_data` (default: the dataset that both were trained on,
            if it is a Hub dataset or digits).
        split: `"test"`, `"validation"` or `"train"`.
        image_column: As in `load_data`.
        label_column: As in `load_data`.
        batch_size: Number of images per step.
        include_training_images: Whether to compare on training images of the models too, and count them.
        output_dir: Folder to save the comparison in.

    Raises:
        ModelError: There is no such model, or the two do not have the same classes.
        DataError: The images cannot be loaded, the dataset must be named, or too many images are training images.

    >>> import hf_tl
    >>> comparison = hf_tl.compare("photos-model", "photos-model", dataset="photos")
    >>> comparison.difference, comparison.p_value
    (0.0, 1.0)
    """
    from accelerate import Accelerator

    if output_dir is not None:
        make_folder(output_dir)  # fail early, before minutes of computation
    pair = (Contender.load("A", first), Contender.load("B", second))
    check_alike(*pair)
    data = open_images(pair, dataset, {"image_column": image_column, "label_column": label_column})
    data, leakage = measurable(
        data,
        {contender.letter: contender.learned for contender in pair},
        [split],
        include_training_images=include_training_images,
    )
    accelerator, labels, problem = Accelerator(), pair[0].labels, pair[0].problem
    images = images_for(pair[0].model, data, split)
    predictions = [predict(accelerator, contender, images, labels, batch_size) for contender in pair]
    speeds = [measure_speed(contender, data, split, accelerator.device) for contender in pair]
    findings = find_differences(problem, labels, *predictions)
    comparison = Comparison(build_record(pair, speeds, data, leakage[split], predictions, findings))
    if output_dir is not None:
        comparison.save(output_dir)
    return comparison
