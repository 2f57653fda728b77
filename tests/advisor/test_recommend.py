"""`hf_tl.recommend` and `hf-tl recommend` end to end, on small real networks and images."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from accelerate import Accelerator
from backbones.checkpoints import save_transformers, tiny_resnet
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, List, Value, concatenate_datasets
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as Pillow

import hf_tl
from hf_tl.advisor.advice import take_advice
from hf_tl.advisor.recommend import FIGURE, RECORD
from hf_tl.advisor.deciding.rules import find_rule
from hf_tl.advisor.measuring.sample import stratified_order
from hf_tl.backbones.candidates import Backbone
from hf_tl.cli import main
from hf_tl.config import RECOMMENDED_STRATEGY as STRATEGY
from hf_tl.config import RunConfig, StrategyConfig, TrainingConfig
from hf_tl.data.datasets import load_data, prepare_data
from hf_tl.errors import ConfigError, DataError, ModelError
from hf_tl.features.feature_store import open_store
from hf_tl.record import LearnedFrom, read_record, split_digest

NAMES = ["red", "green", "blue"]


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_transformers(tiny_resnet(), tmp_path_factory.mktemp("resnet")))


def colored(labels: Any, spread: float = 30, shown: Any = None, seed: int = 0) -> Dataset:
    """Return noisy images in the color of their class, or of the classes in `shown`."""
    random = np.random.default_rng(seed)
    colors = np.array([[160, 110, 110], [110, 160, 110], [110, 110, 160]])[labels if shown is None else shown]
    offsets = random.normal(0, spread, (len(labels), 1, 1, 3))
    pixels = colors[:, None, None] + offsets + random.normal(0, 10, (len(labels), 24, 24, 3))
    features = Features(image=Image(), label=ClassLabel(names=NAMES))
    pixels = np.clip(pixels, 0, 255).astype(np.uint8)
    return Dataset.from_dict({"image": list(pixels), "label": list(map(int, labels))}, features=features)


def test_a_recommendation_holds_what_it_promises(backbone: str, tmp_path: Path) -> None:
    found = hf_tl.recommend(colored(np.arange(240) % 3), backbone, output_dir=tmp_path)
    assert found.backbone == backbone
    assert found.strategy is not None
    assert found.cost is not None
    assert found.cost.seconds > 0
    assert found.cost.parameters_trained <= found.cost.parameters
    [evidence] = found.evidence
    assert [depth.stage for depth in evidence.depths][:2] == ["stem", "encoder.stages.0"]
    assert evidence.source is not None
    assert evidence.curve is not None
    assert evidence.p_value < 1e-6
    record = json.loads((tmp_path / RECORD).read_text())
    assert record == json.loads(json.dumps(found.to_record()))
    assert hf_tl.Strategy.from_yaml(tmp_path / STRATEGY) == found.strategy
    assert Pillow.open(tmp_path / FIGURE).width > 1000
    text = str(found)
    for word in ("linear probe", "LogME", "similarity", "LEEP", "Reason", found.reason):
        assert word in text


def test_the_advisor_follows_the_flags_of_the_feature_cache(
    backbone: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual, named = tmp_path / "usual", tmp_path / "named"
    monkeypatch.setenv("HF_TL_CACHE", str(usual))
    data = prepare_data(colored(np.arange(240) % 3, spread=1))
    few = {"max_images": 60}
    hf_tl.recommend(data, backbone, **few, feature_cache="off")
    assert not usual.exists()
    hf_tl.recommend(data, backbone, **few, feature_cache_dir=named)
    assert not usual.exists()
    assert [entry.title for entry in open_store(named, 1).entries()] == ["evidence, 60 images at 5 depths"]
    hf_tl.recommend(data, backbone, **few, feature_cache_gb=1e-9)
    assert not open_store(usual, 1).entries()
    hf_tl.recommend(data, backbone, **few)
    assert len(open_store(usual, 1).entries()) == 1


@pytest.mark.parametrize(("flags", "folder"), [({"feature_cache": "off"}, None), ({}, "named")])
def test_a_run_of_auto_follows_them_too(
    backbone: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: dict[str, Any], folder: str | None
) -> None:
    monkeypatch.setenv("HF_TL_CACHE", str(tmp_path / "usual"))
    data = prepare_data(colored(np.arange(90) % 3, spread=1))
    training = TrainingConfig(feature_cache_dir=tmp_path / "named", **flags)
    config = RunConfig(strategy=StrategyConfig(strategy="auto"), training=training)
    take_advice(Accelerator(cpu=True), data, [Backbone(backbone)], config)
    assert {path.name for path in tmp_path.iterdir()} == ({folder} if folder else set())


@pytest.mark.parametrize(("spread", "name"), [(1, "transfer"), (30, "full")])
def test_the_strategy_is_what_a_climb_would_end_with(backbone: str, spread: float, name: str) -> None:
    data = prepare_data(colored(np.arange(450) % 3, spread))
    found = hf_tl.recommend(data, backbone)
    images = {split: len(rows) for split, rows in data.splits.items()}
    climb = StrategyConfig(strategy="auto").build(images=images["train"], climb=found.climb)
    assert found.strategy is not None
    assert found.cost is not None
    assert climb.expected_rung is not None
    assert found.strategy.name == name
    [phase], [expected] = found.strategy.phases, climb.done(climb.expected_rung).at_once().phases
    if name == "transfer":  # only the climb has these; a head has neither earlier stages nor statistics
        expected = replace(expected, layer_decay=1.0, batch_norm="update")
    assert phase == expected
    assert found.strategy.refit
    assert "; then from the start on the validation images too" in str(found)
    passes = 2 + images["validation"] / images["train"]
    assert found.cost.seconds == pytest.approx(passes * sum(found.cost.phase_seconds))


def test_a_validation_split_of_the_data_stays_one(backbone: str) -> None:
    rows = colored(np.arange(150) % 3)
    found = hf_tl.recommend(DatasetDict(train=rows, validation=rows.select(range(60)), test=rows), backbone)
    assert found.strategy is not None
    assert found.cost is not None
    assert not found.strategy.refit
    assert found.cost.seconds == pytest.approx(sum(found.cost.phase_seconds))


@pytest.mark.slow
def test_the_recommended_strategy_trains(backbone: str, tmp_path: Path) -> None:
    data = colored(np.arange(60) % 3)
    found = hf_tl.recommend(data, backbone)
    assert found.backbone is not None
    assert found.strategy is not None
    model, transforms = hf_tl.load_backbone(found.backbone, NAMES, found.strategy)
    settings = {"output_dir": str(tmp_path / "out"), "report_to": "none"}
    assert hf_tl.train(model, data, found.strategy, transforms=transforms, **settings).test_accuracy > 0.4


def test_shuffled_labels_cannot_be_learned(backbone: str, tmp_path: Path) -> None:
    labels = np.arange(300) % 3
    shuffled = np.random.default_rng(0).permutation(labels)
    found = hf_tl.recommend(colored(labels, shown=shuffled), backbone, output_dir=tmp_path)
    assert found.rule == "nothing can be learned"
    assert (found.backbone, found.strategy, found.cost, found.command) == (None, None, None, None)
    assert "nothing can be learned" in str(found)
    assert not (tmp_path / STRATEGY).exists()
    assert json.loads((tmp_path / RECORD).read_text())["strategy"] is None


def test_noise_cannot_be_learned(backbone: str) -> None:
    """Also with unequal classes, where a constant prediction of the largest one has a high accuracy."""
    labels = np.array([0] * 200 + [1] * 60 + [2] * 40)
    found = hf_tl.recommend(colored(labels, shown=np.zeros(300, int)), backbone)
    assert found.strategy is None
    assert found.rule == "nothing can be learned"


def test_five_images_a_class_are_cross_validated(backbone: str) -> None:
    found = hf_tl.recommend(colored(np.arange(15) % 3, spread=5), backbone)
    [evidence] = found.evidence
    assert found.data["measured_on"] == 12  # all but the test images
    assert evidence.head.linear.accuracy.images == 12
    low, high = evidence.head.linear.accuracy.interval
    assert high - low > 0.2
    assert found.strategy is not None
    assert found.strategy.name == find_rule(5, evidence.similarity.value).strategy


def test_of_large_data_a_sample_is_looked_at(backbone: str) -> None:
    found = hf_tl.recommend(colored(np.arange(900) % 3), backbone, max_images=150)
    assert (found.data["measured_on"], found.data["available"]) == (150, 720)
    assert found.evidence[0].head.linear.accuracy.images == 150


@given(st.lists(st.integers(0, 4), min_size=1, max_size=200), st.integers(0, 9))
def test_any_first_part_is_stratified(labels: list[int], seed: int) -> None:
    order = stratified_order(labels, seed)
    assert sorted(order) == list(range(len(labels)))
    counts = np.bincount(labels, minlength=5)
    for size in range(1, len(labels) + 1):
        seen = np.bincount(np.array(labels)[order[:size]], minlength=5)
        missing = counts - seen
        if (short := seen[(seen < 5) & (missing > 0)]).size:
            assert seen.max() <= short.min() + 1  # no class has more images before all have five
        elif seen.max() > 5:
            expected = size * counts / len(labels)
            assert (seen >= np.minimum(counts, np.floor(expected) - 6)).all()


def write(folder: Path, counts: dict[str, int], spread: float = 30) -> Path:
    rows = colored(np.repeat(np.arange(len(counts)), list(counts.values())), spread)
    number = 0
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for index in range(count):
            rows[number]["image"].save(folder / name / f"{index}.png")
            number += 1
    return folder


def test_copies_and_conflicts_are_named(backbone: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "colors" / "train", dict.fromkeys(NAMES, 20))
    (folder / "red" / "twin.png").write_bytes((folder / "red" / "3.png").read_bytes())
    (folder / "blue" / "wrong.png").write_bytes((folder / "green" / "7.png").read_bytes())
    write(tmp_path / "colors" / "test", dict.fromkeys(NAMES, 5))
    found = hf_tl.recommend(str(tmp_path / "colors"), backbone)
    conflict, copy = found.warnings
    for text in ("1 images are there under different labels", "7.png (green)", "wrong.png (blue)"):
        assert text in conflict
    for text in ("1 images are copies", "train/red/twin.png (red)", "train/red/3.png (red)"):
        assert text in copy
    assert found.data["measured_on"] == 62 - 3  # neither the conflict nor the second copy


def test_unequal_classes_are_told(backbone: str) -> None:
    found = hf_tl.recommend(colored(np.array([0] * 150 + [1] * 150 + [2] * 6)), backbone)
    assert "and blue 3;" in " ".join(found.warnings)
    assert "balanced" in " ".join(found.warnings)


def test_a_candidate_that_is_missing_is_told(backbone: str) -> None:
    data = colored(np.arange(60) % 3)
    found = hf_tl.recommend(data, ["timm:resnet999", backbone])
    assert found.backbone == backbone
    assert "no architecture" in found.unavailable["timm:resnet999"]
    assert "timm:resnet999" in str(found)
    with pytest.raises(ModelError, match="no backbone can be measured"):
        hf_tl.recommend(data, "timm:resnet999")


def test_backbones_are_ranked(backbone: str, tmp_path: Path) -> None:
    """A backbone with constant features is significantly worse; of two equal ones the first is chosen."""
    blind = hf_tl.load_backbone(backbone, None)[0]
    for parameter in blind.parameters():
        parameter.detach().zero_()
    blind.save_pretrained(tmp_path / "blind")
    shutil.copy(Path(backbone, "preprocessor_config.json"), tmp_path / "blind")
    shutil.copytree(backbone, tmp_path / "twin")
    names = [str(tmp_path / "blind"), backbone, str(tmp_path / "twin")]
    found = hf_tl.recommend(colored(np.arange(90) % 3), names)
    assert found.backbone == backbone
    record = found.to_record()
    assert record["ranking"] == [*names[1:], names[0]]
    assert record["leading"] == names[1:]
    first, second, third, last = str(found).split("Ranking")[1].splitlines()[:4]
    assert first.strip().startswith(f"1. {backbone}: ")
    assert second.strip().startswith(f"2. {names[2]}: ")
    assert second.endswith("within chance of the first")
    assert third.strip().startswith(f"3. {names[0]}: ")
    assert "chance" not in third
    assert "the smallest of the 2" in last


def with_unlabeled(rows: Dataset) -> Dataset:
    return rows.map(lambda row, index: {"label": -1 if index == 4 else row["label"]}, with_indices=True)


def with_lists(rows: Dataset) -> Dataset:
    features = Features(image=Image(), label=List(Value("int64")))
    flags = [[int(label == other) for other in range(3)] for label in rows["label"]]
    return Dataset.from_dict({"image": rows["image"][:], "label": flags}, features=features)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: colored(np.array([0, 1, 2])), "fewer than 3 different images"),
        (lambda: colored(np.zeros(30, int)), "classes missing from training: green, blue"),
        (lambda: with_unlabeled(colored(np.arange(30) % 3)), "have no label"),
        (lambda: with_lists(colored(np.arange(30) % 3)), "one label an image"),
    ],
)
def test_data_that_nothing_can_be_said_of(backbone: str, make: Callable[[], Dataset], message: str) -> None:
    with pytest.raises(DataError, match=message):
        hf_tl.recommend(make(), backbone)


def test_one_image_a_class_beside_test_images(backbone: str, tmp_path: Path) -> None:
    write(tmp_path / "colors" / "train", dict.fromkeys(NAMES, 1))
    write(tmp_path / "colors" / "validation", dict.fromkeys(NAMES, 1))
    for name in NAMES:  # the same file twice is one image
        image = (tmp_path / "colors" / "train" / name / "0.png").read_bytes()
        (tmp_path / "colors" / "validation" / name / "0.png").write_bytes(image)
    write(tmp_path / "colors" / "test", dict.fromkeys(NAMES, 3), spread=5)
    with pytest.raises(DataError, match="nothing can be measured"):
        hf_tl.recommend(str(tmp_path / "colors"), backbone)


def test_the_command_line_prints_a_command_that_trains(
    backbone: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write(tmp_path / "colors", dict.fromkeys(NAMES, 25))
    out = tmp_path / "out"
    main(["recommend", "--dataset", str(folder), "--model", backbone, "--output_dir", str(out)])
    printed = capsys.readouterr().out
    [line] = [line for line in printed.splitlines() if line.startswith("Train")]
    words = line.split()[1:]
    assert words[:2] == ["hf-tl", "train"]
    model = tmp_path / "model"
    main([*words[1:], "--num_train_epochs", "1", "--output_dir", str(model), "--report_to", "none"])
    strategy = json.loads((out / STRATEGY).read_text())
    assert json.loads((model / "run.json").read_text())["strategy"]["name"] == strategy["name"]


def test_the_command_names_what_decides_the_splits(
    backbone: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The advisor must not use the test images of the training that it recommends."""
    folder, out = write(tmp_path / "colors", dict.fromkeys(NAMES, 25)), tmp_path / "out"
    flags = ["--seed", "3", "--test_fraction", "0.3", "--output_dir", str(out)]
    main(["recommend", "--dataset", str(folder), "--model", backbone, *flags])
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Train")]
    assert "--test_fraction 0.3 --seed 3" in line
    assert "--validation_fraction" not in line
    data = load_data(str(folder), seed=3, test_fraction=0.3)
    record = json.loads((out / RECORD).read_text())
    assert record["data"]["splits"] == {split: split_digest(digests) for split, digests in data.digests.items()}
    model = tmp_path / "model"
    main([*line.split()[2:], "--num_train_epochs", "1", "--output_dir", str(model), "--report_to", "none"])
    test = read_record(model).data.splits["test"]
    assert test.digest == record["data"]["splits"]["test"]
    for split in ([], ["--seed", "3"], ["--seed", "3", "--test_fraction", "0.2"]):
        wrong = ["train", "--model", backbone, "--dataset", str(folder), "--recommendation", str(out), *split]
        with pytest.raises(SystemExit):
            main([*wrong, "--output_dir", str(tmp_path / "wrong")])
        assert "is of another split of colors, so it has seen test images of this one" in capsys.readouterr().err
    right = ["--seed", "3", "--test_fraction", "0.3", "--report_to", "none", "--output_dir", str(tmp_path / "right")]
    main(["train", "--model", backbone, "--dataset", str(folder), "--recommendation", str(out), *right])


