"""Accelerators of one process by itself, within a run of several."""

import os

import pytest
from accelerate import PartialState

from hf_tl.config import TrainingConfig
from hf_tl.processes.accelerator import make_accelerator
from hf_tl.processes.alone import single_process

PLAIN = TrainingConfig(report_to="none", cpu_threads=1)


def test_accelerators_from_before_keep_their_accumulation_steps() -> None:
    """All accelerators of a process share their state, so that a later one would set those of the run."""
    accelerator = make_accelerator(TrainingConfig(report_to="none", cpu_threads=1, gradient_accumulation_steps=3))
    with single_process():
        assert make_accelerator(PLAIN).gradient_accumulation_steps == 1
    assert accelerator.gradient_accumulation_steps == 3
    assert accelerator.state is not None
    assert accelerator.num_processes == 1


def test_a_launcher_is_not_asked_for_its_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes are launched, and no other one answers; an error within restores the environment."""
    device = PartialState().device
    launched = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "ACCELERATE_USE_FSDP": "true"}
    for name, value in launched.items():
        monkeypatch.setenv(name, value)

    def fail() -> None:
        with single_process():
            accelerator = make_accelerator(PLAIN)
            assert (accelerator.num_processes, accelerator.device) == (1, device)
            assert accelerator.is_main_process
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert {name: os.environ[name] for name in launched} == launched
    assert "ACCELERATE_TORCH_DEVICE" not in os.environ
    assert PartialState().device == device
