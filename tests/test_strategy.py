"""Phases and strategies: their ranges, records and YAML, the defaults by size, and a run of each."""

import json
import math
import os
import re
import shlex
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
import yaml
from cli.runs import REPOSITORY, TINY, write_images
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from hf_tl.card.settings import describe_command
from hf_tl.cli import ERROR_STATUS, main
from hf_tl.config import StrategyConfig, StrategyName
from hf_tl.errors import ConfigError
from hf_tl.flags import parse_run_config
from hf_tl.recipes import SIZES, recipe_for
from hf_tl.record import read_record
from hf_tl.strategy import Augmentation, BatchNorm, ClassWeights, Norm, Phase, Strategy
from hf_tl.trainer.trainer import StrategyCallback

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
def test_values_out_of_range_are_told(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"^{name} of a phase takes .*, found {re.escape(repr(value))}$"):
        Phase(**{"trainable_stages": 1, "epochs": 1.0, name: value})


@pytest.mark.parametrize("length", [{}, {"epochs": 1, "steps": 3}])
def test_a_phase_has_one_length(length: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="epochs or steps, one of them"):
        Phase(1, **length)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[{trainable_stages: 1, epoch: 3}]", "phase 1 of 1: a phase has no epoch; it has augmentation"),
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
        ("[3]", "a phase maps names to values, found 3"),
        ("[]", "has no phase"),
        ("[{", "cannot be read"),
    ],
)
def test_phases_that_cannot_be_used(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Strategy.from_yaml(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("phasen: []", "a strategy has no phasen"),
        ("phases: 3", "are a list, found 3"),
        ("from_scratch: maybe\nphases: [{trainable_stages: 1, steps: 1}]", "true or false, found 'maybe'"),
        ("3", "must be a list of phases, found int"),
    ],
)
def test_files_that_cannot_be_used(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "phases.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        Strategy.from_yaml(tmp_path / "phases.yaml")


def test_a_missing_file_is_named() -> None:
    with pytest.raises(ConfigError, match=r"--phases nowhere\.yaml cannot be read"):
        Strategy.from_yaml("nowhere.yaml")


def test_rates_may_be_written_as_yaml_reads_text() -> None:
    """YAML 1.1 reads `3e-4` as text."""
    assert Strategy.from_yaml("[{trainable_stages: 1, steps: 1, learning_rate: 3e-4}]").phases[0].learning_rate == 3e-4


@pytest.mark.parametrize("stages", [1, 2, 5, None])
@pytest.mark.parametrize("epochs", [1.0, 10.0])
def test_gradual_unfreezes_one_stage_at_a_time(stages: int | None, epochs: float) -> None:
    strategy = Strategy.gradual(stages, epochs=epochs, weight_decay=0.2)
    trained = [phase.trainable_stages for phase in strategy.phases]
    assert trained == ([1, 2, 3, 4, "all"] if stages is None else list(range(1, stages + 2)))
    assert sum(phase.epochs or 0 for phase in strategy.phases) == pytest.approx(epochs)
    assert strategy.phases[-1].epochs == pytest.approx(
        (epochs - (strategy.phases[0].epochs or 0)) / (2 if stages != 1 else 1)
    )
    assert {phase.weight_decay for phase in strategy.phases} == {0.2}
    assert strategy.phases[-1].layer_decay == pytest.approx(1 / 2.6)


@given(
    st.sampled_from(get_args(StrategyName)), st.integers(1, 10**7), st.booleans(),
    st.none() | st.sampled_from(get_args(Augmentation)),
)  # fmt: skip
def test_every_size_has_a_recipe(
    name: StrategyName, images: int, pretrained: bool, augmentation: Augmentation | None
) -> None:
    strategy = StrategyConfig(name, augmentation=augmentation).build(1, images, pretrained=pretrained)
    assert strategy.name == name
    head_first = name in ("finetune", "gradual", "auto")
    if head_first and augmentation is None:
        head = StrategyConfig("transfer").build(1, images, pretrained=pretrained).phases[0]
        assert replace(strategy.phases[0], batch_norm=head.batch_norm, layer_decay=head.layer_decay) == replace(
            head, backbone_learning_rate=None
        )
    for phase in strategy.phases:
        assert augmentation in (None, phase.augmentation)
        keeps = pretrained and images < SIZES[1] and name not in ("transfer", "scratch")
        assert phase.batch_norm == ("keep" if keeps else "update")
        assert not (phase.mixup and phase.augmentation == "none" and augmentation is None)


def test_the_documented_defaults() -> None:
    assert recipe_for("transfer", 3_000) == {"epochs": 10, "learning_rate": 3e-3, "augmentation": "none"}
    full = StrategyConfig("full").build(1, 3_068).phases[0]
    assert (full.learning_rate, full.backbone_learning_rate, full.weight_decay) == (3e-3, 3e-4, 0.05)
    assert (full.label_smoothing, full.augmentation, full.batch_norm, full.mixup) == (0.1, "light", "keep", 0)
    sizes = (99, 100, 999, 1_000, 19_999, 20_000, 500_000)
    assert [recipe_for("full", size)["epochs"] for size in sizes] == [60, 20, 20, 10, 10, 10, 8]
    large = StrategyConfig("scratch").build(1, 100_000).phases[0]
    assert (large.augmentation, large.mixup, large.cutmix, large.ema_decay) == ("strong", 0.1, 1.0, 0.9999)


@pytest.mark.parametrize("name", ["finetune", "gradual"])
def test_flags_hold_in_the_phase_of_the_head_too(name: StrategyName) -> None:
    plain = StrategyConfig(name).build(1, 3_000)
    assert (plain.phases[0].epochs, sum(phase.epochs or 0 for phase in plain.phases)) == (10, 20)
    asked = StrategyConfig(name, num_train_epochs=6, label_smoothing=0.3, augmentation="medium").build(1, 3_000)
    assert sum(phase.epochs or 0 for phase in asked.phases) == pytest.approx(6)
    assert {(phase.label_smoothing, phase.augmentation) for phase in asked.phases} == {(0.3, "medium")}


VALUES = {
    "learning_rate": st.floats(1e-5, 1),
    "backbone_learning_rate": st.floats(1e-5, 1),
    "layer_decay": st.sampled_from([0.75, 1 / 2.6, 0.5, 1.0]),
    "norm": st.sampled_from(get_args(Norm)),
    "batch_norm": st.sampled_from(get_args(BatchNorm)),
    "weight_decay": st.sampled_from([0.0, 0.05, 0.3]),
    "warmup_ratio": st.sampled_from([0.0, 0.1, 0.3]),
    "augmentation": st.sampled_from(get_args(Augmentation)),
    "mixup": st.sampled_from([0.0, 0.1, 0.4]),
    "cutmix": st.sampled_from([0.0, 1.0, 0.4]),
    "label_smoothing": st.sampled_from([0.0, 0.1, 0.4]),
    "ema_decay": st.sampled_from([0.0, 0.9, 0.9999]),
    "class_weights": st.sampled_from(get_args(ClassWeights)),
    "balanced_sampling": st.just(True),
    "patience": st.integers(1, 9),
    "num_train_epochs": st.integers(21, 300),
}
OF_BACKBONE = ("backbone_learning_rate", "layer_decay")


@settings(max_examples=400, deadline=None)
@given(
    name=st.sampled_from(get_args(StrategyName)),
    images=st.sampled_from([50, 500, 5_000, 50_000, 5_000_000]),
    pretrained=st.booleans(),
    flag=st.sampled_from(sorted(VALUES)),
    data=st.data(),
)
def test_a_flag_changes_its_own_field_and_no_other(
    name: StrategyName, images: int, pretrained: bool, flag: str, data: st.DataObject
) -> None:
    value = data.draw(VALUES[flag])
    plain = StrategyConfig(name).build(1, images, pretrained=pretrained)
    asked = StrategyConfig(name, **{flag: value}).build(1, images, pretrained=pretrained)
    field = "epochs" if flag == "num_train_epochs" else flag
    assert len(asked.phases) == len(plain.phases)
    assert replace(asked, phases=plain.phases) == plain
    for number, (phase, before) in enumerate(zip(asked.phases, plain.phases, strict=True)):
        assert replace(phase, **{field: getattr(before, field)}) == before
        is_head = number == 0 and name in ("finetune", "gradual", "auto")
        if field not in ("epochs", "learning_rate") and not (field in OF_BACKBONE and is_head):
            assert getattr(phase, field) == (value or None if flag == "ema_decay" else value)
    first = asked.phases[0]
    if flag == "learning_rate":
        assert first.learning_rate == value
    if flag == "num_train_epochs":
        passes = [phase.epochs or 0 for phase in asked.phases]
        assert (passes[1] if name == "auto" else sum(passes)) == pytest.approx(value)


@pytest.mark.parametrize("stages", ["layer3", ("layer2", "layer3"), "all", "re:layer3", 3])
def test_finetune_takes_every_form_of_stages(stages: Any) -> None:
    words = ["--strategy", "finetune", "--trainable_stages", ",".join(stages) if isinstance(stages, tuple) else stages]
    config = parse_run_config(list(map(str, words)))
    assert [phase.trainable_stages for phase in config.strategy.build(1).phases] == [1, stages]
    assert parse_run_config(shlex.split(describe_command(config))[2:]).strategy == config.strategy


def test_flags_win_over_the_recipe() -> None:
    flags = {"mixup": 0.0, "cutmix": 0.3, "ema_decay": 0.0, "label_smoothing": 0.0, "batch_norm": "keep", "patience": 2}
    phase = StrategyConfig("scratch", num_train_epochs=7, **flags).build(1, 100_000).phases[0]
    assert (phase.epochs, phase.ema_decay) == (7, None)
    assert {name: getattr(phase, name) for name in flags if name != "ema_decay"} == {
        name: value for name, value in flags.items() if name != "ema_decay"
    }


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--learning_rate", "1"], "leave out --learning_rate,? ?"),
        (["--strategy", "full", "--trainable_stages", "2"], "leave out --trainable_stages, --strategy"),
        (["--find_learning_rate"], "leave out --find_learning_rate"),
        (["--balanced_sampling"], "leave out --balanced_sampling"),
    ],
)
def test_phases_tell_all_of_a_strategy(flags: list[str], message: str) -> None:
    config = parse_run_config(["--phases", "[{trainable_stages: 1, epochs: 1}]", *flags])
    with pytest.raises(ConfigError, match=message):
        config.strategy.build()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--find_learning_rate", "--learning_rate", "1"], "leave one of them out"),
        (["--find_learning_rate", "--strategy", "scratch"], "scratch has none"),
        (["--strategy", "gradual", "--trainable_stages", "1"], "gradual trains the head and at least one stage more"),
        (["--strategy", "full", "--trainable_stages", "2"], "finetune or gradual"),
        (
            ["--strategy", "gradual", "--trainable_stages", "layer3"],
            "gradual is a number.*list the phases with --phases",
        ),
        (["--strategy", "gradual", "--trainable_stages", "all"], "Leave it out"),
        (["--strategy", "finetune", "--trainable_stages", "head"], "at least one stage more"),
    ],
)
def test_flags_that_do_not_go_together(flags: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_run_config(flags).strategy.build()


@pytest.mark.parametrize(
    "field",
    [
        {"steps": 3, "epochs": None}, {"patience": 1}, {"mixup": 0.1}, {"cutmix": 1.0}, {"ema_decay": 0.9},
        {"class_weights": "balanced"}, {"balanced_sampling": True},
    ],
)  # fmt: skip
def test_trainer_refuses_what_it_cannot_follow(field: dict[str, Any], tmp_path: Path) -> None:
    from transformers import TrainingArguments

    strategy = Strategy("custom", (Phase(1, 1), Phase(**{"trainable_stages": 2, "epochs": 1, **field})))
    args = TrainingArguments(str(tmp_path), report_to="none")
    with pytest.raises(ConfigError, match=f"cannot follow {next(iter(field))} of the phases"):
        StrategyCallback(strategy).on_init_end(args, None, None, model=None)


@pytest.fixture(scope="module")
def colors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "colors"
    write_images(folder / "train", 8)
    write_images(folder / "test", 2)
    return folder


BATCH = ["--per_device_train_batch_size", "8", "--save_total_limit", "0"]


@pytest.mark.parametrize(
    ("flags", "trained"),
    [
        (["--strategy", "gradual", "--trainable_stages", "3", "--num_train_epochs", "2"], [1, 2, 3]),
        (["--strategy", "full", "--mixup", "0.2", "--ema_decay", "0.9"], [6]),
        (["--strategy", "scratch", "--cutmix", "1", "--class_weights", "balanced", "--test_time_flip"], [6]),
        (["--strategy", "transfer", "--balanced_sampling", "--find_learning_rate"], [1]),
    ],
)
def test_a_run_of_each_strategy(flags: list[str], trained: list[int], colors: Path, tmp_path: Path) -> None:
    epochs = [] if "--num_train_epochs" in flags else ["--num_train_epochs", "1"]
    main(["train", *TINY, "--dataset", str(colors), *BATCH, *epochs, *flags, "--output_dir", str(tmp_path / "out")])
    record, card = read_record(tmp_path / "out"), (tmp_path / "out" / "README.md").read_text()
    assert {entry["phase"] for entry in record.history} == set(range(len(trained)))
    assert record.best is not None
    assert [len(phase.trained_stages) for phase in record.phases] == trained[: record.best["phase"] + 1]
    assert Strategy.from_record(json.loads(json.dumps(record.strategy.to_record()))) == record.strategy
    for flag, told in {
        "--mixup": "mixup 0.2", "--ema_decay": "ema decay 0.9", "--cutmix": "cutmix 1.0",
        "--class_weights": "class weights balanced",
        "--balanced_sampling": "balanced sampling", "--test_time_flip": "test time augmentation: horizontal flip",
        "--find_learning_rate": "of held-out losses",
    }.items():  # fmt: skip
        assert (told in card) == (flag in flags), flag


def test_a_run_of_phases_from_a_yaml_config(colors: Path, tmp_path: Path) -> None:
    config = {
        "phases": [
            {"trainable_stages": 1, "steps": 2, "augmentation": "none"},
            {"trainable_stages": ["layer4"], "epochs": 0.5, "batch_norm": "keep"},
        ],
        "dataset": str(colors),
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
    main(["train", *TINY, *BATCH, "--config", str(tmp_path / "run.yaml"), "--output_dir", str(tmp_path / "out")])
    record = read_record(tmp_path / "out")
    assert record.strategy.name == "custom"
    assert [phase.steps for phase in record.phases] == [2, 2]
    assert [phase.trained_stages for phase in record.phases] == [("head",), ("layer4", "head")]
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| 1 | `head` | 291 | 2 steps |" in card
    assert "- phase 2: " in card
    assert "BatchNorm of trained stages keeps its statistics" in card


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--mixup", "0.1", "--per_device_train_batch_size", "5"], "must be even, found 5"),
        (["--test_time_flip", "--horizontal_flip", "false"], "averages the logits of an image and its mirror image"),
        (["--phases", "[{trainable_stages: 70, epochs: 1}]"], "expected 1 to 6 trainable stages"),
    ],
)
def test_runs_that_are_refused(
    flags: list[str], message: str, colors: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["train", *TINY, "--dataset", str(colors), *flags, "--output_dir", str(tmp_path / "out")])
    assert stop.value.code == ERROR_STATUS
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_mix_average_and_weigh_as_one(colors: Path, tmp_path: Path) -> None:
    """The same global batch: with frozen batch statistics, nothing depends on how it is split."""
    flags = [*TINY, "--dataset", str(colors), "--strategy", "full", "--batch_norm", "keep", "--num_train_epochs", "2"]
    flags += ["--mixup", "0.4", "--cutmix", "1", "--ema_decay", "0.9", "--class_weights", "balanced"]
    flags += ["--balanced_sampling", "--test_time_flip"]
    weights, records = [], []
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(processes)]
        launcher += ["--master_port", str(29300 + os.getpid() % 300), str(REPOSITORY / "scripts" / "train.py")]
        batch = ["--per_device_train_batch_size", str(8 // processes), "--output_dir", str(folder)]
        environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
        subprocess.run([*launcher, *flags, *batch], env=environment, check=True, capture_output=True)
        records.append(read_record(folder))
        weights.append(load_file(folder / "model.safetensors"))
    assert [record.hyperparameters["processes"] for record in records] == [1, 2]
    assert records[0].measured["test"].metrics["accuracy"] == records[1].measured["test"].metrics["accuracy"]
    for name, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][name], tensor, rtol=1e-3, atol=1e-5)
