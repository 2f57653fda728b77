"""Model card, rendered from the record of a run alone.

huggingface_hub quotes the metadata. The body is a Jinja template (`model_cards/template.md`) that escapes every value.
"""

import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCard
from jinja2 import Template

from hf_tl.card.figures.draw import NAMES, figures_of
from hf_tl.card.metadata import card_metadata, problem_of
from hf_tl.card.record_errors import record_errors
from hf_tl.card.sections.abstention import abstention_lines
from hf_tl.card.sections.interpolation import interpolation_text
from hf_tl.card.sections.origins import name_start, origin_lines, teacher_line
from hf_tl.card.sections.phases import (
    augmentation_rows,
    best_after,
    head_of,
    phase_costs,
    phase_row,
    selection_rule,
    stage_rows,
    text_head_lines,
    trained_parameters,
    trained_stages,
)
from hf_tl.card.sections.reasons import evidence_rows, rung_rows
from hf_tl.card.sections.results import (
    about_intervals,
    calibration_of,
    class_results,
    confusions,
    refit_text,
    result_columns,
    result_notes,
    result_row,
)
from hf_tl.card.sections.robustness import robustness_of
from hf_tl.card.sections.snippets import reading_code
from hf_tl.card.sections.training_images import has_earlier_training, learned_rows, learned_total
from hf_tl.errors import PublishError
from hf_tl.evaluation.metrics import MULTI_LABEL
from hf_tl.record import DataRecord, RunRecord
from hf_tl.reporting.fonts import drawn_names
from hf_tl.reporting.markdown import environment
from hf_tl.reporting.numbers import counted, duration, percent
from hf_tl.tuning import LoRA

CLASSES_SHOWN = 200
"""Largest number of classes in a table."""
CLASSES_NAMED = 12
"""Largest number of classes in the first sentence."""
PLACEHOLDER = re.compile(r'"(hf-hub:)?USER/NAME"')
"""Repository in the usage snippets."""


def render_card(record: RunRecord, repo_id: str | None = None) -> str:
    """Render the whole `README.md` of a model.

    Args:
        record: Record of the run, of any status.
        repo_id: Repository in the usage snippets; `USER/NAME` by default.

    Raises:
        PublishError: The record lacks something that a card shows, or is damaged.
    """
    with record_errors("the card cannot be written"):
        body = _template("template.md").render(_view(record))
        card = f"---\n{card_metadata(record).to_yaml()}\n---\n\n{body}"
        return str(ModelCard(card)) if repo_id is None else with_repo_id(card, repo_id)


def render_adapter_card(record: RunRecord) -> str:
    """Render the `README.md` of the adapter of a model, which is published without the model.

    Raises:
        PublishError: The record has no phase with LoRA, lacks something that a card shows, or is damaged.
    """
    loras = [phase.recipe.tuning for phase in record.phases if isinstance(phase.recipe.tuning, LoRA)]
    if not loras:
        raise PublishError("the record names no adapter: expected a phase with LoRA")
    with record_errors("the card of the adapter cannot be written"):
        view = {**_view(record), "lora": loras[-1].phrase, "base": record.start.base_model or record.model.architecture}
        return f"---\n{card_metadata(record, is_adapter=True).to_yaml()}\n---\n\n{_template('adapter.md').render(view)}"


def with_repo_id(card: str, repo_id: str) -> str:
    """Set the repository in the usage snippets of a card; other text stays, including the user's own."""
    return PLACEHOLDER.sub(lambda match: f'"{match[1] or ""}{repo_id}"', card)


@cache
def _template(name: str) -> Template:
    return environment().from_string(_template_file(name).read_text(encoding="utf-8"))


def _template_file(name: str) -> Path:
    """Return the path of a template: inside an installed package, or beside it in a checkout."""
    package = Path(__file__).parents[1]
    candidates = [package / "model_cards" / name, package.parent / "model_cards" / name]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise PublishError(f"the card template model_cards/{name} is missing from hf_tl; install hf_tl again")


