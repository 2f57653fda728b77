"""Zero-shot results: a head from class names, evaluated before training."""

from typing import TYPE_CHECKING, Any

from hf_tl.card.settings import published_name
from hf_tl.evaluation.intervals import share_interval
from hf_tl.evaluation.measure import Predictions, predict_split
from hf_tl.job.job import Job
from hf_tl.record import TextHeadRecord, ZeroShot
from hf_tl.record.codec import decode
from hf_tl.reporting.console import say
from hf_tl.reporting.numbers import measured_on, percent
from hf_tl.views.stream_views import viewed

if TYPE_CHECKING:
    from hf_tl.backbones.text.text_head import TextHead
    from hf_tl.training.loop import Training


def measure_zero_shot(job: Job, training: "Training") -> None:
    """Evaluate a head from class names, and let it compete in the model selection; a resumed training has done so.

    Args:
        job: Inputs of the run, with the model on its device.
        training: Training before its first step.
    """
    if job.text_head is None or training.state.log.zero_shot is not None:
        return
    results, validation = zero_shot_results(job)
    training.start_from(results, job.problem.is_right(validation.logits, validation.labels))


def zero_shot_results(job: Job) -> tuple[dict[str, Any], Predictions]:
    """Evaluate the model before training; return the results by split, and the predictions of validation images."""
    config, transform, problem = job.config, job.preprocessing.transforms().eval, job.problem
    results, predictions = {}, {}
    for split in ("validation", "test"):
        images = job.data.splits[split]
        say(job.accelerator, f"Evaluating zero-shot on {len(images):,} {split} images")
        predicted = predictions[split] = predict_split(
            job.accelerator,
            job.model,
            viewed(images, transform),
            config.per_device_eval_batch_size,
            flip=config.test_time_flip,
        )
        metrics = problem.compute(predicted.logits, predicted.labels)
        share, is_proportion = metrics[problem.primary.key], problem.primary.key == problem.accuracy
        interval = share_interval(share, len(images)) if is_proportion else None
        results[split] = {"images": len(images), "metrics": metrics, "interval": interval}
        depth = " (stage depth 0)" if job.strategy.is_climb and split == "validation" else ""
        result = f"{percent(share)} ({measured_on(len(images), interval)})"
        say(job.accelerator, f"Zero-shot {split} {problem.primary.name}{depth}: {result}")
    return results, predictions["validation"]


def describe_text_head(head: "TextHead | None", zero_shot: dict[str, Any] | None) -> TextHeadRecord | None:
    """Describe the head that a training started from, for the record; None for other heads."""
    if head is None:
        return None
    results = {split: decode(ZeroShot, result) for split, result in (zero_shot or {}).items()}
    return TextHeadRecord(
        published_name(head.source), head.revision, head.templates, head.logit_scale, head.norm, results
    )
