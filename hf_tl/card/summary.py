"""Summaries of a run for the terminal, before and after training."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_tl.card.sections.interpolation import interpolation_rule
from hf_tl.card.sections.phases import is_zero_shot, selection_rule, trained_parameters
from hf_tl.card.sections.results import training_images, zero_shot_results
from hf_tl.card.sections.robustness import mean_text
from hf_tl.evaluation.metrics import PROBLEM_TYPES
from hf_tl.record import InterpolationRecord, RunRecord
from hf_tl.reporting.numbers import duration, epoch_in_phase, measured_on, percent
from hf_tl.strategy import Strategy

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def announce(model: "PreTrainedModel", strategy: Strategy, processes: int) -> str:
    """Describe the model and the strategy before training."""
    architecture = getattr(model.config, "architecture", model.config.model_type)
    return "\n".join(
        [
            f"Model     {architecture}: {sum(p.numel() for p in model.parameters()):,} parameters",
            f"Strategy  {strategy.name}: {', then '.join(phase.phrase for phase in strategy.phases)}"
            + (f"; {processes} processes" if processes > 1 else ""),
            *_rates(strategy),
        ]
    )


def _rates(strategy: Strategy) -> Iterator[str]:
    """Yield a line with the learning rates of the last phase, if it trains more than the head."""
    phase = strategy.phases[-1]
    if phase.backbone_learning_rate is None:
        return
    decay = "" if phase.layer_decay == 1 else f", times {phase.layer_decay:.3g} for each stage before"
    yield f"Rates     head {phase.learning_rate:g}, last backbone stage {phase.backbone_learning_rate:g}{decay}"


def summarize(record: RunRecord, folder: Path, commit_url: str | None = None) -> str:
    """Summarize a finished run: results, selected checkpoint, time, parameters, path of the model and how to use it.

    Args:
        record: Record of the run.
        folder: Folder of the model.
        commit_url: URL of the model on the Hub, if it was pushed.
    """
    seconds = record.seconds
    rows = {
        **dict(metric_lines(record)),
        **({} if (kept := kept_checkpoint(record)) is None else {"Checkpoint": kept}),
        **({} if (mixed := record.interpolation) is None else {"Interpolated": _interpolated(record, mixed)}),
        "Time": f"{duration(seconds.total)}, of which training {duration(seconds.train)}{_reused(record)}",
        "Parameters": trained_parameters(record),
        "Saved in": str(folder),
        **({"Published at": commit_url} if commit_url else {}),
    }
    width = max(map(len, rows)) + 2
    usage = [
        "Load it",
        f"  hf-tl predict {folder} IMAGE",
        f'  transformers.pipeline("image-classification", "{folder}")',
        f'  model, transforms = hf_tl.load("{folder}")',
        *([] if commit_url else ["Publish it", f"  hf-tl push {folder} USER/NAME"]),
    ]
    return "\n".join([*(f"{title:<{width}}{text}" for title, text in rows.items()), *usage])


def _interpolated(record: RunRecord, result: InterpolationRecord) -> str:
    rule = interpolation_rule(result)
    return f"coefficient {result.kept:g} between the weights before (0) and after fine-tuning (1), {rule}"


def _reused(record: RunRecord) -> str:
    """Say whether the frozen features were computed by an earlier run, which the time does not include."""
    of_features = [phase.reuses_features for phase in record.phases if phase.uses_features]
    if not any(of_features):
        return ""
    return " (features from the cache)" if all(of_features) else " (some features from the cache)"


def metric_lines(record: RunRecord) -> Iterator[tuple[str, str]]:
    """Yield the titles and the texts of the primary metric: test, validation, corruptions, and before training."""
    yield from (_result(record, split) for split in ("test", "validation") if split in ("test", *record.measured))
    test, problem = record.measured.get("test"), PROBLEM_TYPES[record.model.problem_type]
    if test is not None and test.robustness is not None:
        yield "Under corruptions", mean_text(test.robustness, problem)
    yield from reversed(zero_shot_results(record, problem))


def kept_checkpoint(record: RunRecord) -> str | None:
    """Name the checkpoint that model selection kept; None without evaluations."""
    if record.refit is not None:
        return f"retrained from scratch on {' + '.join(record.refit.splits)} ({record.refit.images:,} images)"
    if (best := record.best) is None or not record.history or not 0 <= best["phase"] < len(record.phases):
        return None
    phase = record.phases[best["phase"]]
    where = f", phase {best['phase'] + 1}" if len(record.strategy.phases) > 1 else ""
    if is_zero_shot(record):
        return "zero-shot head, before training"
    if phase.is_solved:
        return f"solved head{where}"
    last = record.history[-1]
    if phase.recipe.epochs is None:
        earlier = max((entry["epoch"] for entry in record.history if entry["phase"] < best["phase"]), default=0.0)
        share = (best["epoch"] - earlier) / phase.epochs if phase.epochs else 1.0
        place = f"step {round(share * phase.steps):,} of {phase.steps:,}"
    else:
        place = f"epoch {_epoch(record, best)} of {_epoch(record, last)}"
    reason = (
        ""
        if best["epoch"] >= last["epoch"]
        else f", {selection_rule(record, PROBLEM_TYPES[record.model.problem_type].primary.name)}"
    )
    return f"{place}{where}{reason}"


def _epoch(record: RunRecord, entry: Mapping[str, Any]) -> int:
    """Return the number of the epoch that an evaluation ended, over all phases."""
    index, epochs = entry["phase"], [math.ceil(phase.epochs or 0) for phase in record.strategy.phases]
    if index >= len(epochs):  # of a search of the stage depth, whose undone phases are not in the strategy
        return sum(epochs)
    before = max((other["epoch"] for other in record.history if other["phase"] < index), default=0.0)
    return sum(epochs[:index]) + epoch_in_phase(entry["epoch"], before, epochs[index])


def _result(record: RunRecord, split: str) -> tuple[str, str]:
    """Return the title and the text of the primary metric on a split."""
    primary = PROBLEM_TYPES[record.model.problem_type].primary
    title = f"{split.capitalize()} {primary.name}"
    if (measured := record.measured.get(split)) is None:
        return title, "not measured"
    interval = measured.intervals.get(primary.key) if primary.is_percentage else None
    text = f"{percent(measured.metrics.get(primary.key))} ({measured_on(measured.images, interval)})"
    notes = [
        *([training] if (training := training_images(measured)) else []),
        *([] if record.is_of_saved_weights(split) else ["before the retraining"]),
    ]
    return title, "; ".join([text, *notes])
