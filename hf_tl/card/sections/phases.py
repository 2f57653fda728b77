"""Rows of a card's tables about stages and phases."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from hf_tl.augmentation import PRESETS, brief_augmentation, describe_phases
from hf_tl.phase import ADAMW_FIELDS
from hf_tl.record import PhaseRecord, RunRecord
from hf_tl.record.run import LAST_WEIGHTS, ONE_STANDARD_ERROR
from hf_tl.reporting.numbers import NOTHING, counted, duration, epoch_in_phase, percent, rate
from hf_tl.tuning import ALL_LAYERS, LoRA

IN_TABLE = {
    "trainable_stages", "epochs", "steps", "learning_rate", "backbone_learning_rate", "norm", "solver", "tuning",
}  # fmt: skip
"""Fields of a recipe in the table of phases; the other ones are listed below it."""
NORM_POLICIES = {
    "frozen": "",
    "affine": "norms of frozen stages train scale and shift",
    "adapt": "norms of frozen stages train and update their statistics",
}
BATCH_NORM = {
    "keep": "BatchNorm of trained stages keeps its statistics",
    "update": "BatchNorm of trained stages updates its statistics",
}
HEAD_STATES = {
    "new": "randomly initialized",
    "kept": "kept from the starting weights",
    "text": "made from the class names",
}


def stage_rows(record: RunRecord) -> list[dict[str, Any]]:
    """Return one row per stage: its modules, its share of the parameters, and its state in each phase."""
    total = max(record.model.parameters, 1)
    return [
        {
            "name": stage.name,
            "modules": stage.modules,
            "parameters": f"{stage.parameters:,}",
            "share": percent(stage.parameters / total),
            "states": [_state(stage.name, phase) for phase in record.phases],
        }
        for stage in record.stages
    ]


def _state(stage: str, phase: PhaseRecord) -> str:
    """Return the state of a stage in a phase: its learning rate, or frozen with the mode of its norms."""
    learning_rate = phase.learning_rates.get(stage)
    at = "" if learning_rate is None else f" at {rate(learning_rate)}"
    if stage in phase.trained_stages:
        is_head = stage == phase.trained_stages[-1]
        by = phase.recipe.tuning.phrase if isinstance(phase.recipe.tuning, LoRA) and not is_head else "trained"
        return "solved" if phase.is_solved else f"{by}{at}"
    if phase.recipe.norm == "frozen" or learning_rate is None:
        return "frozen"
    return f"frozen, norms {'train' if phase.recipe.norm == 'affine' else 'train and adapt'}{at}"


def trained_stages(record: RunRecord) -> str:
    """Return a short name of the trained stages, and of the adapters that trained them."""
    tunings = [phase.recipe.tuning for phase in record.phases]
    phrases = dict.fromkeys(tuning.phrase for tuning in tunings if isinstance(tuning, LoRA))
    return _named_stages(record) + "".join(f", by {phrase}" for phrase in phrases)


def trained_parameters(record: RunRecord) -> str:
    """Return the numbers of trained and of frozen parameters; those of adapters stand beside the network's own."""
    model = record.model
    if any(phase.recipe.is_adapted for phase in record.phases):
        return f"{model.parameters_trained:,} trained, of adapters and of layers in full, beside {model.parameters:,}"
    return f"{model.parameters_trained:,} trained, {model.parameters_frozen:,} frozen"


def _named_stages(record: RunRecord) -> str:
    names = [stage.name for stage in record.stages]
    trained = [name for name in names if record.trained_in(name)]
    if not trained:
        return "no stage was trained yet"
    if record.trains_head_alone:
        return "only the head was trained"
    if len(trained) == len(names):
        return "all stages were trained"
    has_norms = any(phase.recipe.norm != "frozen" for phase in record.phases)
    norms = " and the norms of frozen stages" if has_norms else ""
    if set(trained) <= set(record.model.head.stages):
        return f"the head{norms} were trained"
    last = "the last " if trained == names[-len(trained) :] else ""
    return f"{last}{len(trained)} of {len(names)} stages{norms} were trained"


