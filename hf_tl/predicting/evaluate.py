"""Prediction and evaluation with a saved model."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from hf_tl.backbones.load import load
from hf_tl.backbones.provenance import provenance_of, saved_record
from hf_tl.evaluation.classes import images_for
from hf_tl.evaluation.intervals import Interval
from hf_tl.evaluation.leakage import measurable, open_again
from hf_tl.evaluation.measure import predict_split
from hf_tl.evaluation.metrics import problem_type_of
from hf_tl.evaluation.report import metric_intervals
from hf_tl.record import LearnedSplit

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class Evaluation:
    """Metrics of a model on a split of a dataset."""

    metrics: dict[str, float]
    images: int
    """Number of evaluated images."""
    intervals: Mapping[str, Interval] = field(default_factory=dict)
    """95% confidence intervals of the metrics that have one."""
    percentages: frozenset[str] = frozenset()
    """Metrics that are shown as percentages."""
    learned: int = 0
    """Number of training images of the model among them; if any, the metrics do not estimate generalization."""
    left_out: int = 0
    """Number of images of the split that were excluded as training images of the model."""
    unknown: tuple[LearnedSplit, ...] = ()
    """Training splits of the model that cannot be compared with these images, because digests are missing."""
    notes: tuple[str, ...] = ()
    """Notes on data leakage, for the user."""


def evaluate_model(
    model_name: str,
    dataset: str,
    split: str = "test",
    batch_size: int = 64,
    image_column: str | None = None,
    label_column: str | None = None,
    include_training_images: bool = False,
) -> Evaluation:
    """Evaluate a saved model on a split of a dataset, whose classes are matched by name.

    Missing splits are drawn as in the model's training. Training images of the model are excluded, even if they were
    renamed.

    Args:
        model_name: Folder of a saved model, or a Hub id.
        dataset: Value of `--dataset`.
        split: `"train"`, `"validation"` or `"test"`.
        batch_size: Number of images per step.
        image_column: As in `load_data`.
        label_column: As in `load_data`.
        include_training_images: Whether to evaluate on training images of the model too, and count them.

    Raises:
        DataError: The dataset has no such split, has classes that the model does not know, or has another problem type;
            or not enough images remain after excluding training images.
        ModelError: There is no such model.
    """
    from accelerate import Accelerator

    model, transforms = load(model_name)
    learned = provenance_of(model).learned
    data = open_again(saved_record(model_name), learned, dataset, image_column, label_column)
    data, leakage = measurable(data, {"the model": learned}, [split], include_training_images=include_training_images)
    images, found = images_for(model, data, split), leakage[split]
    accelerator = Accelerator()
    predictions = predict_split(accelerator, model.to(accelerator.device), transforms.eval.over(images), batch_size)
    problem, logits, labels = problem_type_of(model), predictions.logits, predictions.labels
    metrics = problem.compute(logits, labels)
    return Evaluation(
        metrics=metrics,
        images=len(images),
        intervals=metric_intervals(problem, metrics, logits, labels.astype(np.int64), problem.decide(logits)),
        percentages=frozenset(figure.key for figure in problem.figures if figure.is_percentage),
        learned=found.learned,
        left_out=found.left_out,
        unknown=found.unknown,
        notes=tuple(found.describe()),
    )
