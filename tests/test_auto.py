"""`--strategy auto` and `--recommendation` end to end: on small networks and images, through the command line."""

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from backbones.checkpoints import save_transformers, tiny_resnet, tiny_vit
from datasets import Dataset, Image, Value
from PIL import Image as Pillow
from test_cli import COLORS, REPOSITORY, SMALL, fails, write_images
from transformers import AutoModelForImageClassification, Trainer, TrainingArguments

import hf_tl
from hf_tl.advisor.recommend import RECORD
from hf_tl.cli import main
from hf_tl.config import RECOMMENDED_STRATEGY
from hf_tl.data.datasets import prepare_data
from hf_tl.errors import ConfigError
from hf_tl.record import read_record

RECIPE = ["--num_train_epochs", "2", "--learning_rate", "0.03", "--per_device_train_batch_size", "8"]
AUTO = ["--strategy", "auto", *RECIPE, *SMALL]


@dataclass(frozen=True)
class Place:
    """Inputs of a user: two backbones, and images."""

    root: Path

    @property
    def models(self) -> list[str]:
        return [str(self.root / "resnet"), str(self.root / "vit")]

    @property
    def images(self) -> str:
        return str(self.root / "colors")

    def flags(self) -> list[str]:
        return ["--model", ",".join(self.models), "--dataset", self.images]


@pytest.fixture(scope="module")
def somebody(tmp_path_factory: pytest.TempPathFactory) -> Place:
    root = tmp_path_factory.mktemp("somebody")
    save_transformers(tiny_resnet(), root / "resnet")
    save_transformers(tiny_vit(), root / "vit")
    write_images(root / "colors" / "train", 24)
    write_images(root / "colors" / "test", 6)
    return Place(root)


def printed_by(arguments: list[str]) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        main(arguments)
    return printed.getvalue()


@pytest.fixture(scope="module")
def auto(somebody: Place) -> tuple[Path, str]:
    """Return the folder and the output of a run."""
    folder = somebody.root / "out"
    return folder, printed_by(["train", *somebody.flags(), *AUTO, "--output_dir", str(folder)])


@pytest.fixture(scope="module")
def recommended(somebody: Place) -> Path:
    folder = somebody.root / "advice"
    printed_by(["recommend", "--dataset", somebody.images, "--model", *somebody.models, "--output_dir", str(folder)])
    return folder


def read(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "run.json").read_text())


def nothing_of(place: Place, folder: Path) -> None:
    """Check that published files contain no path of the machine."""
    for file in folder.iterdir():
        if file.suffix in (".json", ".md"):
            text = file.read_text()
            assert "somebody" not in text, file.name
            assert str(place.root) not in text


def test_auto_measures_climbs_and_tells_why(somebody: Place, auto: tuple[Path, str]) -> None:
    folder, printed = auto
    record, card = read(folder), (folder / "README.md").read_text()
    texts = (
        "Measuring 2 backbones on colors",
        "linear probe",
        "Reason",
        "Keeping stage depth 1/",
        "validation accuracy",
    )
    assert [text for text in texts if text not in printed] == []
    advice, rungs = record["recommendation"], record["rungs"]
    assert {one["backbone"] for one in advice["evidence"]} == {"resnet", "vit"}
    assert advice["backbone"] == record["model"]["architecture"]
    assert advice["data"]["fingerprint"] == record["data"]["fingerprint"]
    kept = [rung for rung in rungs if rung["is_kept"]]
    assert len(rungs) > 1
    assert record["strategy"]["name"] == "auto"
    [phase] = record["phases"]
    assert phase["trained_stages"] == kept[-1]["trainable_stages"]
    assert record["strategy"]["phases"][0]["epochs"] == 2 * len(kept)
    splits = record["data"]["splits"]
    assert record["refit"]["images"] == splits["train"]["images"] + splits["validation"]["images"]
    assert f"on train + validation: {record['refit']['images']} images" in card
    assert "Model selection" not in card
    assert record["best"]["phase"] == len(kept) - 1
    assert record["measured"]["test"]["metrics"]["accuracy"] > 0.6
    assert "## Why this strategy" in card
    for row in ("| `resnet` | ", "| `vit` | ", "| 1 | `"):
        assert card.count(f"\n{row}") >= 1, row
    for rung in rungs:
        assert f"{'kept' if rung['is_kept'] else 'taken back'}: {rung['why']} |" in card
    nothing_of(somebody, folder)
    assert record["command"].startswith("hf-tl train --model resnet,vit --dataset colors --strategy auto")


