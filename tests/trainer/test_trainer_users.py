"""Scripts of users: transformers' example with one more line, a hyperparameter search, a push."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from hub.server import HubServer
from trainer.strategy_trainers import LABELS, SIDE, make_args, make_data, make_model, make_trainer
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageClassification,
    BaseImageProcessor,
    ConvNextConfig,
    ConvNextForImageClassification,
    ConvNextImageProcessor,
    PreTrainedModel,
    Trainer,
)

import hf_tl
from hf_tl.data.datasets import ImageData
from hf_tl.strategy import Strategy


@pytest.fixture(scope="module")
def data() -> ImageData:
    return make_data()


def example_model(folder: Path) -> tuple[PreTrainedModel, BaseImageProcessor]:
    """Save a checkpoint, and load it as transformers' run_image_classification.py does: class names by texts."""
    config = ConvNextConfig(image_size=SIDE, hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1], num_labels=7)
    ConvNextForImageClassification(config).save_pretrained(folder)
    ConvNextImageProcessor(size={"shortest_edge": SIDE}).save_pretrained(folder)
    names = {str(index): label for index, label in enumerate(LABELS)}
    numbers = {label: index for index, label in names.items()}
    config = AutoConfig.from_pretrained(folder, num_labels=len(LABELS), label2id=numbers, id2label=names)
    model = AutoModelForImageClassification.from_pretrained(folder, config=config, ignore_mismatched_sizes=True)
    return model, AutoImageProcessor.from_pretrained(folder)


def example_rows(data: ImageData, split: str, processor: BaseImageProcessor) -> Dataset:
    """Transform rows as that script does: `pixel_values` beside the columns of the dataset."""

    def transform(batch: dict[str, Any]) -> dict[str, Any]:
        pixel_values = processor([image.convert("RGB") for image in batch["image"]], return_tensors="pt")
        return {**batch, "pixel_values": list(pixel_values["pixel_values"])}

    return data.splits[split].with_transform(transform)


def test_transformers_example_with_the_callback(tmp_path: Path, data: ImageData) -> None:
    """The steps of transformers' run_image_classification.py, with one line more."""
    model, processor = example_model(tmp_path / "checkpoint")

    def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        labels = torch.tensor([row["label"] for row in rows])
        return {"pixel_values": torch.stack([row["pixel_values"] for row in rows]), "labels": labels}

    def accuracy(prediction: Any) -> dict[str, float]:
        return {"accuracy": float((np.argmax(prediction.predictions, 1) == prediction.label_ids).mean())}

    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    args = make_args(
        tmp_path / "out", learning_rate=1e-3, num_train_epochs=2, save_strategy="epoch", remove_unused_columns=False
    )
    trainer = Trainer(
        model=model,
        args=args,
        train_dataset=example_rows(data, "train", processor),
        eval_dataset=example_rows(data, "validation", processor),
        compute_metrics=accuracy,
        processing_class=processor,
        data_collator=collate,
        callbacks=[hf_tl.StrategyCallback(Strategy.finetune(trainable_stages=2))],
    )
    trainer.train()
    trainer.save_model()
    assert 0 <= trainer.evaluate()["eval_accuracy"] <= 1
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert {name.split(".")[0] for name in moved} == {"convnext", "classifier"}
    assert {name for name in moved if "embeddings" in name or "stages.0" in name or "stages.1" in name} == set()
    loaded, _ = hf_tl.load(tmp_path / "out")
    frozen = [name for name, parameter in loaded.named_parameters() if not parameter.requires_grad]
    assert moved.isdisjoint(frozen)
    assert frozen


def test_transformers_example_with_strategy_trainer(tmp_path: Path, data: ImageData) -> None:
    """Its model has texts as keys of `id2label`, and its rows have their class in `label`."""
    model, processor = example_model(tmp_path / "checkpoint")
    trainer = hf_tl.StrategyTrainer(
        model,
        make_args(tmp_path / "out", num_train_epochs=1),
        strategy="transfer",
        data=data,
        eval_dataset=example_rows(data, "validation", processor),
    )
    trainer.train()
    assert 0 <= trainer.evaluate()["eval_accuracy"] <= 1
    assert hf_tl.load(tmp_path / "out")[0].config.id2label == dict(enumerate(LABELS))


