"""Flags of a strategy: forms of stages, and flags that exclude each other."""

import shlex
from typing import Any

import pytest

from hf_tl.card.settings import describe_command
from hf_tl.errors import ConfigError
from hf_tl.flags import parse_run_config
from hf_tl.wording import flags_meant


@pytest.mark.parametrize("stages", ["layer3", ("layer2", "layer3"), "all", "re:layer3", 3])
def test_finetune_takes_every_form_of_stages(stages: Any) -> None:
    words = ["--strategy", "finetune", "--trainable_stages", ",".join(stages) if isinstance(stages, tuple) else stages]
    config = parse_run_config(list(map(str, words)))
    assert [phase.trainable_stages for phase in config.strategy.build(1).phases] == [1, stages]
    assert parse_run_config(shlex.split(describe_command(config))[2:]).strategy == config.strategy


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--learning_rate", "1"], "leave out --learning_rate, or put"),
        (["--strategy", "full", "--trainable_stages", "2"], "leave out --trainable_stages, --strategy"),
        (["--find_learning_rate"], "leave out --find_learning_rate"),
        (["--balanced_sampling"], "leave out --balanced_sampling"),
    ],
)
def test_phases_exclude_other_flags_of_a_strategy(flags: list[str], message: str) -> None:
    config = parse_run_config(["--phases", "[{trainable_stages: 1, epochs: 1}]", *flags])
    with flags_meant(), pytest.raises(ConfigError, match=message):
        config.strategy.build()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--find_learning_rate", "--learning_rate", "1"], "both set the rate of the head"),
        (["--find_learning_rate", "--strategy", "scratch"], "scratch has none"),
        (["--strategy", "gradual", "--trainable_stages", "1"], "gradual trains the head and at least one more stage"),
        (["--strategy", "full", "--trainable_stages", "2"], "finetune, gradual or lora"),
        (
            ["--strategy", "gradual", "--trainable_stages", "layer3"],
            "gradual must be a number.*list the phases with --phases",
        ),
        (["--strategy", "gradual", "--trainable_stages", "all"], "Leave it out"),
        (["--strategy", "finetune", "--trainable_stages", "head"], "at least one more stage"),
    ],
)
def test_flags_that_do_not_go_together(flags: list[str], message: str) -> None:
    with flags_meant(), pytest.raises(ConfigError, match=message):
        parse_run_config(flags).strategy.build()
