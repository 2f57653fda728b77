"""The record of a run, `run.json`: what was done, as plain values. It is the only source of the card's facts.

It is published with the model, so it holds no path, token, user or host name.
"""

import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_tl.backbones.transformers import commit_of
from hf_tl.card.metadata import hub_id
from hf_tl.config import HubConfig, TrainingConfig
from hf_tl.processes.accelerator import describe_hardware
from hf_tl.processes.sharding import ShardedAccelerator
from hf_tl.record import SCHEMA_VERSION, RunRecord
from hf_tl.record.codec import encode
from hf_tl.strategy import Strategy
from hf_tl.training.refit import is_given_back

if TYPE_CHECKING:
    from accelerate import Accelerator
    from transformers import PreTrainedConfig, PreTrainedModel

    from hf_tl.backbones.preprocessing import Preprocessing
    from hf_tl.checkpoints.state import TrainingLog
    from hf_tl.data.datasets import ImageData
    from hf_tl.data.images import Transforms

RECORD_SCHEMA_VERSION = 1
PACKAGES = ("hf_tl", "torch", "transformers", "timm", "datasets", "accelerate")


def build_record(
    *,
    model: "PreTrainedModel",
    preprocessing: "Preprocessing",
    transforms: "Transforms",
    data: "ImageData",
    strategy: Strategy,
    config: TrainingConfig,
    accelerator: "Accelerator",
    log: "TrainingLog",
    refit: "TrainingLog | None" = None,
    metrics: Mapping[str, Mapping[str, float]],
    evaluation: Mapping[str, Any],
    seconds: float,
    energy: Mapping[str, Any] | None = None,
    hub: HubConfig | None = None,
    command: str | None = None,
    settings: Mapping[str, Any] | None = None,
    choices: Mapping[str, str] | None = None,
    recommendation: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Gather what a run did into one dictionary of plain values.

    Its `phases` are those that gave the model its weights; history, rungs and what was measured on validation images
    are of the training that was measured, `log`, also where a `refit` followed it.
    """
    hub = hub or HubConfig()
    done = refit or log
    return {
        "schema_version": RECORD_SCHEMA_VERSION,
        "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "model": _model(model, preprocessing),
        "strategy": strategy.to_record(),
        "stages": _stages(model, done),
        "phases": done.phases,
        "rungs": log.rungs,
        "stopped": log.stopped,
        "recommendation": recommendation,
        "data": _data(data),
        "transforms": {"train": transforms.train.describe(), "eval": transforms.eval.describe()},
        "hyperparameters": {**_hyperparameters(strategy, config, accelerator, done), **(choices or {})},
        "history": log.history,
        "best": log.best,
        "refit": _refit(data, refit),
        "metrics": {split: dict(values) for split, values in metrics.items()},
        "evaluation": evaluation,
        "seconds": {"total": seconds, "train": log.seconds + (refit.seconds if refit else 0.0)},
        "energy": energy,
        "hardware": describe_hardware(accelerator),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "command": command,
        "settings": None if settings is None else dict(settings),
        "card": {"intended_use": hub.card_intended_use, "limits": hub.card_limits, "images": hub.card_images},
    }


def _refit(data: "ImageData", refit: "TrainingLog | None") -> dict[str, Any] | None:
    """Tell of the training again from the start; None where there was none."""
    if refit is None:
        return None
    learned = ("train", "validation") if is_given_back(data) else ("train",)
    images = sum(len(data.splits[split]) for split in learned)
    return {"images": images, "learned_validation": "validation" in learned, "seconds": refit.seconds}


def _hyperparameters(
    strategy: Strategy, config: TrainingConfig, accelerator: "Accelerator", log: "TrainingLog"
) -> dict[str, Any]:
    return {
        "per_device_train_batch_size": config.per_device_train_batch_size,
        "gradient_accumulation_steps": config.gradient_accumulation_steps,
        "processes": accelerator.num_processes,
        "mixed_precision": accelerator.mixed_precision,
        **({"sharding": "FSDP2"} if isinstance(accelerator, ShardedAccelerator) else {}),
        "seed": config.seed,
        **_optimisation(strategy, config),
        **({"measured_with": "mean of the logits of image and mirror image"} if config.test_time_flip else {}),
        **({"decode_reduced": True} if config.decode_reduced else {}),
        **({"cached_views": config.cached_views} if config.cached_views is not None else {}),
        **({"feature_dtype": config.feature_dtype} if any(p.get("uses_features") for p in log.phases) else {}),
    }


def _optimisation(strategy: Strategy, config: TrainingConfig) -> dict[str, Any]:
    if all(phase.is_solved for phase in strategy.phases):
        return {"optimizer": "L-BFGS"}
    optimizer = "L-BFGS for the head, then AdamW" if any(phase.is_solved for phase in strategy.phases) else "AdamW"
    schedule = "linear warm-up, cosine decay"
    return {"optimizer": optimizer, "schedule": schedule, "max_grad_norm": config.max_grad_norm}


def config_record(record: RunRecord) -> dict[str, Any]:
    """Return what `config.json` holds under the key `hf_tl`: enough to freeze again and to follow the origin."""
    return {
        "schema_version": SCHEMA_VERSION,
        "origin": encode(record.start),
        "strategy": encode(record.strategy),
        "stages": [{"name": stage.name, "frozen": record.is_frozen(stage.name)} for stage in record.stages],
        "data": {key: getattr(record.data, key) for key in ("name", "revision", "fingerprint")},
        "metrics": {split: encode(measured.metrics) for split, measured in record.measured.items()},
    }


def _model(model: "PreTrainedModel", preprocessing: "Preprocessing") -> dict[str, Any]:
    base = _origin(model.config)
    is_timm = model.config.model_type == "timm_wrapper"
    counts = {True: 0, False: 0}
    for parameter in model.parameters():
        counts[parameter.requires_grad] += parameter.numel()
    return {
        "library": "timm" if is_timm else "transformers",
        "architecture": model.config.architecture if is_timm else model.config.model_type,
        "class": type(model).__name__,
        "base_model": base.get("name"),
        "base_model_revision": base.get("revision"),
        "base_model_license": base.get("license"),
        "weights": base.get("weights"),
        "pretrained": base.get("pretrained", True),
        "problem_type": model.config.problem_type or "single_label_classification",
        "head": _head(model, base.get("head")),
        "parameters": counts[True] + counts[False],
        "parameters_trained": counts[True],
        "parameters_frozen": counts[False],
        **preprocessing.to_record(),
    }


def _origin(config: "PreTrainedConfig") -> dict[str, Any]:
    """Tell where the weights came from: of a model of hf_tl that is trained on, that model and not its own base."""
    base = dict((getattr(config, "hf_tl", None) or {}).get("base", {}))
    loaded = config.name_or_path
    if not loaded or base.get("name") == loaded or "head" in base:
        return base
    if Path(loaded).exists() or hub_id(loaded) is None:
        return {**base, "head": "kept"}
    return {**base, "name": loaded, "revision": commit_of(loaded), "weights": None, "head": "kept"}


def _head(model: "PreTrainedModel", state: str | None) -> dict[str, Any]:
    """Tell what the head is: its layers with the shapes of their weights, and whether it is new or was kept."""
    from hf_tl.backbones.stages import list_stages

    parameters = dict(model.named_parameters())
    weights = {name: parameters[name] for name in list_stages(model)[-1].parameter_names if parameters[name].ndim > 1}
    layers = [
        {"name": _own_name(name).rpartition(".")[0], "shape": list(tensor.shape)} for name, tensor in weights.items()
    ]
    return {"state": state, "layers": layers}


def _own_name(name: str) -> str:
    """Give a module's name in its own library, without that of transformers' wrapper for timm."""
    return name.removeprefix("timm_model.")


def _outermost(names: tuple[str, ...]) -> list[str]:
    """Leave out the modules that lie inside others of the same list."""
    known = {f"{name}." for name in names}
    return [name for name in names if not any(name.startswith(other) for other in known)]


def _stages(model: "PreTrainedModel", log: "TrainingLog") -> list[dict[str, Any]]:
    from hf_tl.backbones.stages import list_stages

    parameters = dict(model.named_parameters())
    rows = []
    for stage in list_stages(model):
        trained_in = [index for index, phase in enumerate(log.phases) if stage.name in phase["trainable_stages"]]
        rows.append(
            {
                "name": stage.name,
                "modules": [_own_name(name) for name in _outermost(stage.module_names)],
                "parameters": sum(parameters[name].numel() for name in stage.parameter_names),
                "frozen": bool(log.phases) and stage.name not in log.phases[-1]["trainable_stages"],
                "trained_in_phases": trained_in,
            }
        )
    return rows


def _data(data: "ImageData") -> dict[str, Any]:
    return {
        "name": data.name,
        "revision": data.revision,
        "fingerprint": data.fingerprint,
        "license": data.license,
        "labels": list(data.labels),
        "splits": {
            name: {"images": len(split), "classes": data.class_counts(name)} for name, split in data.splits.items()
        },
        "notes": list(data.notes),
    }
