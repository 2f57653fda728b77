"""Migration of records of older schema versions; facts that an old version did not record stay unknown."""

import re
from collections.abc import Mapping
from typing import Any

from hf_tl.record.codec import RecordError

BRITISH = "nearest_neighb" + "ours"
RENAMED = {BRITISH: "nearest_neighbors"}
"""Keys of the advice that earlier versions spelled in another way."""


def rename_keys(value: Any) -> Any:
    """Return a value read from JSON with the present names of its keys; see `RENAMED`.

    >>> rename_keys({"depths": [{BRITISH: 1}]})
    {'depths': [{'nearest_neighbors': 1}]}
    """
    if isinstance(value, dict):
        return {RENAMED.get(key, key): rename_keys(item) for key, item in value.items()}
    return [rename_keys(item) for item in value] if isinstance(value, list) else value


def migrate(content: dict[str, Any], version: int, where: str) -> dict[str, Any]:
    """Return the values of a record in the current schema, without its version.

    Args:
        content: Content of `run.json`.
        version: Current schema version.
        where: Name of the record in error messages.

    Raises:
        RecordError: The version is unknown, or the record lacks a field of its version.
    """
    written = content.pop("schema_version", None)
    content = rename_keys(content)
    if written == version:
        return content
    if written != 1:
        raise RecordError(
            f"{where} has schema version {written!r}, and this hf_tl reads 1 to {version}: use the version of hf_tl "
            "that wrote it"
        )
    try:
        return _from_1(content)
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise RecordError(f"{where} of schema version 1 lacks or mixes up {error}") from error


def _from_1(old: Mapping[str, Any]) -> dict[str, Any]:
    """Migrate version 1, which held metrics, evaluation and origin separately, and derived the origin from flags."""
    model, data, strategy = old["model"], old["data"], dict(old["strategy"])
    refit = old.get("refit")
    is_refitted = bool(refit)
    digest = old.get("weights_digest") or "unknown"
    before_refit = f"{digest} before the refit"
    evaluation = (old.get("evaluation") or {}).get("splits", {})
    learned = ["train", *(["validation"] if is_refitted and refit.get("learned_validation", True) else [])]  # type: ignore[union-attr]
    return {
        "status": "complete",
        "created": old["created"],
        "origin": _origin_from_1(model, strategy),
        "model": _model_from_1(model, old["stages"], old["phases"], strategy),
        "strategy": strategy,
        "stages": [{key: stage.get(key, []) for key in ("name", "modules", "parameters")} for stage in old["stages"]],
        "phases": [_phase_from_1(*pair) for pair in zip(strategy["phases"], old["phases"], strict=True)],
        "data": _data_from_1(data),
        "learned_from": [
            {"data": data["name"], "split": split, "images": data["splits"][split]["images"]} for split in learned
        ],
        "weights_digest": old.get("weights_digest"),
        "measured": {
            split: _measured_from_1(
                split,
                data["splits"].get(split, {}).get("images", 0),
                before_refit if is_refitted and split == "validation" and "validation" in learned else digest,
                metrics,
                evaluation.get(split, {}),
            )
            for split, metrics in old["metrics"].items()
        },
        "temperature": _temperature_from_1(old),
        "refit": None if not is_refitted else _refit_from_1(refit, learned, data),
        "seconds": old["seconds"],
        "card": {name: value for name, value in (old.get("card") or {}).items() if value is not None},
        **{name: old.get(name) for name in ("stopped", "recommendation", "best", "energy", "command", "settings")},
        **{name: old.get(name) or [] for name in ("rungs", "history")},
        **{name: old.get(name) or {} for name in ("transforms", "hyperparameters", "versions")},
        "hardware": old.get("hardware") or "",
    }


