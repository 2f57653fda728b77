"""Metrics as `evaluate.Metric` classes, without the network.

`evaluate.load("accuracy")` downloads a script from the Hub. The classes here are equivalent subclasses of
`evaluate.Metric`, so `add_batch`, `compute` and `evaluate.combine` work offline. In a distributed run, gather first
(`accelerator.gather_for_metrics`) and compute on one process: evaluate's own `num_process` counts samples twice that
accelerate repeats to fill the last batch.
"""

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
import numpy as np

from hf_tl.evaluation.metrics import TOP_K, macro_f1, top_k_accuracy
from hf_tl.evaluation.multi_label import mean_average_precision

_CITATION = "https://scikit-learn.org/stable/modules/model_evaluation.html"


class OfflineMetric(evaluate.Metric):
    """Base class of the metrics, kept in memory so that nothing is written to a cache folder.

    Predictions are class indices, or scores of shape (samples, classes).
    """

    description = ""
    accepts_indices = True

    def __init__(self, keep_in_memory: bool = True, **kwargs: Any) -> None:
        super().__init__(keep_in_memory=keep_in_memory, **kwargs)

    def _build_data_dir(self) -> str:
        # evaluate creates its cache folder even with keep_in_memory, and fails if the home directory is read-only
        return "" if self.keep_in_memory else super()._build_data_dir()

    def _info(self) -> evaluate.MetricInfo:
        label = datasets.Value("int64")
        scores = datasets.Features(predictions=datasets.List(datasets.Value("float64")), references=label)
        indices = datasets.Features(predictions=label, references=label)
        return evaluate.MetricInfo(
            description=self.description,
            citation=_CITATION,
            inputs_description="predictions: class indices or scores; references: class indices",
            features=[indices, scores] if self.accepts_indices else scores,
        )


class Accuracy(OfflineMetric):
    """Share of samples whose predicted class is the true class.

    >>> Accuracy().compute(predictions=[0, 1, 1], references=[0, 1, 0])["accuracy"].__round__(3)
    0.667
    """

    description = "Share of samples whose predicted class is the true class."

    def _compute(self, predictions: Sequence[Any], references: Sequence[int]) -> dict[str, float]:
        scores, labels = np.asarray(predictions), np.asarray(references)
        value = top_k_accuracy(scores, labels, k=1) if scores.ndim == 2 else float(np.mean(scores == labels))
        return {"accuracy": value}


class MacroF1(OfflineMetric):
    """Unweighted mean of the F1 scores of the classes; see `macro_f1`.

    >>> MacroF1().compute(predictions=[0, 1, 1], references=[0, 1, 0])["macro_f1"].__round__(3)
    0.667
    """

    description = "Unweighted mean of the F1 scores of the classes."

    def _compute(self, predictions: Sequence[Any], references: Sequence[int]) -> dict[str, float]:
        return {"macro_f1": macro_f1(_class_indices(predictions), np.asarray(references))}


class TopKAccuracy(OfflineMetric):
    """Share of samples whose true class is among the `k` highest scores; see `top_k_accuracy`.

    >>> TopKAccuracy(k=2).compute(predictions=[[0.1, 0.7, 0.2]], references=[2])
    {'top2_accuracy': 1.0}
    """

    description = "Share of samples whose true class is among the k highest scores."
    accepts_indices = False

    def __init__(self, k: int = TOP_K, **kwargs: Any) -> None:
        self.k = k
        super().__init__(**kwargs)

    def _compute(self, predictions: Sequence[Any], references: Sequence[int]) -> dict[str, float]:
        score = top_k_accuracy(np.asarray(predictions), np.asarray(references), self.k)
        return {f"top{self.k}_accuracy": score}


class MeanAveragePrecision(OfflineMetric):
    """Mean average precision over classes; see `mean_average_precision`.

    References are zeros and ones, one for each class.

    >>> MeanAveragePrecision().compute(predictions=[[0.9, 0.2], [0.3, 0.8]], references=[[1, 0], [0, 1]])
    {'mean_average_precision': 1.0}
    """

    description = "Mean of the average precision over the classes."

    def _info(self) -> evaluate.MetricInfo:
        scores, flags = (datasets.List(datasets.Value(dtype)) for dtype in ("float64", "int64"))
        return evaluate.MetricInfo(
            description=self.description,
            citation=_CITATION,
            inputs_description="predictions: a score for each class; references: 0 or 1 for each class",
            features=datasets.Features(predictions=scores, references=flags),
        )

    def _compute(self, predictions: Sequence[Any], references: Sequence[Any]) -> dict[str, float]:
        return {"mean_average_precision": mean_average_precision(np.asarray(predictions), np.asarray(references))}


def _class_indices(predictions: Sequence[Any]) -> np.ndarray:
    array = np.asarray(predictions)
    return array.argmax(axis=1) if array.ndim == 2 else array
