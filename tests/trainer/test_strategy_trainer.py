"""`StrategyTrainer` beside the Accelerate loop: the same images, losses and phases, and the same saved folder."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from trainer.strategy_trainers import BATCH, LABELS, SIDE, make_args, make_data, make_model, make_trainer
from transformers import BitImageProcessor, Dinov2Config, Dinov2ForImageClassification

import hf_tl
from hf_tl.data.datasets import ImageData
from hf_tl.record import read_record
from hf_tl.strategy import Phase, Strategy

HEAD = Phase(1, 1, 0.01, augmentation="none", warmup_ratio=0.25)
DEEP = Phase(2, 2, 0.01, augmentation="light", backbone_learning_rate=0.003)


@pytest.fixture(scope="module")
def data() -> ImageData:
    return make_data()


def losses(record: Any) -> list[float]:
    return [entry["train_loss"] for entry in record.history]


@pytest.mark.parametrize(
    "recipe",
    [
        {},
        {"label_smoothing": 0.2},
        {"class_weights": "balanced"},
        {"balanced_sampling": True},
        {"mixup": 0.4},
        {"cutmix": 1.0, "label_smoothing": 0.1},
        {"ema_decay": 0.9},
        {"epochs": None, "steps": 12},
        {"batch_norm": "keep", "layer_decay": 0.5},
        {"norm": "adapt", "augmentation": "none"},
        {"tuning": hf_tl.LoRA(2), "batch_norm": "keep"},
    ],
    ids=str,
)
def test_a_phase_is_that_of_the_accelerate_loop(tmp_path: Path, data: ImageData, recipe: dict[str, Any]) -> None:
    strategy = Strategy("both", (HEAD, replace(DEEP, **recipe)))
    model, transforms = make_model()
    settings = {"per_device_train_batch_size": BATCH, "seed": 0, "feature_cache": "off"}
    loop = hf_tl.train(model, data, strategy, transforms=transforms, output_dir=str(tmp_path / "loop"), **settings)
    trainer = make_trainer(tmp_path / "trainer", strategy, data)
    trainer.train()
    record = trainer.result.record
    assert losses(record)[: len(losses(loop.record))] == pytest.approx(losses(loop.record), rel=2e-3)
    rates = [[entry["learning_rate"] for entry in each.history] for each in (record, loop.record)]
    assert rates[0][: len(rates[1])] == pytest.approx(rates[1], rel=1e-3, abs=1e-9)
    assert any(rates[0])
    assert [phase.trained_stages for phase in record.phases] == [("head",), ("layer4", "head")]
    kept = loop.record.phases  # up to the selected weights
    assert [phase.steps for phase in record.phases][: len(kept)] == [phase.steps for phase in kept]
    assert all(phase.proof.holds and phase.proof.tensors for phase in record.phases)
    assert {phase.recipe for phase in record.phases} == set(strategy.phases)


def test_the_folder_holds_record_and_card_of_what_happened(tmp_path: Path, data: ImageData) -> None:
    trainer = make_trainer(tmp_path / "out", "finetune", data, num_train_epochs=2)
    trainer.train()
    record = read_record(tmp_path / "out")
    assert record.to_json() == json.loads(json.dumps(trainer.result.record.to_json()))
    assert record.status == "complete"
    assert record.strategy.phases == trainer.strategy.phases
    assert set(record.measured) == {"validation", "test"}
    assert record.hyperparameters["trainer"] == "transformers Trainer"
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "huggingface.co/)" not in card  # of Trainer's own card, with an empty base model
    assert (tmp_path / "out" / "history.png").is_file()


def test_classes_in_another_order_are_refused(tmp_path: Path, data: ImageData) -> None:
    model, _ = make_model(labels=LABELS[::-1])
    with pytest.raises(hf_tl.HfTlError, match=r"expected a model with the classes of the dataset, \['blue'"):
        hf_tl.StrategyTrainer(model, strategy="transfer", data=data)


def test_what_no_logit_depends_on_is_not_trained(tmp_path: Path, data: ImageData) -> None:
    """A mask token gets no gradient: the loop does not count it either, and several processes would wait for it."""
    config = Dinov2Config(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=SIDE, patch_size=8, num_labels=3
    )
    Dinov2ForImageClassification(config).save_pretrained(tmp_path / "dino")
    BitImageProcessor(size={"shortest_edge": SIDE}, crop_size=SIDE).save_pretrained(tmp_path / "dino")
    name, strategy = str(tmp_path / "dino"), Strategy.full(epochs=1)
    model, transforms = hf_tl.load_backbone(name, data.labels, image_size=SIDE)
    trainer = hf_tl.StrategyTrainer(
        model, make_args(tmp_path / "out"), strategy=strategy, data=data, transforms=transforms
    )
    trainer.train()
    loop = hf_tl.train(name, data, strategy, image_size=SIDE, output_dir=tmp_path / "loop", report_to="none")
    records = [trainer.result.record, loop.record]
    assert not model.dinov2.embeddings.mask_token.requires_grad
    assert len({record.phases[0].parameters_trained for record in records}) == 1
