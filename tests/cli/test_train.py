"""`hf-tl train`: files of a run, backbones, processes, and arguments that are refused."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from backbones.checkpoints import save_transformers, tiny_resnet, tiny_vit
from cli.runs import COLORS, REPOSITORY, SMALL, TINY, fails, write_images
from hub.client import run_python
from safetensors.torch import load_file
from transformers import PreTrainedModel

from hf_tl.cli import main
from hf_tl.errors import ConfigError
from hf_tl.flags import parse_run_config
from hf_tl.record import read_record


def test_a_run_leaves_a_model_with_its_record_card_and_figures(trained: Path) -> None:
    names = {path.name for path in trained.iterdir()}
    figures = {"stages.png", "history.png", "confusion.png", "reliability.png"}
    assert names == {"config.json", "model.safetensors", "README.md", "run.json", "learned_from.npz", *figures}
    record = read_record(trained)
    assert record.measured["test"].metrics["accuracy"] >= 0.9
    assert [phase.trained_stages for phase in record.phases] == [("head",), ("layer4", "head")]
    assert all(phase.proof.holds for phase in record.phases)
    assert record.phases[0].proof.before != record.phases[1].proof.before  # layer4 is only in the first
    assert record.data.labels == ("blue", "green", "red")
    assert {name: split.images for name, split in record.data.splits.items()} == {
        "train": 64,
        "validation": 8,
        "test": 18,
    }
    assert [entry["epoch"] for entry in record.history] == [1, 2, 3, 4, 5, 6]
    assert record.command.startswith("hf-tl train --model timm:test_resnet")
    assert str(trained.parent) not in (trained / "run.json").read_text() + (trained / "README.md").read_text()


def test_a_trained_model_can_be_trained_further(trained: Path, colors: Path, tmp_path: Path) -> None:
    """The same labels keep the head: further training starts where the first ended."""
    rest = ["--num_train_epochs", "1", "--learning_rate", "1e-6", "--output_dir", str(tmp_path / "more")]
    main(["train", "--model", str(trained), "--dataset", str(colors), *SMALL, *rest])
    record = read_record(tmp_path / "more")
    assert record.measured["test"].metrics["accuracy"] >= 0.9
    assert record.origin.base_model is None
    assert (record.origin.kind, record.origin.head) == ("trained", "kept")


@pytest.mark.parametrize("make", [tiny_vit, tiny_resnet])
def test_a_transformers_backbone_is_trained_and_loads_in_plain_transformers(
    make: Callable[[], PreTrainedModel], colors: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = save_transformers(make(), tmp_path / "base")
    flags = ["--strategy", "finetune", "--num_train_epochs", "8", "--augmentation", "none", *SMALL]
    rates = ["--learning_rate", "0.1", "--backbone_learning_rate", "0.01", "--per_device_train_batch_size", "8"]
    folder = tmp_path / "out"
    main(["train", "--model", str(base), "--dataset", str(colors), *flags, *rates, "--output_dir", str(folder)])
    record = read_record(folder)
    assert record.model.library == "transformers"
    assert record.measured["test"].metrics["accuracy"] >= 0.9
    images = [str(colors / "test" / name / "0.png") for name in COLORS]
    code = f"""
