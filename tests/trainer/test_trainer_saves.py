"""Models that `StrategyTrainer` saves and publishes, and what it records of a run that did not go as planned."""

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from trainer.strategy_trainers import LABELS, SIDE, TIMM, make_args, make_data, make_model, make_trainer
from transformers import EarlyStoppingCallback, TrainerCallback, ViTConfig, ViTForImageClassification, ViTImageProcessor
from transformers import pipeline as make_pipeline

import hf_tl
from hf_tl.data.datasets import ImageData
from hf_tl.record import read_record
from hf_tl.strategy import Phase, Strategy

GRADUAL = Strategy("gradual", tuple(Phase(stages, 2, 0.01, augmentation="none") for stages in (1, 2, 3)))


@pytest.fixture(scope="module")
def data() -> ImageData:
    return make_data()


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("vit")
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    ViTForImageClassification(ViTConfig(image_size=SIDE, patch_size=8, **sizes)).save_pretrained(folder)
    ViTImageProcessor(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("library", ["timm", "transformers"])
@pytest.mark.parametrize("place", ["train", "save_model", "checkpoint"])
def test_a_saved_model_loads_everywhere(tmp_path: Path, data: ImageData, vit: str, library: str, place: str) -> None:
    model, transforms = hf_tl.load_backbone(vit, LABELS) if library == "transformers" else make_model(TIMM)
    args = make_args(tmp_path / "out", num_train_epochs=1, save_strategy="epoch")
    trainer = hf_tl.StrategyTrainer(model, args, strategy="full", data=data, transforms=transforms)
    trainer.train()
    if place == "save_model":
        trainer.save_model(str(tmp_path / "saved"))
    folder = {"train": "out", "save_model": "saved", "checkpoint": "out/checkpoint-8"}[place]
    folder = tmp_path / folder
    image = data.splits["test"][0]["image"]
    expected = trainer.model(transforms.eval(image)[None]).logits.softmax(-1)[0]
    scores = {entry["label"]: entry["score"] for entry in make_pipeline("image-classification", str(folder))(image)}
    assert [scores[label] for label in LABELS] == pytest.approx(expected.tolist(), abs=1e-4)
    loaded, again = hf_tl.load(folder)
    assert torch.allclose(loaded(again.eval(image)[None]).logits.softmax(-1)[0], expected, atol=1e-4)
    if library == "timm":
        network = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
        assert torch.allclose(network(transforms.eval(image)[None]).softmax(-1)[0], expected, atol=1e-4)
    record = read_record(folder)
    assert record.status == ("training" if place == "checkpoint" else "complete")
    assert [phase.steps for phase in record.phases] == [8]
    assert "full" in (folder / "README.md").read_text(encoding="utf-8")
    assert not (folder / "training_args.bin").exists()  # a pickle with local paths


def test_early_stopping_ends_the_phase_and_not_the_run(tmp_path: Path, data: ImageData) -> None:
    trainer = make_trainer(
        tmp_path / "out", GRADUAL, data, metric_for_best_model="accuracy", load_best_model_at_end=True,
        save_strategy="epoch",
    )  # fmt: skip
    stopper = EarlyStoppingCallback(early_stopping_patience=1, early_stopping_threshold=2.0)  # no gain is enough
    trainer.add_callback(stopper)
    trainer.train()
    recorded = trainer.phases.progress.log.phases
    assert [phase.trained_stages for phase in recorded] == [
        ("head",), ("layer4", "head"), ("layer3", "layer4", "head"),
    ]  # fmt: skip
    assert [phase.steps for phase in recorded] == [16, 8, 8]  # the first evaluation is a gain
    assert trainer.state.global_step == 32
    assert len(trainer.result.record.phases) == trainer.result.record.best["phase"] + 1


class Stop(TrainerCallback):
    """Callback that ends the run, as a time limit does."""

    def on_step_end(self, args: object, state: object, control: object, **kwargs: object) -> None:
        control.should_training_stop = state.global_step >= 20


def test_a_run_that_another_callback_ends_records_the_phases_that_ran(tmp_path: Path, data: ImageData) -> None:
    trainer = make_trainer(tmp_path / "out", GRADUAL, data, eval_strategy="no")
    trainer.add_callback(Stop())
    trainer.train()
    record = read_record(tmp_path / "out")
    assert [(len(phase.trained_stages), phase.steps) for phase in record.phases] == [(1, 16), (2, 4)]
    assert len(record.strategy.phases) == 2
    config = json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8"))
    assert len(config["hf_tl"]["strategy"]["phases"]) == 2


def test_patience_of_a_phase_ends_it(tmp_path: Path, data: ImageData) -> None:
    impatient = Phase(1, 8, 1.0, augmentation="none", patience=2)  # too fast to gain for long
    trainer = make_trainer(tmp_path / "out", Strategy("impatient", (impatient, GRADUAL.phases[1])), data)
    trainer.train()
    assert [phase.steps < 64 for phase in trainer.phases.progress.log.phases] == [True, True]
    assert len(trainer.phases.progress.log.phases) == 2


def test_the_best_weights_are_those_that_were_evaluated(tmp_path: Path, data: ImageData) -> None:
    averaged = Strategy("averaged", (Phase("all", 4, 0.05, augmentation="none", ema_decay=0.9),))
    trainer = make_trainer(
        tmp_path / "out", averaged, data, save_strategy="epoch", load_best_model_at_end=True,
        metric_for_best_model="loss",
    )  # fmt: skip
    trainer.train()
    best = trainer.result.record.best
    assert trainer.result.record.measured["validation"].metrics["loss"] == pytest.approx(
        best["validation"]["loss"], rel=1e-4
    )


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        ({}, "the last weights; no checkpoint was selected by validation"),
        (
            {"save_strategy": "epoch", "load_best_model_at_end": True, "metric_for_best_model": "accuracy"},
            "the checkpoint with the best accuracy (validation)",
        ),
    ],
)
def test_the_card_names_the_rule_that_selected_the_checkpoint(
    tmp_path: Path, data: ImageData, settings: dict[str, Any], rule: str
) -> None:
    trainer = make_trainer(tmp_path / "out", "full", data, num_train_epochs=2, **settings)
    trainer.train()
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert rule in card
    assert "one standard error" not in card


def test_training_again_is_recorded_as_a_chain(tmp_path: Path, data: ImageData) -> None:
    trainer = make_trainer(tmp_path / "out", "transfer", data, num_train_epochs=1)
    trainer.train()
    trainer.train()
    origin = trainer.result.record.origin
    assert (origin.kind, origin.strategy, origin.data) == ("trained", "transfer", "tints")
