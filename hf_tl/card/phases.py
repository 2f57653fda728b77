"""What a card tells of stages, phases and their recipes, as rows of its tables."""

from collections.abc import Mapping
from typing import Any

from hf_tl.phase import OF_ADAMW
from hf_tl.reporting.numbers import NOTHING, percent, rate

IN_TABLE = {"trainable_stages", "epochs", "steps", "learning_rate", "backbone_learning_rate", "norm", "solver"}
"""What the table of phases shows of a phase's recipe; the rest is listed below it."""
NORM_POLICIES = {"frozen": "frozen", "affine": "scale and shift train", "adapt": "train and adapt"}
BATCH_NORM = {
    "keep": "BatchNorm of trained stages keeps its statistics",
    "update": "BatchNorm of trained stages adapts",
}


def stage_rows(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Tell of each stage what it holds, and what each phase did with it."""
    total = max(record["model"]["parameters"], 1)
    phases = list(zip(record["strategy"]["phases"], record["phases"], strict=True))
    return [
        {
            "name": stage["name"],
            "modules": stage.get("modules", []),
            "parameters": f"{stage['parameters']:,}",
            "share": percent(stage["parameters"] / total),
            "states": [_state(stage["name"], recipe, done) for recipe, done in phases],
        }
        for stage in record["stages"]
    ]


def _state(stage: str, recipe: Mapping[str, Any], done: Mapping[str, Any]) -> str:
    """Tell what a phase did with a stage: the rate at which it trained, or frozen and what its norms did."""
    learning_rate = done.get("learning_rates", {}).get(stage)
    at = "" if learning_rate is None else f" at {rate(learning_rate)}"
    if stage in done["trainable_stages"]:
        return "solved" if recipe.get("solver") == "lbfgs" else f"trained{at}"
    if recipe["norm"] == "frozen" or learning_rate is None:
        return "frozen"
    return f"frozen, norms {'train' if recipe['norm'] == 'affine' else 'train and adapt'}{at}"


def phase_row(recipe: Mapping[str, Any], done: Mapping[str, Any]) -> dict[str, Any]:
    """Tell what a phase trained, and how."""
    names = done["trainable_stages"]
    backbone_rate = recipe["backbone_learning_rate"]
    backbone = NOTHING if len(names) == 1 else "as the head" if backbone_rate is None else rate(backbone_rate)
    is_solved = recipe.get("solver") == "lbfgs"
    hidden = IN_TABLE.union(OF_ADAMW) if is_solved else IN_TABLE
    return {
        "first_stage": names[0],
        "last_stage": names[-1],
        "stages": len(names),
        "parameters": f"{done['parameters_trained']:,}",
        "epochs": "solved" if is_solved else _length(recipe),
        "learning_rate": NOTHING if is_solved else rate(recipe["learning_rate"]),
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


def speed_of(done: Mapping[str, Any], images_per_step: int, *, is_solved: bool) -> str | None:
    """Tell how many training images a second went through a phase, with all that was done in it."""
    if is_solved or not done.get("steps") or not done.get("seconds"):
        return None
    return f"{done['steps'] * images_per_step / done['seconds']:,.3g} training images a second"


def proof_of(number: int, done: Mapping[str, Any]) -> dict[str, Any]:
    """Tell whether what a phase froze stayed as it was."""
    before, after = done["digest_before"], done["digest_after"]
    return {
        "phase": number,
        "tensors": done["frozen_tensors"],
        "before": before,
        "after": after,
        "holds": before == after,
    }


def best_after(record: Mapping[str, Any]) -> str:
    """Tell when the weights were those that the model has; nothing where another training followed."""
    if record.get("refit") or not (best := record["best"]):
        return ""
    phase = f"phase {best['phase'] + 1}"
    if record["strategy"]["phases"][best["phase"]].get("solver") == "lbfgs":
        return f"the solution of {phase}"
    return f"epoch {best['epoch']:.3g} ({phase})"


def head_of(model: Mapping[str, Any]) -> str:
    """Tell what the head is, and whether it was new; nothing where the record does not say."""
    if not (head := model.get("head")) or not head["layers"]:
        return ""
    layers = " and ".join(f"{layer['name']} ({' × '.join(map(str, layer['shape']))})" for layer in head["layers"])
    state = {"new": "new, with random weights at the start", "kept": "kept from the base model"}.get(head["state"])
    return layers if state is None else f"{layers}, {state}"


def _length(recipe: Mapping[str, Any]) -> str:
    return f"{recipe['steps']:,} steps" if recipe.get("steps") else f"{recipe['epochs']:.3g}"


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
