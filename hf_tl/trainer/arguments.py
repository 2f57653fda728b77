"""`TrainingArguments` under a strategy: which ones the phases adopt, replace or refuse.

An argument counts as set if it differs from its default, which is all that Trainer shows. A warning names the defaults
that the recipe replaces.

- *Adopted*: the strategy leaves the field to its recipe, so the phases take the argument's value.
- *Replaced*: the strategy sets the field. The argument gets that value, so that Trainer's logs and card state what was
  used, and a warning names both values.
- *Refused*: the run would differ from the strategy.
- All other arguments have their usual effect.
"""

import dataclasses
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from torch import nn
from transformers import SchedulerType
from transformers.utils import logging

from hf_tl.backbones.stages.family import family_of
from hf_tl.errors import ConfigError
from hf_tl.evaluation.metrics import MULTI_LABEL, problem_type_of
from hf_tl.optimization.optim import phase_ends
from hf_tl.recipes.preset import PREVIEW_IMAGES
from hf_tl.strategy import Phase, Strategy

if TYPE_CHECKING:
    from transformers import PreTrainedModel, TrainingArguments

logger = logging.get_logger(__name__)

SHARED = {
    "learning_rate": "learning_rate",
    "weight_decay": "weight_decay",
    "warmup_steps": "warmup_ratio",
    "label_smoothing_factor": "label_smoothing",
    "num_train_epochs": "epochs",
}
"""Training arguments, and the fields of a phase of the same meaning."""
SCHEDULE = "cosine"
"""Schedule of every phase, after linear warm-up."""
_OF_STRATEGY_TRAINER = (
    "steps", "patience", "mixup", "cutmix", "ema_decay", "class_weights", "balanced_sampling",
    "head_penalty", "distillation_weight", "distillation_temperature",
)  # fmt: skip
"""Fields of a phase that need `StrategyTrainer`."""


def adopt(
    args: "TrainingArguments", strategy: Strategy, images: int | None, model: "PreTrainedModel", own: Mapping[str, Any]
) -> Strategy:
    """Return the strategy with the training arguments that it leaves open, for a number of training images.

    Args:
        args: Training arguments.
        strategy: Strategy; only one made by a constructor such as `Strategy.finetune` leaves something open.
        images: Number of training images. None if it is unknown, as for a callback alone: the recipe is then that for
            1,000 to 20,000 images, without label smoothing of its own, which Trainer computes.
        model: Model to train, whose family the recipe follows.
        own: Values that `set_arguments` set before; they are not the user's.
    """
    preset = strategy.preset
    if preset is None:
        return strategy
    chosen = {field: value for field, value in _values(args, own).items() if field not in preset.arguments}
    if images is None and "label_smoothing" not in preset.arguments:
        chosen.setdefault("label_smoothing", args.label_smoothing_factor)
    size, family = images or PREVIEW_IMAGES, family_of(model)
    recipe = Strategy.of(preset.name, **preset.arguments).resolve(size, family=family).phases
    rates = [phase.backbone_learning_rate for phase in recipe if phase.backbone_learning_rate is not None]
    if rates and "learning_rate" in chosen and "backbone_learning_rate" not in preset.arguments:
        chosen["backbone_learning_rate"] = min(chosen["learning_rate"], *rates)
    adopted = Strategy.of(preset.name, **{**preset.arguments, **chosen}).resolve(size, family=family)
    for argument, field in SHARED.items():
        if field in chosen and (images is not None or chosen[field]):
            logger.info(f"Adopting {argument}={chosen[field]:g} of TrainingArguments as {field} of the phases")
    _tell_defaults(args, adopted, {*preset.arguments, *chosen})
    if images is None:
        logger.warning(
            f"Strategy {strategy.name}: using the recipe for 1,000 to 20,000 images, because a callback does not know "
            "their number. Train with hf_tl.StrategyTrainer, or give the phases"
        )
    return adopted


def _tell_defaults(args: "TrainingArguments", strategy: Strategy, chosen: Collection[str]) -> None:
    """Say which defaults of Trainer the recipe replaces, because a value that the user wrote may equal the default."""
    used = {
        argument: sum(epochs or 0 for epochs in values) if field == "epochs" else max(values)
        for argument, field in SHARED.items()
        if field not in chosen and None not in (values := [getattr(phase, field) for phase in strategy.phases])
    }
    replaced = [
        f"{argument}={getattr(args, argument):g} ({value:g})"
        for argument, value in used.items()
        if getattr(args, argument) != value
    ]
    if replaced:
        logger.warning(
            f"The recipe of the strategy {strategy.name!r} replaces defaults of TrainingArguments: "
            f"{', '.join(replaced)}. If you chose one of these values, give it to the strategy, as in "
            f"hf_tl.Strategy.{strategy.name}(epochs={args.num_train_epochs:g})"
        )


