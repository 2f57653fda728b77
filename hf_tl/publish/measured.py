"""Evaluation of a trained model for its record: each split with the weights that made its predictions."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from hf_tl.config import TrainingConfig
from hf_tl.data.decoding.conversions import Conversions
from hf_tl.evaluation.measure import Predictions, predict_split
from hf_tl.evaluation.metrics import ProblemType
from hf_tl.evaluation.report import fit_scaling, measure_split
from hf_tl.evaluation.robustness.measure import measure_robustness
from hf_tl.record import PlainMeasured, RunRecord, Temperature

if TYPE_CHECKING:
    from accelerate import Accelerator
    from transformers import PreTrainedModel

    from hf_tl.data.datasets import ImageData
    from hf_tl.data.decoding.images import ImageTransform
    from hf_tl.data.learned import Leakage

MIRRORED = "averaged with their mirror image"


def plain_kinds(data: "ImageData", config: TrainingConfig, channels: int) -> dict[str, int]:
    """Count the test images that a plain `pipeline()` treats differently, by kind.

    Args:
        data: Data of the run.
        config: Its `test_time_flip` averages the logits of mirror images, which a pipeline does not.
        channels: Input channels. With one, the result is empty: a plain pipeline cannot use the model at all.
    """
    if channels == 1:
        return {}
    kinds = dict(data.conversions.get("test", Conversions()).images)
    return {**kinds, MIRRORED: len(data.splits["test"])} if config.test_time_flip else kinds


def predict_plain(
    accelerator: "Accelerator",
    model: "PreTrainedModel",
    data: "ImageData",
    transform: "ImageTransform",
    config: TrainingConfig,
    test: Predictions,
) -> Predictions:
    """Predict the test images as a plain `pipeline()` does. All processes must call it.

    Args:
        accelerator: Accelerator that gathers from all processes.
        model: Model on the accelerator's device.
        data: Data of the run.
        transform: Evaluation transform.
        config: Batch size, and whether `test` was averaged with mirror images.
        test: Predictions of the test split by hf_tl's rule; they are reused for images that do not differ.

    Returns:
        The predictions. Images that a plain pipeline cannot decode get no predicted class.
    """
    from hf_tl.views.stream_views import viewed

    conversions = data.conversions.get("test", Conversions())
    images, logits = data.splits["test"], np.array(test.logits)
    different = range(len(images)) if config.test_time_flip else conversions.all_rows
    rows = sorted(set(different) - set(conversions.unreadable))
    logits[list(conversions.unreadable)] = np.nan
    if rows:
        chosen = images if len(rows) == len(images) else images.select(rows)
        seen = viewed(chosen, dataclasses.replace(transform, plain=True))
        logits[rows] = predict_split(accelerator, model, seen, config.per_device_eval_batch_size).logits
    return dataclasses.replace(test, logits=logits)


def measure_run(
    record: RunRecord,
    problem: ProblemType,
    validation: tuple[Predictions, str],
    test: Predictions,
    leakage: "Mapping[str, Leakage]",
    groups: Mapping[str, Sequence[str]],
) -> RunRecord:
    """Return the record with the results on both splits and temperature scaling.

    Args:
        record: Record of the saved weights.
        problem: Problem type.
        validation: Predictions of the validation split, and the digest of the weights that made them.
        test: Predictions of the test split by the saved weights.
        leakage: Images of each split that the starting weights were trained on.
        groups: Group of each image, by split; empty without groups.
    """
    predicted, digest = validation
    saved = str(record.weights_digest)
    if digest == saved:
        temperature = fit_scaling(problem, predicted, "validation", digest)
    else:
        temperature = Temperature(None, reason="the model was retrained on the validation images too")
    measured = {
        split: measure_split(
            problem,
            predictions,
            split=split,
            weights_digest=weights,
            split_digest=record.data.splits[split].digest,
            temperature=temperature if weights == saved else None,
            learned=leakage[split].learned if split in leakage else 0,
            left_out=leakage[split].left_out if split in leakage else 0,
            groups=groups.get(split),
        )
        for split, predictions, weights in (("validation", predicted, digest), ("test", test, saved))
    }
    return dataclasses.replace(record, measured=measured, temperature=temperature)


def with_plain(record: RunRecord, problem: ProblemType, plain: Predictions, kinds: Mapping[str, int]) -> RunRecord:
    """Return the record with the accuracy of a plain `pipeline()` on the test split.

    Args:
        record: Record with the test results.
        problem: Problem type.
        plain: Result of `predict_plain`.
        kinds: Result of `plain_kinds`.
    """
    accuracy = problem.compute(plain.logits, plain.labels)[problem.accuracy]
    test = dataclasses.replace(record.measured["test"], plain=PlainMeasured(kinds, {problem.accuracy: accuracy}))
    return dataclasses.replace(record, measured={**record.measured, "test": test})


def with_robustness(record: RunRecord, problem: ProblemType, test: Predictions, corrupted: Predictions) -> RunRecord:
    """Return the record with the test metrics under common corruptions.

    Args:
        record: Record with the test results.
        problem: Problem type.
        test: Predictions of the test split.
        corrupted: Result of `predict_corrupted` for the test split.
    """
    _, height, width = record.model.preprocessing.input_size
    robustness = measure_robustness(problem, test, corrupted, (height, width))
    measured = dataclasses.replace(record.measured["test"], robustness=robustness)
    return dataclasses.replace(record, measured={**record.measured, "test": measured})
