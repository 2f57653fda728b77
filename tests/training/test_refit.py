"""Refit on train and validation: from the start, with the selected length, and unchanged by a kill."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from accelerate.utils import set_seed
from datasets import DatasetDict, concatenate_datasets
from training.small_phases import PLAIN
from training.small_runs import (
    IMAGES,
    RecordedTraining,
    Run,
    StoppedError,
    differences,
    make_images,
    make_training,
    resumed,
    snapshot,
)

from hf_tl.config import StrategyConfig
from hf_tl.data.datasets import ImageData, load_data
from hf_tl.strategy import Phase, Strategy
from hf_tl.training import refit as refit_module
from hf_tl.training.loop import Training
from hf_tl.training.refit import Refit, is_refitted


def refitted(run: Run, stop: int | None = None) -> tuple[Training, Training]:
    """Train and refit like a job; return both trainings of one model. The first stops after a step, if one is given."""
    first = make_training(run, stop)
    refit = Refit.of(first)
    if first.config.resume_from_checkpoint is not None:
        first.restore(first.config.resume_from_checkpoint)
    first.run()
    first.write_final_checkpoint()
    return first, refit.run()


def alone(run: Run) -> Training:
    """Train once on all images, without a first training; for a climb, its first stage depth alone."""
    made = make_training(run)
    both = concatenate_datasets([make_images(run), make_images(run)])
    set_seed(made.config.seed)
    images, config = replace(made.images, train=both, validation=None), replace(made.config, output_dir=None)
    training = Training(made.accelerator, made.model, run.strategy, images, config)
    training.run()
    return training


@pytest.mark.parametrize(
    ("run", "kept"),
    [
        (Run("", "climb", expected_rung=1), "first rung"),
        (Run("", "gradual"), "gradual"),
        (Run("", "solved"), "solved"),
        (Run("", "transfer", {"feature_cache": "on"}), "transfer"),
        (Run("", "averaged"), "averaged"),
    ],
    ids=lambda value: value.phases if isinstance(value, Run) else "",
)
def test_it_learns_anew_from_all_images_by_what_was_kept(
    run: Run, kept: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # else rounding in the last bit could select the weights of an earlier phase
    monkeypatch.setattr("hf_tl.training.selection.standard_error", lambda *_: 1.0)
    config = {**run.config, "feature_cache_dir": str(tmp_path / "cache")}
    run = replace(run, output=str(tmp_path / "run"), config=config)
    first, again = refitted(run)
    assert again.model is first.model
    expected = alone(replace(run, phases=kept, expected_rung=None))
    assert differences(snapshot(expected.model), snapshot(again.model)) == []
    log = again.state.log
    assert [phase.trained_stages for phase in log.phases] == [phase.trained_stages for phase in first.state.log.phases]
    before = sum(phase.steps for phase in first.state.log.phases)
    assert sum(phase.steps for phase in log.phases) > before or kept == "solved"
    assert all(entry["validation"] is None for entry in log.history)
    assert all(phase.proof.holds for phase in log.phases)
    assert not log.rungs
    assert all(entry["validation"] is not None for entry in first.state.log.history)


def test_after_a_climb_it_trains_at_the_selected_stage_depth(tmp_path: Path) -> None:
    """Twice as many images as in the climb, for the two passes of each of its two stage depths."""
    first, again = refitted(Run(str(tmp_path), "climb", expected_rung=2))
    assert [rung["is_kept"] for rung in first.state.log.rungs] == [True, True, False]
    [phase] = again.strategy.phases
    assert (phase.trainable_stages, phase.epochs, phase.learning_rate) == (2, 4, 0.05)
    assert again.state.log.phases[0].steps == 2 * first.phase_ends[1]


STEPS = replace(PLAIN, epochs=None, steps=5)
ANEW = replace(PLAIN, trainable_stages="all", learning_rate=0.01, from_random_weights=True)


@pytest.mark.parametrize(
    ("phases", "expected"),
    [
        ((PLAIN,), PLAIN),
        ((PLAIN, Phase(2, 2.5, 0.01)), Phase(2, 3.5, 0.05, 0.01)),
        ((STEPS, Phase(2, steps=7)), Phase(2, steps=12, learning_rate=0.05, backbone_learning_rate=3e-3)),
        ((STEPS, Phase(2, 3, 0.01, 0.002)), Phase(2, 3, 0.05, 0.002)),
        ((PLAIN, Phase(2, 3), ANEW), ANEW),
    ],
    ids=["one stage depth", "epochs", "steps", "both", "from random weights"],
)
def test_a_climb_as_one_training(phases: tuple[Phase, ...], expected: Phase) -> None:
    assert Strategy("auto", phases, expected_rung=1).at_once() == Strategy("auto", (expected,))
    assert Strategy("other", phases).at_once() == Strategy("other", phases)


def test_it_takes_the_passes_after_which_early_stopping_kept_the_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No evaluation can stop the refit; an epoch of twice as many images has twice as many steps."""
    # with so few validation images the last weights are within a standard error of the best
    monkeypatch.setattr("hf_tl.training.selection.standard_error", lambda *_: -1e-9)
    first, again = refitted(Run(str(tmp_path), "patient"))
    best = first.state.log.best
    assert best is not None
    assert first.state.log.phases[0].steps < first.phase_ends[-1], "the phase was not stopped early"
    assert best["epoch"] < first.state.log.phases[0].epochs, "the last weights were kept: shows nothing"
    [phase] = again.state.log.phases
    assert phase.steps == again.phase_ends[-1]
    assert phase.steps * again.images_per_step / (2 * IMAGES) == pytest.approx(best["epoch"], abs=1e-4)


