"""A phase with a solved head, in the loop: on images and cached features, in several processes, and after a resume."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from training.launched_runs import launch, read_result, result_path
from training.small_runs import (
    LABELS,
    PHASES,
    RecordedTraining,
    Run,
    differences,
    make_training,
    result_of,
    resumed,
    stopped_at,
    train,
)
from transformers import Trainer, TrainingArguments

from hf_tl.backbones.load import load_backbone
from hf_tl.backbones.stages.stage import list_stages
from hf_tl.config import StrategyConfig
from hf_tl.data.decoding.images import Transforms
from hf_tl.errors import ConfigError, TrainingError
from hf_tl.evaluation.metrics import MULTI_LABEL
from hf_tl.head.solved_head import linear_head
from hf_tl.head.tuning import head_inputs
from hf_tl.optimization.loss import check_phases
from hf_tl.phase import Phase
from hf_tl.strategy import Strategy
from hf_tl.trainer.callback import StrategyCallback
from hf_tl.training.refit import Refit
from hf_tl.wording import flags_meant

SOLVED = replace(PHASES["solved"][0], augmentation="none")


class PlainTraining(RecordedTraining):
    """Training without augmentation in the solved phase alone."""

    def record(self, run: Run, stop: int | None) -> None:
        super().record(run, stop)
        plain = self.data.transforms_of(SOLVED).eval
        self.data.transforms_of = lambda _: Transforms(plain, plain)

    def run(self) -> Any:
        self.strategy, self.phase_ends = Strategy("solved", (SOLVED,)), self.phase_ends[:1]
        return super().run()


@pytest.mark.parametrize("cache", ["off", "on"])
def test_the_head_is_the_solution_on_its_inputs(cache: str, tmp_path: Path) -> None:
    training = train(Run(str(tmp_path), "solved", {"feature_cache": cache}), kind=PlainTraining)
    log, head = training.state.log, training.model.timm_model.fc
    assert (log.phases[0].uses_features, log.phases[0].steps) == (cache == "on", 1)
    solution = log.phases[0].solution
    assert json.loads(json.dumps(solution)) == solution
    images = training.data.train_images.with_transform(training.data.transforms_of(SOLVED).eval)
    features, labels = head_inputs(training.model, head, images, batch_size=4)
    scaled = StandardScaler().fit_transform(features.double())
    expected = LogisticRegression(C=1 / (solution["l2_strength"] * len(labels)), tol=1e-9, max_iter=10_000)
    expected.fit(scaled, labels)
    with torch.inference_mode():
        probabilities = head(features).softmax(1)
    torch.testing.assert_close(probabilities, torch.tensor(expected.predict_proba(scaled)).float(), atol=5e-3, rtol=0)
    loss = -float(probabilities.log()[range(len(labels)), labels].mean())
    assert log.history[0]["train_loss"] == pytest.approx(loss, rel=1e-2)
    assert log.history[0]["learning_rate"] == 0


@pytest.mark.parametrize("refits", [False, True], ids=["first", "retrained"])
def test_the_folds_of_a_training_hold_out_whole_groups(refits: bool, tmp_path: Path) -> None:
    """Nothing can be held out where each class is one group, and the strength is the default."""
    run = Run(str(tmp_path), "solved")
    training = make_training(run, kind=PlainTraining)
    classes = [str(label) for label in training.images.train["label"]]
    training.images = replace(training.images, units={"train": classes, "validation": classes})
    training.data.units = training.images.units
    refit = Refit.of(training)
    training.run()
    training = refit.run() if refits else training
    [phase] = training.state.log.phases
    assert phase.solution is not None
    assert phase.solution["held_out_loss"] is None
    assert phase.solution["l2_strength"] == 1 / len(training.data.train_images)
    assert train(Run(str(tmp_path / "without"), "solved"), kind=PlainTraining).state.log.phases[0].solution["folds"] > 1


def test_all_views_of_the_images_are_used(tmp_path: Path) -> None:
    """Cached or not, with the same result."""
    weights = []
    views = {"cached_views": 3, "feature_cache_dir": str(tmp_path / "cache")}
    for cache, count in (("off", 3), ("on", 3), ("off", 1)):
        run = Run(str(tmp_path / f"{cache}{count}"), "solved", {**views, "cached_views": count, "feature_cache": cache})
        training = make_training(run)
        training.strategy = Strategy("solved", (replace(SOLVED, augmentation="light"),))
        training.phase_ends = training.phase_ends[:1]
        training.run()
        assert training.state.log.phases[0].uses_features == (cache == "on")
        weights.append(training.model.timm_model.fc.weight.detach())
    torch.testing.assert_close(weights[0], weights[1], atol=2e-3, rtol=0.02)
    assert not torch.allclose(weights[0], weights[2], atol=2e-3, rtol=0.02)


def test_a_run_resumed_after_the_solution_is_bit_identical(tmp_path: Path) -> None:
    whole = train(Run(str(tmp_path / "whole"), "solved"))
    run = Run(str(tmp_path / "stopped"), "solved")
    stopped_at(run, 3)
    assert differences(result_of(train(resumed(run))), result_of(whole)) == []


@pytest.mark.slow
def test_two_processes_have_the_weights_of_one(tmp_path: Path) -> None:
    runs = [Run(str(tmp_path / str(n)), "solved", {"per_device_train_batch_size": 4 // n}, dropout=0) for n in (1, 2)]
    for run, processes in zip(runs, (1, 2), strict=True):
        Path(run.output).mkdir()
        process = launch(run, processes)
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors[-3000:]
    single, first, second = read_result(runs[0]), read_result(runs[1]), read_result(runs[1], 1)
    assert differences(first["weights"], second["weights"]) == []
    assert first["log"]["phases"][0]["solution"] == second["log"]["phases"][0]["solution"]
    assert first["log"]["phases"][0]["solution"] == pytest.approx(single["log"]["phases"][0]["solution"], rel=1e-4)
    # after the solution: DistributedDataParallel shares the weights of the main process later
    places = (result_path(runs[0]), result_path(runs[1]), result_path(runs[1], 1))
    alone, main, other = (torch.load(place)["by step"]["weights"][1] for place in places)
    assert differences(main, other) == []
    torch.testing.assert_close(main, alone, atol=1e-4, rtol=1e-3)


def test_images_with_features_that_are_not_finite_are_named(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="rows of the training split: 5"):
        train(Run(str(tmp_path), "solved", fault="image"), kind=PlainTraining)


@pytest.mark.parametrize("name", ["timm:levit_128s", "timm:test_convnext"])
def test_a_head_that_is_not_one_linear_layer_is_refused(name: str) -> None:
    model, _ = load_backbone(name, LABELS, Strategy.transfer(), pretrained=False)
    if name == "timm:test_convnext":
        model.timm_model.head.fc = torch.nn.Sequential(torch.nn.Linear(64, 8), torch.nn.Linear(8, 3))
    with pytest.raises(ConfigError, match=r"head_solver=.lbfgs. needs a head .*choose head_solver=.adamw"):
        linear_head(model, list_stages(model)[-1])


@pytest.mark.parametrize(
    ("strategy", "phases"), [("transfer", [1]), ("finetune", [1, 2]), ("gradual", [1, 2, 3, 4, "all"])]
)
def test_the_flag_solves_the_head_and_changes_no_other_phase(strategy: str, phases: list[Any]) -> None:
    solved, trained = (
        StrategyConfig(strategy=strategy, head_solver=solver).build(images=500).phases for solver in ("lbfgs", "adamw")
    )
    assert [phase.trainable_stages for phase in solved] == phases
    assert solved[0] == SOLVED
    assert solved[1:] == trained[1:]


def test_other_phases_follow_their_flags() -> None:
    flags = {"num_train_epochs": 6, "learning_rate": 0.01, "patience": 2, "mixup": 0.1, "class_weights": "balanced"}
    head, rest = StrategyConfig("finetune", head_solver="lbfgs", **flags).build().phases
    assert (head.class_weights, head.patience, head.mixup) == ("balanced", None, 0)
    assert (rest.epochs, rest.patience, rest.mixup) == (6, 2, 0.1)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"strategy": "full"}, "whose first phase trains the head alone .*found --strategy full"),
        ({"strategy": "scratch"}, "whose first phase trains the head alone .*found --strategy scratch"),
        ({"learning_rate": 0.1, "patience": 3}, "does not use --learning_rate, --patience"),
        ({"num_train_epochs": 3}, "does not use --num_train_epochs"),
        ({"strategy": "finetune", "find_learning_rate": True}, "does not use --find_learning_rate"),
        ({"phases": "[{trainable_stages: 1, steps: 1}]"}, "leave out --head_solver"),
        ({"head_solver": "newton"}, "--head_solver takes one of adamw, lbfgs, found"),
    ],
)
def test_flags_without_effect_are_refused(flags: dict[str, Any], message: str) -> None:
    with flags_meant(), pytest.raises(ConfigError, match=message):
        StrategyConfig(**{"head_solver": "lbfgs", **flags}).build()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"trainable_stages": 2}, "the head alone"),
        ({"steps": 2}, "in one step"),
        ({"mixup": 0.1, "ema_decay": 0.9}, "does not use mixup, ema_decay"),
        ({"norm": "affine"}, "does not use norm"),
        ({"solver": "newton"}, "solver of a phase takes one of adamw, lbfgs"),
    ],
)
def test_a_phase_that_cannot_be_solved_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Phase(**{"trainable_stages": 1, "steps": 1, "solver": "lbfgs", **fields})


def test_multi_label_problems_and_trainer_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs a single-label dataset"):
        check_phases([SOLVED], MULTI_LABEL)
    model, _ = load_backbone("timm:test_resnet", LABELS, Strategy.transfer(), pretrained=False)
    arguments = TrainingArguments(str(tmp_path), report_to="none", use_cpu=True)
    with pytest.raises(ConfigError, match="does not support solver in phases"):
        Trainer(model, arguments, callbacks=[StrategyCallback(Strategy("solved", (SOLVED,)))])