def test_a_search_over_the_fields_of_a_strategy(tmp_path: Path, data: ImageData) -> None:

    def strategy(trial: Any) -> Strategy:
        stages = 1 if trial is None else trial.suggest_int("trainable_stages", 1, 3)
        return (
            Strategy.finetune(trainable_stages=max(2, stages), epochs=1) if stages > 1 else Strategy.transfer(epochs=1)
        )

    seen: list[tuple[Any, float]] = []
    trainer = hf_tl.StrategyTrainer(
        args=make_args(tmp_path / "out"), strategy=strategy, data=data, model_init=lambda: make_model()[0]
    )

    def objective(metrics: dict[str, float]) -> float:
        phases = trainer.phases.progress.log.phases
        seen.append((phases[-1].trained_stages, trainer.strategy.phases[0].learning_rate))
        return metrics["eval_accuracy"]

    best = trainer.hyperparameter_search(
        hp_space=lambda trial: {"learning_rate": trial.suggest_float("learning_rate", 1e-4, 1e-1, log=True)},
        compute_objective=objective,
        direction="maximize",
        backend="optuna",
        n_trials=4,
    )
    assert set(best.hyperparameters) == {"trainable_stages", "learning_rate"}
    assert all(stages[-1] == "head" for stages, _ in seen)
    assert len({rate for _, rate in seen}) == 4  # adopted from each trial
    assert trainer.finished is None  # trials are not published


def test_a_push_has_the_card_of_the_run(tmp_path: Path, data: ImageData, hub: HubServer) -> None:
    trainer = make_trainer(tmp_path / "out", "transfer", data, num_train_epochs=1, hub_model_id="user/tints")
    trainer.train()
    trainer.create_model_card(finetuned_from="something", tags=["vision"])
    url = trainer.push_to_hub(finetuned_from="something")
    assert "user/tints" in url
    folder = hf_tl.pull("user/tints", tmp_path / "pulled")
    names = {file.name for file in Path(folder).iterdir()}
    assert {"README.md", "run.json", "model.safetensors"} <= names
    assert not names & {"training_args.bin", "learned_from.npz"}
    card = (Path(folder) / "README.md").read_text(encoding="utf-8")
    assert "something" not in card
    assert "- hf_tl\n" in card


def test_a_push_before_training_is_refused(tmp_path: Path, data: ImageData, hub: HubServer) -> None:
    trainer = make_trainer(tmp_path / "out", "transfer", data, num_train_epochs=1, hub_model_id="user/tints")
    with pytest.raises(hf_tl.HfTlError, match="unfinished training"):
        trainer.push_to_hub()


def test_rows_of_a_split_are_evaluated_and_predicted_as_they_are_stored(tmp_path: Path, data: ImageData) -> None:
    trainer = make_trainer(tmp_path / "out", "transfer", data, num_train_epochs=1)
    trainer.train()
    rows, recorded = data.splits["test"], trainer.result.test_accuracy
    assert trainer.evaluate(rows)["eval_accuracy"] == recorded
    assert trainer.evaluate(eval_dataset=rows)["eval_accuracy"] == recorded
    assert trainer.evaluate({"one": rows, "two": rows})["eval_two_accuracy"] == recorded
    assert trainer.predict(rows).metrics["test_accuracy"] == recorded


@pytest.mark.parametrize("name", ["train_dataset", "data_collator", "compute_loss_func"])
def test_arguments_of_trainer_that_the_phases_replace_are_refused(data: ImageData, name: str) -> None:
    with pytest.raises(hf_tl.HfTlError, match=rf"takes {name} from the data and the phases.*StrategyCallback"):
        hf_tl.StrategyTrainer(make_model()[0], strategy="transfer", data=data, **{name: None})


@pytest.mark.parametrize("settings", [{"bf16": True}, {"optim": "sgd"}, {"gradient_accumulation_steps": 3}], ids=str)
def test_a_run_with_other_arguments_ends_with_its_record(
    tmp_path: Path, data: ImageData, settings: dict[str, Any]
) -> None:
    trainer = make_trainer(tmp_path / "out", "finetune", data, num_train_epochs=1, **settings)
    for _ in range(2):  # the precision is set up anew
        trainer.train()
        assert trainer.result.record.status == "complete"
    recorded = trainer.result.record.hyperparameters
    assert recorded["mixed_precision"] == ("bf16" if "bf16" in settings else "no")
    assert ("betas" in recorded["optimizer"]) == ("optim" not in settings)


def test_a_stream_is_refused(tmp_path: Path, data: ImageData) -> None:
    data.splits["train"].to_parquet(tmp_path / "train.parquet")
    data.splits["test"].to_parquet(tmp_path / "test.parquet")
    streamed = hf_tl.load_data(f"{tmp_path}/*.parquet", streaming=True)
    with pytest.raises(hf_tl.HfTlError, match="found a stream: load the data without streaming"):
        hf_tl.StrategyTrainer(make_model()[0], strategy="transfer", data=streamed)
