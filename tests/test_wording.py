"""Messages name flags on the command line and keywords in Python."""

import pytest

from hf_tl.errors import ConfigError
from hf_tl.reporting.console import say
from hf_tl.wording import flags_meant, worded

MESSAGES = {
    "--output_dir runs/a holds another run: replace it with --overwrite_output_dir": (
        'output_dir="runs/a" holds another run: replace it with overwrite_output_dir=True'
    ),
    "--output_dir of a run": "output_dir of a run",
    "leave out --no_pretrained": "leave out pretrained=False",
    "--horizontal_flip false, --refit true": "horizontal_flip=False, refit=True",
    "--streaming takes true or false, found 3": "streaming takes true or false, found 3",
    "set --patience 3 or --mixup 0 --cutmix 0": "set patience=3 or mixup=0, cutmix=0",
    "--max_grad_norm none": "max_grad_norm=None",
    "needs --strategy auto, found --strategy full": 'needs strategy="auto", found strategy="full"',
    "train longer (--num_train_epochs)": "train longer (epochs)",
    "--trainable_stages N trains N stages": "trainable_stages=N trains N stages",
    "set --split_folders train=A,test=B (or none)": 'set split_folders="train=A,test=B" (or none)',
    "--split_folders (train=A)": "split_folders (train=A)",
    "found --model 'a b'": "found model='a b'",
    "one of the two flags --refit and --streaming": "one of the two arguments refit=True and streaming=True",
    "--int8 needs --format onnx": "int8=True needs format onnx",
    "run hf-tl card DIR --quiet, or --refit": "run hf-tl card DIR --quiet, or refit=True",
    "add --use_fsdp to accelerate launch --cpu": "add --use_fsdp to accelerate launch --cpu",
    "a file my--seed.png -- no flag": "a file my--seed.png -- no flag",
}


@pytest.mark.parametrize("message", MESSAGES)
def test_flags_become_keywords_in_python(message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert worded(message) == worded(worded(message)) == str(ConfigError(message)) == MESSAGES[message]
    say(None, message)
    assert capsys.readouterr().out == f"{MESSAGES[message]}\n"


@pytest.mark.parametrize("message", MESSAGES)
def test_flags_stay_on_the_command_line(message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with flags_meant():
        say(None, message)
        assert str(ConfigError(message)) == message
    assert capsys.readouterr().out == f"{message}\n"
    assert str(ConfigError(message)) == MESSAGES[message]