@pytest.mark.parametrize(("number", "stop"), [(1, 3), (1, 6), (2, 2), (2, 5), (2, 14)])
def test_it_resumes_bit_by_bit(number: int, stop: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed in the first training or in the refit: the result is that of an undisturbed run."""
    run = Run(str(tmp_path / "undisturbed"), "full", {"save_steps": 2})
    whole = refitted(run)
    expected = [snapshot(whole[1].model), whole[0].state.log.best, whole[1].state.log.best]
    made: list[RecordedTraining] = []

    class Stopped(RecordedTraining):
        def __init__(self, *arguments: Any, **settings: Any) -> None:
            super().__init__(*arguments, **settings)
            self.record(run, stop)
            made.append(self)

    killed = replace(run, output=str(tmp_path / "killed"))
    with monkeypatch.context() as patch:
        patch.setattr(refit_module, "Training", Stopped)
        with pytest.raises(StoppedError):
            refitted(killed, stop if number == 1 else None)
    assert len(made) == number - 1
    first, again = refitted(resumed(killed))
    assert first.state.step == first.phase_ends[-1]
    assert differences(expected, [snapshot(again.model), first.state.log.best, again.state.log.best]) == []
    if number == 2:
        assert not first.seen, "the training that was done was done again"


def test_it_must_fit_into_the_remaining_time(tmp_path: Path) -> None:
    first = make_training(Run(str(tmp_path), "climb", {"time_budget": 1.0}, expected_rung=1))
    refit = Refit.of(first)
    first.run()
    assert refit.has_time()
    first.state.log.seconds = 59.999
    assert not refit.has_time()


@pytest.mark.parametrize("learns", [False, True])
def test_a_retraining_knows_the_groups_of_its_images(learns: bool, tmp_path: Path) -> None:
    training = make_training(Run(str(tmp_path)))
    units = {"train": list("aabbccddeeffgg"), "validation": list("hhiijjkkllmmnn")}
    training.images = replace(training.images, units=units)
    refit = Refit.of(training, learns_validation=learns)
    assert len(refit.units) == len(refit.images)
    assert refit.units == [*units["train"], *(units["validation"] if learns else [])]


@pytest.mark.parametrize(
    ("expected_rung", "learns", "expected"), [(1, False, False), (1, True, True), (2, False, True)]
)
def test_the_head_is_not_trained_twice_on_the_same_images(
    expected_rung: int, learns: bool, expected: bool, tmp_path: Path
) -> None:
    first = make_training(Run(str(tmp_path), "climb", expected_rung=expected_rung))
    refit = Refit.of(first, learns_validation=learns)
    first.run()
    assert refit.is_due() is expected


def test_a_resumed_run_keeps_its_recorded_time(tmp_path: Path) -> None:
    """After a resume, the time estimate is the recorded one."""
    run = Run(str(tmp_path), "climb", expected_rung=1)
    first = make_training(run)
    first.run()
    spent = first.state.log.seconds
    first.write_final_checkpoint()
    assert first.state.log.seconds == spent
    again = make_training(resumed(run))
    again.restore("auto")
    again.run()
    assert again.state.log.seconds == spent


def image_data(splits: dict[str, Any]) -> ImageData:
    return load_data(DatasetDict(splits))


@pytest.mark.parametrize(
    ("strategy", "has_validation", "expected"),
    [
        (Strategy.auto(), False, True),
        (Strategy.auto(), True, True),
        (replace(Strategy.full(), refit=True), True, False),
        (Strategy.full(), False, False),
        (replace(Strategy.full(), refit=True), False, True),
        (Strategy.auto(refit=False), False, False),
    ],
)
def test_which_runs_are_retrained(strategy: Strategy, has_validation: bool, expected: bool) -> None:
    images = make_images(Run(""))
    splits = {"train": images, "test": images} | ({"validation": images} if has_validation else {})
    assert is_refitted(strategy, image_data(splits)) is expected


@pytest.mark.parametrize(
    ("flags", "images", "expected"),
    [
        ({"strategy": "auto"}, 19_999, True),
        ({"strategy": "auto"}, 20_000, False),
        ({"strategy": "auto", "refit": True}, 20_000, True),
        ({"strategy": "auto", "refit": False}, 100, False),
        ({"strategy": "transfer"}, 100, False),
        ({"strategy": "transfer", "refit": True}, 100, True),
        ({"phases": "[{trainable_stages: 1, epochs: 1}]", "refit": True}, 100, True),
        ({"phases": "[{trainable_stages: 1, epochs: 1}]"}, 100, False),
    ],
)
def test_flags_that_request_it(flags: dict[str, Any], images: int, expected: bool) -> None:
    strategy = StrategyConfig(**flags).build(images=images)
    assert strategy.refit is expected
    assert Strategy.from_record(strategy.to_record()) == strategy


def test_a_validation_split_that_became_the_test_split_was_held_out() -> None:
    images = make_images(Run(""))
    data = image_data({"train": images, "validation": images})
    assert data.set_apart == {"validation"}
    assert is_refitted(Strategy.auto(), data)


def test_weights_that_nothing_trains_are_not_copied(tmp_path: Path) -> None:
    refit = Refit.of(make_training(Run(str(tmp_path), "transfer")))
    assert set(refit.weights) == {"timm_model.fc.weight", "timm_model.fc.bias"}


def test_streams_are_not_trained_on_again(tmp_path: Path) -> None:
    make_images(Run("")).to_parquet(str(tmp_path / "images.parquet"))
    data = load_data(str(tmp_path / "images.parquet"), streaming=True)
    assert "validation" in data.set_apart
    assert not is_refitted(Strategy.auto(), data)