def _origin_from_1(model: Mapping[str, Any], strategy: Mapping[str, Any]) -> dict[str, Any]:
    head = (model.get("head") or {}).get("state")
    if strategy.get("from_scratch") or not model.get("pretrained", True):
        return {"kind": "random", "head": "new"}
    name, file = model.get("base_model"), model.get("weights")
    shared = {"license": model.get("base_model_license"), "head": head}
    if name is not None:
        return {"kind": "hub", "name": name, "revision": model.get("base_model_revision"), **shared}
    if file is not None:
        title, _, sha = file.partition(", sha256 ")
        if not _is_published(title, sha):
            shared["license"] = None  # version 1 took the license of the architecture's own weights
        return {"kind": "file", "file": title, "sha256": sha or None, **shared}
    return {"kind": "folder", **shared}


def _is_published(file: str, sha256: str) -> bool:
    """Return whether a weights file is its authors' own: its name contains its SHA-256, as for torch.hub."""
    stated = re.search(r"-([0-9a-f]{8,})\.", file)
    return stated is not None and sha256.startswith(stated[1])


def _model_from_1(model: Mapping[str, Any], stages: Any, phases: Any, strategy: Mapping[str, Any]) -> dict[str, Any]:
    trained = {name for phase in phases for name in phase["trainable_stages"]}
    counted = sum(stage["parameters"] for stage in stages if stage["name"] in trained)
    return {
        "library": model["library"],
        "architecture": model["architecture"],
        "class_name": model["class"],
        "problem_type": model["problem_type"],
        "parameters": model["parameters"],
        "parameters_trained": max(model["parameters_trained"], min(counted, model["parameters"])),
        "head": {
            "layers": (model.get("head") or {}).get("layers") or [],
            # this strategy trained the head alone, also a head of several fully connected layers
            "stages": phases[0]["trainable_stages"] if strategy["name"] == "transfer" else [stages[-1]["name"]],
        },
        "preprocessing": {
            **{key: model[key] for key in ("input_size", "mean", "std", "interpolation")},
            "evaluation": {
                key: model[key] for key in ("crop_pct", "crop_mode", "size", "crop_size") if model.get(key) is not None
            },
        },
    }


def _phase_from_1(recipe: Mapping[str, Any], done: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "recipe": recipe,
        "trained_stages": done["trainable_stages"],
        "learning_rates": done.get("learning_rates") or {},
        "parameters_trained": done["parameters_trained"],
        "steps": done["steps"],
        "epochs": recipe.get("epochs") or 0.0,
        "seconds": done["seconds"],
        "proof": {"tensors": done["frozen_tensors"], "before": done["digest_before"], "after": done["digest_after"]},
        "uses_features": bool(done.get("uses_features")),
        "solution": done.get("solution"),
    }


def _data_from_1(data: Mapping[str, Any]) -> dict[str, Any]:
    is_on_hub = data.get("revision") is not None or "/" in data["name"]  # version 1 held no path
    return {
        "name": data["name"],
        "labels": data["labels"],
        "splits": {
            name: {"images": split["images"], "classes": split["classes"]} for name, split in data["splits"].items()
        },
        "fingerprint": data["fingerprint"],
        "source": "hub" if is_on_hub else "built-in" if data["name"] == "digits" else "unknown",
        "revision": data.get("revision"),
        "license": data.get("license"),
        "notes": data.get("notes") or [],
    }


def _measured_from_1(
    split: str, images: int, digest: str, metrics: Mapping[str, Any], results: Mapping[str, Any]
) -> dict[str, Any]:
    calibration = dict(results.get("calibration") or {})
    return {
        "split": split,
        "split_digest": None,
        "images": images,
        "weights_digest": digest,
        "metrics": metrics,
        "intervals": results.get("intervals") or {},
        "classes": results.get("classes") or {},
        "confusion": results.get("confusion") or [],
        "calibration": {**calibration, "after": None} if calibration else {},
        "mistakes": results.get("mistakes") or [],
    }


def _temperature_from_1(old: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return no temperature: version 1 does not record the weights and the number of mistakes of its fit."""
    if "evaluation" not in old:
        return None
    return {"value": None, "reason": "records of schema version 1 do not state which weights it was fitted on"}


def _refit_from_1(refit: Any, learned: list[str], data: Mapping[str, Any]) -> dict[str, Any]:
    images = sum(data["splits"][split]["images"] for split in learned)
    return {"images": refit.get("images", images), "splits": learned, "seconds": refit.get("seconds", 0.0)}
