"""A climb in the Accelerate loop: stage depths that are kept, undone, interrupted, or skipped for lack of time."""

import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor
from training.small_runs import (
    RecordedTraining,
    Run,
    differences,
    make_training,
    result_of,
    resumed,
    snapshot,
    stopped_at,
    train,
)

from hf_tl.backbones.libraries.transformers import random_weights
from hf_tl.evaluation.intervals import share_interval
from hf_tl.strategy import Strategy
from hf_tl.training.escalation import Climb, Escalation
from hf_tl.training.phase_run import PhaseRun

ENDS = [7, 14, 21]


class RecordedClimb(RecordedTraining):
    """Training that records the weights at the start of each stage depth, and those selected after it."""

    def record(self, run: Run, stop: int | None) -> None:
        super().record(run, stop)
        self.started: list[dict[str, Tensor]] = []
        self.kept: list[dict[str, Tensor]] = []
        self.result: dict[str, Any] = {}

    def _steps(self, run: PhaseRun) -> Iterator[float]:
        self.started.append(snapshot(self.model))
        return super()._steps(run)

    def _judge(self, *arguments: Any) -> None:
        super()._judge(*arguments)
        self.kept.append(dict(self._best_weights))


@pytest.fixture(scope="module")
def climbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], RecordedClimb]:
    """Return a function that runs uninterrupted climbs, by the expected stage depth."""
    done: dict[int, RecordedClimb] = {}

    def climb(expected_rung: int) -> RecordedClimb:
        if expected_rung not in done:
            run = Run(str(tmp_path_factory.mktemp("climb")), "climb", expected_rung=expected_rung)
            done[expected_rung] = train(run, kind=RecordedClimb)
            done[expected_rung].result = result_of(done[expected_rung])
        return done[expected_rung]

    return climb


def test_an_undone_stage_depth_leaves_no_trace(climbed: Callable[[int], RecordedClimb], tmp_path: Path) -> None:
    """The model equals, bit by bit, that of a training of the stage depths before."""
    climb, alone = climbed(1), train(Run(str(tmp_path), "first rung"))
    log = climb.state.log
    assert [rung["is_kept"] for rung in log.rungs] == [True, False]
    assert log.stopped == log.rungs[-1]["why"] == "no significant gain over the stage depth before"
    assert climb.state.step == ENDS[1], "the second stage depth was not tried"
    assert log.best == alone.state.log.best
    assert [phase.trained_stages for phase in log.phases] == [("head",)]
    assert {entry["phase"] for entry in log.history} == {0, 1}
    result, expected = climb.result, result_of(alone)
    for name in ("best weights", "requires grad"):
        assert differences(expected[name], result[name]) == [], name
    assert differences(expected["log"]["phases"], result["log"]["phases"]) == []
    assert differences(climb.weights[ENDS[1]], expected["best weights"]), "the second stage depth changed nothing"
    modes = [
        [name for name, module in training.model.train().named_modules() if module.training]
        for training in (climb, alone)
    ]
    assert modes[0] == modes[1]


def test_the_last_stage_depth_can_be_undone_too(climbed: Callable[[int], RecordedClimb]) -> None:
    climb = climbed(2)
    assert [rung["is_kept"] for rung in climb.state.log.rungs] == [True, True, False]
    assert climb.state.log.stopped is None  # there was no later stage depth
    assert climb.state.log.best is not None
    assert climb.state.log.best["phase"] == 1
    model = snapshot(climb.model)
    assert differences({name: model[name] for name in climb.kept[1]}, climb.kept[1]) == []
    trained = {name for name, parameter in climb.model.named_parameters() if parameter.requires_grad}
    assert trained
    assert all(name.startswith(("timm_model.layer4.", "timm_model.fc.")) for name in trained)


