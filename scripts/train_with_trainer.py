"""Train by a strategy with transformers' Trainer; without flags the demo of `hf-tl train`, with its `demo` extra."""

from dataclasses import dataclass, field

from transformers import HfArgumentParser, TrainingArguments

import hf_tl
from hf_tl.backbones.candidates import candidates
from hf_tl.config import DEMO_DATASET, ModelConfig


@dataclass
class Flags:
    """Flags of this script, beside those of `TrainingArguments`."""

    model: str | None = field(default=None, metadata={"help": "Hub id, local directory or timm:ARCH[.TAG]"})
    dataset: str = field(default=DEMO_DATASET, metadata={"help": "folder, table, Hub id, or digits"})
    label_column: str | None = field(default=None, metadata={"help": "label column; several with commas"})
    strategy: str = field(default="transfer", metadata={"help": "transfer, finetune, gradual, full or scratch"})
    trainable_stages: int | None = field(default=None, metadata={"help": "stages to train, including the head"})
    image_size: int | None = field(default=None, metadata={"help": "height and width of the input in pixels"})


@dataclass
class Arguments(TrainingArguments):
    """`TrainingArguments` with the defaults of this script."""

    output_dir: str = "runs/trainer"
    per_device_train_batch_size: int = 32
    per_device_eval_batch_size: int = 64
    eval_strategy: str = "epoch"
    save_strategy: str = "no"


def main() -> None:
    """Train, evaluate, and save the model with its record and card."""
    flags, args = HfArgumentParser((Flags, Arguments)).parse_args_into_dataclasses()
    data = hf_tl.load_data(flags.dataset, label_column=flags.label_column)
    size = flags.image_size or data.defaults.get("image_size")
    [backbone] = candidates(ModelConfig(flags.model), size)
    model, transforms = hf_tl.load_backbone(backbone.name, data.labels, weights=backbone.weights, image_size=size)
    strategy = hf_tl.Strategy.of(flags.strategy, trainable_stages=flags.trainable_stages)
    trainer = hf_tl.StrategyTrainer(model, args, strategy=strategy, data=data, transforms=transforms)
    trainer.train()  # saves the model with its record and card, and prints the test accuracy


if __name__ == "__main__":
    main()
