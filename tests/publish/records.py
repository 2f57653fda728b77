"""Records of runs for tests."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np

from hf_tl.evaluation.metrics import PROBLEM_TYPES
from hf_tl.evaluation.robustness.corruptions import CORRUPTIONS
from hf_tl.phase import Phase
from hf_tl.record import (
    CardTexts,
    CorruptedMetrics,
    DataRecord,
    FrozenProof,
    HeadRecord,
    InterpolationPoint,
    InterpolationRecord,
    LayerRecord,
    LearnedSplit,
    Measured,
    ModelRecord,
    Origin,
    PhaseRecord,
    Preprocessed,
    Robustness,
    RunRecord,
    Seconds,
    SplitRecord,
    StageRecord,
    Temperature,
)
from hf_tl.strategy import Strategy

STAGES = ("stem", "layer1", "layer2", "layer3", "layer4", "head")
LABELS = ("cat", "dog", "owl")
WEIGHTS, EARLIER_WEIGHTS = "d1" * 32, "e0" * 32
"""Digest of the saved weights, and of earlier ones."""
HUB = Origin("hub", name="timm/test_resnet.r160_in1k", license="apache-2.0", head="new")
BINS = 15
T = TypeVar("T")


def put(value: T, **changes: Any) -> T:
    """Return a record with values changed by path: `put(record, data__name="pets", phases__0__steps=1)`."""
    for path, new in changes.items():
        value = _put(value, path.split("__"), new)
    return value


def _put(value: Any, path: list[str], new: Any) -> Any:
    if not path:
        return new
    first, *rest = path
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.replace(value, **{first: _put(getattr(value, first), rest, new)})
    if isinstance(value, Mapping):
        return {**value, first: _put(value.get(first), rest, new)}
    index = range(len(value))[int(first)]
    return type(value)([*value[:index], _put(value[index], rest, new), *value[index + 1 :]])


def of_weights(record: RunRecord, digest: str) -> RunRecord:
    """Return the record of a run whose saved weights have this digest."""
    old, temperature = record.weights_digest, record.temperature
    if temperature is not None and temperature.weights_digest == old:
        temperature = dataclasses.replace(temperature, weights_digest=digest)
    measured = {
        split: dataclasses.replace(results, weights_digest=digest) if results.weights_digest == old else results
        for split, results in record.measured.items()
    }
    return dataclasses.replace(record, weights_digest=digest, temperature=temperature, measured=measured)


def make_record(stages: tuple[str, ...] = STAGES, labels: tuple[str, ...] = LABELS, epochs: int = 9) -> RunRecord:
    """Return the record of a fine-tuning: the head for three epochs, then head and last backbone stage for six."""
    parameters = [1000 * (index + 1) ** 2 for index in range(len(stages) - 1)] + [771]
    trained = sum(parameters[-2:])
    phases = (
        Phase(1, 3.0, weight_decay=0.05, augmentation="none"),
        Phase(2, 6.0, backbone_learning_rate=3e-4, augmentation="none"),
    )
    sizes = {"train": 120, "validation": 20, "test": 40}
    return RunRecord(
        status="complete",
        created="2026-11-23T10:00:00Z",
        origin=HUB,
        model=ModelRecord(
            library="timm",
            architecture="test_resnet",
            class_name="TimmWrapperForImageClassification",
            problem_type="single_label_classification",
            parameters=sum(parameters),
            parameters_trained=trained,
            head=HeadRecord((LayerRecord("fc", (len(labels), 256)),), stages[-1:]),
            preprocessing=Preprocessed((3, 160, 160), (0.5,) * 3, (0.5,) * 3, "bicubic"),
        ),
        strategy=Strategy("finetune", phases),
        stages=tuple(
            StageRecord(name, (f"{name}.0", f"{name}.1"), count) for name, count in zip(stages, parameters, strict=True)
        ),
        phases=(
            make_phase(phases[0], stages[-1:], parameters[-1], {stages[-1]: 3e-3}),
            make_phase(phases[1], stages[-2:], trained, {stages[-2]: 3e-4, stages[-1]: 3e-3}),
        ),
        data=DataRecord(
            name="pets",
            labels=labels,
            splits={
                split: SplitRecord(count * len(labels), (count,) * len(labels), digest=split[:2] * 32)
                for split, count in sizes.items()
            },
            fingerprint="0f1e2d3c",
            source="folder",
            notes=("no validation split: 10% of train was held out, stratified by class, seed 0",),
        ),
        learned_from=(LearnedSplit("pets", "train", 120 * len(labels), "tr" * 32),),
        weights_digest=WEIGHTS,
        measured={
            split: Measured(split, split[:2] * 32, sizes[split] * len(labels), WEIGHTS, metrics)
            for split, metrics in (
                ("validation", _metrics(epochs)),
                ("test", {**_metrics(epochs), "accuracy": 0.925}),
            )
        },
        transforms={"train": "RandomResizedCrop(160), flip", "eval": "Resize(182), CenterCrop(160)"},
        hyperparameters={"per_device_train_batch_size": 32, "seed": 0, "optimizer": "AdamW"},
        history=tuple(
            {
                **{"phase": int(epoch > 3), "epoch": float(epoch), "learning_rate": 1e-3, "seconds": 9.8},
                **{"train_loss": 1.6 * math.exp(-epoch / 2.5), "validation": _metrics(epoch)},
            }
            for epoch in range(1, epochs + 1)
        ),
        best={"epoch": float(epochs), "phase": 1, "validation": _metrics(epochs)},
        seconds=Seconds(112.0, 98.0),
        hardware="CPU, 2 cores",
        versions={"hf_tl": "0.1.0", "torch": "2.15.0"},
        command="hf-tl train --dataset pets --strategy finetune",
    )


def make_phase(
    recipe: Phase, trained: tuple[str, ...], parameters: int = 771, rates: Mapping[str, float] | None = None
) -> PhaseRecord:
    """Return the record of a phase of half a minute."""
    proof = FrozenProof(20, "57934424" * 8, "57934424" * 8)
    return PhaseRecord(recipe, trained, rates or {}, parameters, 0, recipe.epochs or 0.0, 30.0, proof)


def _metrics(epoch: int) -> dict[str, float]:
    accuracy = 0.96 - 0.5 * math.exp(-epoch / 2.5)
    return {"loss": 1 - accuracy, "accuracy": accuracy, "top5_accuracy": 0.99, "macro_f1": accuracy - 0.01}


def make_multi_label_record(labels: tuple[str, ...] = LABELS, **options: Any) -> RunRecord:
    """Return the same record for multi-label images, with one class missing from the test split."""
    record = make_record(labels=labels, **options)

    def metrics(quality: float, without: int = 0) -> dict[str, float]:
        shares = {"mean_average_precision": quality, "micro_f1": quality - 0.1, "macro_f1": quality - 0.2}
        return {**shares, "subset_accuracy": quality - 0.3, "loss": 0.1, "classes_without_positives": without}

    history = tuple({**entry, "validation": metrics(0.5 + entry["epoch"] / 20)} for entry in record.history)
    return put(
        record,
        model__problem_type="multi_label_classification",
        history=history,
        best__validation=history[-1]["validation"],
        measured__validation__metrics=metrics(0.95),
        measured__test__metrics=metrics(0.85, without=1),
        measured__test__images=120,
        data__splits__test=SplitRecord(120, (100, 90, 0)),
    )


def evaluated(record: RunRecord, *, images: bool = False) -> RunRecord:
    """Return the record with full results: an overconfident model with an error in every eighth image."""
    for split in ("validation", "test"):
        results = _evaluate(record, record.measured[split].images)
        record = put(record, **{f"measured__{split}__{name}": value for name, value in results.items()})
    bins = record.measured["validation"].calibration["before"]
    record = dataclasses.replace(
        record,
        measured={
            split: put(results, calibration__after=dict(bins, ece=0.0213)) for split, results in record.measured.items()
        },
        temperature=Temperature(1.7, WEIGHTS, "validation", record.measured["validation"].images),
    )
    return put(record, card=CardTexts(images=images))


def with_robustness(record: RunRecord) -> RunRecord:
    """Return the evaluated record with test results under corruptions, of which each strength is right less often."""
    key = PROBLEM_TYPES[record.model.problem_type].primary.key
    results = tuple(
        CorruptedMetrics(
            corruption.key, float(strength), {key: 0.8 - 0.2 * place}, {key: (0.7 - 0.2 * place, 0.9 - 0.2 * place)}
        )
        for corruption in CORRUPTIONS
        for place, strength in enumerate(corruption.strengths)
    )
    robustness = Robustness(
        (160, 160), results, {key: 0.6}, {key: (0.5512, 0.6433)}, {key: 0.2754}, {key: (0.2301, 0.3207)}
    )
    return put(record, measured__test__robustness=robustness)


def with_interpolation(record: RunRecord, **changes: Any) -> RunRecord:
    """Return the record of a run that keeps weights between start and end of fine-tuning."""
    key = PROBLEM_TYPES[record.model.problem_type].primary.key
    shares = {step / 10: 0.5 + 0.4 * step / 10 for step in range(11)}
    points = tuple(InterpolationPoint(c, {key: share}, (share - 0.1, share + 0.1)) for c, share in shares.items())
    interpolation = InterpolationRecord(0.7, "one standard error", 60, points, "start")
    return put(record, interpolation=dataclasses.replace(interpolation, **changes))


def without_temperature(record: RunRecord, reason: str) -> RunRecord:
    """Return the evaluated record where no temperature could be fitted."""
    measured = {split: put(results, calibration__after=None) for split, results in record.measured.items()}
    return dataclasses.replace(record, measured=measured, temperature=Temperature(None, reason=reason))


def _evaluate(record: RunRecord, count: int) -> dict[str, Any]:
    classes, is_multi_label = len(record.data.labels), record.model.problem_type.startswith("multi")
    true = np.arange(count) % classes
    is_wrong = np.arange(count) % 8 == 7
    predicted = np.where(is_wrong, (true + 1) % classes, true)
    pairs, counts = np.unique(np.stack([true, predicted]), axis=1, return_counts=True)
    confusion = tuple((*map(int, pair), int(number)) for pair, number in zip(pairs.T, counts, strict=True))
    shares = [round(float((predicted[true == label] == label).mean()), 6) for label in range(classes)]
    accuracy = float((true == predicted).mean())
    interval = (round(accuracy - 0.05, 6), round(accuracy + 0.04, 6))
    empty: list[float | None] = [None] * (BINS - 1)
    mistakes = [
        {"image": int(row), "true": int(true[row]), "predicted": int(predicted[row]), "probability": 0.987654}
        for row in np.flatnonzero(is_wrong)[:8]
    ]
    if is_multi_label:
        mistakes = [{**row, "true" if index % 2 else "predicted": None} for index, row in enumerate(mistakes)]
    return {
        "intervals": {name: interval for name in record.measured["test"].metrics if name.endswith(("accuracy", "f1"))},
        "classes": {
            "images": np.bincount(true, minlength=classes).tolist(),
            "precision": shares,
            "recall": shares,
            "recall_interval": [[share - 0.01, share + 0.01] for share in shares],
            "f1": shares,
        },
        "confusion": () if is_multi_label else confusion,
        "calibration": {
            "before": {
                "ece": 0.1125,
                "counts": [0] * (BINS - 1) + [count],
                "probabilities": [*empty, 0.99],
                "shares": [*empty, accuracy],
            }
        },
        "mistakes": tuple(mistakes),
    }


def climbed(record: RunRecord, backbones: tuple[str, ...] = ("vit", "resnet")) -> RunRecord:
    """Return the record with the advisor's evidence, and a third stage depth that the climb undid."""
    share = {"accuracy": 0.8, "interval": [0.7, 0.88]}

    def evidence(name: str, stage: str) -> dict[str, Any]:
        depth = {"stage": stage, "linear_probe": share, "nearest_neighbors": share, "logme": -0.123}
        similarity = {"value": 0.58, "interval": [0.5, 0.66]}
        return {"backbone": name, "parameters": 1234, "depths": [depth], "best_depth": stage, "similarity": similarity}

    stages = [stage.name for stage in record.stages]
    rungs = [
        {
            **{"trainable_stages": stages[-number:], "parameters_trained": 771 * number, "seconds": 12.3, "images": 60},
            **{"accuracy": 0.9, "interval": [0.8, 0.95], "is_kept": number < 3},
            **{"why": "within noise of the rung before", "gain": None if number == 1 else 0.021, "p_value": 0.0312},
        }
        for number in (1, 2, 3)
    ]
    rungs[0] |= {"why": "the first rung", "p_value": None}
    return dataclasses.replace(
        record,
        recommendation={
            **{
                "schema_version": 1,
                "backbone": backbones[0],
                "advice": "train the head",
                "rule": "few images, similar",
            },
            "reason": f"A head alone, on what {backbones[0]} already knows, gets 80.0% right. There are few images.",
            "evidence": [evidence(name, stage) for name, stage in zip(backbones, stages[-2:], strict=True)],
            "data": {"measured_on": 1400, "fingerprint": record.data.fingerprint, "groups_of_copies": []},
            "warnings": ["1 images are copies of others", f"the classes are unequal: {record.data.labels[0]}"],
        },
        rungs=tuple(rungs),
        stopped="no gain beyond noise over the rung before",
    )
