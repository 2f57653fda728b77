"""Peer 1: the Trainer recipe of transformers' image-classification example, reimplemented from its documentation.

It follows `run_image_classification.py` (https://github.com/huggingface/transformers, examples/pytorch/
image-classification) with the flags of its README: batches of 8, evaluation and checkpoint after each epoch, the best
checkpoint loaded at the end, and Trainer's defaults otherwise (fused AdamW, linear decay, images decoded by the
training process). A timm checkpoint brings its own transforms. The example freezes nothing, so frozen parts are frozen
by `requires_grad`, as its users do. Only the peak learning rate differs from the README's 2e-5, which suits training
all of a ViT: a new head would not converge with it, and the accuracies would not be comparable.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import load_dataset
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    EvalPrediction,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)


class Marks(TrainerCallback):
    """Callback that records the start of training, and of each epoch the end of training and of evaluation with saving.

    It stops after a number of epochs.
    """

    def __init__(self, last_epoch: int) -> None:
        self.last_epoch = last_epoch
        self.training_began = 0.0
        self.epochs_trained: list[float] = []
        self.epochs_ended: list[float] = []

    def on_train_begin(self, *arguments: Any, **kwargs: Any) -> None:
        """Record the end of start-up."""
        self.training_began = time.time()

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Record the end of training in an epoch; the learning rate schedule stays that of all epochs."""
        self.epochs_trained.append(time.time())
        control.should_training_stop = len(self.epochs_trained) >= self.last_epoch

    def on_save(self, *arguments: Any, **kwargs: Any) -> None:
        """Record the end of an epoch."""
        self.epochs_ended.append(time.time())


def main() -> None:
    """Train, evaluate on the test images and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="folder written by prepare.py")
    parser.add_argument("--dataset", type=Path, required=True, help="image folder with train, validation and test")
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--layers", choices=("head", "finetune", "full"), required=True, help="layers to train")
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--stop_after", type=int, required=True, help="number of epochs to run")
    parser.add_argument("--learning_rate", type=float, required=True)
    parser.add_argument("--bf16", action="store_true")
    options = parser.parse_args()
    marks = Marks(options.stop_after)
    trainer, test = build_trainer(options, marks)
    trainer.train()
    trainer.save_model()
    accuracy = trainer.evaluate(test)["eval_accuracy"]
    result = {"accuracy": accuracy, "training_began": marks.training_began}
    result |= {"epochs_trained": marks.epochs_trained, "epochs_ended": marks.epochs_ended}
    seconds = marks.epochs_ended[-1] - marks.training_began
    result["images_per_second"] = len(trainer.train_dataset) * len(marks.epochs_ended) / seconds
    (options.output_dir / "result.json").write_text(json.dumps(result), encoding="utf-8")


def build_trainer(options: argparse.Namespace, marks: Marks) -> tuple[Trainer, Any]:
    """Build the recipe's Trainer; return it and the test images."""
    args = TrainingArguments(
        str(options.output_dir),
        num_train_epochs=options.epochs,
        learning_rate=options.learning_rate,
        bf16=options.bf16,
        per_device_train_batch_size=8,
        per_device_eval_batch_size=8,
        logging_steps=10,
        eval_strategy="epoch",
        save_strategy="epoch",
        load_best_model_at_end=True,
        metric_for_best_model="accuracy",
        save_total_limit=3,
        remove_unused_columns=False,
        seed=1337,
    )
    set_seed(args.seed)
    dataset = load_dataset("imagefolder", data_dir=str(options.dataset))
    model = AutoModelForImageClassification.from_pretrained(options.model)
    if options.layers != "full":
        trained = json.loads((options.model / "about.json").read_text(encoding="utf-8"))["trained"][options.layers]
        for name, parameter in model.named_parameters():
            parameter.requires_grad = name in trained
    processor = AutoImageProcessor.from_pretrained(options.model)

    def transformed(split: str, transforms: Any) -> Any:
        def apply(rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
            return {
                "pixel_values": [transforms(image.convert("RGB")) for image in rows["image"]],
                "label": rows["label"],
            }

        return dataset[split].with_transform(apply)

    trainer = Trainer(
        model,
        args,
        data_collator=collate,
        train_dataset=transformed("train", processor.train_transforms),
        eval_dataset=transformed("validation", processor.val_transforms),
        compute_metrics=accuracy_of,
        processing_class=processor,
        callbacks=[marks],
    )
    return trainer, transformed("test", processor.val_transforms)


def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Stack rows into a batch."""
    pixels = torch.stack([row["pixel_values"] for row in rows])
    return {"pixel_values": pixels, "labels": torch.tensor([row["label"] for row in rows])}


def accuracy_of(prediction: EvalPrediction) -> dict[str, float]:
    """Compute the accuracy."""
    return {"accuracy": float((np.argmax(prediction.predictions, axis=1) == prediction.label_ids).mean())}


if __name__ == "__main__":
    main()
