"""Augmentation of a user's own in whole runs: the same pixels in each way, record and card, and a resume."""

import os
import random
import signal
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from backbones.checkpoints import save_timm
from job.small_data import QUICK, backbone, make_dataset, write_folder
from PIL import Image
from torch.optim.optimizer import register_optimizer_step_post_hook
from trainer.strategy_trainers import make_args

import hf_tl
from hf_tl.cli import ERROR_STATUS, main
from hf_tl.errors import CheckpointError, ConfigError
from hf_tl.flags import parse_run_config
from hf_tl.record import read_record

FILE = """\
# rotations, and sometimes other colors
- RandomRotation: {degrees: 15, interpolation: bilinear}
- RandomApply:
    p: 0.5
    transforms:
      - ColorJitter: {brightness: 0.4}
- preprocessing
- RandomErasing: {p: 0.3}
"""
TEXT = (
    "[RandomRotation: {degrees: 15, interpolation: bilinear}, RandomApply: {p: 0.5, transforms: [ColorJitter: "
    "{brightness: 0.4}]}, preprocessing, RandomErasing: {p: 0.3}]"
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("augmentation")
    torch.manual_seed(0)
    save_timm(timm.create_model("test_resnet", num_classes=3), folder / "net")
    write_folder(make_dataset(24), folder / "images")
    (folder / "mine.yaml").write_text(FILE, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def by_command(place: Path) -> Any:
    words = ["--epochs", "2", "--per_device_train_batch_size", "8", "--report_to", "none"]
    augmentation = ["--augmentation", str(place / "mine.yaml"), "--feature_cache", "off", "--image_size", "32"]
    folder = str(place / "command")
    main(
        [
            "train",
            "--model",
            str(place / "net"),
            "--dataset",
            str(place / "images"),
            *words,
            *augmentation,
            "-o",
            folder,
        ]
    )
    return read_record(folder)


def train(place: Path, output: Path, augmentation: Any, **settings: Any) -> hf_tl.RunResult:
    options: dict[str, Any] = {**QUICK, "epochs": 2, "image_size": 32, "output_dir": str(output), **settings}
    return hf_tl.train(str(place / "net"), str(place / "images"), augmentation=augmentation, **options)


def turned(image: Image.Image) -> Image.Image:
    return image.rotate(random.uniform(-20, 20))


def test_the_record_holds_the_whole_list(by_command: Any) -> None:
    assert {phase.augmentation for phase in by_command.strategy.phases} == {TEXT}
    assert by_command.settings["augmentation"] == TEXT
    assert f"--augmentation '{TEXT}'" in by_command.command


def test_command_and_python_train_on_the_same_pixels(place: Path, by_command: Any, tmp_path: Path) -> None:
    [text] = {phase.augmentation for phase in by_command.strategy.phases}
    for number, value in enumerate((place / "mine.yaml", text)):
        record = train(place, tmp_path / str(number), value).record
        assert record.weights_digest == by_command.weights_digest
        assert record.strategy == by_command.strategy
    other = train(place, tmp_path / "other", "[RandomRotation: {degrees: 14, interpolation: bilinear}]").record
    assert other.weights_digest != by_command.weights_digest


@pytest.mark.parametrize("augmentation", [TEXT, turned], ids=["list", "function"])
def test_trainer_sees_the_pixels_of_the_loop(tmp_path: Path, augmentation: Any) -> None:
    strategy = hf_tl.Strategy.full(epochs=1, augmentation=augmentation)
    data = hf_tl.load_data(make_dataset())
    model, transforms = backbone(strategy)
    trainer = hf_tl.StrategyTrainer(model, make_args(tmp_path), strategy=strategy, data=data, transforms=transforms)
    views = hf_tl.TrainingViews(data.splits["train"], transforms.train, seed=0)
    plain = transforms.eval.over(data.splits["train"])
    for epoch, index in ((0, 0), (0, 5), (1, 5)):
        seen = trainer.train_dataset[0, epoch, index]["pixel_values"]
        assert torch.equal(seen, views[epoch, index]["pixel_values"])
        assert not torch.equal(seen, plain[index]["pixel_values"])
    assert not torch.equal(views[0, 5]["pixel_values"], views[1, 5]["pixel_values"])


def test_card_and_log_show_what_an_augmentation_consists_of(
    place: Path, by_command: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    card = (place / "command" / "README.md").read_text(encoding="utf-8")
    assert f"- augmentation of phase 1: `{TEXT}`" in card
    assert "augmentation RandomRotation, RandomApply, RandomErasing" in card
    preset = train(place, tmp_path / "preset", "light", horizontal_flip=False)
    line = "augmentation of phase 1: light [RandomResizedCrop: {scale: [0.25, 1.0]}, preprocessing]"
    assert f"Images    {line}\n" in capsys.readouterr().out
    card = (preset.output_dir / "README.md").read_text(encoding="utf-8")
    assert f"- {line.replace(': light', ': `light', 1)}`" in card


def test_a_function_is_named_in_the_record_and_the_model_loads_without_it(place: Path, tmp_path: Path) -> None:
    result = train(place, tmp_path / "out", turned)
    [name] = {phase.augmentation for phase in result.record.strategy.phases}
    assert name.startswith(f"python:{__name__}.turned@")
    assert "cannot rebuild" in (result.output_dir / "README.md").read_text(encoding="utf-8")
    _, transforms = hf_tl.load(result)
    assert transforms.eval(Image.new("RGB", (40, 40))).shape == (3, 32, 32)
    with pytest.raises(ConfigError, match="pass the function itself"):
        transforms.train(Image.new("RGB", (40, 40)))
    with pytest.raises(ConfigError, match="pass the function itself"):
        train(place, tmp_path / "again", str(name))
    assert hf_tl.evaluate(result, make_dataset()).accuracy is not None


@pytest.mark.parametrize(("augmentation", "workers"), [(TEXT, 0), (turned, 1)], ids=["list", "function, a worker"])
def test_a_resumed_run_ends_bit_for_bit_the_same(place: Path, tmp_path: Path, augmentation: Any, workers: int) -> None:
    settings = {"dataloader_num_workers": workers, "save_steps": 1}
    whole = train(place, tmp_path / "whole", augmentation, **settings)
    count = [0]

    def stop(*_: object) -> None:
        count[0] += 1
        if count[0] == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    hook = register_optimizer_step_post_hook(stop)
    try:
        with pytest.raises(SystemExit):
            train(place, tmp_path / "stopped", augmentation, **settings)
    finally:
        hook.remove()
    random.seed(1)
    for other in (TEXT.replace("15", "16"), Image.Image.copy, "light"):
        with pytest.raises(CheckpointError, match="strategy"):
            train(place, tmp_path / "stopped", other, resume_from_checkpoint="auto", **settings)
    resumed = train(place, tmp_path / "stopped", augmentation, resume_from_checkpoint="auto", **settings)
    assert resumed.record.weights_digest == whole.record.weights_digest
    assert [entry["train_loss"] for entry in resumed.record.history] == [
        entry["train_loss"] for entry in whole.record.history
    ]


def test_a_mistake_ends_the_command_before_anything_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.yaml").write_text("- RandomRotaton: {degrees: 5}")
    with pytest.raises(SystemExit) as end:
        main(["train", "--dataset", "no/such/folder", "--augmentation", str(tmp_path / "mine.yaml")])
    assert end.value.code == ERROR_STATUS
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("hf-tl train: --augmentation: transform 1: torchvision.transforms.v2 has no transform")
    with pytest.raises(SystemExit):
        main(["train", "--dataset", "no/such/folder", "--augmentation", str(tmp_path / "none.yaml")])
    assert "none.yaml cannot be read" in capsys.readouterr().err


def test_phases_and_a_config_file_hold_lists_too(place: Path, tmp_path: Path) -> None:
    (tmp_path / "phases.yaml").write_text(
        f"- {{trainable_stages: 1, epochs: 1, augmentation: {place / 'mine.yaml'}}}\n"
        "- {trainable_stages: all, epochs: 1, augmentation: [RandomInvert]}\n"
    )
    strategy = hf_tl.Strategy.from_yaml(tmp_path / "phases.yaml")
    assert [phase.augmentation for phase in strategy.phases] == [TEXT, "[RandomInvert, preprocessing]"]
    (tmp_path / "run.yaml").write_text(f"strategy: full\naugmentation:\n{FILE}")
    assert parse_run_config(["--config", str(tmp_path / "run.yaml")]).strategy.augmentation == TEXT


def test_features_of_a_list_are_cached_by_its_content_and_those_of_a_function_are_not(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = {"feature_cache": "on", "feature_cache_dir": str(tmp_path / "cache"), "cached_views": 2}

    def entries(name: str, augmentation: Any) -> set[str]:
        hf_tl.train(
            str(place / "net"), str(place / "images"), augmentation=augmentation, epochs=2, image_size=32,
            output_dir=str(tmp_path / name), **{**QUICK, **cache},
        )  # fmt: skip
        folder = tmp_path / "cache"
        return {path.name for path in folder.iterdir() if path.is_dir()} if folder.is_dir() else set()

    assert entries("function", turned) == set()
    assert "is a Python function, whose content the cache cannot identify" in capsys.readouterr().out
    first = entries("first", "[RandomPerspective: {fill: 0}]")
    assert first
    other = entries("other", "[RandomPerspective: {fill: 9}]")
    assert len(other - first) == 2, "two views; the evaluation images are the same"
