"""A run's record, as `run.json` holds it."""

import math
from typing import Any

import numpy as np

from hf_tl.evaluation.measure import Predictions
from hf_tl.evaluation.metrics import PROBLEM_TYPES
from hf_tl.evaluation.report import evaluate_splits

STAGES = ("stem", "layer1", "layer2", "layer3", "layer4", "head")
LABELS = ("cat", "dog", "owl")


def make_multi_label_record(labels: tuple[str, ...] = LABELS, **options: Any) -> dict[str, Any]:
    """The same run on images of any number of classes, one of which no test image shows."""
    record = make_record(labels=labels, **options)
    record["model"]["problem_type"] = "multi_label_classification"

    def metrics(quality: float, without: int = 0) -> dict[str, float]:
        shares = {"mean_average_precision": quality, "micro_f1": quality - 0.1, "macro_f1": quality - 0.2}
        return {**shares, "subset_accuracy": quality - 0.3, "loss": 0.1, "classes_without_positives": without}

    for entry in record["history"]:
        entry["validation"] = metrics(0.5 + entry["epoch"] / 20)
    record["best"]["validation"] = record["history"][-1]["validation"]
    record["metrics"] = {"validation": metrics(0.95), "test": metrics(0.85, without=1)}
    record["data"]["splits"]["test"] = {"images": 120, "classes": [100, 90, 0]}
    return record


def evaluated(record: dict[str, Any], *, images: bool = False) -> dict[str, Any]:
    """The record with what is found out from predictions: more sure than right, and wrong on every eighth image."""
    classes, problem = len(record["data"]["labels"]), PROBLEM_TYPES[record["model"]["problem_type"]]
    random = np.random.default_rng(0)

    def predictions(count: int) -> Predictions:
        labels = np.arange(count) % classes
        seen = np.where(np.arange(count) % 8 == 7, random.integers(0, classes, count), labels)
        logits = random.normal(size=(count, classes)) * 0.5
        logits[np.arange(count), seen] += 6.0
        one_hot = np.eye(classes)[labels]
        return Predictions(logits - 3.0, one_hot) if problem.name.startswith("multi") else Predictions(logits, labels)

    sizes = {split: record["data"]["splits"][split]["images"] for split in ("validation", "test")}
    record["evaluation"] = evaluate_splits(problem, {split: predictions(size) for split, size in sizes.items()})
    record["card"] = {"intended_use": None, "limits": None, "images": images}
    return record


def climbed(record: dict[str, Any], backbones: tuple[str, ...] = ("vit", "resnet")) -> dict[str, Any]:
    """The record with the advisor's evidence, and a third rung that was tried and taken back."""
    share = {"accuracy": 0.8, "interval": [0.7, 0.88]}

    def evidence(name: str, stage: str) -> dict[str, Any]:
        depth = {"stage": stage, "linear_probe": share, "nearest_neighbours": share, "logme": -0.123}
        similarity = {"value": 0.58, "interval": [0.5, 0.66]}
        return {"backbone": name, "parameters": 1234, "depths": [depth], "best_depth": stage, "similarity": similarity}

    stages = [stage["name"] for stage in record["stages"]]
    record["recommendation"] = {
        **{"schema_version": 1, "backbone": backbones[0], "advice": "train the head", "rule": "few images, similar"},
        "reason": f"A head alone, on what {backbones[0]} already knows, gets 80.0 % right. There are few images.",
        "evidence": [evidence(name, stage) for name, stage in zip(backbones, stages[-2:], strict=True)],
        "data": {"measured_on": 1400, "fingerprint": record["data"]["fingerprint"], "groups_of_copies": []},
        "warnings": ["1 images are copies of others", f"the classes are unequal: {record['data']['labels'][0]}"],
    }
    rungs = [
        {
            **{"trainable_stages": stages[-number:], "parameters_trained": 771 * number, "seconds": 12.3, "images": 60},
            **{"accuracy": 0.9, "interval": [0.8, 0.95], "is_kept": number < 3},
            **{"why": "within noise of the rung before", "gain": None if number == 1 else 0.021, "p_value": 0.0312},
        }
        for number in (1, 2, 3)
    ]
    rungs[0] |= {"why": "the first rung", "p_value": None}
    record["rungs"], record["stopped"] = rungs, "no gain beyond noise over the rung before"
    return record