def set_arguments(
    args: "TrainingArguments",
    strategy: Strategy,
    steps_per_epoch: int | None,
    own: Mapping[str, Any],
    *,
    carries_out: bool,
) -> dict[str, Any]:
    """Set the training arguments that phases replace to their values, which Trainer logs and prints on its card.

    Args:
        args: Training arguments, changed in place.
        strategy: Strategy that is carried out.
        steps_per_epoch: Optimizer steps in an epoch, for phases that count steps.
        own: Values that an earlier call set.
        carries_out: Whether a `StrategyTrainer` computes the loss.

    Returns:
        The values that were set, by argument.
    """
    *_, last = phases = strategy.phases
    for argument, field in SHARED.items():
        value, used = getattr(args, argument), [getattr(phase, field) for phase in phases]
        is_users = value not in (type(args).__dataclass_fields__[argument].default, own.get(argument))
        if field == "epochs":
            used = [round(sum(epochs or 0 for epochs in used), 6)]
        if is_users and value not in used:
            logger.warning(
                f"{argument}={value:g} of TrainingArguments becomes {used[-1]:g}, as the strategy {strategy.name!r} "
                f"has it. Change {field} of its phases instead"
            )
    kind = str(getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type))
    if kind not in ("linear", SCHEDULE):
        logger.warning(f"lr_scheduler_type={kind!r} becomes {SCHEDULE!r}, with linear warm-up, in each phase")
    values: dict[str, Any] = {
        "learning_rate": last.learning_rate,
        "weight_decay": last.weight_decay,
        "warmup_steps": last.warmup_ratio,
        "lr_scheduler_type": SchedulerType(SCHEDULE),
        "lr_scheduler_kwargs": None,
        "num_train_epochs": round(sum(phase.epochs or 0 for phase in phases), 6),
        "remove_unused_columns": False,
        **({"label_smoothing_factor": last.label_smoothing} if carries_out else {}),
    }
    if any(phase.steps is not None for phase in phases):
        assert steps_per_epoch is not None, "check_strategy refuses steps where their number is unknown"
        values["max_steps"] = phase_ends(phases, steps_per_epoch)[-1]
    for name, value in values.items():
        setattr(args, name, value)
    return values


def _values(args: "TrainingArguments", own: Mapping[str, Any]) -> dict[str, Any]:
    """Return the shared arguments that the user set, by field of a phase."""
    values = {}
    for argument, field in SHARED.items():
        value = getattr(args, argument)
        is_default = value == type(args).__dataclass_fields__[argument].default
        if is_default or (argument in own and value == own[argument]):
            continue
        if field == "warmup_ratio" and value >= 1:
            continue  # a number of steps, which no phase has
        values[field] = value
    return values


