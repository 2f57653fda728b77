"""The model card: a run's record, told to a reader.

Everything in a card comes from the record alone. huggingface_hub quotes the metadata; the body is a Jinja template
(`model_cards/template.md`) in which every value is escaped.
"""

import math
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from statistics import NormalDist
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]
from jinja2 import Template, UndefinedError

from hf_tl.errors import PublishError
from hf_tl.evaluation.metrics import MULTI_LABEL, PROBLEM_TYPES, Figure, ProblemType
from hf_tl.phase import OF_ADAMW
from hf_tl.publish.markdown import environment, one_line
from hf_tl.publish.plots import HISTORY_FIGURE, STAGES_FIGURE

SCHEMA_VERSION = 1
FOLDED_FROM = 21
"""Tables of this many rows or more are folded."""
CLASSES_SHOWN = 200
MODEL_LINE = 'MODEL = "{}"'
PLACEHOLDER = MODEL_LINE.format("USER/NAME")
STRATEGY_TAGS = {"transfer": "transfer-learning", "scratch": "from-scratch"}
IN_TABLE = {"trainable_stages", "epochs", "steps", "learning_rate", "backbone_learning_rate", "norm", "solver"}
"""What the table of phases shows of a phase's recipe; the rest is listed below it."""
NORM_POLICIES = {"frozen": "frozen", "affine": "scale and shift train", "adapt": "train and adapt"}
BATCH_NORM = {
    "keep": "BatchNorm of trained stages keeps its statistics",
    "update": "BatchNorm of trained stages adapts",
}
HUB_METRICS = {"accuracy", "f1"}
"""Ids of the Hub's own list of metrics, by which it finds models; any other stands in a model's results alone."""


def render_card(record: Mapping[str, Any], repo_id: str | None = None) -> str:
    """Write the whole `README.md` of a model.

    Args:
        record: what `run.json` holds.
        repo_id: the repository that the usage snippets name; `USER/NAME` stands there without one.

    Raises:
        PublishError: the record is of another schema, or lacks something that a card tells.
    """
    if (version := record.get("schema_version")) != SCHEMA_VERSION:
        raise PublishError(
            f"a card needs a run.json of schema version {SCHEMA_VERSION}, found {version!r}; "
            "write it again with this version of hf_tl, or use the version that wrote it"
        )
    try:
        body = _template().render(_view(record))
        card = f"---\n{card_metadata(record).to_yaml()}\n---\n\n{body}"
    except (KeyError, UndefinedError) as error:
        raise PublishError(f"a card cannot be written: the record (run.json) lacks {error}") from error
    return str(ModelCard(card)) if repo_id is None else with_repo_id(card, repo_id)


def with_repo_id(card: str, repo_id: str) -> str:
    """Name the repository in the usage snippets of a card; what a user wrote into the card stays as it is."""
    return card.replace(PLACEHOLDER, MODEL_LINE.format(repo_id))


def card_metadata(record: Mapping[str, Any]) -> ModelCardData:
    """Collect the metadata that the Hub reads; what is not known is left out.

    Names are made single lines: YAML loses some rare line separators in quoted text.
    """
    model, data, strategy = record["model"], record["data"], record["strategy"]
    is_timm, from_scratch = model["library"] == "timm", strategy["from_scratch"]
    base_model = None if from_scratch else _hub_id(model["base_model"])
    license = None if from_scratch else model["base_model_license"]
    problem = _problem(record)
    is_multi_label, figures = problem is MULTI_LABEL, problem.figures_for(len(data["labels"]))
    results = [
        EvalResult(
            task_type="image-classification",
            task_name="Multi-label image classification" if is_multi_label else "Image classification",
            dataset_type=one_line(data["name"]),
            dataset_name=one_line(data["name"]),
            dataset_split="test",
            dataset_revision=data["revision"] and one_line(data["revision"]),
            metric_type=figure.hub_type,
            metric_name=figure.title,
            metric_value=value,
        )
        for figure in figures
        if _is_number(value := record["metrics"].get("test", {}).get(figure.key))
    ]
    tags = ["hf_tl", *(["timm"] if is_timm else []), *(["multi-label-image-classification"] if is_multi_label else [])]
    return ModelCardData(
        pipeline_tag="image-classification",
        library_name="transformers",
        base_model=base_model,
        base_model_relation="finetune" if base_model else None,
        datasets=[data["name"]] if _dataset_is_on_hub(data) else None,
        license=license if license and _is_license_id(license) else None,
        metrics=sorted({figure.hub_type for figure in figures} & HUB_METRICS) if results else None,
        tags=[*tags, STRATEGY_TAGS.get(strategy["name"], "fine-tuning")],
        model_name=one_line(f"{model['architecture']} on {data['name']}"),
        eval_results=results or None,
    )