def phase_row(phase: PhaseRecord) -> dict[str, Any]:
    """Return the trained stages and the recipe of a phase."""
    recipe, names = phase.recipe, phase.trained_stages
    backbone = "as the head" if recipe.backbone_learning_rate is None else rate(recipe.backbone_learning_rate)
    hidden = IN_TABLE.union(ADAMW_FIELDS) if phase.is_solved else IN_TABLE
    hidden = hidden if recipe.distillation_weight else hidden | {"distillation_temperature"}
    shown = {**dataclasses.asdict(recipe), "augmentation": brief_augmentation(recipe.augmentation)}
    return {
        "first_stage": names[0],
        "last_stage": names[-1],
        "stages": len(names),
        "has_several": len(names) > 1,
        "parameters": f"{phase.parameters_trained:,}",
        "length": _length(phase),
        "is_solved": phase.is_solved,
        "learning_rate": NOTHING if phase.is_solved else rate(recipe.learning_rate),
        "backbone_learning_rate": NOTHING if len(names) == 1 else backbone,
        "rest": ", ".join(
            [
                *([] if phase.solution is None else [_solution(phase.solution)]),
                *(
                    _field(name, value)
                    for name, value in shown.items()
                    if name not in hidden and value not in (None, 0, "none")
                ),
                *([_tuning(recipe.tuning)] if isinstance(recipe.tuning, LoRA) else []),
                *filter(None, [NORM_POLICIES[recipe.norm], "on cached features" if phase.uses_features else ""]),
                *_precisions(phase),
            ]
        ),
    }


def _precisions(phase: PhaseRecord) -> list[str]:
    """Name what was computed in a lower precision than float32."""
    parts = (("frozen stages", phase.frozen_precision), ("training steps", phase.step_precision))
    return [
        f"{name} in {record.precision}"
        for name, record in parts
        if record is not None and record.precision == "bfloat16"
    ]


def augmentation_rows(record: RunRecord) -> list[tuple[str, str]]:
    """Return each augmentation of the phases, and its transforms; a preset only if it is known whether it flipped."""
    flips = record.hyperparameters.get("horizontal_flip")
    rows = describe_phases([phase.recipe.augmentation for phase in record.phases], horizontal_flip=bool(flips))
    return [row for row in rows if flips is not None or row[1].partition(" ")[0] not in PRESETS]


def _length(phase: PhaseRecord) -> str:
    """Return the length of a phase; shorter than the recipe's after early stopping."""
    recipe = phase.recipe
    if phase.is_solved:
        return "solved"
    if recipe.epochs is None:
        planned = recipe.steps or 0
        return counted(planned, "step") if phase.steps >= planned else f"{phase.steps:,} of {counted(planned, 'step')}"
    epochs = max(1, round(recipe.epochs))
    is_whole = math.isclose(epochs, recipe.epochs, rel_tol=0.01)
    planned_text = counted(epochs, "epoch") if is_whole else f"about {counted(epochs, 'epoch')}"
    if recipe.patience is None or phase.epochs > recipe.epochs - 0.5:
        return planned_text
    return f"{round(phase.epochs)} of {planned_text}"


def phase_costs(record: RunRecord) -> list[tuple[int, str]]:
    """Return the number of each phase, and its time with what the time was spent on."""
    return [
        (number, f"{duration(phase.seconds)}{_work(phase, record.hyperparameters)}")
        for number, phase in enumerate(record.phases, 1)
    ]


