"""Phases of the strategies by name: which stages train, in which order, and how the epochs are shared."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from hf_tl.phase import Phase, TrainableStages


def head_only(recipe: dict[str, Any], head_stages: int) -> tuple[Phase, ...]:
    """Return the phase of `transfer`."""
    return (Phase(head_stages, **recipe),)


def all_stages(recipe: dict[str, Any]) -> tuple[Phase, ...]:
    """Return the phase of `full` and `scratch`."""
    return (Phase("all", **recipe),)


def head_then_stages(recipe: dict[str, Any], head_stages: int, trainable_stages: TrainableStages) -> tuple[Phase, ...]:
    """Return the phases of `finetune` and `lora`; the head's gets a third of the epochs, or those of its own recipe."""
    head, rest = _split(recipe, recipe["epochs"] / 3)
    epochs = recipe["epochs"] - (head["epochs"] or 0)
    return Phase(head_stages, **head), Phase(trainable_stages, epochs, **rest)


def stage_by_stage(
    recipe: dict[str, Any], head_stages: int, trainable_stages: int | None, at_once: int
) -> tuple[Phase, ...]:
    """Return the phases of `gradual`, each of `at_once` more stages; the last gets half of the epochs after the head's.

    A chosen `trainable_stages` is the depth of the last phase.
    """
    decay = recipe.get("layer_decay", 1 / 2.6)
    recipe = {name: value for name, value in recipe.items() if name != "layer_decay"}
    deepest = head_stages + 3 * at_once if trainable_stages is None else trainable_stages
    depths: list[TrainableStages] = [
        *range(head_stages + at_once, deepest, at_once),
        deepest,
        *(["all"] if trainable_stages is None else []),
    ]
    head, rest = _split(recipe, recipe["epochs"] / (2 * len(depths)))
    epochs = recipe["epochs"] - (head["epochs"] or 0)
    *earlier, last = depths
    share = epochs / (2 * len(earlier) or 1)
    phases = [Phase(depth, share, layer_decay=decay, **rest) for depth in earlier]
    phases.append(Phase(last, epochs / 2 if earlier else epochs, layer_decay=decay, **rest))
    return Phase(head_stages, **head), *phases


def depth_by_depth(
    recipe: dict[str, Any], head_stages: int, trainable_stages: Sequence[TrainableStages] | None, at_once: int
) -> tuple[Phase, ...]:
    """Return the stage depths of `auto`, each with all epochs; by default once and three times `at_once` stages."""
    head, rest = _split(recipe, recipe["epochs"])
    depths = (head_stages + at_once, head_stages + 3 * at_once, "all") if trainable_stages is None else trainable_stages
    return Phase(head_stages, **head), *(Phase(depth, recipe["epochs"], **rest) for depth in depths)


def merge_depths(phases: Sequence[Phase]) -> Phase:
    """Merge the stage depths of `auto` into one phase of the deepest stages; see `Strategy.at_once`."""
    anew = [index for index, phase in enumerate(phases) if phase.from_random_weights]
    rungs = phases[anew[-1] if anew else 0 :]
    epochs, steps = ([getattr(rung, name) for rung in rungs] for name in ("epochs", "steps"))
    deepest = rungs[-1]
    if len(rungs) > 1:
        backbone_rate = deepest.backbone_learning_rate or deepest.learning_rate
        deepest = replace(deepest, learning_rate=rungs[0].learning_rate, backbone_learning_rate=backbone_rate)
    if None not in epochs:
        return replace(deepest, epochs=sum(epochs))
    return deepest if None in steps else replace(deepest, steps=sum(steps))


def _split(recipe: dict[str, Any], head_epochs: float) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the recipe of the head phase, and that of the later phases, whose epochs are left out.

    The later phases use a third of the head's learning rate, and have the tuning of the backbone to themselves.
    """
    other = ("epochs", "learning_rate", "backbone_learning_rate", "head_recipe")
    shared = {name: value for name, value in recipe.items() if name not in other}
    rate, tuning = recipe["learning_rate"], shared.pop("tuning", "full")
    head = {"epochs": head_epochs, "learning_rate": rate, **shared, **recipe["head_recipe"]}
    return head, {
        "learning_rate": rate / 3,
        "backbone_learning_rate": recipe["backbone_learning_rate"],
        "tuning": tuning,
        **shared,
    }
