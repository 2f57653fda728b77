"""Phases and strategies: ranges of their values, records and YAML."""

import json
import math
import re
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from hf_tl.errors import ConfigError
from hf_tl.strategy import Augmentation, BatchNorm, ClassWeights, Norm, Phase, Strategy

positive = st.floats(1e-9, 1e9)
share = st.floats(0, 1, exclude_max=True)
names = st.text(min_size=1, max_size=5)
lengths = st.one_of(
    st.fixed_dictionaries({"epochs": positive}), st.fixed_dictionaries({"steps": st.integers(1, 10**9)})
)
phases = st.builds(
    lambda length, **recipe: Phase(**length, **recipe),
    lengths,
    trainable_stages=st.one_of(st.integers(1, 99), names, st.lists(names, min_size=1).map(tuple)),
    learning_rate=positive,
    backbone_learning_rate=st.none() | positive,
    layer_decay=st.floats(0, 1, exclude_min=True),
    norm=st.sampled_from(get_args(Norm)),
    weight_decay=st.floats(0, 10),
    warmup_ratio=share,
    augmentation=st.sampled_from(get_args(Augmentation)),
    patience=st.none() | st.integers(1, 9),
    label_smoothing=share,
    batch_norm=st.sampled_from(get_args(BatchNorm)),
    mixup=st.just(0.0) | st.floats(0.01, 9),
    cutmix=st.just(0.0) | st.floats(0.01, 9),
    ema_decay=st.none() | st.floats(0, 1, exclude_min=True, exclude_max=True),
    class_weights=st.sampled_from(get_args(ClassWeights)),
    balanced_sampling=st.booleans(),
)


@given(st.lists(phases, min_size=1, max_size=4), names, st.booleans())
def test_any_strategy_comes_back_from_json_and_yaml(phases: list[Phase], name: str, from_scratch: bool) -> None:
    strategy = Strategy(name, tuple(phases), from_scratch)
    record = json.loads(json.dumps(strategy.to_record()))
    assert Strategy.from_record(record) == strategy
    assert set(record["phases"][0]) == {field.name for field in fields(Phase)}
    inline = yaml.safe_dump(record["phases"], default_flow_style=True, width=math.inf)
    assert Strategy.from_yaml(inline).phases == strategy.phases


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("trainable_stages", 0),
        ("trainable_stages", ()),
        ("epochs", 0),
        ("learning_rate", 0),
        ("backbone_learning_rate", 0),
        ("layer_decay", 1.1),
        ("norm", "no"),
        ("weight_decay", -1),
        ("warmup_ratio", 1),
        ("augmentation", "heavy"),
        ("patience", 0),
        ("label_smoothing", 1),
        ("batch_norm", "no"),
        ("mixup", 0.001),
        ("cutmix", -0.1),
        ("ema_decay", 1.0),
        ("class_weights", "no"),
        ("epochs", math.inf),
        ("learning_rate", math.nan),
        ("learning_rate", "1"),
        ("weight_decay", True),
        ("patience", 2.0),
        ("balanced_sampling", 1),
    ],
)
def test_values_out_of_range_are_refused(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"^{name} of a phase takes .*, found {re.escape(repr(value))}(; did .+)?$"):
        Phase(**{"trainable_stages": 1, "epochs": 1.0, name: value})


@pytest.mark.parametrize("length", [{}, {"epochs": 1, "steps": 3}])
def test_a_phase_has_one_length(length: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="either epochs or steps"):
        Phase(1, **length)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[{trainable_stages: 1, epoch: 3}]", "phase 1 of 1: a phase has no field epoch; choose from augmentation"),
        ("[{trainable_stages: 1, epochs: 1}, {epochs: 1}]", "phase 2 of 2: a phase needs trainable_stages"),
        ("[{trainable_stages: 1, epochs: ten}]", "epochs of a phase takes a number above 0 or none, found ten"),
        ("[{trainable_stages: 1.5, epochs: 1}]", r"trainable_stages of a phase takes a number of stages .*, found 1.5"),
        ("[{trainable_stages: [1, 2], epochs: 1}]", "trainable_stages of a phase takes"),
        ("[{trainable_stages: true, epochs: 1}]", "found True"),
        ("[{trainable_stages: 1, steps: 2.5}]", "steps of a phase takes an integer of at least 1 or none, found 2.5"),
        ("[{trainable_stages: 1, epochs: 1, balanced_sampling: 1}]", "takes true or false, found 1"),
        (
            "[{trainable_stages: 1, epochs: 1, norm: [1]}]",
            r"norm of a phase takes one of frozen, affine, adapt, found \[1\]",
        ),
        (
            "[{trainable_stages: 1, epochs: -1}]",
            "phase 1 of 1: epochs of a phase takes a number above 0 or none, found -1",
        ),
        ("[3]", "a phase must map field names to values, found 3"),
        ("[]", "at least one phase"),
        ("[{", "expected a list of phases in YAML, found unusable content"),
    ],
)
def test_phases_that_cannot_be_used(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Strategy.from_yaml(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("phasen: []", "a strategy has no field phasen"),
        ("phases: 3", "must be a list, found 3"),
        ("from_scratch: maybe\nphases: [{trainable_stages: 1, steps: 1}]", "true or false, found 'maybe'"),
        ("3", "must be a list of phases, or a mapping with phases, found int"),
    ],
)
def test_files_that_cannot_be_used(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "phases.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        Strategy.from_yaml(tmp_path / "phases.yaml")


def test_a_missing_file_is_named() -> None:
    with pytest.raises(
        ConfigError,
        match=r"phases=.nowhere\.yaml.: expected a YAML file of phases, found no such file; correct the path",
    ):
        Strategy.from_yaml("nowhere.yaml")


def test_rates_may_be_written_as_yaml_reads_text() -> None:
    """YAML 1.1 reads `3e-4` as text."""
    assert Strategy.from_yaml("[{trainable_stages: 1, steps: 1, learning_rate: 3e-4}]").phases[0].learning_rate == 3e-4