@cache
def _template() -> Template:
    return environment().from_string(_template_file().read_text(encoding="utf-8"))


def _template_file() -> Path:
    """Find the template: inside the package where it was installed, beside it in a checkout."""
    package = Path(__file__).parents[1]
    candidates = [package / "model_cards" / "template.md", package.parent / "model_cards" / "template.md"]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise PublishError("the card template model_cards/template.md is missing from hf_tl; install hf_tl again")


def _hub_id(name: str | None) -> str | None:
    try:
        validate_repo_id(name)
    except HFValidationError:
        return None
    return name


def _dataset_is_on_hub(data: Mapping[str, Any]) -> bool:
    """Tell a Hub dataset from a folder's name: a record never holds a path, so a slash means a Hub id."""
    return _hub_id(data["name"]) is not None and ("/" in data["name"] or data["revision"] is not None)


def _is_license_id(license: str) -> bool:
    """Whether it looks like one of the Hub's identifiers (`apache-2.0`); the Hub refuses a card with another text."""
    return license.isascii() and license == license.lower() and license.replace("-", "").replace(".", "").isalnum()


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _view(record: Mapping[str, Any]) -> dict[str, Any]:
    """Prepare what the template shows, as plain values and rows of tables."""
    model, data, phases = record["model"], record["data"], record["phases"]
    problem = _problem(record)
    figures = problem.figures_for(len(data["labels"]))
    return {
        "record": record,
        "model": model,
        "data": data,
        "labels": data["labels"],
        "stages_figure": STAGES_FIGURE,
        "best_after": _best_after(record),
        "history_figure": HISTORY_FIGURE if record["history"] else None,
        "folded_from": FOLDED_FROM,
        "stages": [_stage_row(stage, model["parameters"]) for stage in record["stages"]],
        "phases": [_phase_row(*pair) for pair in zip(record["strategy"]["phases"], phases, strict=True)],
        "proofs": [_proof(number, phase) for number, phase in enumerate(phases, 1)],
        "trained_share": percent(model["parameters_trained"] / max(model["parameters"], 1)),
        "is_multi_label": problem is MULTI_LABEL,
        "primary": problem.primary,
        "result_columns": _result_columns(problem, figures),
        "results": [_result_row(record, split, problem, figures) for split in record["metrics"]],
        "splits": {name: f"{split['images']:,}" for name, split in data["splits"].items()},
        "classes": _class_rows(data),
        "classes_cut": max(0, len(data["labels"]) - CLASSES_SHOWN),
        "normalization": {key: ", ".join(f"{value:.4g}" for value in model[key]) for key in ("mean", "std")},
        "input_size": " × ".join(str(size) for size in model["input_size"]),
        "total_time": duration(record["seconds"]["total"]),
        "train_time": duration(record["seconds"]["train"]),
        "versions": ", ".join(f"{name} {version}" for name, version in record["versions"].items()),
    }


def _stage_row(stage: Mapping[str, Any], total: int) -> dict[str, Any]:
    trained_in = ", ".join(str(phase + 1) for phase in stage["trained_in_phases"])
    return {
        "name": stage["name"],
        "parameters": f"{stage['parameters']:,}",
        "share": percent(stage["parameters"] / max(total, 1)),
        "state": "trained" if trained_in else "frozen",
        "trained_in": trained_in or "–",
    }


def _phase_row(recipe: Mapping[str, Any], done: Mapping[str, Any]) -> dict[str, Any]:
    names = done["trainable_stages"]
    rate = recipe["backbone_learning_rate"]
    backbone = "–" if len(names) == 1 else "as the head" if rate is None else f"{rate:.3g}"
    is_solved = recipe.get("solver") == "lbfgs"
    hidden = IN_TABLE.union(OF_ADAMW) if is_solved else IN_TABLE
    return {
        "first_stage": names[0],
        "last_stage": names[-1],
        "stages": len(names),
        "parameters": f"{done['parameters_trained']:,}",
        "epochs": "solved" if is_solved else _length(recipe),
        "learning_rate": "–" if is_solved else f"{recipe['learning_rate']:.3g}",
        "backbone_learning_rate": backbone,
        "norm": NORM_POLICIES.get(recipe["norm"], recipe["norm"]),
        "rest": ", ".join(
            [
                *([_solution(done["solution"])] if is_solved else []),
                *(_told(key, value) for key, value in recipe.items() if key not in hidden and _is_on(value)),
                *(["on cached features"] if done.get("uses_features") else []),
            ]
        ),
    }


def _length(recipe: Mapping[str, Any]) -> str:
    return f"{recipe['steps']:,} steps" if recipe.get("steps") else f"{recipe['epochs']:.3g}"


