"""The metadata of a card, which the Hub checks and finds models by (https://huggingface.co/docs/hub/model-cards)."""

from collections.abc import Mapping
from typing import Any

from huggingface_hub import EvalResult, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from hf_tl.card.licenses import hub_license
from hf_tl.errors import PublishError
from hf_tl.evaluation.metrics import MULTI_LABEL, PROBLEM_TYPES, ProblemType
from hf_tl.reporting.markdown import one_line
from hf_tl.reporting.numbers import is_number

HUB_METRICS = {"accuracy", "f1"}
"""Ids of the Hub's own list of metrics, by which it finds models; any other stands in a model's results alone."""


def problem_of(record: Mapping[str, Any]) -> ProblemType:
    """Tell what kind of labels a recorded model is for.

    Raises:
        PublishError: the record names another kind.
    """
    name = record["model"]["problem_type"]
    if name not in PROBLEM_TYPES:
        raise PublishError(f"the record's problem_type is {name!r}; expected one of {', '.join(PROBLEM_TYPES)}")
    return PROBLEM_TYPES[name]


def card_metadata(record: Mapping[str, Any]) -> ModelCardData:
    """Collect the metadata that the Hub reads; what is not known is left out.

    Names are made single lines: YAML loses some rare line separators in quoted text.
    """
    model, data, strategy = record["model"], record["data"], record["strategy"]
    is_timm, from_scratch = model["library"] == "timm", strategy["from_scratch"]
    base_model = None if from_scratch else hub_id(model["base_model"])
    problem = problem_of(record)
    is_multi_label, figures = problem is MULTI_LABEL, problem.figures_for(len(data["labels"]))
    results = _results(record, problem)
    tags = ["hf_tl", *(["timm"] if is_timm else []), *(["multi-label-image-classification"] if is_multi_label else [])]
    return ModelCardData(
        pipeline_tag="image-classification",
        library_name="transformers",
        base_model=base_model,
        base_model_relation="finetune" if base_model else None,
        datasets=[data["name"]] if dataset_is_on_hub(data) else None,
        metrics=sorted({figure.hub_type for figure in figures} & HUB_METRICS) if results else None,
        tags=[*tags, _strategy_tag(strategy)],
        model_name=one_line(f"{model['architecture']} on {data['name']}"),
        eval_results=results or None,
        **hub_license(None if from_scratch else model["base_model_license"]),
    )


def _strategy_tag(strategy: Mapping[str, Any]) -> str:
    if strategy["from_scratch"]:
        return "from-scratch"
    return "transfer-learning" if strategy["name"] == "transfer" else "fine-tuning"


def _results(record: Mapping[str, Any], problem: ProblemType) -> list[EvalResult]:
    """Give the results on the test split, by which the Hub ranks models."""
    data, metrics = record["data"], record["metrics"].get("test", {})
    return [
        EvalResult(
            task_type="image-classification",
            task_name="Multi-label image classification" if problem is MULTI_LABEL else "Image classification",
            dataset_type=one_line(data["name"]),
            dataset_name=one_line(data["name"]),
            dataset_split="test",
            dataset_revision=data["revision"] and one_line(data["revision"]),
            metric_type=figure.hub_type,
            metric_name=figure.title,
            metric_value=metrics[figure.key],
        )
        for figure in problem.figures_for(len(data["labels"]))
        if is_number(metrics.get(figure.key))
    ]


def hub_id(name: str | None) -> str | None:
    """Give the name back if it may be one of a repository on the Hub."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return None
    return name


def dataset_is_on_hub(data: Mapping[str, Any]) -> bool:
    """Tell a dataset of the Hub from a folder by a record's `data`, which holds no path: a slash means a Hub id."""
    return hub_id(data["name"]) is not None and ("/" in data["name"] or data["revision"] is not None)
