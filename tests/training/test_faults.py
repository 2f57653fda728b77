import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_runs import FLAT, Run, launch, make_trainer, make_training, resumed, stopped_at, train
from torch import Tensor

from hf_tl.config import TrainingConfig
from hf_tl.errors import CheckpointError, ConfigError, TrainingError
from hf_tl.training.accelerator import make_accelerator
from hf_tl.training.checkpoint import find_damage, newest_checkpoint

MESSAGES = {"image": "the loss is not finite", "loss": "the loss is not finite", "gradient": "a gradient is not finite"}


def assert_finite(tensors: dict[str, Tensor]) -> None:
    assert all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values())


def assert_saved_finite(output: Path) -> None:
    newest, problems = newest_checkpoint(output / "checkpoints")
    assert newest is not None
    assert problems == []
    assert_finite(load_file(newest / "weights.safetensors"))


@pytest.mark.parametrize("fault", MESSAGES)
def test_what_is_no_number_stops_before_the_optimizer_step(tmp_path: Path, fault: str) -> None:
    good = train(Run(str(tmp_path / "good")))
    training = make_training(Run(str(tmp_path / "bad"), config={"save_steps": 1}, fault=fault))
    with pytest.raises(TrainingError, match=MESSAGES[fault]) as error:
        training.run()
    step = training.state.step + 1
    assert f"in step {step};" in str(error.value)
    rows = sorted(good.seen[step])
    assert f"row in the training split: {', '.join(map(str, rows))}." in str(error.value)
    if fault == "gradient":
        assert step == 6
    else:
        assert FLAT in rows
        assert not any(FLAT in good.seen[earlier] for earlier in range(1, step))
    weights = dict(training.model.named_parameters())
    assert_finite({name: tensor.detach() for name, tensor in weights.items()})
    before = training.weights[step - 1]
    assert all(torch.equal(weights[name].detach(), before[name]) for name in weights), "the step was taken"
    assert_saved_finite(tmp_path / "bad")


def test_trainer_stops_before_the_weights_go_bad(tmp_path: Path) -> None:
    trainer = make_trainer(Run(str(tmp_path), config={"save_steps": 1}, fault="gradient"))
    with pytest.raises(TrainingError, match="a gradient is not finite in step 6"):
        trainer.train()
    assert trainer.state.global_step == 5
    assert_finite(trainer.model.state_dict())
    assert_finite(load_file(tmp_path / "checkpoint-5" / "model.safetensors"))
    assert find_damage(tmp_path / "checkpoint-5") is None


def test_trainer_alone_goes_on(tmp_path: Path) -> None:
    """The control: what the callback is for."""
    trainer = make_trainer(Run(str(tmp_path), config={"save_strategy": "no"}, fault="gradient"))
    guard = trainer.callback_handler.callbacks[1]
    guard.on_pre_optimizer_step = lambda *arguments, **kwargs: None
    trainer.train()
    assert not torch.isfinite(trainer.model.timm_model.fc.weight).all()


@pytest.mark.slow
def test_a_process_ends_with_an_error(tmp_path: Path) -> None:
    process = launch(Run(str(tmp_path), fault="image"))
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2
    assert errors.count("error: the loss is not finite") == 1


@pytest.fixture
def full_disk() -> Iterator[None]:
    """No file grows beyond 20 kB, which for the writer is as if the disk were full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def half_trained(tmp_path: Path) -> Run:
    run = Run(str(tmp_path), config={"save_steps": 1})
    stopped_at(run, 2)
    return run


def test_a_full_disk(half_trained: Run, full_disk: None) -> None:
    folder = Path(half_trained.output, "checkpoints")
    with pytest.raises(CheckpointError, match=f"{folder}/step-00000003 could not be written: File too large"):
        train(resumed(half_trained))
    assert sorted(path.name for path in folder.iterdir()) == ["step-00000001", "step-00000002"]
    assert newest_checkpoint(folder) == (folder / "step-00000002", [])


def test_an_output_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="step-00000001 could not be written: Not a directory"):
        train(Run(str(tmp_path / "file"), config={"save_steps": 1}))


@pytest.mark.parametrize("name", ["FSDP", "DEEPSPEED"])
def test_sharded_parameters_are_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """On a CPU accelerate would leave FSDP out without a word."""
    monkeypatch.setenv(f"ACCELERATE_USE_{name}", "true")
    with pytest.raises(ConfigError, match=f"asks for {name}.*DistributedDataParallel"):
        make_accelerator(TrainingConfig())