def _work(phase: PhaseRecord, hyperparameters: Mapping[str, Any]) -> str:
    """Say where features came from, or how many images a second a phase trained on."""
    if phase.reuses_features:
        return "; the frozen features came from the cache of an earlier run or phase"
    if phase.uses_features:
        return ", with one pass of the images through the frozen stages"
    names = ("per_device_train_batch_size", "gradient_accumulation_steps", "processes")
    if not (phase.steps and phase.seconds > 0 and set(names) <= hyperparameters.keys()):
        return ""
    images = phase.steps * math.prod(hyperparameters[name] for name in names)
    return f", {max(1, round(images / phase.seconds)):,} training images per second (evaluation included)"


def best_after(record: RunRecord) -> str:
    """Return the name of the selected evaluation; empty if another training followed, or without evaluations."""
    best = record.best
    if best is None or record.refit is not None or not 0 <= best["phase"] < len(record.phases):
        return ""
    phase = f"phase {best['phase'] + 1}"
    if is_zero_shot(record):
        return "the head from the class names, before training"
    if record.phases[best["phase"]].is_solved:
        return f"the solution of {phase}"
    evaluations = [entry["epoch"] for entry in record.history if entry["phase"] == best["phase"]]
    if not evaluations or best["epoch"] >= evaluations[-1]:
        return f"the end of {phase}"
    before = max((entry["epoch"] for entry in record.history if entry["phase"] < best["phase"]), default=0.0)
    length = record.phases[best["phase"]].recipe.epochs or math.inf
    return f"epoch {epoch_in_phase(best['epoch'], before, length)} of {phase}"


def is_zero_shot(record: RunRecord) -> bool:
    """Return whether the saved weights are the starting ones, because no training improved on them."""
    return record.refit is None and record.best is not None and not record.best["epoch"]


def text_head_lines(record: RunRecord) -> list[tuple[str, str, str]]:
    """Return a title, a value and its meaning for each fact about a head from class names; empty for other heads."""
    head = record.text_head
    if head is None:
        return []
    revision = "" if head.revision is None else f", revision {head.revision}"
    meaning = f" times the cosine similarity, for image embeddings of norm {head.norm:.3g} (mean of training images)"
    return [
        ("Text tower", head.source, revision),
        ("Prompts", " | ".join(head.prompts), ""),
        ("Logits before training", f"{head.logit_scale:.3g}", meaning),
    ]


def selection_rule(record: RunRecord, primary: str) -> str:
    """Describe the rule by which the checkpoint was selected; `primary` is the name of the primary metric."""
    rules = {
        ONE_STANDARD_ERROR: f"the latest checkpoint within one standard error of the best validation {primary}",
        LAST_WEIGHTS: "the last weights; no checkpoint was selected by validation",
    }
    return rules.get(record.selection, f"the checkpoint with the best {record.selection} (validation)")


def head_of(record: RunRecord) -> str:
    """Describe the head and its initialization; empty if its layers are not recorded."""
    layers = " and ".join(f"{layer.name} ({' × '.join(map(str, layer.shape))})" for layer in record.model.head.layers)
    state = HEAD_STATES.get(record.start.head or "")
    return layers if not layers or state is None else f"{layers}, {state}"


def _solution(solution: Mapping[str, Any]) -> str:
    text = f"logistic regression to convergence on standardized features, L2 strength {solution['l2_strength']:.2g}"
    if solution["held_out_loss"] is None:
        return text
    loss = f"held-out loss {solution['held_out_loss']:.4g}"
    return f"{text}, selected by {solution['folds']}-fold cross-validation ({loss})"


def _tuning(lora: LoRA) -> str:
    """Describe the adapters of a phase."""
    layers = "linear and convolutional layers" if lora.targets == ALL_LAYERS else f"layers {lora.targets}"
    dropout = f", dropout {lora.dropout:g}" if lora.dropout else ""
    return f"{lora.phrase} (scale {lora.scale:g}{dropout}) in the {layers}"


def _field(name: str, value: Any) -> str:
    """Format a field of a recipe that is switched on."""
    if name == "batch_norm":
        return BATCH_NORM[value]
    title = name.replace("_", " ")
    return title if value is True else f"{title} {round(value, 6) if isinstance(value, float) else value}"