def test_the_card_is_written_again_the_same(auto: tuple[Path, str], tmp_path: Path) -> None:
    shutil.copytree(auto[0], tmp_path / "copy")
    (tmp_path / "copy" / "README.md").unlink()
    main(["card", str(tmp_path / "copy")])
    assert (tmp_path / "copy" / "README.md").read_text() == (auto[0] / "README.md").read_text()


def test_the_model_loads_again(auto: tuple[Path, str]) -> None:
    model, transforms = hf_tl.load(str(auto[0]))
    plain = AutoModelForImageClassification.from_pretrained(auto[0]).eval()
    assert list(plain.config.id2label.values()) == sorted(COLORS)
    pixels = transforms.eval({"image": [Pillow.new("RGB", (30, 30), COLORS["red"])]})["pixel_values"][0][None]
    with torch.inference_mode():
        assert torch.equal(model.eval()(pixel_values=pixels).logits, plain(pixel_values=pixels).logits)
    record = read_record(auto[0])
    trained = tuple(stage.name for stage in record.stages if not record.is_frozen(stage.name))
    assert trained == record.phases[-1].trained_stages


@pytest.mark.slow
def test_one_backbone_in_no_time(somebody: Place, auto: tuple[Path, str], tmp_path: Path) -> None:
    """A single backbone is measured, too; its head is trained despite the time budget, but no later stage depth."""
    out = tmp_path / "out"
    flags = ["--model", somebody.models[0], "--dataset", somebody.images, "--time_budget", "0.001"]
    printed = printed_by(["train", *flags, *AUTO, "--output_dir", str(out)])
    assert "Measuring 1 backbone on" in printed
    record = read(out)
    [one] = record["recommendation"]["evidence"]
    assert one == next(e for e in read(auto[0])["recommendation"]["evidence"] if e["backbone"] == "resnet")
    assert len(record["rungs"]) == len(record["phases"]) == 1
    stopped = "The climb ended early: the time budget leaves no room for the next stage depth."
    assert stopped in (out / "README.md").read_text()


def shuffled(folder: Path) -> Path:
    """Write images whose color is independent of their class."""
    random = np.random.default_rng(0)
    for split, count in (("train", 40), ("test", 10)):
        for name in COLORS:
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 256, (24, 24, 3), dtype=np.uint8)
                Pillow.fromarray(pixels).save(folder / split / name / f"{number}.png")
    return folder


def test_labels_that_cannot_be_learned(
    somebody: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = shuffled(tmp_path / "shuffled")
    said = fails(["train", "--model", somebody.models[0], "--dataset", str(data), *AUTO], capsys)
    assert "--strategy auto trains nothing" in said
    assert {path.name for path in tmp_path.iterdir()} == {"shuffled"}


def test_five_images_a_class(somebody: Place, tmp_path: Path) -> None:
    data = write_images(tmp_path / "few", 5)
    flags = ["--model", somebody.models[0], "--dataset", str(data), *AUTO, "--output_dir", str(tmp_path / "out")]
    main(["train", *flags])
    record = read(tmp_path / "out")
    assert record["recommendation"]["data"]["measured_on"] == 12
    assert record["rungs"][0]["images"] == record["data"]["splits"]["validation"]["images"]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([], r"--model names 2 models, and --strategy auto alone chooses one"),
        (["--strategy", "auto", "--streaming"], "which --streaming cannot"),
        (["--refit", "true", "--streaming"], "which --streaming cannot"),
        (["--strategy", "auto", "--trainable_stages", "2"], "goes with --strategy finetune or gradual, and it is auto"),
        (
            ["--strategy", "auto", "--head_solver", "lbfgs"],
            "solves the head for good, and --strategy auto trains",
        ),
        (["--strategy", "auto", "--no_pretrained"], "leave out --no_pretrained"),
        (["--strategy", "auto", "--time_budget", "0"], "--time_budget takes a number above 0"),
        (["--time_budget", "5"], "--time_budget goes with --strategy auto, or --phases with an expected_rung"),
        (["--strategy", "auto", "--phases", "[{trainable_stages: 1, epochs: 1}]"], "leave out --strategy"),
        (["--strategy", "auto", "--recommendation", "advice"], "leave out --strategy"),
        (["--recommendation", "none"], "holds no strategy.json"),
    ],
)
def test_flags_that_do_not_go_together(
    somebody: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], said: str
) -> None:
    assert said in fails(["train", *somebody.flags(), *flags, "--output_dir", str(tmp_path / "out")], capsys)
    assert list(tmp_path.iterdir()) == []