def check_arguments(
    args: "TrainingArguments",
    model: "PreTrainedModel",
    strategy: Strategy,
    own: Mapping[str, Any],
    *,
    carries_out: bool,
) -> None:
    """Reject arguments that would silently make the run differ from the strategy.

    Args:
        args: Training arguments.
        model: Model to train.
        strategy: Strategy, after `adopt`.
        own: Values that `set_arguments` set before.
        carries_out: Whether a `StrategyTrainer` computes the loss and draws the images.

    Raises:
        ConfigError: An argument contradicts the strategy; the message says what to do.
    """
    sampling = args.train_sampling_strategy
    settings = {
        "max_steps": args.max_steps > 0 and args.max_steps != own.get("max_steps"),
        "fsdp": bool(args.fsdp),
        "deepspeed": bool(args.deepspeed),
        "ddp_find_unused_parameters=False": args.ddp_find_unused_parameters is False,
        "torch_compile": args.torch_compile,
        f"train_sampling_strategy={sampling!r}": sampling != "random",
    }
    if refused := [name for name, is_set in settings.items() if is_set]:
        raise ConfigError(
            f"a strategy does not support {', '.join(refused)} in TrainingArguments: the phases set the number of "
            "steps and the order of the images, and freeze and unfreeze parameters that Trainer wraps only once. "
            "Remove the setting, or train with hf_tl.train (Accelerate)"
        )
    updates = any(phase.batch_norm == "update" and phase.trainable_stages != 1 for phase in strategy.phases)
    norms = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())
    if checkpoints_activations(args) and updates and norms:
        raise ConfigError(
            "gradient_checkpointing runs each trained stage twice, so its BatchNorm statistics would be updated twice "
            "in each step. Give the strategy batch_norm='keep', or train with hf_tl.train(..., "
            "gradient_checkpointing=True)"
        )
    if carries_out:
        return
    if problem_type_of(model) is MULTI_LABEL and args.label_smoothing_factor:
        raise ConfigError(
            "Trainer smooths single-label classes only, and the model is multi-label. Set label_smoothing_factor to 0, "
            "or train with hf_tl.StrategyTrainer"
        )
    smoothing = {phase.label_smoothing for phase in strategy.phases}
    if smoothing != {args.label_smoothing_factor}:
        raise ConfigError(
            f"expected the label smoothing of TrainingArguments ({args.label_smoothing_factor:g}) in all phases, found "
            f"{sorted(smoothing)}: Trainer computes the loss. Set both to the same value, or train with "
            "hf_tl.StrategyTrainer"
        )


def checkpoints_activations(args: "TrainingArguments") -> bool:
    """Return whether stages are run twice to save memory, by either name of the argument."""
    return bool(args.gradient_checkpointing or getattr(args, "activation_checkpointing", False))


def check_strategy(args: "TrainingArguments", strategy: Strategy, *, carries_out: bool, is_recipe: bool) -> None:
    """Reject what Trainer cannot carry out.

    Args:
        args: Training arguments.
        strategy: Strategy, after `adopt`.
        carries_out: Whether a `StrategyTrainer` carries out what a callback alone cannot.
        is_recipe: Whether the strategy was made by a constructor, whose recipe includes augmentation.

    Raises:
        ConfigError: A phase needs more than Trainer offers; the message names the alternative.
    """
    from hf_tl.trainer.adapted import phase_of_adapters

    if strategy.is_climb:
        raise ConfigError(
            "the strategy auto is not supported under Trainer, which cannot undo a phase. Choose another strategy, or "
            "train with hf_tl.train (Accelerate)"
        )
    if phase_of_adapters(strategy.phases) is not None and not carries_out:
        raise ConfigError(
            "StrategyCallback does not support LoRA in phases, because Trainer builds its optimizer without the "
            "adapters. Train with hf_tl.StrategyTrainer"
        )
    if any(phase.from_random_weights for phase in strategy.phases[1:]):
        raise ConfigError(
            "random weights are drawn before the first phase only under Trainer, found from_random_weights in a later "
            "phase. Keep that phase alone, or train with hf_tl.train (Accelerate)"
        )
    if strategy.refit:
        raise ConfigError(
            "retraining on the validation images (refit=True) is not supported under Trainer. Pass "
            "dataclasses.replace(strategy, refit=False), or train with hf_tl.train (Accelerate)"
        )
    defaults = {field.name: field.default for field in dataclasses.fields(Phase)}
    changed = {
        name
        for name in (*_OF_STRATEGY_TRAINER, "solver")
        for p in strategy.phases
        if getattr(p, name) != defaults[name]
    }
    if "solver" in changed or (changed and not carries_out):
        changed = {"solver"} if "solver" in changed else changed
        other = "hf_tl.train (Accelerate)" if "solver" in changed else "hf_tl.StrategyTrainer"
        raise ConfigError(
            f"{'Trainer' if carries_out else 'StrategyCallback'} does not support {', '.join(sorted(changed))} in "
            f"phases. Remove the field, or train with {other}"
        )
    if "patience" in changed and args.eval_strategy == "no":
        raise ConfigError("patience needs evaluations: set eval_strategy='epoch' in TrainingArguments")
    augmentations = sorted({phase.augmentation for phase in strategy.phases})
    if len(augmentations) > 1 and not carries_out and not is_recipe:
        raise ConfigError(
            f"expected one augmentation for all phases under Trainer, found {', '.join(augmentations)}: its dataset "
            "has one transform. Choose one augmentation, or train with hf_tl.StrategyTrainer"
        )
