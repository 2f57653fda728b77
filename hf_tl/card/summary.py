"""Summaries of a run for the terminal, before and after training."""

from pathlib import Path
from typing import TYPE_CHECKING

from hf_tl.card.sections.results import training_images
from hf_tl.evaluation.metrics import MULTI_LABEL, PROBLEM_TYPES
from hf_tl.record import RunRecord
from hf_tl.reporting.numbers import counted, duration, percent, range_of
from hf_tl.strategy import Strategy

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from hf_tl.data.datasets import ImageData


def announce(model: "PreTrainedModel", data: "ImageData", strategy: Strategy, processes: int) -> str:
    """Describe the data, the model and the strategy before training."""
    sizes = ", ".join(f"{len(split):,} {name}" for name, split in data.splits.items())
    architecture = getattr(model.config, "architecture", model.config.model_type)
    several = ", any number of them per image" if data.problem_type == MULTI_LABEL.name else ""
    spans = []
    for phase in strategy.phases:
        stages = phase.trainable_stages
        scope = f"the last {stages} stages" if isinstance(stages, int) else f"the stages {stages}"
        scope = {1: "the head", "all": "all stages"}.get(stages, scope)
        length = "solution" if phase.is_solved else phase.length
        spans.append(f"{length} of {scope}")
    return "\n".join(
        [
            f"Data      {data.name}: {sizes} images, {len(data.labels)} classes{several}",
            *(f"          {note}" for note in data.notes),
            f"Model     {architecture}: {sum(p.numel() for p in model.parameters()):,} parameters",
            f"Strategy  {strategy.name}: {', then '.join(spans)}"
            + (f"; {processes} processes" if processes > 1 else ""),
        ]
    )


def summarize(record: RunRecord, folder: Path, commit_url: str | None = None) -> str:
    """Summarize a finished run: test result, time, parameters, path of the model and how to use it.

    Args:
        record: Record of the run.
        folder: Folder of the model.
        commit_url: URL of the model on the Hub, if it was pushed.
    """
    model, seconds = record.model, record.seconds
    return "\n".join(
        [
            _test_result(record),
            f"Time              {duration(seconds.total)}, of which training {duration(seconds.train)}",
            f"Parameters        {model.parameters_trained:,} trained, {model.parameters_frozen:,} frozen",
            f"Model and card    {folder}",
            *([f"Published         {commit_url}"] if commit_url else []),
            "Use it",
            f"  hf-tl predict {folder} IMAGE",
            f'  transformers.pipeline("image-classification", "{folder}")',
            f'  model, transforms = hf_tl.load("{folder}")',
            *([] if commit_url else ["Publish it", f"  hf-tl push {folder} USER/NAME"]),
        ]
    )


def _test_result(record: RunRecord) -> str:
    primary = PROBLEM_TYPES[record.model.problem_type].primary
    title = f"{'Test ' + primary.name:<17}"
    if (measured := record.measured.get("test")) is None:
        return f"{title} not evaluated"
    interval = measured.intervals.get(primary.key)
    details = [
        counted(measured.images, "image"),
        *([] if interval is None else [f"95% CI {range_of(interval, is_percentage=primary.is_percentage)}"]),
    ]
    note = "" if (training := training_images(measured)) is None else f"; {training}"
    return f"{title} {percent(measured.metrics.get(primary.key))} ({', '.join(details)}){note}"
