"""Metadata of a card, which the Hub validates and indexes (https://huggingface.co/docs/hub/model-cards)."""

from huggingface_hub import EvalResult, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from hf_tl.card.licenses import hub_license
from hf_tl.card.sections.origins import strategy_tag
from hf_tl.errors import PublishError
from hf_tl.evaluation.metrics import MULTI_LABEL, PROBLEM_TYPES, ProblemType
from hf_tl.record import RunRecord
from hf_tl.reporting.numbers import is_number
from hf_tl.reporting.plain import one_line

HUB_METRICS = {"accuracy", "f1"}
"""Metrics that the Hub indexes; the other ones appear only in a model's results."""


def problem_of(record: RunRecord) -> ProblemType:
    """Return the problem type of a recorded model.

    Raises:
        PublishError: The problem type is unknown.
    """
    name = record.model.problem_type
    if name not in PROBLEM_TYPES:
        known = ", ".join(PROBLEM_TYPES)
        raise PublishError(f"the record (run.json): its problem_type is {name!r:.80}; expected one of {known}")
    return PROBLEM_TYPES[name]


def card_metadata(record: RunRecord, *, is_adapter: bool = False) -> ModelCardData:
    """Return the metadata that the Hub reads, of a model or of its adapter alone, without unknown values.

    Names are single lines: YAML loses some rare line separators in quoted text.
    """
    base_model, problem = hub_id(record.start.base_model), problem_of(record)
    is_multi_label, figures = problem is MULTI_LABEL, problem.figures_for(len(record.data.labels))
    results = _results(record, problem)
    tags = ["timm"] if record.model.library == "timm" else []
    tags += ["multi-label-image-classification"] if is_multi_label else []
    return ModelCardData(
        pipeline_tag="image-classification",
        library_name="peft" if is_adapter else "transformers",
        base_model=base_model,
        base_model_relation=("adapter" if is_adapter else "finetune") if base_model else None,
        datasets=[record.data.name] if record.data.is_on_hub and hub_id(record.data.name) else None,
        metrics=sorted({figure.hub_type for figure in figures} & HUB_METRICS) if results else None,
        tags=["hf_tl", *tags, strategy_tag(record)],
        model_name=one_line(f"{record.model.architecture} on {record.data.name}") if results else None,
        eval_results=results or None,
        **hub_license(record.start.base_license, base_model),
    )


def _results(record: RunRecord, problem: ProblemType) -> list[EvalResult]:
    """Return the test results that the Hub ranks models by; none if they include training images."""
    data, measured = record.data, record.measured.get("test")
    if measured is None or measured.learned or not record.is_of_saved_weights("test"):
        return []
    return [
        EvalResult(
            task_type="image-classification",
            task_name="Multi-label image classification" if problem is MULTI_LABEL else "Image classification",
            dataset_type=one_line(data.name),
            dataset_name=one_line(data.name),
            dataset_split="test",
            dataset_revision=data.revision and one_line(data.revision),
            metric_type=figure.hub_type,
            metric_name=figure.title,
            metric_value=measured.metrics[figure.key],
        )
        for figure in problem.figures_for(len(data.labels))
        if is_number(measured.metrics.get(figure.key))
    ]


def hub_id(name: str | None) -> str | None:
    """Return `name` if it may be the id of a repository on the Hub, else None."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return None
    return name
