import contextlib
import functools
import multiprocessing
import os
import random
import signal
import subprocess
import sys
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import torch
from training import small_runs
from training.launched_runs import main, read_result
from training.small_runs import (
    AUTO,
    RecordedTraining,
    Run,
    differences,
    make_training,
    result_of,
    resumed,
    stopped_at,
    train,
)
from training.trainer_runs import make_trainer, train_with_trainer

import hf_tl
from hf_tl.checkpoints.checkpoint import newest_checkpoint
from hf_tl.checkpoints.state import RANDOM, STATE
from hf_tl.errors import CheckpointError
from hf_tl.storage.folders import PARTIAL
from hf_tl.training.phase_run import PhaseRun

STEPS = 14


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return result_of(train(Run(str(tmp_path_factory.mktemp("uninterrupted")))))


@pytest.mark.parametrize("save_steps", [1, 3, None])
def test_a_run_stopped_after_each_step_ends_the_same(
    tmp_path: Path, uninterrupted: dict[str, Any], save_steps: int | None
) -> None:
    """Some process stops after each step; steps since the last checkpoint are repeated."""
    run = Run(str(tmp_path), config={"save_steps": save_steps})
    stopped_at(run, 1)
    for stop in range(2, STEPS):
        run = resumed(run)
        stopped_at(run, stop)
    assert uninterrupted["last step"] == STEPS
    assert differences(uninterrupted, result_of(train(resumed(run)))) == []


@pytest.mark.parametrize(
    ("phases", "config", "accelerator"),
    [
        ("gradual", {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 2}, {}),
        ("gradual", {}, {"mixed_precision": "bf16"}),
        ("gradual", {"gradient_checkpointing": True}, {}),
        ("norms frozen", {}, {}),
        ("averaged", {}, {}),
        ("patient", {}, {}),
        ("adapted", {}, {}),
    ],
    ids=["accumulated", "bf16", "checkpointed", "norms", "averaged", "patient", "adapted"],
)
@pytest.mark.parametrize("stop", [3, 8])
def test_other_settings_resume_too(
    tmp_path: Path, phases: str, config: dict[str, Any], accelerator: dict[str, Any], stop: int
) -> None:
    run = Run(str(tmp_path / "a"), phases, {"save_steps": 1, **config}, accelerator=accelerator)
    expected = result_of(train(run))
    if phases == "patient":
        assert expected["last step"] < 21, "the phase did not stop early"
    run = replace(run, output=str(tmp_path / "b"))
    stopped_at(run, stop)
    assert differences(expected, result_of(train(resumed(run)))) == []


class WithoutRandomState(RecordedTraining):
    def _restore_phase(self, run: PhaseRun) -> None:
        state = torch.get_rng_state()
        super()._restore_phase(run)
        torch.set_rng_state(state)


class WithoutOptimizer(RecordedTraining):
    def _restore_phase(self, run: PhaseRun) -> None:
        state = run.optimizer.state_dict()
        super()._restore_phase(run)
        run.optimizer.load_state_dict({**run.optimizer.state_dict(), "state": state["state"]})


class WithoutPlace(RecordedTraining):
    """Training that begins each phase at its first image."""

    def _loader(self, *arguments: Any) -> Any:
        loader = super()._loader(*arguments)
        loader.sampler.start -= self.images_per_step
        loader.sampler.stop -= self.images_per_step
        return loader


class WithAll(RecordedTraining):
    """Control of the controls."""