def test_images_that_a_backbone_was_trained_on_are_left_out(backbone: str, tmp_path: Path) -> None:
    """The backbone's features depend on their labels, and would predict even random labels."""
    first, more = colored(np.arange(60) % 3), colored(np.arange(90) % 3, seed=1)
    strategy = hf_tl.Strategy.full(epochs=1)
    model, transforms = hf_tl.load_backbone(backbone, NAMES, strategy)
    settings = {"output_dir": str(tmp_path / "out"), "report_to": "none"}
    hf_tl.train(model, first, strategy, transforms=transforms, **settings)
    trained = str(tmp_path / "out")
    learned = LearnedFrom.read(read_record(trained).learned_from, tmp_path / "out")
    both = concatenate_datasets([first, more])
    found = hf_tl.recommend(both, trained)
    seen = int(learned.mask(prepare_data(both, learned=learned).digests["train"]).sum())
    assert seen == len(learned.digests) == 43
    assert found.data["measured_on"] == found.data["available"] - seen
    told = f"{seen} of {found.data['available']} images of train and validation are training images of {trained}"
    assert f"{told}: left out of the sample" in found.warnings
    assert hf_tl.recommend(both, trained, include_training_images=True).data["measured_on"] == found.data["available"]
    few = {"validation": more.select([0, 1]), "test": more.select(range(10, 20))}
    with pytest.raises(DataError, match=r"43 of 45 .* training images of a backbone, .*--include_training_images"):
        hf_tl.recommend(DatasetDict(train=prepare_data(first).splits["train"], **few), trained)


def test_a_folder_that_cannot_be_written_to(backbone: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ConfigError, match="cannot be written to"):
        hf_tl.recommend("there is none", backbone, output_dir=tmp_path / "file")  # before anything is loaded
    assert (tmp_path / "file").read_text() == "mine"


def test_random_numbers_of_the_user_stay(backbone: str) -> None:
    import torch

    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    one, again = (hf_tl.recommend(colored(np.arange(30) % 3, spread=5), backbone) for _ in range(2))
    assert torch.equal(torch.rand(3), expected)
    assert again.to_record()["evidence"] == one.to_record()["evidence"]
