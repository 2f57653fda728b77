"""Flags of all commands: their ranges and types, written out in full, from the command line, YAML and Python."""

import dataclasses
import math
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from hf_tl.cli import COMMANDS, ERROR_STATUS, main
from hf_tl.config import DataConfig, HubConfig, ModelConfig, StrategyConfig, TrainingConfig
from hf_tl.errors import ConfigError
from hf_tl.flags import GROUPS, parse_run_config
from hf_tl.phase import Phase
from hf_tl.ranges import Domain, domains
from hf_tl.tuning import LoRA
from hf_tl.wording import flags_meant

REPOSITORY = Path(__file__).parents[1]


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command that must fail with a one-line error."""
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == ERROR_STATUS
    [line] = capsys.readouterr().err.splitlines()
    return line


BAD = {
    "max_grad_norm": ["0", "-1", "-1e-3", "inf", "nan", "x"],
    "learning_rate": ["-1", "0", "-inf", "nan"],
    "validation_fraction": ["1.5", "0", "1"],
    "test_fraction": ["-0.1", "1"],
    "num_train_epochs": ["0", "-1", "1e400"],
    "cpu_threads": ["0", "1.5"],
    "image_size": ["0", "-224"],
    "in_chans": ["0"],
    "per_device_train_batch_size": ["0", "-3", "8.0"],
    "seed": ["-1", "4294967296", "x", "1.0"],
    "feature_cache_gb": ["0", "inf"],
    "save_steps": ["0"],
    "save_total_limit": ["-1"],
    "patience": ["0"],
    "mixup": ["0.001", "-1"],
    "ema_decay": ["1", "-0.1"],
    "label_smoothing": ["1"],
    "warmup_ratio": ["1"],
    "layer_decay": ["0", "1.1"],
    "weight_decay": ["-1"],
    "augmentation": ["heavy", ""],
    "strategy": ["ful"],
    "feature_cache": ["of"],
    "pretrained": ["maybe"],
    "trainable_stages": ["0", "-3", ""],
    "output_dir": [""],
}


@pytest.mark.parametrize(("flag", "value"), [(flag, value) for flag, values in BAD.items() for value in values])
def test_a_value_out_of_range_is_named_with_the_range(
    flag: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    domain = next(domains(owner)[flag] for owner in GROUPS if flag in domains(owner))
    expected = f"hf-tl train: --{flag} takes {domain}, found {value or repr(value)}"
    advice = domain.suggestion(value) or "; see hf-tl train --help"
    assert refused(["train", f"--{flag}", value], capsys) == expected + advice


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["recommend", "--dataset", "digits", "--max_images", "0"], "--max_images takes an integer of at least 1"),
        (["recommend", "--dataset", "digits", "--image_size", "0"], "--image_size takes an integer of at least 1"),
        (["recommend", "--dataset", "digits", "--seed", "-1"], "--seed takes an integer of at least 0"),
        (
            ["recommend", "--dataset", "d", "--feature_cache_gb", "nan"],
            "--feature_cache_gb takes a number above 0",
        ),
        (["predict", "model", "image", "--top_k", "0"], "--top_k takes an integer of at least 1, found 0"),
        (["evaluate", "model", "--dataset", "d", "--batch_size", "0"], "--batch_size takes an integer of at least 1"),
        (["evaluate", "model", "--dataset", "d", "--split", "tset"], "--split takes one of train, validation, test"),
        (["compare", "a", "b", "--batch_size", "-1"], "--batch_size takes an integer of at least 1, found -1"),
        (
            ["demo", "model", "--server_port", "99999"],
            "--server_port takes an integer of at least 1 and of",
        ),
        (
            ["export", "model", "--format", "onxx"],
            "--format takes one of onnx, openvino, torchscript, torch_export, executorch",
        ),
        (["stages", "timm:resnet18", "--trainable_stages", "0"], "--trainable_stages takes a number of stages"),
        (["evaluate", "model"], "--dataset missing; write hf-tl evaluate MODEL --dataset DATASET [flags]"),
        (["cache", "lsit"], "action takes one of list, clear, found lsit; did you mean list?"),
        (["push", "folder"], "USER/NAME missing; write hf-tl push DIR USER/NAME [flags]"),
        (["card", "folder", "other"], "unexpected argument 'other'"),
        (["train", "other"], "unexpected argument 'other'; did you mean --dataset other?"),
        (["train", "--seed"], "--seed needs a value, found none"),
    ],
)
def test_other_commands_have_ranges_too(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    error = refused(words, capsys)
    assert error.startswith(f"hf-tl {words[0]}: {message}"), error


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_takes_an_unknown_or_a_shortened_flag(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([command, "--help-all" if command == "train" else "--help"])
    flags = set(re.findall(r"--\w+", capsys.readouterr().out)) - {"--help"}
    assert refused([command, "--nonsense"], capsys) == (
        f"hf-tl {command}: unknown flag --nonsense; see hf-tl {command} --help"
    )
    for flag in flags:
        if flag[:-1] not in flags:
            message = refused([command, flag[:-1], "1"], capsys)
            assert message.startswith(f"hf-tl {command}: unknown flag {flag[:-1]}; did you mean --")


def test_the_flag_that_was_meant_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(["train", "--conf", "x.yaml"], capsys) == (
        "hf-tl train: unknown flag --conf; did you mean --config?"
    )
    assert refused(["train", "--lerning-rate=1"], capsys).endswith("did you mean --learning_rate?")
    assert refused(["recommend", "--datset", "digits"], capsys).endswith("did you mean --dataset?")


def test_a_flag_given_twice_counts_as_given_last(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("seed: 5\nfeature_cache: off\npretrained: false\n")
    assert parse_run_config(["--seed", "1", "--seed=2"]).training.seed == 2
    both = parse_run_config(["--seed", "1", "--config", str(tmp_path / "run.yaml"), "--seed", "3"])
    assert (both.training.seed, both.training.feature_cache, both.model.pretrained) == (3, "off", False)
    assert parse_run_config(["--no-pretrained", "--pretrained"]).model.pretrained
    assert not parse_run_config(["--pretrained", "--no_pretrained"]).model.pretrained


@pytest.mark.parametrize(("word", "value"), [("none", None), ("NONE", None), ("0.5", 0.5), ("2", 2.0)])
def test_clipping_can_be_turned_off(word: str, value: float | None) -> None:
    assert parse_run_config(["--max_grad_norm", word]).training.max_grad_norm == value


def test_values_that_look_like_flags() -> None:
    config = parse_run_config(["--card_limits", "-- not for cats", "--card_intended_use=--seed 3"])
    assert (config.hub.card_limits, config.hub.card_intended_use) == ("-- not for cats", "--seed 3")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("conf: x", "has unknown keys: conf"),
        ("seed: 1\nseed: 2", "expected each name once, found seed twice in line 1"),
        ("seed: [1, 2]", r"seed takes an integer .*, found \[1, 2\]"),
        ("seed: true", "seed takes an integer .*, found True"),
        ("seed: 1.5", "seed takes an integer .*, found 1.5"),
        ("learning_rate: .nan", "learning_rate takes a number above 0 or none, found nan"),
        ("learning_rate: {a: 1}", "learning_rate takes a number"),
        ("pretrained: 3", "pretrained takes true or false, found 3"),
        ("dataset: 2024_01", "dataset takes text, found 202401"),
        ("output_dir: off", "output_dir takes text, found False"),
        ("label_column: [cat, dog]", "label_column takes text"),
        ("augmentation: heavy", "augmentation takes one of none, light"),
        ("3", "must map names to values"),
        ("a: [", "expected settings in YAML, found unusable content"),
    ],
)
def test_yaml_is_checked_as_flags_are(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        parse_run_config(["--config", str(tmp_path / "run.yaml")])


def test_yaml_says_what_flags_say(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(
        "seed: 3\nlearning_rate: 3e-4\nfeature_cache: on\nstrategy: finetune\ntrainable_stages: [layer3, layer4]\n"
        "max_grad_norm: none\nbalanced_sampling: true\npatience:\n"
    )
    config = parse_run_config(["--config", str(tmp_path / "run.yaml")])
    assert (config.training.seed, config.strategy.learning_rate, config.training.feature_cache) == (3, 3e-4, "on")
    assert config.strategy.trainable_stages == ("layer3", "layer4")
    assert config.strategy.balanced_sampling
    assert config.training.max_grad_norm is None


@pytest.mark.parametrize(
    ("owner", "values"),
    [
        (TrainingConfig, {"seed": "3"}),
        (TrainingConfig, {"max_grad_norm": "1"}),
        (TrainingConfig, {"max_grad_norm": True}),
        (TrainingConfig, {"seed": True}),
        (TrainingConfig, {"seed": 1.0}),
        (TrainingConfig, {"feature_cache_gb": math.nan}),
        (TrainingConfig, {"keep_memory": 1}),
        (TrainingConfig, {"output_dir": 3}),
        (TrainingConfig, {"feature_cache": "never"}),
        (TrainingConfig, {"per_device_eval_batch_size": None}),
        (ModelConfig, {"model": ["a"]}),
        (ModelConfig, {"image_size": 224.0}),
        (DataConfig, {"validation_fraction": 1}),
        (DataConfig, {"streaming": "yes"}),
        (StrategyConfig, {"strategy": "ful"}),
        (StrategyConfig, {"trainable_stages": ()}),
        (StrategyConfig, {"trainable_stages": (1, 2)}),
        (StrategyConfig, {"learning_rate": math.inf}),
        (HubConfig, {"hub_private": "true"}),
    ],
)
def test_python_is_checked_as_flags_are(owner: type, values: Mapping[str, Any]) -> None:
    [(name, value)] = values.items()
    shown = {"num_train_epochs": "epochs"}.get(name, name)
    with pytest.raises(
        ConfigError, match=rf"^{shown} takes .+, found {re.escape(repr(value))}(; did you mean full\?)?$"
    ):
        owner(**values)
    with flags_meant(), pytest.raises(ConfigError, match=rf"^--{name} takes .+, found"):
        owner(**values)


def test_paths_are_text(tmp_path: Path) -> None:
    assert TrainingConfig(output_dir=tmp_path).output_dir == str(tmp_path)  # type: ignore[arg-type]


@pytest.mark.parametrize("owner", [*GROUPS, Phase])
def test_every_field_declares_what_it_takes(owner: type) -> None:
    """A number without a range, or a type that no flag can express, would not be checked."""
    for field in dataclasses.fields(owner):
        domain = domains(owner)[field.name]
        assert set(domain.kinds) <= {int, float, str, bool, tuple, LoRA}
        limits = {key for key in ("at_least", "above", "at_most", "below") if getattr(domain, key) is not None}
        assert bool(limits) == bool({int, float} & set(domain.kinds)), field.name
        if field.default is not dataclasses.MISSING:
            assert domain.check(field.default) == field.default


def test_flags_and_phases_have_one_range() -> None:
    own = {"ema_decay"}  # 0 means none, for the flag
    for name in domains(StrategyConfig).keys() & domains(Phase).keys() - own:
        flag, phase = domains(StrategyConfig)[name], domains(Phase)[name]
        assert dataclasses.replace(flag, is_optional=phase.is_optional) == phase


def test_a_range_in_words() -> None:
    assert str(Domain((int,), at_least=1, at_most=9)) == "an integer of at least 1 and of at most 9"
    assert str(Domain((float,), is_optional=True, above=0)) == "a number above 0 or none"


def test_a_mistake_is_found_before_libraries_are_loaded() -> None:
    code = "import sys; from hf_tl.cli import main\ntry: main(['train', '--max_grad_norm', '0'])\n"
    code += "finally: print([name for name in ('torch', 'transformers', 'timm') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (ERROR_STATUS, "[]\n")
