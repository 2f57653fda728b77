"""Flags, constructors and names lead to the same phases, and what was not chosen follows the number of images."""

from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
from job.small_data import LABELS, QUICK, backbone, make_dataset

import hf_tl
from hf_tl.config import StrategyConfig, StrategyName
from hf_tl.errors import ConfigError
from hf_tl.record import read_record
from hf_tl.strategy import Phase, Strategy

SIZES = (50, 500, 5_000, 1_000_000)
ARGUMENTS: list[dict[str, Any]] = [
    {},
    {"epochs": 7},
    {"learning_rate": 1e-3, "augmentation": "medium"},
    {"mixup": 0.2, "ema_decay": 0.0, "refit": True},
    {"weight_decay": 0.1, "label_smoothing": 0.0, "patience": 2, "refit": False},
]
OF_DEPTH: dict[str, list[dict[str, Any]]] = {
    "finetune": [{"trainable_stages": 3}, {"trainable_stages": ("layer3", "head")}, {"head_solver": "lbfgs"}],
    "gradual": [{"trainable_stages": 3, "layer_decay": 0.5}, {"head_solver": "lbfgs", "epochs": 5}],
    "transfer": [{"head_solver": "lbfgs"}],
}


@pytest.mark.parametrize("images", SIZES)
@pytest.mark.parametrize("name", get_args(StrategyName))
def test_equal_arguments_give_equal_phases(name: StrategyName, images: int) -> None:
    for arguments in [*ARGUMENTS, *OF_DEPTH.get(name, [])]:
        flags = {{"epochs": "num_train_epochs"}.get(key, key): value for key, value in arguments.items()}
        for pretrained in (True, False):
            expected = StrategyConfig(name, **flags).build(1, images, pretrained=pretrained)
            strategy = getattr(Strategy, name)(**arguments)
            assert strategy.resolve(images, pretrained=pretrained) == expected, arguments
            assert strategy.resolve(images, pretrained=pretrained).preset is None


@pytest.mark.parametrize("name", get_args(StrategyName))
def test_phases_are_shown_for_thousands_of_images(name: StrategyName) -> None:
    strategy = getattr(Strategy, name)()
    assert strategy == strategy.resolve(1_000) == strategy.resolve(19_999)
    assert name == "scratch" or strategy != strategy.resolve(500)
    assert repr(strategy).startswith(f"Strategy {name}: 10")
    assert repr(strategy).endswith("(for 1,000 to 20,000 images)")


def test_explicit_phases_never_change() -> None:
    explicit = Strategy("mine", (Phase(1, 3), Phase("all", 2)))
    changed = replace(Strategy.full(), phases=(Phase("all", 3),))
    resolved = Strategy.finetune().resolve(50)
    for strategy in (explicit, changed, resolved, Strategy.from_record(Strategy.full().to_record())):
        assert strategy.resolve(500_000) is strategy
        assert "images" not in repr(strategy)


def test_a_chosen_head_counts_in_all_phases() -> None:
    strategy = Strategy.gradual(trainable_stages=4).resolve(500, head_stages=2)
    assert [phase.trainable_stages for phase in strategy.phases] == [2, 3, 4]
    chosen = Strategy.finetune(head_stages=3)
    assert [phase.trainable_stages for phase in chosen.resolve(500).phases] == [3, 4]


@pytest.mark.parametrize(
    ("name", "stages", "trainable"),
    [("finetune", 2, 3), ("finetune", "all", "all"), ("gradual", 2, 3), ("auto", (1, 3, "all"), (2, 4, "all"))],
)
def test_the_old_count_of_stages_is_deprecated(name: str, stages: Any, trainable: Any) -> None:
    constructor = getattr(Strategy, name)
    with pytest.warns(FutureWarning) as warned:
        old = constructor(stages=stages)
    assert old == constructor(trainable_stages=trainable)
    [warning] = warned
    assert f"write trainable_stages={trainable!r}" in str(warning.message)
    assert warning.filename == __file__
    with pytest.raises(TypeError):
        constructor(stages)


@pytest.mark.parametrize("strategy", ["finetune", Strategy.finetune()], ids=["name", "strategy"])
def test_what_was_resolved_is_recorded(tmp_path: Path, strategy: Any) -> None:
    """28 training images: 20 epochs of the head and 60 with the last stage, where the preview has 10 and 10."""
    model, _ = backbone()
    settings = {**QUICK, "feature_cache": "auto", "save_total_limit": 0}
    result = hf_tl.train(model, make_dataset(), strategy, output_dir=str(tmp_path / "out"), **settings)
    expected = StrategyConfig("finetune").build(images=28, pretrained=False)
    record = read_record(tmp_path / "out")
    assert expected.phases[: len(record.phases)] == tuple(phase.recipe for phase in record.phases)
    assert [phase.epochs for phase in expected.phases] == [20, 60]
    assert record.strategy.phases == expected.phases[: len(record.strategy.phases)]
    saved = hf_tl.load(result)[0].config.hf_tl["strategy"]
    assert Strategy.from_record(saved).phases == record.strategy.phases


def test_names_objects_and_lists_of_phases_train_alike(tmp_path: Path) -> None:
    phases = [replace(phase, epochs=1) for phase in StrategyConfig("full").build(images=28, pretrained=False).phases]
    settings = {**QUICK, "save_total_limit": 0}
    ways: dict[str, Any] = {
        "name": ("full", {"epochs": 1}),
        "alias": ("full", {"num_train_epochs": 1}),
        "strategy": (Strategy.full(epochs=1), {}),
        "phases": (phases, {}),
    }
    digests = set()
    for number, (strategy, chosen) in enumerate(ways.values()):
        folder = str(tmp_path / str(number))
        result = hf_tl.train(backbone()[0], make_dataset(), strategy, output_dir=folder, **settings, **chosen)
        digests.add(result.record.weights_digest)
    assert len(digests) == 1


def test_a_model_by_name_gets_the_labels_of_the_data(tmp_path: Path) -> None:
    model, _ = backbone()
    model.save_pretrained(tmp_path / "backbone")
    settings: dict[str, Any] = {**QUICK, "epochs": 1, "lr": 0.01, "batch_size": 4}
    del settings["per_device_train_batch_size"]
    result = hf_tl.train(tmp_path / "backbone", make_dataset(), "full", output_dir=str(tmp_path / "out"), **settings)
    assert result.record.data.labels == tuple(LABELS)
    assert result.record.strategy.phases[0].learning_rate == 0.01
    again = hf_tl.train(str(tmp_path / "out"), make_dataset(), epochs=1, output_dir=str(tmp_path / "again"), **QUICK)
    assert (again.record.origin.kind, again.record.origin.head) == ("trained", "kept")


def test_fields_of_a_strategy_object_belong_into_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="put it into the strategy"):
        hf_tl.train(backbone()[0], make_dataset(), Strategy.full(), epochs=3, output_dir=str(tmp_path / "out"))