@pytest.mark.parametrize(
    ("kind", "is_same"),
    [(WithAll, True), (WithoutRandomState, False), (WithoutOptimizer, False), (WithoutPlace, False)],
)
@pytest.mark.parametrize("stop", [2, 7])
def test_an_incomplete_restore_changes_the_weights(
    tmp_path: Path, uninterrupted: dict[str, Any], kind: type[RecordedTraining], is_same: bool, stop: int
) -> None:
    run = Run(str(tmp_path), config={"save_steps": 1})
    stopped_at(run, stop)
    differing = differences(uninterrupted, result_of(train(resumed(run), kind=kind)))
    assert (differing == []) == is_same
    if not is_same:
        assert any(name.startswith("/weights") for name in differing)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"phases": "norms frozen"}, "strategy was"),
        ({"config": {"seed": 3}}, "seed was 0, now 3"),
        ({"config": {"per_device_train_batch_size": 2}}, "per_device_train_batch_size was 4, now 2"),
        ({"config": {"gradient_accumulation_steps": 2}}, "gradient_accumulation_steps was 1, now 2"),
        ({"accelerator": {"mixed_precision": "bf16"}}, "mixed_precision was 'auto', now 'bf16'"),
    ],
)
def test_another_run_is_refused_before_the_first_step(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    stopped_at(Run(str(tmp_path), config={"save_steps": 1}), 2)
    other = Run(str(tmp_path), **{**change, "config": {**AUTO, **change.get("config", {})}})
    with pytest.raises(CheckpointError, match=f"from another run: .*{message}"):
        make_training(other).restore("auto")


@pytest.mark.parametrize(("name", "value"), [("data", "other data"), ("processes", 7)])
def test_other_data_and_another_number_of_processes_are_refused(tmp_path: Path, name: str, value: Any) -> None:
    stopped_at(Run(str(tmp_path), config={"save_steps": 1}), 2)
    training = make_training(Run(str(tmp_path)))
    training.checkpoints.identity[name] = value
    with pytest.raises(CheckpointError, match=f"from another run: {name} was .*, now {value!r}"):
        training.restore("auto")


def test_a_checkpoint_of_other_frozen_weights_is_refused(tmp_path: Path) -> None:
    run = Run(str(tmp_path), "patient", {"save_steps": 1})
    stopped_at(run, 2)
    training = make_training(run)
    with torch.no_grad():
        training.model.timm_model.layer1[0].conv1.weight += 1
    training.restore("auto")
    with pytest.raises(CheckpointError, match="frozen weights are not those"):
        training.run()


def test_a_damaged_checkpoint_is_skipped_for_the_previous(
    tmp_path: Path, uninterrupted: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run(str(tmp_path), config={"save_steps": 1})
    stopped_at(run, 7)
    damaged = tmp_path / "checkpoints" / "step-00000007"
    (damaged / RANDOM).write_bytes(b"")
    result = result_of(train(resumed(run)))
    printed = capsys.readouterr().out
    assert "Skipping the checkpoint step-00000007: damaged: random.pt" in printed
    assert "Resuming after step 6" in printed
    assert differences(uninterrupted, result) == []
    damaged = tmp_path / "checkpoints" / "step-00000013"
    (damaged / STATE).unlink()
    with pytest.raises(CheckpointError, match=r"state\.json is missing"):
        make_training(run).restore(str(damaged))


def test_without_a_checkpoint_training_starts_at_the_beginning(
    tmp_path: Path, uninterrupted: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    result = result_of(train(Run(str(tmp_path), config=AUTO)))
    assert "Starting at the first step: " in capsys.readouterr().out
    assert differences(uninterrupted, result) == []


def test_sigterm_writes_a_checkpoint_and_ends_with_143(tmp_path: Path, uninterrupted: dict[str, Any]) -> None:
    run = Run(str(tmp_path), config={"save_total_limit": 0}, signal_at=(5, 0, signal.SIGTERM))
    with pytest.raises(SystemExit) as ended:
        train(run)
    assert ended.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000006"]
    assert differences(uninterrupted, result_of(train(resumed(replace(run, signal_at=None))))) == []


def test_trainer_resumes_from_the_newest_whole_checkpoint(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = Run(str(tmp_path / "a"), way="trainer", config={"save_steps": 1, "save_total_limit": 1})
    expected = train_with_trainer(run)
    assert expected["last step"] == 16
    assert [path.name for path in sorted((tmp_path / "a").glob("checkpoint-*"))] == ["checkpoint-16"]

    run = replace(run, output=str(tmp_path / "b"), config={"save_steps": 1})
    train_with_trainer(run)
    for step in (15, 16):
        (tmp_path / "b" / f"checkpoint-{step}" / "optimizer.pt").write_bytes(b"")
    transformers_logger = hf_tl.trainer.safeguards.logger
    transformers_logger.addHandler(caplog.handler)
    assert hf_tl.newest_checkpoint(run.output) == str(tmp_path / "b" / "checkpoint-14")
    transformers_logger.removeHandler(caplog.handler)
    assert "checkpoint-16: damaged: optimizer.pt" in caplog.text
    config = {"save_steps": 1, "save_total_limit": 3, **AUTO}
    assert differences(expected, train_with_trainer(replace(run, seed=1, config=config))) == []
    kept = sorted(path.name for path in (tmp_path / "b").glob("checkpoint-*"))
    assert kept == ["checkpoint-14", "checkpoint-15", "checkpoint-16"]


def test_trainer_keeps_the_limit_of_checkpoints_for_later(tmp_path: Path) -> None:
    trainer = make_trainer(Run(str(tmp_path), config={"save_steps": 5, "save_total_limit": 2}))
    for _ in range(2):
        trainer.train()
        assert trainer.args.save_total_limit == 2
        assert len(list(tmp_path.glob("checkpoint-*"))) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("way", "phases"),
    [("loop", "gradual"), ("trainer", "gradual"), ("loop", "adapted")],
)
def test_fifty_kills_change_nothing(tmp_path: Path, way: str, phases: str) -> None:
    """Processes are forked from one that has computed nothing, so that 50 of them take minutes."""
    paths = f"{Path(__file__).parents[2]}{os.pathsep}{Path(__file__).parents[1]}"
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, way, phases, str(tmp_path), "50"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr[-3000:]
    print(done.stdout.splitlines()[-1])
    assert "50 kills" in done.stdout


def kill_often(way: str, phases: str, output: Path, kills: int) -> None:
    """Kill runs at random moments until `kills` were killed, and compare each finished one with an undisturbed one."""
    draw = random.Random(0)
    config = {"save_steps": 1, "save_total_limit": 2}
    alone = Run(str(output / "alone"), phases, config=dict(config), way=way)
    assert run_and_kill(alone, None) == 0
    expected = read_result(alone)
    killed = while_writing = ended = 0
    while killed < kills or ended == 0:
        run = Run(str(output / str(ended)), phases, config={**config, **AUTO}, way=way)
        while run_and_kill(run, (draw.randint(1, 8), draw.uniform(0, 0.06)) if killed < kills else None) != 0:
            killed += 1
            while_writing += is_half_written(run)
            # not those in `.partial-` folders, which are never resumed from
            whole = (file.parent for file in Path(run.output).glob("**/manifest.json"))
            has_checkpoint = any(not folder.name.startswith(PARTIAL) for folder in whole)
            run = replace(run, seed=run.seed + has_checkpoint)
        assert differences(expected, read_result(run)) == [], run
        ended += 1
    print(
        f"{way}, {phases}: {killed} kills, {while_writing} of them while a checkpoint was written; "
        f"{ended} runs ended, all equal"
    )


def run_and_kill(run: Run, moment: tuple[int, float] | None) -> int:
    """Run in a new process, and kill it some seconds after a number of steps and checkpoints have begun."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=child, args=(run, there))
    process.start()
    there.close()
    if moment is not None:
        with contextlib.suppress(EOFError):  # it ended before
            for _ in range(moment[0]):
                here.recv()
        process.join(moment[1])
        process.kill()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL), process.exitcode
    return process.exitcode


def child(run: Run, connection: Connection) -> None:
    Path(run.output).mkdir(parents=True, exist_ok=True)
    with open(Path(run.output, "log"), "a", encoding="utf-8") as log:
        sys.stdout = sys.stderr = log
        small_runs.report_progress = functools.partial(connection.send, "begun")
        main(run, 1)


def is_half_written(run: Run) -> bool:
    if run.way == "loop":
        return any(Path(run.output, "checkpoints").glob(".partial-*"))
    _, problems = newest_checkpoint(Path(run.output), "checkpoint-")
    return bool(problems)


if __name__ == "__main__":
    kill_often(sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))