def _best_after(record: Mapping[str, Any]) -> str:
    """Tell when the weights were those that the model has."""
    if not (best := record["best"]):
        return ""
    phase = f"phase {best['phase'] + 1}"
    if record["strategy"]["phases"][best["phase"]].get("solver") == "lbfgs":
        return f"the solution of {phase}"
    return f"epoch {best['epoch']:.3g} ({phase})"


def _solution(found: Mapping[str, Any]) -> str:
    told = f"logistic regression to convergence on standardised features, L2 strength {found['l2_strength']:.2g}"
    if found["held_out_loss"] is None:
        return told
    return f"{told}, chosen in {found['folds']}-fold cross-validation (held-out loss {found['held_out_loss']:.4g})"


def _told(key: str, value: Any) -> str:
    if key == "batch_norm":
        return BATCH_NORM.get(value, f"BatchNorm {value}")
    told = round(value, 6) if isinstance(value, float) else value
    return key.replace("_", " ") if value is True else f"{key.replace('_', ' ')} {told}"


def _is_on(value: Any) -> bool:
    """Whether a field of a recipe says that something is done: none, zero and false say that it is not."""
    return value not in (None, 0, "none")


def _proof(number: int, phase: Mapping[str, Any]) -> dict[str, Any]:
    before, after = phase["digest_before"], phase["digest_after"]
    tensors = phase["frozen_tensors"]
    return {"phase": number, "tensors": tensors, "before": before, "after": after, "holds": before == after}


def _problem(record: Mapping[str, Any]) -> ProblemType:
    name = record["model"]["problem_type"]
    if name not in PROBLEM_TYPES:
        raise PublishError(f"the record's problem_type is {name!r}; expected one of {', '.join(PROBLEM_TYPES)}")
    return PROBLEM_TYPES[name]


def _result_columns(problem: ProblemType, figures: Sequence[Figure]) -> list[str]:
    """Head the columns of metrics; the interval follows the metric that it belongs to."""
    after = {problem.accuracy: ["95 % interval"]}
    return [title for figure in figures for title in (figure.title, *after.get(figure.key, []))] + ["Loss"]


def _result_row(record: Mapping[str, Any], split: str, problem: ProblemType, figures: Sequence[Figure]) -> Any:
    metrics, images = record["metrics"][split], record["data"]["splits"][split]["images"]
    told = {figure.key: (percent if figure.is_percentage else _number)(metrics.get(figure.key)) for figure in figures}
    interval = wilson_interval(metrics.get(problem.accuracy), images)
    cells = [text for key, text in told.items() for text in (text, *([interval] if key == problem.accuracy else []))]
    return {
        "split": split,
        "images": f"{images:,}",
        "primary": told[problem.primary.key],
        "accuracy": told[problem.accuracy],
        "interval": interval,
        "unmeasured": metrics.get("classes_without_positives", 0),
        "cells": [*cells, _number(metrics.get("loss"))],
    }


def _class_rows(data: Mapping[str, Any]) -> list[tuple[str, Sequence[str]]]:
    counts = [split["classes"] for split in data["splits"].values()]
    return [
        (label, [f"{count[index]:,}" for count in counts]) for index, label in enumerate(data["labels"][:CLASSES_SHOWN])
    ]


def wilson_interval(accuracy: float | None, images: int) -> str:
    """Give the 95 % interval of an accuracy (Wilson, 1927): what other samples of this size would show.

    >>> wilson_interval(0.95, 1000)
    '93.5–96.2 %'
    """
    if not _is_number(accuracy) or accuracy is None or not images:
        return "–"
    share = min(images, round(accuracy * images)) / images
    # as scipy.stats.binomtest gives it, whose import would take longer than all of the card
    z = NormalDist().inv_cdf(0.975)
    centre, scale = share + z**2 / (2 * images), 1 + z**2 / images
    half = z * math.sqrt(share * (1 - share) / images + (z / (2 * images)) ** 2)
    low, high = max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)
    return f"{100 * low:.1f}–{100 * high:.1f} %"


def percent(share: float | None) -> str:
    """Write a share as a percentage; small shares keep two digits.

    >>> percent(0.9472), percent(0.00375), percent(None)
    ('94.7 %', '0.38 %', '–')
    """
    if share is None or not _is_number(share):
        return "–"
    return f"{100 * share:.2g} %" if 0 < share < 0.01 else f"{100 * share:.1f} %"


def _number(value: float | None) -> str:
    return f"{value:.3f}" if value is not None and _is_number(value) else "–"


def duration(seconds: float) -> str:
    """Write a time for a reader.

    >>> duration(112), duration(31.2), duration(7261)
    ('1 min 52 s', '31 s', '2 h 1 min')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
