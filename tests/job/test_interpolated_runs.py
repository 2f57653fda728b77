"""Runs with interpolated weights: which weights are saved, what is measured, and what an interruption changes."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from job.interpolated_runs import PHASES, make_data, train, write_backbone
from job.small_data import LABELS
from safetensors.torch import load_file
from trainer.strategy_trainers import make_args

import hf_tl
from hf_tl.errors import ConfigError
from hf_tl.phase import Phase
from hf_tl.record import InterpolationRecord, RunRecord, read_record

HEAD = ("fc.weight", "fc.bias")


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_backbone(tmp_path_factory.mktemp("backbone"))


@pytest.fixture(scope="module")
def plain(backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run without interpolation."""
    folder = tmp_path_factory.mktemp("plain") / "out"
    train(backbone, folder)
    return folder


@pytest.fixture(scope="module")
def head(backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run of the first phase alone, that of the head."""
    folder = tmp_path_factory.mktemp("head") / "out"
    train(backbone, folder, PHASES[:1])
    return folder


@pytest.fixture(scope="module")
def automatic(backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run whose coefficient was selected."""
    folder = tmp_path_factory.mktemp("automatic") / "out"
    train(backbone, folder, interpolate="auto")
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def kept(record: RunRecord) -> InterpolationRecord:
    assert record.interpolation is not None
    return record.interpolation


def same(first: Path, second: Path) -> bool:
    one_run, other_run = weights(first), weights(second)
    return one_run.keys() == other_run.keys() and all(torch.equal(one_run[name], other_run[name]) for name in one_run)


def test_coefficients_lie_between_both_ends(backbone: Path, plain: Path, head: Path, tmp_path: Path) -> None:
    for coefficient in (0, 0.25, 1):
        result = train(backbone, tmp_path / str(coefficient), interpolate=coefficient)
        assert kept(result.record).kept == coefficient
        assert kept(result.record).rule == "chosen"
        assert kept(result.record).head == "start"
    start, end, middle = weights(tmp_path / "0"), weights(tmp_path / "1"), weights(tmp_path / "0.25")
    assert same(tmp_path / "1", plain)
    trained = weights(head)  # its last weights are those at which the second phase begins
    for name in HEAD:
        assert torch.equal(start[name], trained[name])
    before = {name.removeprefix("timm_model."): tensor for name, tensor in weights(backbone).items()}
    moved = [name for name in end if not torch.equal(end[name], before[name]) and name not in HEAD]
    assert moved
    assert any("running_mean" in name for name in moved)
    for name in moved:
        if end[name].is_floating_point():
            assert torch.equal(start[name], before[name]), name
            torch.testing.assert_close(middle[name], start[name] + 0.25 * (end[name] - start[name]))
        else:
            assert torch.equal(start[name], end[name])


def test_what_is_measured_is_of_the_kept_weights(automatic: Path) -> None:
    record = read_record(automatic)
    result = kept(record)
    assert [point.coefficient for point in result.points] == [step / 10 for step in range(11)]
    point = next(point for point in result.points if point.coefficient == result.kept)
    validation = record.measured["validation"]
    assert 0 < result.kept < 1
    assert result.images == validation.images
    assert validation.metrics == pytest.approx(dict(point.metrics), abs=1e-5)
    assert validation.weights_digest == record.weights_digest == record.measured["test"].weights_digest
    evaluation = hf_tl.evaluate(automatic, make_data(), split="test")
    assert evaluation.metrics["loss"] == pytest.approx(record.measured["test"].metrics["loss"], abs=1e-5)
    card = (automatic / "README.md").read_text("utf-8")
    assert f"The published weights are interpolated at the coefficient {result.kept:g} (the middle, because" in card
    assert "Coefficient 0: the starting weights, with the head that they had when fine-tuning began." in card
    assert "](interpolation.png)" in card
    assert (automatic / "interpolation.png").is_file()
    assert RunRecord.from_json(record.to_json()) == record


@pytest.mark.parametrize("line", ["Epoch 3 of 8, phase 2", "Interpolating the weights", "Evaluating on"])
def test_a_killed_run_resumes_to_the_same_weights(backbone: Path, automatic: Path, tmp_path: Path, line: str) -> None:
    """The trained weights and the start are in checkpoints before the search begins."""
    command = [sys.executable, Path(__file__).with_name("interpolated_runs.py"), backbone, tmp_path / "out"]
    paths = os.pathsep.join(map(str, Path(__file__).parents[1:3]))
    environment = {**os.environ, "PYTHONPATH": paths}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        assert any(text.startswith(line) for text in process.stdout), "the line was printed"
        process.send_signal(signal.SIGKILL)
    assert not (tmp_path / "out" / "interpolation.png").exists()
    result = train(backbone, tmp_path / "out", interpolate="auto", resume_from_checkpoint="auto")
    assert same(tmp_path / "out", automatic)
    assert result.record.interpolation == read_record(automatic).interpolation


def test_a_refit_takes_the_coefficient_of_the_first_training(backbone: Path, automatic: Path, tmp_path: Path) -> None:
    refitted = hf_tl.Strategy("two phases", PHASES, refit=True)
    record = train(backbone, tmp_path / "refit", refitted, interpolate="auto").record
    first = kept(read_record(automatic))
    assert kept(record).rule == "first training"
    assert (kept(record).kept, kept(record).points) == (first.kept, first.points)
    whole = train(backbone, tmp_path / "whole", refitted).record
    assert record.refit is not None
    assert whole.weights_digest != record.weights_digest
    train(backbone, tmp_path / "end", refitted, interpolate=1.0)
    assert same(tmp_path / "end", tmp_path / "whole")


def test_merged_adapters_are_the_end(backbone: Path, tmp_path: Path) -> None:
    """The adapter that lies beside a model is of the end, so it is left out where other weights are kept."""
    phases = (PHASES[0], Phase(3, 3, 0.02, augmentation="none", tuning=hf_tl.LoRA(rank=2)))
    for coefficient in (0, 0.5, 1):
        train(backbone, tmp_path / str(coefficient), phases, interpolate=coefficient)
        adapter = tmp_path / str(coefficient) / "adapter" / "adapter_config.json"
        assert adapter.is_file() == (coefficient == 1)
    start, middle, end = (weights(tmp_path / str(coefficient)) for coefficient in (0, 0.5, 1))
    before = {name.removeprefix("timm_model."): tensor for name, tensor in weights(backbone).items()}
    moved = [name for name in end if not torch.equal(end[name], before[name]) and name not in HEAD]
    assert moved
    assert all("lora" not in name for name in end)
    for name in moved:
        assert torch.equal(start[name], before[name])
        torch.testing.assert_close(middle[name], (start[name] + end[name]) / 2)


def test_weights_before_cached_features_are_measured_on_images(backbone: Path, tmp_path: Path) -> None:
    """The last phase trains the head on features of the trained stages, which other weights make useless."""
    phases = (PHASES[1], Phase(1, 2, 0.01, augmentation="none"))
    record = train(backbone, tmp_path / "out", phases, interpolate=0.3, feature_cache="on").record
    assert record.phases[-1].uses_features
    assert kept(record).head == "end"
    for split in ("validation", "test"):
        evaluation = hf_tl.evaluate(tmp_path / "out", make_data(), split=split)
        assert evaluation.metrics["loss"] == pytest.approx(record.measured[split].metrics["loss"], abs=1e-4)


@pytest.mark.parametrize(
    ("phases", "settings", "text"),
    [
        (PHASES[:1], {}, r"interpolate needs a phase that trains more than the head, found the strategy two phases"),
        (
            PHASES,
            {"interpolate": 1.5},
            r"interpolate takes auto or a number of at least 0 and of at most 1, found 1\.5",
        ),
        (PHASES, {"interpolate": "some"}, r"interpolate takes auto or a number of at least 0 and of at most 1, found"),
    ],
)
def test_runs_that_cannot_be_interpolated_are_refused(
    backbone: Path, tmp_path: Path, phases: Any, settings: dict[str, Any], text: str
) -> None:
    with pytest.raises(ConfigError, match=text):
        train(backbone, tmp_path / "out", phases, **{"interpolate": "auto", **settings})
    assert not (tmp_path / "out" / "config.json").exists()


def trainer_of(
    backbone: Path, output: Path, strategy: Any, interpolate: Any, **arguments: Any
) -> hf_tl.StrategyTrainer:
    model, transforms = hf_tl.load_backbone(str(backbone), LABELS, seed=0)
    args = make_args(output, **arguments)
    return hf_tl.StrategyTrainer(
        model, args, strategy=strategy, data=make_data(), transforms=transforms, interpolate=interpolate
    )


def test_trainer_interpolates_after_its_last_phase(backbone: Path, head: Path, tmp_path: Path) -> None:
    strategy = hf_tl.Strategy("two phases", PHASES)
    for name, interpolate in (("none", None), ("0", 0), ("1", 1), ("auto", "auto")):
        trainer_of(backbone, tmp_path / name, strategy, interpolate).train()
    assert same(tmp_path / "none", tmp_path / "1")
    start = weights(tmp_path / "0")
    before = {name.removeprefix("timm_model."): tensor for name, tensor in weights(backbone).items()}
    assert all(
        torch.equal(start[name], before[name]) for name in start if start[name].is_floating_point() and name not in HEAD
    )
    assert not torch.equal(start["fc.weight"], weights(tmp_path / "1")["fc.weight"])
    record = read_record(tmp_path / "auto")
    assert kept(record).head == "start"
    assert record.measured["validation"].weights_digest == record.weights_digest
    assert record.hyperparameters["trainer"] == "transformers Trainer"


def test_trainer_starts_without_adapters(backbone: Path, tmp_path: Path) -> None:
    phases = (PHASES[0], Phase(3, 3, 0.02, augmentation="none", tuning=hf_tl.LoRA(rank=2)))
    for coefficient in (0, 1):
        trainer_of(backbone, tmp_path / str(coefficient), hf_tl.Strategy("lora", phases), coefficient).train()
        adapter = tmp_path / str(coefficient) / "adapter" / "adapter_config.json"
        assert adapter.is_file() == (coefficient == 1)
    start, end = weights(tmp_path / "0"), weights(tmp_path / "1")
    before = {name.removeprefix("timm_model."): tensor for name, tensor in weights(backbone).items()}
    names = [name for name in before if name not in HEAD]
    assert all(torch.equal(start[name], before[name]) for name in names)
    assert not all(torch.equal(end[name], before[name]) for name in names)


def test_a_resumed_trainer_has_the_same_start(backbone: Path, tmp_path: Path) -> None:
    strategy = hf_tl.Strategy("two phases", PHASES)
    arguments = {"save_strategy": "steps", "save_steps": 1}
    trainer_of(backbone, tmp_path / "out", strategy, "auto", **arguments).train()
    result = kept(read_record(tmp_path / "out"))
    expected = weights(tmp_path / "out")
    checkpoints = sorted((tmp_path / "out").glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    assert len(checkpoints) > 5
    for checkpoint in (checkpoints[1], checkpoints[-2]):  # in the first and in the second phase
        trainer = trainer_of(backbone, tmp_path / "out", strategy, "auto", **arguments)
        trainer.train(resume_from_checkpoint=str(checkpoint))
        assert kept(trainer.result.record) == result
        assert all(torch.equal(tensor, expected[name]) for name, tensor in weights(tmp_path / "out").items())


def test_trainer_refuses_before_the_first_step(backbone: Path, tmp_path: Path) -> None:
    trainer = trainer_of(backbone, tmp_path / "out", "transfer", "auto", num_train_epochs=1)
    with pytest.raises(ConfigError, match="interpolate needs a phase that trains more than the head"):
        trainer.train()
    assert trainer.state.global_step == 0
    with pytest.raises(ConfigError, match="interpolate takes auto or a number"):
        trainer_of(backbone, tmp_path / "out", "full", 2)