def make_record(stages: tuple[str, ...] = STAGES, labels: tuple[str, ...] = LABELS, epochs: int = 9) -> dict[str, Any]:
    parameters = [1000 * (index + 1) ** 2 for index in range(len(stages) - 1)] + [771]
    trained, digest = sum(parameters[-2:]), "57934424" * 8
    recipe = {"learning_rate": 3e-3, "backbone_learning_rate": None, "layer_decay": 1.0, "norm": "frozen"}
    recipe |= {"weight_decay": 0.05, "warmup_ratio": 0.1}
    proof = {"steps": 90, "frozen_tensors": 20, "digest_before": digest, "digest_after": digest, "seconds": 30.0}

    def metrics(epoch: int) -> dict[str, float]:
        accuracy = 0.96 - 0.5 * math.exp(-epoch / 2.5)
        return {"loss": 1 - accuracy, "accuracy": accuracy, "top5_accuracy": 0.99, "macro_f1": accuracy - 0.01}

    return {
        "schema_version": 1,
        "created": "2026-11-23T10:00:00Z",
        "model": {
            **{
                "library": "timm",
                "architecture": "test_resnet",
                "class": "TimmWrapperForImageClassification",
                "base_model": "timm/test_resnet.r160_in1k",
            },
            **{"base_model_revision": None, "base_model_license": "apache-2.0", "weights": None, "pretrained": True},
            **{"problem_type": "single_label_classification", "parameters": sum(parameters)},
            **{"parameters_trained": trained, "parameters_frozen": sum(parameters) - trained},
            **{"input_size": [3, 160, 160], "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic"},
        },
        "strategy": {
            **{"name": "finetune", "from_scratch": False},
            "phases": [
                {**recipe, "trainable_stages": 1, "epochs": 3.0},
                {**recipe, "trainable_stages": 2, "epochs": 6.0, "backbone_learning_rate": 3e-4},
            ],
        },
        "stages": [
            {
                "name": name,
                "parameters": count,
                "frozen": later > 2,
                "trained_in_phases": [[], [1], [0, 1]][max(0, 3 - later)],
            }
            for name, count, later in zip(stages, parameters, range(len(stages), 0, -1), strict=True)
        ],
        "phases": [
            {**proof, "trainable_stages": list(stages[-1:]), "parameters_trained": parameters[-1]},
            {**proof, "trainable_stages": list(stages[-2:]), "parameters_trained": trained},
        ],
        "data": {
            **{"name": "pets", "revision": None, "fingerprint": "0f1e2d3c", "labels": list(labels), "license": None},
            "splits": {
                split: {"images": count * len(labels), "classes": [count] * len(labels)}
                for split, count in (("train", 120), ("validation", 20), ("test", 40))
            },
            "notes": ["no validation split: 10 % of train was set apart, stratified by class, seed 0"],
        },
        "transforms": {"train": "RandomResizedCrop(160), flip", "eval": "Resize(182), CenterCrop(160)"},
        "hyperparameters": {"per_device_train_batch_size": 32, "seed": 0, "optimizer": "AdamW"},
        "history": [
            {
                **{"phase": int(epoch > 3), "epoch": float(epoch), "learning_rate": 1e-3, "seconds": 9.8},
                **{"train_loss": 1.6 * math.exp(-epoch / 2.5), "validation": metrics(epoch)},
            }
            for epoch in range(1, epochs + 1)
        ],
        "best": {"epoch": float(epochs), "phase": 1, "validation": metrics(epochs)},
        "metrics": {"validation": metrics(epochs), "test": {**metrics(epochs), "accuracy": 0.925}},
        "seconds": {"total": 112.0, "train": 98.0},
        "hardware": "CPU, 2 cores",
        "versions": {"hf_tl": "0.1.0", "torch": "2.15.0"},
        "command": "hf-tl train --dataset pets --strategy finetune",
    }
