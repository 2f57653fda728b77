"""Collection of the record of a run from its model, data, training and evaluation."""

import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from hf_tl.backbones.stages.paths import outermost
from hf_tl.backbones.stages.stage import list_stages, trainable_parameters
from hf_tl.config import HubConfig, TrainingConfig
from hf_tl.processes.accelerator import describe_hardware
from hf_tl.processes.sharding import ShardedAccelerator
from hf_tl.record import (
    CardTexts,
    HeadRecord,
    LayerRecord,
    ModelRecord,
    PhaseRecord,
    Preprocessed,
    RunRecord,
    StageRecord,
)
from hf_tl.record.codec import encode
from hf_tl.record.run import SCHEMA_VERSION
from hf_tl.strategy import Strategy

if TYPE_CHECKING:
    from accelerate import Accelerator
    from transformers import PreTrainedModel

    from hf_tl.backbones.libraries.preprocessing import Preprocessing

PACKAGES = ("hf_tl", "torch", "transformers", "timm", "datasets", "accelerate")


def describe_model(
    model: "PreTrainedModel", preprocessing: "Preprocessing", phases: Sequence[PhaseRecord], head_stages: int
) -> ModelRecord:
    """Describe the network.

    Args:
        model: The classifier.
        preprocessing: Preprocessing of `model`.
        phases: Phases that trained it.
        head_stages: Number of trailing stages that count as the head.
    """
    is_timm = model.config.model_type == "timm_wrapper"
    described = dict(preprocessing.to_record())
    main = {name: described.pop(name) for name in ("input_size", "mean", "std", "interpolation", "channel_order")}
    return ModelRecord(
        library="timm" if is_timm else "transformers",
        architecture=model.config.architecture if is_timm else model.config.model_type,
        class_name=type(model).__name__,
        problem_type=model.config.problem_type or "single_label_classification",
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        parameters_trained=_count_trained(model, phases),
        head=_describe_head(model, head_stages),
        preprocessing=Preprocessed(
            input_size=tuple(main["input_size"]),
            mean=tuple(main["mean"]),
            std=tuple(main["std"]),
            interpolation=main["interpolation"],
            channel_order=main["channel_order"],
            evaluation=encode(described),
        ),
    )


def describe_stages(model: "PreTrainedModel") -> tuple[StageRecord, ...]:
    """Describe the stages of the network in forward order."""
    parameters = dict(model.named_parameters())
    return tuple(
        StageRecord(
            stage.name,
            tuple(_own_name(name) for name in outermost(stage.module_names)),
            sum(parameters[name].numel() for name in stage.parameter_names),
        )
        for stage in list_stages(model)
    )


def hyperparameters(
    strategy: Strategy,
    config: TrainingConfig,
    accelerator: "Accelerator",
    phases: Sequence[PhaseRecord],
    *,
    horizontal_flip: bool | None = None,
) -> dict[str, Any]:
    """Return the settings of the training that apply to all phases.

    Args:
        strategy: Strategy as carried out.
        config: Settings of the training.
        accelerator: Accelerator of the training.
        phases: Phases as carried out.
        horizontal_flip: Whether augmentation presets flip images. None if no preset was used.
    """
    return {
        "per_device_train_batch_size": config.per_device_train_batch_size,
        "gradient_accumulation_steps": config.gradient_accumulation_steps,
        "processes": accelerator.num_processes,
        "mixed_precision": accelerator.mixed_precision,
        **({"sharding": "FSDP2"} if isinstance(accelerator, ShardedAccelerator) else {}),
        "seed": config.seed,
        **_optimization(strategy, config),
        **({} if horizontal_flip is None else {"horizontal_flip": horizontal_flip}),
        **({"test_time_augmentation": "horizontal flip"} if config.test_time_flip else {}),
        **({"decode_reduced": True} if config.decode_reduced else {}),
        **({"cached_views": config.cached_views} if config.cached_views is not None else {}),
    }


def environment(accelerator: "Accelerator") -> dict[str, Any]:
    """Return the fields of a record for date, hardware and library versions."""
    return {
        "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "hardware": describe_hardware(accelerator),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
    }


def card_texts(hub: HubConfig) -> CardTexts:
    """Return the texts that the user wrote for the card, and the permissions to show images."""
    return CardTexts(hub.card_intended_use, hub.card_limits, hub.card_images)


def config_record(record: RunRecord) -> dict[str, Any]:
    """Return the entry `hf_tl` of `config.json`: enough to freeze the model again and to describe its training."""
    data = record.data
    return {
        "schema_version": SCHEMA_VERSION,
        "origin": encode(record.origin),
        "strategy": record.strategy.to_record(),
        "stages": [{"name": stage.name, "frozen": record.is_frozen(stage.name)} for stage in record.stages],
        "data": {"name": data.name, "source": data.source, "revision": data.revision, "fingerprint": data.fingerprint},
        "metrics": {split: encode(measured.metrics) for split, measured in record.measured.items()},
    }


def _optimization(strategy: Strategy, config: TrainingConfig) -> Mapping[str, Any]:
    if all(phase.is_solved for phase in strategy.phases):
        return {"optimizer": "L-BFGS"}
    optimizer = "L-BFGS for the head, then AdamW" if any(phase.is_solved for phase in strategy.phases) else "AdamW"
    schedule = "linear warm-up, cosine decay"
    return {"optimizer": optimizer, "schedule": schedule, "max_grad_norm": config.max_grad_norm}


def _count_trained(model: "PreTrainedModel", phases: Sequence[PhaseRecord]) -> int:
    """Count the parameters trained in at least one phase.

    The count of a single phase allows for norms and for parameters that never train, so it is a lower bound. Of a phase
    with LoRA, its own count has the parameters of the adapters.
    """
    stages, names = list_stages(model), set[str]()
    for phase in phases:
        names |= trainable_parameters(stages, 1 if phase.recipe.is_adapted else phase.recipe.trainable_stages)
    largest = max((phase.parameters_trained for phase in phases), default=0)
    if len({phase.trained_stages for phase in phases}) <= 1:
        return largest
    return max(largest, sum(p.numel() for name, p in model.named_parameters() if name in names and p.requires_grad))


def _describe_head(model: "PreTrainedModel", head_stages: int) -> HeadRecord:
    parameters, stages = dict(model.named_parameters()), list_stages(model)
    weights = {name: parameters[name] for name in stages[-1].parameter_names if parameters[name].ndim > 1}
    return HeadRecord(
        tuple(LayerRecord(_own_name(name).rpartition(".")[0], tuple(tensor.shape)) for name, tensor in weights.items()),
        tuple(stage.name for stage in stages[-head_stages:]),
    )


def _own_name(name: str) -> str:
    """Return a module's name in its own library, without that of transformers' wrapper for timm."""
    return name.removeprefix("timm_model.")
