"""`--strategy auto` end to end: on small networks and images, through the command line."""

import json
import logging
import shutil
from pathlib import Path

import pytest
import torch
from auto.inputs import AUTO, Inputs, check_no_path, colored, printed_by, read, shuffled
from cli.runs import COLORS, fails, write_images
from PIL import Image as Pillow
from transformers import AutoModelForImageClassification

import hf_tl
from hf_tl.cli import main
from hf_tl.record import read_record


def test_auto_measures_climbs_and_states_the_reason(inputs: Inputs, auto: tuple[Path, str]) -> None:
    folder, printed = auto
    record, card = read(folder), (folder / "README.md").read_text()
    for text in (
        "Measuring 2 backbones on colors",
        "linear probe",
        "Reason",
        "Keeping stage depth 1/",
        "validation accuracy",
    ):
        assert text in printed
    advice, rungs = record["recommendation"], record["rungs"]
    assert {measured["backbone"] for measured in advice["evidence"]} == {"resnet", "vit"}
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
    assert "Before training, hf_tl's advisor evaluated" in card
    for row in ("| `resnet` | ", "| `vit` | ", "| 1 | `"):
        assert card.count(f"\n{row}") >= 1, row
    for rung in rungs:
        assert f"{'kept' if rung['is_kept'] else 'reverted'}: {rung['why']} |" in card
    check_no_path(inputs, folder)
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
def test_one_backbone_in_no_time(inputs: Inputs, auto: tuple[Path, str], tmp_path: Path) -> None:
    """A single backbone is measured, too; its head is trained despite the time budget, but no later stage depth."""
    out = tmp_path / "out"
    flags = ["--model", inputs.models[0], "--dataset", inputs.images, "--time_budget", "0.001"]
    printed = printed_by(["train", *flags, *AUTO, "--output_dir", str(out)])
    assert "Measuring 1 backbone on" in printed
    record = read(out)
    [evidence] = record["recommendation"]["evidence"]
    assert evidence == next(e for e in read(auto[0])["recommendation"]["evidence"] if e["backbone"] == "resnet")
    assert len(record["rungs"]) == len(record["phases"]) == 1
    stopped = "The search ended early: the time budget leaves no room for the next stage depth."
    assert stopped in (out / "README.md").read_text()


def test_five_images_per_class(inputs: Inputs, tmp_path: Path) -> None:
    data = write_images(tmp_path / "small", 5)
    flags = ["--model", inputs.models[0], "--dataset", str(data), *AUTO, "--output_dir", str(tmp_path / "out")]
    main(["train", *flags])
    record = read(tmp_path / "out")
    assert record["recommendation"]["data"]["measured_on"] == 12
    assert record["rungs"][0]["images"] == record["data"]["splits"]["validation"]["images"]


def test_labels_that_cannot_be_learned(
    inputs: Inputs, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = shuffled(tmp_path / "shuffled")
    said = fails(["train", "--model", inputs.models[0], "--dataset", str(data), *AUTO], capsys)
    assert "--strategy auto recommends no training (" in said
    assert {path.name for path in tmp_path.iterdir()} == {"shuffled"}


def test_multi_label_data_are_refused(inputs: Inputs, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    colored(several=True).to_parquet(str(tmp_path / "several.parquet"))
    flags = ["--dataset", str(tmp_path / "several.parquet"), "--label_column", "red,blue"]
    said = fails(["train", "--model", inputs.models[0], *flags, *AUTO, "--output_dir", str(tmp_path / "out")], capsys)
    assert "expected one label per image" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([], "expected one --model, found 2"),
        (["--strategy", "auto", "--streaming"], "random access"),
        (["--refit", "true", "--streaming"], "random access"),
        (
            ["--strategy", "auto", "--trainable_stages", "2"],
            "needs --strategy finetune, gradual or lora, found --strategy auto",
        ),
        (
            ["--strategy", "auto", "--head_solver", "lbfgs"],
            "trains the head alone (transfer, finetune or gradual), found --strategy auto",
        ),
        (["--strategy", "auto", "--no_pretrained"], "leave out --no_pretrained"),
        (["--strategy", "auto", "--time_budget", "0"], "--time_budget takes a number above 0"),
        (["--time_budget", "5"], "--time_budget needs --strategy auto, or --phases with an expected_rung"),
        (["--strategy", "auto", "--phases", "[{trainable_stages: 1, epochs: 1}]"], "leave out --strategy"),
        (["--strategy", "auto", "--recommendation", "advice"], "leave out --strategy"),
        (["--recommendation", "none"], "holds no strategy.json"),
    ],
)
def test_flags_that_do_not_go_together(
    inputs: Inputs, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], said: str
) -> None:
    assert said in fails(["train", *inputs.flags(), *flags, "--output_dir", str(tmp_path / "out")], capsys)
    assert list(tmp_path.iterdir()) == []


class Interruption(logging.Handler):
    """An interruption by the user when a message is logged."""

    def __init__(self, message: str) -> None:
        super().__init__()
        self.message = message

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage().startswith(self.message):
            raise KeyboardInterrupt


def test_a_resumed_run_follows_the_recommendation_of_the_interrupted_one(inputs: Inputs, tmp_path: Path) -> None:
    """The recommendation depends on the cost of trials, so that another measurement may give another one."""
    flags = ["train", *inputs.flags(), *AUTO, "--output_dir", str(tmp_path / "out")]
    interruption = Interruption("Keeping stage depth 1/")
    logging.getLogger("hf_tl").addHandler(interruption)
    try:
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            main(flags)
    finally:
        logging.getLogger("hf_tl").removeHandler(interruption)
    file = tmp_path / "out" / "checkpoints" / "advice.json"
    content = json.loads(file.read_text())
    assert content["climb"]["stages"]
    said = printed_by([*flags, "--resume_from_checkpoint", "auto"])
    assert f"Following the recommendation of the interrupted run: {content['record']['advice']}" in said
    assert "Measuring 2 backbones" not in said
    assert not file.exists()
    assert read(tmp_path / "out")["recommendation"] == content["record"]
