"""Train by a strategy with transformers' Trainer; without flags the demo of `hf-tl train`, with its `demo` extra."""

from dataclasses import dataclass, field

from transformers import HfArgumentParser, Trainer, TrainingArguments, set_seed

from hf_tl import StrategyCallback, collate, load_backbone, load_data
from hf_tl.backbones.candidates import candidates
from hf_tl.config import DEMO_DATASET, ModelConfig, StrategyConfig, StrategyName
from hf_tl.evaluation.metrics import MULTI_LABEL, problem_type_of, trainer_metrics


@dataclass
class Flags:
    """Flags of this script, a subset of those of `hf-tl train`."""

    model: str | None = field(default=None, metadata={"help": "Hub id, local directory or timm:ARCH[.TAG]"})
    dataset: str = field(default=DEMO_DATASET, metadata={"help": "Hub id, image folder, parquet files or digits"})
    label_column: str | None = field(default=None, metadata={"help": "label column; several with commas"})
    strategy: StrategyName = field(default="transfer", metadata={"help": "training strategy"})
    trainable_stages: int | None = field(
        default=None, metadata={"help": "number of stages to train, including the head"}
    )
    image_size: int | None = field(default=None, metadata={"help": "height and width of the input in pixels"})
    num_train_epochs: float | None = field(default=None, metadata={"help": "epochs, in all phases together"})
    output_dir: str = field(default="runs/trainer", metadata={"help": "folder for the model and its checkpoints"})


def main() -> None:
    """Train, evaluate on the test split and save."""
    (flags,) = HfArgumentParser(Flags).parse_args_into_dataclasses()
    set_seed(0)
    data = load_data(flags.dataset, label_column=flags.label_column)
    strategy = StrategyConfig(
        flags.strategy, trainable_stages=flags.trainable_stages, num_train_epochs=flags.num_train_epochs,
        # one augmentation for all phases, as Trainer requires; the presets mirror images, which changes digits
        augmentation="none" if data.name == DEMO_DATASET else "light",
        label_smoothing=0.0 if data.problem_type == MULTI_LABEL.name else None,  # not in Trainer
    ).build(images=len(data.splits["train"]))  # fmt: skip
    size = flags.image_size or data.defaults.get("image_size")
    [backbone] = candidates(ModelConfig(flags.model), size)
    model, transforms = load_backbone(
        backbone.name, data.labels, strategy, backbone.weights, image_size=size, problem_type=data.problem_type
    )
    args = TrainingArguments(flags.output_dir, eval_strategy="epoch", save_strategy="no", report_to="none")
    args.label_smoothing_factor = strategy.phases[0].label_smoothing
    args.per_device_train_batch_size = args.per_device_eval_batch_size = 32
    train, test = data.splits["train"].with_transform(transforms.train), data.splits["test"]
    trainer = Trainer(
        model, args, collate, train, data.splits["validation"].with_transform(transforms.eval),
        compute_metrics=trainer_metrics, callbacks=[StrategyCallback(strategy)],
    )  # fmt: skip
    seconds = trainer.train().metrics["train_runtime"]
    metrics, primary = trainer.evaluate(test.with_transform(transforms.eval)), problem_type_of(model).primary
    print(f"test {primary.name} {metrics[f'eval_{primary.key}']:.1%} after {seconds:.0f} s")
    trainer.save_model()


if __name__ == "__main__":
    main()
