"""Small runs on cached features, and what they have in common with runs on images."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from training.small_runs import SIDE, RecordedTraining, Run, make_training

from hf_tl.backbones.stages.freezing import freeze, frozen_tensors
from hf_tl.backbones.weights.digest import digest
from hf_tl.features.inputs import PhaseInputs

IMAGE = (3, SIDE, SIDE)


def cached(run: Run, folder: Path, **config: Any) -> Run:
    """Return the same run with features cached in `folder`."""
    return replace(run, config={**run.config, "feature_cache": "on", "feature_cache_dir": str(folder), **config})


def uncached(run: Run) -> Run:
    return replace(run, config={**run.config, "feature_cache": "off"})


def uses_features(training: RecordedTraining) -> list[bool]:
    return [phase.uses_features for phase in training.state.log.phases]


def losses(training: RecordedTraining) -> list[float]:
    history = training.state.log.history
    return [loss for entry in history for loss in (entry["train_loss"], entry["validation"]["loss"])]


def assert_close(a: RecordedTraining, b: RecordedTraining, tolerance: float = 1e-3) -> None:
    """Compare losses, and the weights after each step by the norm of their difference.

    AdamW turns the rounding error of a gradient close to zero into a whole step, and BatchNorm divides by the standard
    deviation of four images: where it trains, the tolerance must be larger.
    """
    assert losses(a) == pytest.approx(losses(b), rel=tolerance)
    assert a.seen == b.seen
    assert a.weights.keys() == b.weights.keys()
    for step, weights in a.weights.items():
        for name, tensor in weights.items():
            expected = b.weights[step][name].double()
            assert float((tensor.double() - expected).norm()) <= tolerance * float(expected.norm()) + 1e-9, (step, name)


def entries(folder: Path) -> dict[str, tuple[int, int]]:
    """Return the names of the complete entries, with values that change when one is written again."""
    files = folder.glob("*/0.bin")
    return {file.parent.name: (file.stat().st_ino, file.stat().st_mtime_ns) for file in files}


def inputs_of(run: Run) -> tuple[RecordedTraining, PhaseInputs]:
    training = make_training(run)
    phase = run.strategy.phases[0]
    freeze(training.model, phase.trainable_stages, phase.norm, phase.batch_norm)
    return training, training.data.inputs(phase, digest(frozen_tensors(training.model)), 2)
