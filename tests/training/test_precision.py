"""Mixed precision in the loop: the network computes in bf16 or fp16, and its weights stay float32."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from torch import Tensor
from training.small_runs import RecordedTraining, Run, make_training, moved, snapshot, train

from hf_tl.checkpoints.state import BEST, WEIGHTS
from hf_tl.errors import ConfigError

BF16 = {"mixed_precision": "bf16"}


@pytest.fixture(autouse=True)
def _one_setting_a_test() -> Iterator[None]:
    """Reset accelerate's state: it keeps precision and device for the lifetime of a process."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def computed_in(training: RecordedTraining) -> set[torch.dtype]:
    """Record the dtypes that the last backbone stage computes in, in training and evaluation."""
    dtypes: set[torch.dtype] = set()
    training.model.timm_model.layer4.register_forward_hook(lambda _, __, output: dtypes.add(output.dtype))
    return dtypes


def assert_float32(tensors: dict[str, Tensor]) -> None:
    kinds = {tensor.dtype for tensor in tensors.values()}
    assert kinds <= {torch.float32, torch.int64}, kinds  # int64: BatchNorm's number of batches


@pytest.mark.parametrize("phases", ["gradual", "all kept"])
def test_bf16_trains_and_the_weights_stay_float32(tmp_path: Path, phases: str) -> None:
    run = Run(str(tmp_path), phases, {"save_steps": 1}, accelerator=BF16)
    training = make_training(run)
    before, computed = snapshot(training.model), computed_in(training)
    training.run()
    # float32: the pass before the first phase, on a copy
    assert computed == {torch.float32, torch.bfloat16}
    assert moved(before, training.weights[max(training.weights)])
    newest = max((tmp_path / "checkpoints").iterdir())
    for tensors in (training.model.state_dict(), load_file(newest / WEIGHTS), load_file(newest / BEST)):
        assert_float32(tensors)
        assert all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values())
    for state in training.optimizer["state"].values():
        assert state["exp_avg"].dtype == torch.float32


def test_another_precision_than_the_launcher_is_refused(tmp_path: Path) -> None:
    run = Run(str(tmp_path), "transfer", {"mixed_precision": "no"}, accelerator=BF16)
    with pytest.raises(ConfigError, match=r"mixed_precision=.no. contradicts the launcher, which chose bf16: leave it"):
        make_training(run)


def test_bf16_is_not_float32_but_close_to_it(tmp_path: Path) -> None:
    """The first evaluation, all else equal."""
    runs = [Run(str(tmp_path / str(i)), "norms frozen", dropout=0, accelerator=a) for i, a in enumerate(({}, BF16))]
    exact, rounded = (train(run).state.log.history[0]["validation"]["loss"] for run in runs)
    assert exact != rounded
    assert rounded == pytest.approx(exact, rel=2e-2)


def test_the_trained_model_computes_in_float32(tmp_path: Path) -> None:
    """Accelerate's autocast is removed from the model after the last phase."""
    training = train(Run(str(tmp_path), "norms frozen", accelerator=BF16))
    computed = computed_in(training)
    training.model.eval()(pixel_values=torch.zeros(1, 3, 32, 32))
    assert computed == {torch.float32}


@pytest.mark.gpu
def test_fp16_on_a_gpu_resumes_with_its_loss_scale(tmp_path: Path) -> None:
    AcceleratorState._reset_state(reset_partial_state=True)
    run = Run(str(tmp_path), "all kept", {"save_steps": 1}, accelerator={"cpu": False, "mixed_precision": "fp16"})
    training = make_training(run)
    computed = computed_in(training)
    training.run()
    assert training.accelerator.device.type == "cuda"
    assert torch.float16 in computed
    assert_float32(training.model.state_dict())
    assert all(bool(torch.isfinite(tensor).all()) for tensor in training.model.state_dict().values())
    scale = training.accelerator.scaler.get_scale()
    other = make_training(run)
    other.restore(str(max((tmp_path / "checkpoints").iterdir())))
    other.run()
    assert other.accelerator.scaler.get_scale() == scale
