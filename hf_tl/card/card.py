"""The model card: a run's record, told to a reader.

Everything in a card comes from the record alone. huggingface_hub quotes the metadata; the body is a Jinja template
(`model_cards/template.md`) in which every value is escaped.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCard
from jinja2 import Template, UndefinedError

from hf_tl.card.figures import NAMES, figures_of
from hf_tl.card.metadata import card_metadata, problem_of
from hf_tl.card.phases import best_after, head_of, phase_row, proof_of, speed_of, stage_rows
from hf_tl.card.reasons import evidence_rows, rung_rows
from hf_tl.card.results import calibration_of, class_results, confusions, result_columns, result_row
from hf_tl.card.snippets import reading_code
from hf_tl.errors import PublishError
from hf_tl.evaluation.metrics import MULTI_LABEL
from hf_tl.reporting.markdown import environment
from hf_tl.reporting.numbers import duration, percent

SCHEMA_VERSION = 1
FOLDED_FROM = 21
"""Tables of this many rows or more are folded."""
CLASSES_SHOWN = 200
MODEL_LINE = 'MODEL = "{}"'
PLACEHOLDER = MODEL_LINE.format("USER/NAME")


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


def _view(record: Mapping[str, Any]) -> dict[str, Any]:
    """Prepare what the template shows, as plain values and rows of tables."""
    model, data = record["model"], record["data"]
    return {
        "record": record,
        "model": model,
        "data": data,
        "labels": data["labels"],
        "folded_from": FOLDED_FROM,
        "classes_cut": max(0, len(data["labels"]) - CLASSES_SHOWN),
        "figures": dict.fromkeys(NAMES) | figures_of(record),
        "texts": {"intended_use": None, "limits": None, "maps": False} | (record.get("card") or {}),
        "trained_share": percent(model["parameters_trained"] / max(model["parameters"], 1)),
        "head": head_of(model),
        "splits": {name: f"{split['images']:,}" for name, split in data["splits"].items()},
        "classes": _class_rows(data),
        "normalization": {key: ", ".join(f"{value:.4g}" for value in model[key]) for key in ("mean", "std")},
        "conversions": (conversions := record.get("conversions") or {}),
        "reading": reading_code(conversions, model["input_size"][0]),
        "input_size": " × ".join(str(size) for size in model["input_size"]),
        "total_time": duration(record["seconds"]["total"]),
        "train_time": duration(record["seconds"]["train"]),
        "versions": ", ".join(f"{name} {version}" for name, version in record["versions"].items()),
        "settings": _settings(record),
        "energy": _energy(record.get("energy")),
        "recommendation": record.get("recommendation"),
        "evidence": evidence_rows(record),
        "rungs": rung_rows(record),
        "stopped": record.get("stopped"),
        "refit": (refit := record.get("refit")) and {"learned_validation": True} | refit,
        **_training_view(record),
        **_results_view(record),
    }


def _training_view(record: Mapping[str, Any]) -> dict[str, Any]:
    phases, recipes = record["phases"], record["strategy"]["phases"]
    return {
        "stages": stage_rows(record),
        "phases": [phase_row(*pair) for pair in zip(recipes, phases, strict=True)],
        "proofs": [proof_of(number, phase) for number, phase in enumerate(phases, 1)],
        "best_after": best_after(record),
        "speeds": _speeds(record),
    }


def _speeds(record: Mapping[str, Any]) -> list[tuple[int, str]]:
    """Tell the speed of each phase that has one, with its number."""
    hyperparameters = record["hyperparameters"]
    names = ("per_device_train_batch_size", "gradient_accumulation_steps", "processes")
    if not set(names) <= hyperparameters.keys():
        return []
    images_per_step = hyperparameters[names[0]] * hyperparameters[names[1]] * hyperparameters[names[2]]
    pairs = zip(record["strategy"]["phases"], record["phases"], strict=True)
    told = [speed_of(done, images_per_step, is_solved=recipe.get("solver") == "lbfgs") for recipe, done in pairs]
    return [(number, speed) for number, speed in enumerate(told, 1) if speed is not None]


def _results_view(record: Mapping[str, Any]) -> dict[str, Any]:
    problem, labels = problem_of(record), record["data"]["labels"]
    figures = problem.figures_for(len(labels))
    return {
        "is_multi_label": problem is MULTI_LABEL,
        "primary": problem.primary,
        "result_columns": result_columns(figures),
        "results": [result_row(record, split, problem, figures) for split in record["metrics"]],
        "class_results": class_results(record, labels[:CLASSES_SHOWN]),
        "confusions": confusions(record),
        "calibration": calibration_of(record, problem),
    }


def _class_rows(data: Mapping[str, Any]) -> list[tuple[str, Sequence[str]]]:
    counts = [split["classes"] for split in data["splits"].values()]
    return [
        (label, [f"{count[index]:,}" for count in counts]) for index, label in enumerate(data["labels"][:CLASSES_SHOWN])
    ]


def _energy(measured: Mapping[str, Any] | None) -> str:
    return "" if measured is None else f"{measured['kwh']:.2g} kWh ({measured['method']})"


def _settings(record: Mapping[str, Any]) -> str:
    """Write the settings as a file for `--config`: ASCII, each value on a line of its own."""
    given = {name: value for name, value in (record.get("settings") or {}).items() if value is not None}
    return yaml.safe_dump(given, sort_keys=False, width=float("inf")) if given else ""