def test_each_stage_depth_starts_from_the_best_weights_before(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # with this number of validation images the last weights are within a standard error of the best at any depth
    monkeypatch.setattr("hf_tl.training.selection.standard_error", lambda *_: -1e-9)
    climb = train(Run(str(tmp_path), "climb", expected_rung=3), kind=RecordedClimb)
    log = climb.state.log
    assert [rung["is_kept"] for rung in log.rungs] == [True, True, True]
    assert [tuple(rung["trainable_stages"]) for rung in log.rungs] == [phase.trained_stages for phase in log.phases]
    for best, begun in zip(climb.kept, climb.started[1:], strict=False):
        assert differences(best, {name: begun[name] for name in best}) == []
    assert differences(climb.started[1], climb.weights[ENDS[0]]), (
        "the best weights of the first stage depth are its last"
    )
    last = snapshot(climb.model)
    assert differences(climb.kept[2], {name: last[name] for name in climb.kept[2]}) == []


def test_a_group_of_validation_images_counts_as_one(tmp_path: Path) -> None:
    """Both the intervals of the stage depths and their test count groups: two of them show no gain."""
    run = Run(str(tmp_path), "climb", expected_rung=1)
    training = make_training(run)
    grouped = make_training(run)
    images = len(grouped.data.validation_images)
    grouped.data.units = {"validation": ["a", "b"] * (images // 2)}
    for each in (training, grouped):
        each.run()
    independent, together = (each.state.log.rungs for each in (training, grouped))
    assert (training.data.independent, grouped.data.independent) == (images, 2)
    assert together[0]["interval"] == share_interval(together[0]["accuracy"], 2)
    assert independent[0]["interval"] == share_interval(independent[0]["accuracy"], images)
    assert together[1]["p_value"] >= 0.5


def test_the_phases_of_a_strategy_that_were_carried_out() -> None:
    strategy = Strategy.auto(trainable_stages=(2, 3, "all"), expected_rung=3)
    done = strategy.done(2)
    assert done.phases == strategy.phases[:2]
    assert done.expected_rung == 2
    assert strategy.done(4) == strategy
    assert Strategy.from_record(done.to_record()) == done
    assert Strategy.finetune().done(1).phases == Strategy.finetune().phases[:1]
    assert Strategy.finetune().done(2) == Strategy.finetune()


@pytest.mark.parametrize("expected_rung", [2, 3], ids=["undone", "kept"])
def test_a_last_stage_depth_from_random_weights(tmp_path: Path, expected_rung: int) -> None:
    """It starts from random weights; if it is not kept, the weights of earlier stage depths are restored bit by bit."""
    run = Run(
        str(tmp_path / "climb"), "climb to random weights", {"save_steps": 1, "seed": 7}, expected_rung=expected_rung
    )
    climb = train(run, kind=RecordedClimb)
    expected, rungs, begun = result_of(climb), climb.state.log.rungs, climb.started[2]
    assert [rung["from_random_weights"] for rung in rungs] == [False, False, True]
    fresh = random_weights(type(climb.model), climb.model.config, climb.config.seed)
    assert differences(fresh, begun) == []
    alike = {name for name in begun if begun[name].equal(climb.started[1][name])}
    assert not any(name.endswith(".weight") and begun[name].ndim > 1 for name in alike)
    assert rungs[2]["is_kept"] is (expected_rung == 3)
    model = snapshot(climb.model)
    assert differences({name: model[name] for name in climb.kept[2]}, climb.kept[2]) == []
    assert (differences(climb.kept[1], climb.kept[2]) == []) is (expected_rung == 2)
    again = replace(run, output=str(tmp_path / "again"))
    for stop in (14, 15, 18):
        stopped_at(again, stop)
        again = resumed(again)
    assert differences(expected, result_of(train(again))) == []


def test_the_phases_of_a_climb_to_random_weights_that_were_carried_out() -> None:
    strategy = Strategy.auto(trainable_stages=("all",), scratch=Strategy.scratch(epochs=3).phases[0], expected_rung=2)
    assert [(phase.trainable_stages, phase.from_random_weights) for phase in strategy.phases] == [
        (1, False),
        ("all", False),
        ("all", True),
    ]
    assert not strategy.from_scratch, "whether the last stage depth is kept is not known yet"
    assert not strategy.done(2).from_scratch
    assert strategy.done(3).from_scratch
    assert Strategy.from_record(strategy.done(3).to_record()) == strategy.done(3)


@pytest.mark.parametrize("expected_rung", [2, 3], ids=["undone", "kept"])
def test_a_climb_stopped_often_ends_the_same(
    climbed: Callable[[int], RecordedClimb], tmp_path: Path, expected_rung: int
) -> None:
    """During stage depths, after their last step but before the decision, and after the first step of the next."""
    expected = climbed(expected_rung).result
    run = Run(str(tmp_path), "climb", {"save_steps": 1}, expected_rung=expected_rung)
    stopped_at(run, 3)
    for stop in (7, 8, 11, 14, 15, 18):
        run = resumed(run)
        stopped_at(run, stop)
    assert differences(expected, result_of(train(resumed(run)))) == []


@pytest.mark.parametrize(("at", "written"), [(7, 7), (9, 10), (14, 14)], ids=["between", "within", "at the end"])
def test_sigterm_in_a_climb(climbed: Callable[[int], RecordedClimb], tmp_path: Path, at: int, written: int) -> None:
    """The second stage depth is undone: the weights from before it came from the checkpoint."""
    expected = climbed(1).result
    run = Run(str(tmp_path), "climb", {"save_total_limit": 0}, expected_rung=1, signal_at=(at, 0, signal.SIGTERM))
    with pytest.raises(SystemExit) as ended:
        train(run)
    assert ended.value.code == 143
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == [f"step-{written:08}"]
    training = make_training(resumed(replace(run, signal_at=None)))
    training.restore("auto")
    training.run()
    assert training.state.step == ENDS[1]
    if written < ENDS[1]:
        assert differences(expected, result_of(training)) == []
    else:  # it had been decided
        assert training.weights == {}
        assert differences(expected["best weights"], snapshot(training.model)) == []
        assert training.state.log.rungs[-1]["is_kept"] is False
        trained = {name: parameter.requires_grad for name, parameter in training.model.named_parameters()}
        assert trained == expected["requires grad"]


class Forgetful(RecordedTraining):
    """Training that restores a checkpoint without the selected weights of earlier stage depths."""

    def restore(self, source: str) -> None:
        super().restore(source)
        assert self._climb is not None
        self._climb.weights = {}


def test_what_is_kept_comes_from_the_checkpoint(climbed: Callable[[int], RecordedClimb], tmp_path: Path) -> None:
    """Control of the test above."""
    run = Run(str(tmp_path), "climb", {"save_steps": 1}, expected_rung=1)
    stopped_at(run, 11)
    result = result_of(train(resumed(run), kind=Forgetful))
    assert differences(climbed(1).result["best weights"], result["best weights"])


def timed(run: Run, seconds: tuple[float, ...], budget: float) -> RecordedTraining:
    """Train a climb with given expected seconds of its stage depths, within a time budget in seconds."""
    training = make_training(run)
    training._climb = Climb(Escalation(3, 3, seconds, budget))
    if training.config.resume_from_checkpoint is not None:
        training.restore("auto")
    training.run()
    return training


@pytest.mark.parametrize(
    ("seconds", "budget", "rungs"),
    [
        ((0, 1e6, 0), 1e5, 1),  # the expected time of the second exceeds the budget
        ((0, 0, 1e6), 1e5, 2),
        ((1e6, 0, 0), 1e-9, 1),  # the time spent exceeds the budget; the first stage depth always runs
        ((0, 0, 0), 1e5, 3),
    ],
)
def test_a_stage_depth_that_exceeds_the_time_budget_is_not_started(
    tmp_path: Path, seconds: tuple[float, ...], budget: float, rungs: int
) -> None:
    training = timed(Run(str(tmp_path), "climb", expected_rung=3), seconds, budget)
    assert len(training.state.log.rungs) == len(training.state.log.phases) == rungs
    assert training.state.step == ENDS[rungs - 1]
    assert training.state.log.stopped == (
        None if rungs == 3 else "the time budget leaves no room for the next stage depth"
    )
    assert training.state.log.best is not None
    assert training.state.log.best["phase"] == rungs - 1


def test_a_started_stage_depth_is_finished(climbed: Callable[[int], RecordedClimb], tmp_path: Path) -> None:
    """Even if the resumed run estimates a higher duration."""
    run = Run(str(tmp_path), "climb", {"save_steps": 1}, expected_rung=3)
    stopped_at(run, 10)
    training = timed(resumed(run), (0, 1e6, 1e6), 1e5)
    assert [rung["is_kept"] for rung in training.state.log.rungs] == [True, True]
    assert training.state.log.stopped == "the time budget leaves no room for the next stage depth"
    kept = climbed(3).kept[1]
    model = snapshot(training.model)
    assert differences(kept, {name: model[name] for name in kept}) == []


def test_time_that_was_spent_before_an_interruption_counts(tmp_path: Path) -> None:
    run = Run(str(tmp_path), "climb", {"save_total_limit": 0}, expected_rung=3, signal_at=(7, 0, signal.SIGTERM))
    with pytest.raises(SystemExit):
        train(run)
    training = make_training(resumed(replace(run, signal_at=None)))
    training.restore("auto")
    spent = training.state.log.seconds
    assert spent >= training.state.log.rungs[0]["seconds"]
    training._climb = Climb(Escalation(3, 3, (), 0.99 * spent))  # the first stage depth took all of it
    training.run()
    assert len(training.state.log.rungs) == 1
    assert training.state.log.stopped == "the time budget leaves no room for the next stage depth"


def test_averages_and_patience_in_a_climb(tmp_path: Path) -> None:
    """The averaged weights are compared; the third stage depth cannot change, so early stopping ends it."""
    run = Run(str(tmp_path / "a"), "averaged climb", {"save_steps": 1}, expected_rung=3)
    training = train(run, kind=RecordedClimb)
    expected = result_of(training)
    log = training.state.log
    ends = training.phase_ends
    assert len(log.rungs) == 3
    assert log.phases[2].steps < ends[2] - ends[1], "early stopping did not end the third stage depth"
    first = next(entry["validation"] for entry in log.history if entry["phase"] == 2)
    assert log.best is not None
    assert log.best["phase"] == 2  # patience counts from the stage depth's first evaluation
    assert log.best["validation"]["accuracy"] >= first["accuracy"]
    second = [entry for entry in log.history if entry["phase"] == 1]
    best = max(second, key=lambda entry: (entry["validation"]["accuracy"], -entry["validation"]["loss"]))
    assert log.rungs[1]["accuracy"] == pytest.approx(best["validation"]["accuracy"])
    assert differences(training.kept[1], {name: training.weights[ends[1]][name] for name in training.kept[1]})
    again = replace(run, output=str(tmp_path / "b"))
    stopped_at(again, ends[0] + 2)
    again = resumed(again)
    stopped_at(again, ends[1] + 2)
    assert differences(expected, result_of(train(resumed(again)))) == []


def test_verdicts_do_not_depend_on_the_cache(tmp_path: Path) -> None:
    trainings = {
        cache: train(Run(str(tmp_path / cache), "climb", {"feature_cache": cache}, dropout=0, expected_rung=2))
        for cache in ("off", "on")
    }
    rungs = {cache: training.state.log.rungs for cache, training in trainings.items()}
    assert [phase.uses_features for phase in trainings["on"].state.log.phases] == [True, True]
    assert not any(phase.uses_features for phase in trainings["off"].state.log.phases)
    for off, on in zip(rungs["off"], rungs["on"], strict=True):
        assert {**off, "seconds": 0} == {**on, "seconds": 0}
    model = snapshot(trainings["on"].model)
    for name, tensor in snapshot(trainings["off"].model).items():
        np.testing.assert_allclose(model[name].numpy(), tensor.numpy(), atol=1e-4, err_msg=name)