import json
from transformers import pipeline
classify = pipeline("image-classification", model={str(folder)!r})
print(json.dumps([ranking[0]["label"] for ranking in classify({images!r})]))
"""
    assert json.loads(run_python(code, "http://127.0.0.1:9", tmp_path).splitlines()[-1]) == list(COLORS)


def test_two_processes_give_the_metrics_of_one_process(colors: Path, tmp_path: Path) -> None:
    """The same global batch on two processes (gloo): the test images are counted once, the weights agree."""
    records = {}
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        flags = [*TINY, "--dataset", str(colors), "--num_train_epochs", "2", "--augmentation", "light"]
        flags += ["--per_device_train_batch_size", str(10 // processes)]
        launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(processes)]
        command = [*launcher, "--master_port", str(29600 + os.getpid() % 300), str(REPOSITORY / "scripts" / "train.py")]
        environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [*command, *flags, "--output_dir", str(folder)],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        assert done.stdout.count("Test accuracy") == 1
        records[processes] = read_record(folder)
    assert [records[n].hyperparameters["processes"] for n in (1, 2)] == [1, 2]
    single, double = records[1], records[2]
    assert double.measured["test"].metrics["accuracy"] == single.measured["test"].metrics["accuracy"]
    judged = [record.measured["test"] for record in (single, double)]
    assert judged[0].confusion == judged[1].confusion
    # images keep the order of the split, for any number of processes
    assert [m["image"] for m in judged[0].mistakes] == [m["image"] for m in judged[1].mistakes]
    assert double.measured["test"].metrics["loss"] == pytest.approx(single.measured["test"].metrics["loss"], rel=1e-4)
    assert [entry["train_loss"] for entry in double.history] == [
        pytest.approx(entry["train_loss"], rel=1e-4) for entry in single.history
    ]
    weights = [load_file(tmp_path / str(processes) / "model.safetensors") for processes in (1, 2)]
    for name, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][name], tensor, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model", "timm:resnet51"], "did you mean resnet"),
        (["--model", "timm:resnet50.nothing"], "available tags: a1_in1k"),
        (["--model", "no/such-model-here"], "a model is a Hub id"),
        (["--weights", "nowhere.safetensors", "--model", "timm:test_resnet", "--pretrained", "true"], "no such file"),
        (["--dataset", "./nowhere"], "nowhere"),
        (["--strategy", "finetune", "--trainable_stages", "70"], "expected 1 to 6 trainable stages"),
        (["--strategy", "finetune", "--trainable_stages", "1"], "at least 2"),
        (["--trainable_stages", "2"], "needs --strategy finetune, gradual or lora, found --strategy transfer"),
        (["--per_device_train_batch_size", "0"], "at least 1"),
        (["--num_train_epochs", "-1"], "--num_train_epochs takes a number above 0 or none, found -1"),
        (["--report_to", "nonsense"], "--report_to takes an installed experiment tracker, found nonsense"),
    ],
)
def test_wrong_flags_are_refused_and_leave_no_folder(
    flags: list[str], message: str, colors: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    error = fails(["train", *TINY, "--dataset", str(colors), "--output_dir", str(out), *flags], capsys)
    assert message in error
    assert len(error.splitlines()) <= 8
    assert not out.exists()


def test_a_folder_with_a_run_is_not_overwritten(
    trained: Path, colors: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (trained / "model.safetensors").read_bytes()
    error = fails(["train", *TINY, "--dataset", str(colors), "--output_dir", str(trained)], capsys)
    assert "holds another run" in error
    assert "--overwrite_output_dir" in error
    assert (trained / "model.safetensors").read_bytes() == before


def test_damaged_images_are_named_before_training(
    colors: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_images(tmp_path / "bad" / "train", 12).parent
    write_images(folder / "test", 3)
    good = (folder / "train" / "red" / "0.png").read_bytes()
    (folder / "train" / "red" / "0.png").write_bytes(good[: len(good) // 2])
    flags = [*TINY, "--dataset", str(folder), "--num_train_epochs", "1"]
    error = fails(["train", *flags, "--output_dir", str(tmp_path / "out")], capsys)
    assert "0.png" in error
    assert "--skip_bad_images" in error
    assert not (tmp_path / "out").exists()
    main(["train", *flags, "--skip_bad_images", "--output_dir", str(tmp_path / "out")])
    assert "0.png" in read_record(tmp_path / "out").data.notes[-1]


def test_flags_override_the_yaml_file(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("strategy: full\nseed: 7\npretrained: false\nlearning_rate: 1e-4\n")
    config = parse_run_config(["--config", str(tmp_path / "run.yaml"), "--seed", "8"])
    assert (config.strategy.strategy, config.training.seed, config.model.pretrained) == ("full", 8, False)
    assert config.strategy.learning_rate == pytest.approx(1e-4)


def test_unknown_yaml_keys_are_named(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("strategi: full\nseed: 7\n")
    with pytest.raises(ConfigError, match="strategi"):
        parse_run_config(["--config", str(tmp_path / "run.yaml")])