def _view(record: RunRecord) -> dict[str, Any]:
    """Return the values of the template, as plain values and table rows."""
    model = record.model
    return {
        "record": record,
        "model": model,
        "figures": dict.fromkeys(NAMES) | figures_of(record),
        "texts": record.card,
        "trained_share": percent(model.parameters_trained / max(model.parameters, 1)),
        "start": name_start(record.start),
        "origin_lines": origin_lines(record.start),
        "head": head_of(record),
        "text_head": text_head_lines(record),
        "teacher": teacher_line(record),
        "learned": learned_rows(record),
        "learned_before": has_earlier_training(record),
        "learned_total": learned_total(record),
        "normalization": {
            name: ", ".join(f"{value:.4g}" for value in values)
            for name, values in (("mean", model.preprocessing.mean), ("std", model.preprocessing.std))
        },
        "input_size": " × ".join(str(size) for size in model.preprocessing.input_size),
        "versions": ", ".join(f"{name} {version}" for name, version in record.versions.items()),
        **_data_view(record.data, channels=model.preprocessing.input_size[0]),
        **_training_view(record),
        **_results_view(record),
    }


def _data_view(data: DataRecord, channels: int) -> dict[str, Any]:
    named = len(data.labels) if len(data.labels) <= CLASSES_NAMED else CLASSES_NAMED - 2
    return {
        "data": data,
        "labels": data.labels,
        "labels_named": data.labels[:named],
        "labels_unnamed": len(data.labels) - named,
        "numbered": [] if (names := drawn_names(data.labels)) == list(data.labels) else names,
        "classes_cut": max(0, len(data.labels) - CLASSES_SHOWN),
        "splits": {name: f"{split.images:,}" for name, split in data.splits.items()},
        "split_sizes": ", ".join(f"{split.images:,} {name}" for name, split in data.splits.items()) + " images",
        "classes": _class_rows(data),
        "conversions": {kind: counted(images, "image") for kind, images in data.conversions.items()},
        "converted": _conversions(data),
        "reading": reading_code(data.conversions, channels),
        "is_rgb": channels > 1,
    }


def _training_view(record: RunRecord) -> dict[str, Any]:
    return {
        "what_trained": trained_stages(record),
        "trained_parameters": trained_parameters(record),
        "is_adapted": any(phase.recipe.is_adapted for phase in record.phases),
        "total_time": duration(record.seconds.total),
        "train_time": duration(record.seconds.train),
        "settings": _settings(record),
        "energy": _energy(record.energy),
        "recommendation": record.recommendation,
        "evidence": evidence_rows(record.recommendation),
        "rungs": rung_rows(record),
        "interpolation": interpolation_text(record, problem_of(record)),
        "refit": refit_text(record, is_search=len(record.rungs) > 1),
        "stages": stage_rows(record),
        "phases": [phase_row(phase) for phase in record.phases],
        "augmentations": augmentation_rows(record),
        "phase_count": counted(len(record.phases), "phase"),
        "proofs": [(number, phase.proof) for number, phase in enumerate(record.phases, 1) if phase.proof.tensors],
        "best_after": best_after(record),
        "selection_rule": selection_rule(record, problem_of(record).primary.name),
        "costs": phase_costs(record),
    }


def _results_view(record: RunRecord) -> dict[str, Any]:
    problem, labels = problem_of(record), record.data.labels
    figures = problem.figures_for(len(labels))
    return {
        "is_multi_label": problem is MULTI_LABEL,
        "primary": problem.primary,
        "exact": next(figure.title for figure in problem.figures if figure.key == problem.accuracy),
        "result_columns": result_columns(figures),
        "results": [result_row(measured, problem, figures) for measured in record.measured.values()],
        "result_notes": result_notes(record, problem),
        "intervals": about_intervals(record, problem),
        "class_results": class_results(record, labels[:CLASSES_SHOWN]),
        "confusions": confusions(record),
        "calibration": calibration_of(record, problem),
        "robustness": robustness_of(record.measured.get("test"), problem),
        "abstention": abstention_lines(record.abstention),
    }


def _class_rows(data: DataRecord) -> list[tuple[str, Sequence[str]]]:
    counts = [split.classes for split in data.splits.values()]
    return [
        (label, [f"{count[index]:,}" for count in counts]) for index, label in enumerate(data.labels[:CLASSES_SHOWN])
    ]


def _conversions(data: DataRecord) -> list[str]:
    """Return the number of images of each split that a plain pipeline converts differently from training."""
    return [
        f"{name}: {', '.join(f'{kind} {count:,}' for kind, count in split.conversions.items())}"
        for name, split in data.splits.items()
        if split.conversions
    ]


def _energy(measured: Mapping[str, Any] | None) -> str:
    return "" if measured is None else f"{measured['kwh']:.2g} kWh ({measured['method']})"


def _settings(record: RunRecord) -> str:
    """Return the settings as a file for `--config`: ASCII, one value per line."""
    settings = {name: value for name, value in (record.settings or {}).items() if value is not None}
    return yaml.safe_dump(settings, sort_keys=False, width=float("inf")) if settings else ""
