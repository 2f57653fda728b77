"""Evaluation of a saved model on images that it was not trained on."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hf_tl.backbones.load import load
from hf_tl.backbones.weights.digest import digest
from hf_tl.backbones.weights.provenance import provenance_of, saved_record
from hf_tl.evaluation.classes import images_for
from hf_tl.evaluation.intervals import Interval
from hf_tl.evaluation.leakage import measurable
from hf_tl.evaluation.measure import predict_split
from hf_tl.evaluation.metrics import SINGLE_LABEL, ProblemType, problem_type_of
from hf_tl.evaluation.report import measure_split
from hf_tl.predicting.holdout import open_holdout
from hf_tl.record import LearnedSplit, Measured, RunRecord, Temperature
from hf_tl.storage.folders import make_folder

if TYPE_CHECKING:
    from hf_tl.data.image_data import ImageData
    from hf_tl.data.learned import Leakage


@dataclass(frozen=True)
class Evaluation:
    """Metrics of a model on a split of a dataset."""

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

    @property
    def split(self) -> str:
        """Name of the split; `all` for a dataset without splits."""
        return self.measured.split

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

    def save(self, output_dir: str | os.PathLike[str]) -> None:
        """Write `evaluation.json`, `evaluation.md`, and figures of the confusion matrix and the calibration.

        Raises:
            ConfigError: The folder is not writable.
        """
        from hf_tl.predicting.report import write_report

        write_report(self, output_dir)


def evaluate_model(
    model_name: str,
    dataset: str,
    split: str | None = None,
    batch_size: int = 64,
    include_training_images: bool = False,
    skip_bad_images: bool = False,
    output_dir: str | os.PathLike[str] | None = None,
    **reading: Any,
) -> Evaluation:
    """Evaluate a saved model on labeled images, whose classes are matched by name.

    All images of a dataset without splits are used, except for the dataset of the training, whose splits are drawn
    again. Training images of the model are excluded, even if they were renamed.

    Args:
        model_name: Folder of a saved model, or a Hub id.
        dataset: Value of `--dataset`.
        split: `"train"`, `"validation"` or `"test"` of a dataset with splits (default: test, or validation).
        batch_size: Number of images per step.
        include_training_images: Whether to evaluate on training images of the model too, and count them.
        skip_bad_images: Whether to leave out unreadable images, with a note, instead of raising an error.
        output_dir: Folder to save the evaluation in.
        reading: Arguments of `load_data` about how to read the dataset, such as `label_column`.

    Raises:
        ConfigError: The dataset has no splits, and `split` names one.
        DataError: The dataset has no such split, none of its classes is known to the model, or it has another problem
            type; or not enough images remain after excluding training images.
        ModelError: There is no such model.
    """
    from accelerate import Accelerator

    if output_dir is not None:
        make_folder(output_dir)  # fail early, before minutes of computation
    model, transforms = load(model_name)
    record, problem, provenance = saved_record(model_name), problem_type_of(model), provenance_of(model)
    labels = tuple(model.config.id2label[index] for index in range(model.config.num_labels))
    holdout = open_holdout(
        dataset, split, labels, problem, provenance.learned, record, reading, skip_bad_images=skip_bad_images
    )
    data, leakage = measurable(
        holdout.data,
        {"the model": holdout.learned},
        [holdout.split],
        include_training_images=include_training_images,
    )
    images, overlap = images_for(model, data, holdout.split), leakage[holdout.split]
    weights = provenance.origin.weights_digest or digest(model.state_dict())
    accelerator = Accelerator()
    predictions = predict_split(accelerator, model.to(accelerator.device), transforms.eval.over(images), batch_size)
    temperature = _temperature_of(record, weights)
    measured = measure_split(
        problem,
        predictions,
        split=holdout.split,
        weights_digest=weights,
        split_digest=data.to_record().splits[holdout.split].digest,
        temperature=temperature,
        learned=overlap.learned,
        left_out=overlap.left_out,
    )
    evaluation = _evaluation(measured, data, overlap, labels, problem, temperature, holdout.data.notes)
    if output_dir is not None:
        evaluation.save(output_dir)
    return evaluation


def _evaluation(
    measured: Measured,
    data: "ImageData",
    overlap: "Leakage",
    labels: tuple[str, ...],
    problem: ProblemType,
    temperature: Temperature | None,
    notes: tuple[str, ...],
) -> Evaluation:
    return Evaluation(
        measured=measured,
        labels=labels,
        problem=problem,
        data=data.name,
        fingerprint=data.fingerprint,
        temperature=temperature,
        unknown=overlap.unknown,
        notes=tuple(overlap.describe()),
        data_notes=notes,
        metric_notes=_undefined(problem, measured),
    )


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