def colored(several: bool) -> Dataset:
    """Return images of one color or none, with a 0/1 column for each of two colors, or with their class."""
    kinds = [(1, 0), (0, 1), (0, 0)] * 20
    random = np.random.default_rng(0)
    pixels = [
        (np.array((40 + 160 * red, 40, 40 + 160 * blue)) + random.integers(-30, 30, (24, 24, 3))).clip(0, 255)
        for red, blue in kinds
    ]
    labels = {"red": [red for red, _ in kinds], "blue": [blue for _, blue in kinds]}
    if not several:
        labels = {"label": [str(kinds.index(kind)) for kind in kinds]}
    rows = Dataset.from_dict({"image": [Pillow.fromarray(one.astype(np.uint8)) for one in pixels], **labels})
    return rows.cast_column("image", Image()).cast_column("red", Value("int64")) if several else rows


def test_several_labels_an_image(somebody: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    colored(several=True).to_parquet(str(tmp_path / "several.parquet"))
    flags = ["--dataset", str(tmp_path / "several.parquet"), "--label_column", "red,blue"]
    said = fails(["train", "--model", somebody.models[0], *flags, *AUTO, "--output_dir", str(tmp_path / "out")], capsys)
    assert "takes data with one label an image" in said
    assert not (tmp_path / "out").exists()


def test_a_recommendation_is_trained_and_told(somebody: Place, recommended: Path, tmp_path: Path) -> None:
    """The model is the recommended one of the named ones; its strategy may be shortened."""
    advice, out = tmp_path / "advice", tmp_path / "out"
    shutil.copytree(recommended, advice)
    strategy = json.loads((advice / RECOMMENDED_STRATEGY).read_text())
    for phase in strategy["phases"]:
        phase["epochs"] = 1
    (advice / RECOMMENDED_STRATEGY).write_text(json.dumps(strategy))
    main(["train", *somebody.flags(), "--recommendation", str(advice), *SMALL, "--output_dir", str(out)])
    record, card = read(out), (out / "README.md").read_text()
    written = json.loads((advice / RECORD).read_text())
    assert record["strategy"] == strategy
    assert record["model"]["architecture"] == Path(written["backbone"]).name
    told = record["recommendation"]
    assert told["reason"] == written["reason"].replace(f"{somebody.root}/", "")
    names = [one.pop("backbone") for one in told["evidence"]]
    assert names == [Path(one.pop("backbone")).name for one in written["evidence"]]
    assert told["evidence"] == written["evidence"]
    assert "## Why this strategy" in card
    assert "| Stage depth |" not in card
    assert "--recommendation advice" in record["command"]
    assert record["settings"]["recommendation"] == "advice"
    nothing_of(somebody, out)


def without(*names: str) -> Callable[[dict[str, Any]], object]:
    def spoil(record: dict[str, Any]) -> object:
        *path, last = names
        for name in path:
            record = record[name][0] if isinstance(record[name], list) else record[name]
        return record.pop(last)

    return spoil


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (without("data", "fingerprint"), "cannot be read (KeyError: 'fingerprint')"),
        (without("evidence", "depths"), "cannot be read (KeyError: 'depths')"),
        (without("warnings"), "cannot be read (KeyError: 'warnings')"),
        (lambda record: record.update(schema_version=99), "its schema version is 99, expected 2"),
        (lambda record: record.update(backbone=None), "cannot be read (TypeError"),
        (lambda record: record.update(backbone="timm/other"), "is for another model than"),
        (lambda record: record["data"].update(fingerprint="0"), "is of other images (colors) than --dataset"),
    ],
)
def test_recommendations_that_cannot_be_told(
    somebody: Place,
    recommended: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    spoil: Callable[[dict[str, Any]], object],
    said: str,
) -> None:
    """All before anything is trained."""
    advice = tmp_path / "advice"
    shutil.copytree(recommended, advice)
    record = json.loads((advice / RECORD).read_text())
    spoil(record)
    (advice / RECORD).write_text(json.dumps(record))
    flags = ["--recommendation", str(advice), *SMALL, "--output_dir", str(tmp_path / "out")]
    assert said in fails(["train", *somebody.flags(), *flags], capsys)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", [None, b"", b"[1, 2]", b"{", b"\xff\xfe"])
def test_a_file_that_is_no_recommendation(
    somebody: Place, recommended: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | None
) -> None:
    shutil.copytree(recommended, tmp_path / "advice")
    (tmp_path / "advice" / RECORD).unlink()
    if content is not None:
        (tmp_path / "advice" / RECORD).write_bytes(content)
    flags = ["--recommendation", str(tmp_path / "advice"), *SMALL, "--output_dir", str(tmp_path / "out")]
    assert "cannot be read" in fails(["train", *somebody.flags(), *flags], capsys)
    assert not (tmp_path / "out").exists()


def test_other_images_and_another_model_are_refused(
    somebody: Place, recommended: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = write_images(tmp_path / "other", 9)
    flags = ["--recommendation", str(recommended), *SMALL, "--output_dir", str(tmp_path / "out")]
    said = fails(["train", "--model", somebody.models[0], "--dataset", str(other), *flags], capsys)
    assert "is of other images (colors)" in said
    said = fails(["train", "--model", "timm:test_vit", "--dataset", somebody.images, *flags], capsys)
    assert "is for another model than timm:test_vit: give --model" in said
    assert not (tmp_path / "out").exists()


def test_a_path_may_be_written_in_several_ways(
    somebody: Place, recommended: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run gets as far as the checks at the loading of the model."""
    chosen = Path(json.loads((recommended / RECORD).read_text())["backbone"])
    indirect = str(chosen.parent / "colors" / ".." / chosen.name)
    flags = ["--recommendation", str(recommended), *SMALL, "--output_dir", str(tmp_path / "out")]
    flags += ["--test_time_flip", "--horizontal_flip", "false"]
    said = fails(["train", "--model", indirect, "--dataset", somebody.images, *flags], capsys)
    assert "--test_time_flip averages the logits of an image and its mirror image" in said


def test_a_climb_that_ends_with_random_weights(somebody: Place, tmp_path: Path) -> None:
    """If they are selected, nothing of the pretrained weights remains, and the card says so."""
    anew = hf_tl.Phase("all", 8, 0.01, augmentation="none")
    short = {"epochs": 1, "learning_rate": 1e-5, "backbone_learning_rate": 1e-5, "augmentation": "none"}
    strategy = hf_tl.Strategy.auto(stages=("all",), scratch=anew, expected_rung=3, **short)
    data = prepare_data(colored(several=False))
    model, transforms = hf_tl.load_backbone(somebody.models[0], data.labels, strategy)
    settings = {"output_dir": str(tmp_path / "out"), "report_to": "none", "per_device_train_batch_size": 8}
    record = hf_tl.train(model, data, strategy, transforms=transforms, **settings).record
    assert [rung["is_kept"] for rung in record.rungs] == [True, True, True]
    assert record.start.kind == "random"
    card = (tmp_path / "out" / "README.md").read_text()
    for told in (", from random weights | ", ", but the last from random weights, and was", "\n- from-scratch\n"):
        assert told in card
    assert "base_model:" not in card


@pytest.mark.parametrize("several", [False, True], ids=["one label", "several labels"])
def test_a_climb_from_python_without_evidence(somebody: Place, tmp_path: Path, several: bool) -> None:
    rows = colored(several)
    data = prepare_data(rows, label_column="red,blue" if several else None)
    strategy = hf_tl.Strategy.auto(stages=(1, "all"), epochs=1, learning_rate=0.03, augmentation="none")
    model, transforms = hf_tl.load_backbone(somebody.models[0], data.labels, strategy)
    settings = {"output_dir": str(tmp_path / "out"), "report_to": "none", "per_device_train_batch_size": 8}
    result = hf_tl.train(model, data, strategy, transforms=transforms, **settings)
    assert result.record.recommendation is None
    assert 2 <= len(result.record.rungs) <= 3
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| Stage depth | Stages trained |" in card
    assert "advisor" not in card


def test_trainer_has_no_place_for_a_climb(somebody: Place, tmp_path: Path) -> None:
    strategy = hf_tl.Strategy.auto()
    model, _ = hf_tl.load_backbone(somebody.models[0], list(COLORS), strategy)
    args = TrainingArguments(str(tmp_path), report_to="none", use_cpu=True)
    with pytest.raises(ConfigError, match="StrategyCallback does not support the strategy auto"):
        Trainer(model, args, callbacks=[hf_tl.StrategyCallback(strategy)])


def test_trainer_trains_once(somebody: Place, tmp_path: Path) -> None:
    strategy = replace(hf_tl.Strategy.full(), refit=True)
    model, _ = hf_tl.load_backbone(somebody.models[0], list(COLORS), strategy)
    args = TrainingArguments(str(tmp_path), report_to="none", use_cpu=True)
    with pytest.raises(ConfigError, match=r"Pass dataclasses.replace\(strategy, refit=False\)"):
        Trainer(model, args, callbacks=[hf_tl.StrategyCallback(strategy)])


def test_a_validation_split_of_the_users_own_is_left_alone(
    somebody: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_images(tmp_path / "data" / "train", 9).parent
    write_images(data / "validation", 3)
    write_images(data / "test", 3)
    flags = ["--model", somebody.models[0], "--dataset", str(data), "--refit", "true", *RECIPE, *SMALL]
    main(["train", *flags, "--output_dir", str(tmp_path / "out")])
    record = read(tmp_path / "out")
    assert "Skipping --refit: the dataset has its own validation split" in capsys.readouterr().out
    assert record["refit"] is None
    assert "refit" not in record["strategy"]


def test_after_a_climb_it_is_not_learned_from_but_measured(somebody: Place, tmp_path: Path) -> None:
    """The refit starts from scratch all the same, and the results of the split are from the saved weights."""
    data = write_images(tmp_path / "data" / "train", 9).parent
    write_images(data / "validation", 3)
    write_images(data / "test", 3)
    out = tmp_path / "out"
    printed = printed_by(
        ["train", "--model", somebody.models[0], "--dataset", str(data), *AUTO, "--output_dir", str(out)]
    )
    record, card = read(out), (out / "README.md").read_text()
    images = record["data"]["splits"]["train"]["images"]
    assert sum(rung["is_kept"] for rung in record["rungs"]) > 1
    assert f"Retraining from scratch on train ({images} images)\n" in printed
    assert record["refit"]["images"] == images
    assert record["refit"]["splits"] == ["train"]
    assert f", on train: {images} images. The published weights are those at the end of the retraining." in card
    measured = printed_by(["evaluate", str(out), "--dataset", str(data), "--split", "validation"])
    assert f"{record['measured']['validation']['metrics']['accuracy']:.1%}" in measured


def test_any_strategy_is_trained_again_where_it_is_asked_for(somebody: Place, tmp_path: Path) -> None:
    flags = ["--strategy", "finetune", "--refit", "true", *RECIPE, *SMALL, "--output_dir", str(tmp_path / "out")]
    main(["train", "--model", somebody.models[0], "--dataset", somebody.images, *flags])
    record, card = read(tmp_path / "out"), (tmp_path / "out" / "README.md").read_text()
    splits = record["data"]["splits"]
    assert record["refit"]["images"] == splits["train"]["images"] + splits["validation"]["images"]
    assert record["strategy"]["refit"] is True
    assert [len(phase["trained_stages"]) for phase in record["phases"]] == [1, 2]
    assert "the model was retrained from its starting weights, on train + validation: " in card
    assert "Model selection" not in card


def two_processes(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    # with more frequent checks, torchrun would end the second process before it ends by itself
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "--monitor_interval=5"]
    launcher += ["-m", "hf_tl", "train"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "ACCELERATE_USE_CPU": "true"}
    return subprocess.run(
        [sys.executable, *launcher, *arguments], env=environment, capture_output=True, text=True, timeout=600
    )


@pytest.mark.slow
def test_two_processes_ask_once(somebody: Place, auto: tuple[Path, str], tmp_path: Path) -> None:
    flags = [*somebody.flags(), *AUTO, "--per_device_train_batch_size", "4", "--output_dir", str(tmp_path / "out")]
    done = two_processes(flags)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("Measuring 2 backbones") == 1
    record, alone = read(tmp_path / "out"), read(auto[0])
    assert record["hyperparameters"]["processes"] == 2
    assert record["recommendation"]["backbone"] == alone["recommendation"]["backbone"]
    assert [rung["is_kept"] for rung in record["rungs"]] == [rung["is_kept"] for rung in alone["rungs"]]


@pytest.mark.slow
def test_what_cannot_be_learned_ends_both_processes(somebody: Place, tmp_path: Path) -> None:
    data = shuffled(tmp_path / "shuffled")
    flags = ["--model", somebody.models[0], "--dataset", str(data), *AUTO, "--output_dir", str(tmp_path / "out")]
    done = two_processes(flags)
    assert done.returncode == 1  # torchrun's own status
    assert done.stderr.count("--strategy auto trains nothing") == 1
    assert done.stderr.count("exitcode  : 2 ") == 2
    assert not (tmp_path / "out").exists()
