"""Evaluation of a saved or exported model on images that it was not trained on."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from hf_tl.data.image_data import AnyDataset
from hf_tl.evaluation.holdout.classifier import AnyModel, Classifier
from hf_tl.evaluation.holdout.images import open_holdout
from hf_tl.evaluation.holdout.opening import load_classifier
from hf_tl.evaluation.intervals import Interval
from hf_tl.evaluation.measure import Predictions, predict_split
from hf_tl.evaluation.metrics import SINGLE_LABEL, ProblemType
from hf_tl.evaluation.report import measure_split
from hf_tl.evaluation.robustness.measure import measure_robustness, predict_corrupted
from hf_tl.evaluation.robustness.views import check_corruptible, corrupted
from hf_tl.predicting.classifiers import abstaining
from hf_tl.predicting.foreign import ForeignMeasured, measure_foreign
from hf_tl.predicting.inputs import collect_images
from hf_tl.ranges import COUNT, check_argument
from hf_tl.record import LearnedSplit, Measured, Robustness, RunRecord, Temperature
from hf_tl.renamed import OLD_SOURCE, renamed
from hf_tl.reporting.frames import to_frame
from hf_tl.reporting.numbers import counted
from hf_tl.reporting.shown import Shown

if TYPE_CHECKING:
    import pandas
    from accelerate import Accelerator
    from datasets import Dataset


@dataclass(frozen=True, repr=False)
class Evaluation(Shown):
    """Metrics of a model on a split of a dataset; `print` shows all of them, a notebook the confusion matrix too.

    >>> import hf_tl
    >>> evaluation = hf_tl.evaluate("photos-model", "photos")
    >>> evaluation.images, list(evaluation.to_pandas()["class"])
    (8, ['dress', 'hat'])
    """

    measured: Measured
    """All results, as in the record of a run: metrics, intervals, confusion matrix, calibration."""
    labels: tuple[str, ...]
    """Classes of the model."""
    problem: ProblemType
    data: str
    """Name of the dataset."""
    fingerprint: str
    """Fingerprint of the evaluated images and their labels."""
    temperature: Temperature | None = None
    """Temperature scaling of the model, if its weights have one."""
    unknown: tuple[LearnedSplit, ...] = ()
    """Training splits of the model that cannot be compared with these images, because digests are missing."""
    notes: tuple[str, ...] = ()
    """Notes on training images of the model among the images."""
    data_notes: tuple[str, ...] = ()
    """Notes on images and classes that were left out."""
    metric_notes: Mapping[str, str] = field(default_factory=dict)
    """Metrics that these images do not allow, each with the reason."""
    foreign: ForeignMeasured | None = None
    """Abstention on images of none of the classes, if there were any."""

    @property
    def split(self) -> str:
        """Name of the split; `all` for a dataset without splits."""
        return self.measured.split

    @property
    def accuracy(self) -> float:
        """Accuracy; for multi-label images, the share of images with all labels correct."""
        return float(self.measured.metrics[self.problem.accuracy] or 0.0)

    @property
    def metrics(self) -> dict[str, float]:
        """Metrics that these images allow, and that are informative for this number of classes."""
        figures, informative = self.problem.figures, self.problem.figures_for(len(self.labels))
        hidden = {figure.key for figure in figures if figure not in informative} | self.metric_notes.keys()
        return {
            name: value for name, value in self.measured.metrics.items() if value is not None and name not in hidden
        }

    @property
    def intervals(self) -> dict[str, Interval]:
        """95% confidence intervals of the metrics that have one."""
        return {name: interval for name, interval in self.measured.intervals.items() if name in self.metrics}

    @property
    def percentages(self) -> frozenset[str]:
        """Metrics that are shown as percentages."""
        return frozenset(figure.key for figure in self.problem.figures if figure.is_percentage)

    @property
    def robustness(self) -> Robustness | None:
        """Metrics of the same images under common corruptions; None if they were not measured."""
        return self.measured.robustness

    @property
    def images(self) -> int:
        """Number of evaluated images."""
        return self.measured.images

    @property
    def learned(self) -> int:
        """Number of training images of the model among them; if any, the metrics do not estimate generalization."""
        return self.measured.learned

    @property
    def left_out(self) -> int:
        """Number of images of the split that were excluded as training images of the model."""
        return self.measured.left_out

    def facts(self) -> Iterator[tuple[str, str]]:
        """Yield the images and the primary metrics, with their intervals."""
        from hf_tl.card.sections.robustness import mean_text
        from hf_tl.predicting.report import metric_texts

        learned = f" ({self.learned:,} of them training images)" if self.learned else ""
        yield "Data", f"{self.data}, {self.split}: {counted(self.images, 'image')}{learned}"
        yield from list(metric_texts(self))[:3]
        if self.robustness is not None:
            yield "Corrupted", mean_text(self.robustness, self.problem)
        if self.data_notes or self.notes:
            yield "Notes", "; ".join((*self.notes, *self.data_notes))

    def cells(self) -> list[list[str]]:
        """Return a row for each class that has images."""
        from hf_tl.predicting.report import class_table

        return class_table(self)

    def pictures(self) -> Iterator[tuple[str, bytes]]:
        """Yield the confusion matrix, unless there are too many classes, and the robustness, if it was measured."""
        from hf_tl.predicting.report import confusion_picture, robustness_picture

        pictures = {"Confusion matrix": confusion_picture(self), "Robustness": robustness_picture(self)}
        yield from ((title, picture) for title, picture in pictures.items() if picture is not None)

    def to_pandas(self) -> "pandas.DataFrame":
        """Return a table with a row for each class.

        Raises:
            ConfigError: pandas is not installed.
        """
        from hf_tl.predicting.report import class_records

        return to_frame(class_records(self))

    def __str__(self) -> str:
        from hf_tl.predicting.report import describe

        return "\n".join(describe(self))

    def save(self, output_dir: str | os.PathLike[str]) -> None:
        """Write `evaluation.json`, `evaluation.md`, and figures: confusion matrix, calibration, robustness.

        Raises:
            ConfigError: The folder is not writable, or holds a model.
        """
        from hf_tl.predicting.report import write_report

        write_report(self, output_dir)


@renamed(**OLD_SOURCE)
def evaluate(
    model: AnyModel,
    dataset: AnyDataset | None = None,
    *,
    split: str | None = None,
    batch_size: int = 64,
    include_training_images: bool = False,
    skip_bad_images: bool = False,
    corruptions: bool = False,
    ood: Any = None,
    output_dir: str | os.PathLike[str] | None = None,
    **reading: Any,
) -> Evaluation:
    """Evaluate a trained model on labeled images, whose classes are matched by name.

    All images of a dataset without splits are used, except for the dataset of the training, whose splits are drawn
    again. Training images of the model are excluded, even if they were renamed.

    Args:
        model: Folder of a saved model, Hub id, folder or file of an exported model, which its own runtime runs,
            `RunResult`, or a loaded model.
        dataset: A name, a folder, a table, `datasets.Dataset`, `DatasetDict`, or the result of `hf_tl.load_data`
            (default: the dataset that the model was trained on, if it is a Hub dataset or digits).
        split: `"train"`, `"validation"` or `"test"` of a dataset with splits (default: test, or validation).
        batch_size: Number of images per step.
        include_training_images: Whether to evaluate on training images of the model too, and count them.
        skip_bad_images: Whether to leave out unreadable images, with a note, instead of raising an error.
        corruptions: Whether to measure robustness too: the metrics of the same images under five common corruptions at
            three strengths each (`hf_tl.evaluation.robustness.corruptions`), in about 16 times the time.
        ood: Images of none of the classes, as `hf_tl.predict` takes them: the result says how many of them a calibrated
            model abstains from (`hf_tl.calibrate`).
        output_dir: Folder to save the evaluation in.
        reading: Arguments of `hf_tl.load_data` about how to read the dataset, such as `label_column`.

    Raises:
        ConfigError: The dataset has no splits, and `split` names one; or the runtime of an exported model is not
            installed; or `ood` is given for a model that was not calibrated.
        DataError: The dataset has no such split, none of its classes is known to the model, or it has another problem
            type; or not enough images remain after excluding training images.
        ModelError: There is no such model, or its preprocessing does not allow corruptions.

    >>> import hf_tl
    >>> evaluation = hf_tl.evaluate("photos-model", "photos", include_training_images=True)
    >>> evaluation.split, evaluation.images, 0 <= evaluation.accuracy <= 1
    ('test', 8, True)
    """
    from accelerate import Accelerator

    from hf_tl.predicting.report import make_report_folder

    check_argument("batch_size", batch_size, COUNT)
    if output_dir is not None:
        make_report_folder(output_dir)  # fail early, before minutes of computation
    classifier = load_classifier(model)
    calibrated = None if ood is None else (collect_images(ood), abstaining(classifier))
    if corruptions:
        check_corruptible(classifier.scaling)
    holdout = open_holdout(dataset, {"the model": classifier}, split, reading, skip_bad_images=skip_bad_images)
    holdout, leakage = holdout.measurable(include_training_images=include_training_images)
    accelerator = Accelerator()
    images = classifier.transform.over(holdout.images)
    predictions = predict_split(accelerator, classifier.network.to(accelerator.device), images, batch_size)
    temperature = _temperature_of(classifier.record, classifier.weights_digest)
    measured = measure_split(
        classifier.problem,
        predictions,
        split=holdout.split,
        weights_digest=classifier.weights_digest,
        split_digest=holdout.data.to_record().splits[holdout.split].digest,
        temperature=temperature,
        learned=leakage.learned,
        left_out=leakage.left_out,
        groups=holdout.data.groups.get(holdout.split),
    )
    if corruptions:
        robustness = _measure_corrupted(accelerator, classifier, holdout.images, predictions, batch_size)
        measured = replace(measured, robustness=robustness)
    evaluation = Evaluation(
        measured=measured,
        labels=classifier.labels,
        problem=classifier.problem,
        data=holdout.data.name,
        fingerprint=holdout.data.fingerprint,
        temperature=temperature,
        unknown=leakage.unknown,
        notes=tuple(leakage.describe()),
        data_notes=holdout.notes,
        metric_notes=_undefined(classifier.problem, measured),
    )
    if calibrated is not None:
        foreign_images, abstainer = calibrated
        foreign = measure_foreign(abstainer, holdout.images, foreign_images, batch_size)
        evaluation = replace(evaluation, foreign=foreign)
    if output_dir is not None:
        evaluation.save(output_dir)
    return evaluation


def _measure_corrupted(
    accelerator: "Accelerator", classifier: Classifier, images: "Dataset", clean: Predictions, batch_size: int
) -> Robustness:
    views = corrupted(classifier.transform, classifier.scaling).over(images)
    predictions = predict_corrupted(accelerator, classifier.network, views, batch_size)
    return measure_robustness(classifier.problem, clean, predictions, classifier.input_size)


def _temperature_of(record: RunRecord | None, weights_digest: str) -> Temperature | None:
    """Return the temperature of a model's record, if it was fitted on the weights that were loaded."""
    temperature = None if record is None else record.temperature
    if temperature is None or temperature.value is None:
        return None
    return temperature if temperature.weights_digest == weights_digest else None


def _undefined(problem: ProblemType, measured: Measured) -> dict[str, str]:
    """Return the metrics that need images of more classes."""
    classes = sum(count > 0 for count in measured.classes["images"])
    if problem is SINGLE_LABEL and classes < 2:
        return {"macro_f1": "it needs images of at least two classes"}
    return {}
