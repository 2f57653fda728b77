"""Likely mistakes on the command line: each is an error of one line that says what to write."""

import os
import re
from pathlib import Path

import pytest
from cli.runs import write_images

from hf_tl.cli import ERROR_STATUS, main
from hf_tl.config import StrategyConfig
from hf_tl.errors import ConfigError

CALLS = {
    # commands and flags
    "evalute out": "did you mean evaluate?",
    "version": "did you mean --version?",
    "--epochs 3 train": "expected a command before the flag --epochs: hf-tl train --epochs",
    "train --stratgy full": "unknown flag --stratgy; did you mean --strategy?",
    "train --resume auto": "unknown flag --resume; did you mean --resume_from_checkpoint?",
    "train --learning-rat 3": "unknown flag --learning-rat; did you mean --learning_rate?",
    "inspect --dataset images": "without a flag: hf-tl inspect DATASET [flags]",
    "predict --model model images": "without a flag: hf-tl predict MODEL PATH...",
    # values
    "train -o": "--output_dir needs a value, found none",
    "train --dataset images other": "unexpected argument 'other'; --dataset takes one value",
    "train --lr 0.1 0.2": "unexpected argument '0.2'; --lr takes one value",
    "train images": "did you mean --dataset images?",
    "train --lr abc": "--learning_rate takes a number above 0 or none, found abc",
    "train --epochs 0": "--num_train_epochs takes a number above 0 or none, found 0",
    "train --seed 1.5": "--seed takes an integer of at least 0 and of at most 4,294,967,295, found 1.5",
    "train --image_size 224x224": "--image_size takes an integer of at least 1 or none, found 224x224",
    "train --validation_fraction 20": "--validation_fraction takes a number above 0 and below 1, found 20",
    "train --strategy fine-tune": "found fine-tune; did you mean finetune?",
    "train --strategy finetuning": "found finetuning; did you mean finetune?",
    "train --strategy linear_probe": "found linear_probe; did you mean transfer?",
    "train --trainable_stages last": "--trainable_stages needs --strategy finetune, gradual or lora",
    "train --report_to nothing": "found nothing .*: choose from .*tensorboard.*, auto and none",
    "evaluate model --dataset images --split val": "found val; did you mean validation?",
    "cache clean": "action takes one of list, clear, found clean; did you mean clear?",
    "completion fish": "shell takes one of bash, zsh, found fish",
    "export model --format onxx": "did you mean onnx?",
    # missing arguments
    "evaluate model": "--dataset missing; write hf-tl evaluate MODEL --dataset DATASET [flags]",
    "predict model": "PATH... missing; write hf-tl predict MODEL PATH... [flags]",
    "compare model": "B missing; write hf-tl compare A B [flags]",
    "push model": "USER/NAME missing; write hf-tl push DIR USER/NAME [flags]",
    "pull user/name": "DIR missing; write hf-tl pull USER/NAME DIR [flags]",
    # models
    "train --dataset images --model images": "no model 'images': the folder has no config.json",
    "train --dataset images --model resnet50": "did you mean timm:resnet50?",
    "train --dataset images --model timm:rsnet50": "timm has no architecture 'rsnet50'; did you mean resnet50",
    "stages timm:resnet18 --trainable_stages layer9": "the stages are stem, layer1, layer2, layer3, layer4, head",
    "recommend --dataset images --model resnet50": "did you mean timm:resnet50?",
    "recommend --dataset images --weights file.bin": "expected one --weights file for each --model, found 1 files",
    "predict images images": "no model 'images': the folder has no config.json",
    "evaluate images --dataset images": "no model 'images': the folder has no config.json",
    "export images": "no model 'images': the folder has no config.json",
    "demo images": "no image classifier 'images': .*; name a trained model's folder, or a Hub id",
    "card images": "holds no run.json",
    "push images user/name": "not a complete saved model: .*; name the --output_dir of a finished training",
    # data
    "train --dataset nowhere": "give --dataset a local folder",
    "train --dataset images --label_column foo": "no column 'foo': the dataset has image, label; change --label_column",
    "train --dataset images --exclude_list no.csv": "--exclude_list no.csv: expected a CSV file .* found no such file",
    "train --dataset images --exclude_list images": "--exclude_list images: expected a CSV file .*, found a folder; ",
    "train --dataset images --inspection images": "write it with hf-tl inspect",
    "inspect images --weights file.bin": "--weights file.bin needs the --model that it is for",
    # files and folders
    "train --config no.yaml": "--config no.yaml: expected a YAML file of settings, found no such file; ",
    "train --config images": "--config images: expected a YAML file of settings, found a folder; correct the path",
    "train --config wrong.yaml": "has unknown keys: epoch, sed; did you mean seed?",
    "train --config damaged.yaml": "--config damaged.yaml: expected settings in YAML, found unusable .*expected",
    "train --phases no.yaml": "--phases no.yaml: expected a YAML file of phases, found no such file; correct the path",
    "train --phases images": "--phases images: expected a YAML file of phases, found a folder; correct the path",
    "train --phases wrong.yaml": "has no field epoch, sed; choose from",
    "train --recommendation images": "holds no strategy.json: name the --output_dir of an hf-tl recommend",
    "train --dataset images -o wrong.yaml": "--output_dir wrong.yaml cannot be created: wrong.yaml is a file",
    "train --dataset images -o earlier": "holds another run .*: name another folder, or .* --overwrite_output_dir",
    "train --resume_from_checkpoint nowhere -o out": "--resume_from_checkpoint auto",
    "train --resume_from_checkpoint auto": "add --output_dir",
    "train --dataset images --push_to_hub user/name": "log in with `hf auth login`, or set HF_TOKEN",
    "train --dataset images --push_to_hub name": "expected a repository USER/NAME, found 'name'",
}
"""Calls, and what their errors say (a text, or a regular expression)."""


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with images, files that are wrong, and the output of an earlier run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    write_images(tmp_path / "images", 8)
    (tmp_path / "wrong.yaml").write_text("sed: 1\nepoch: 2\n")
    (tmp_path / "damaged.yaml").write_text("seed: 1\nlearning_rate: [1,\n  2\n")
    (tmp_path / "earlier").mkdir()
    (tmp_path / "earlier" / "run.json").write_text("{}")
    return tmp_path


@pytest.mark.parametrize("call", CALLS)
def test_a_wrong_call_is_an_error_of_one_line_that_says_what_to_write(
    call: str, workplace: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(call.split())
    assert end.value.code == ERROR_STATUS
    lines = capfd.readouterr().err.splitlines()
    line, expected = lines[-1], CALLS[call]
    assert line.startswith("hf-tl")
    assert expected in line or re.search(expected, line), line
    assert not [other for other in lines[:-1] if not re.search(r": \d+% \(", other)], lines  # progress
    assert not os.path.exists("out")


def test_values_are_suggested_for_the_choices_of_python_too() -> None:
    with pytest.raises(ConfigError, match=r"found 'LP-FT'; did you mean finetune\?"):
        StrategyConfig(strategy="LP-FT")  # type: ignore[arg-type]


def test_short_names_of_flags_are_keys_of_a_yaml_file(workplace: Path) -> None:
    from hf_tl.flags import parse_run_config

    (workplace / "run.yaml").write_text("epochs: 3\nlr: 0.1\nbatch_size: 4\n")
    config = parse_run_config(["--config", "run.yaml"])
    assert (config.strategy.num_train_epochs, config.strategy.learning_rate) == (3, 0.1)
    assert config.training.per_device_train_batch_size == 4
