"""Dataclasses of settings, one per concern. Command-line flags and YAML keys are generated from their fields.

Each field declares its type and range once (`hf_tl.ranges`). Creating a dataclass checks all of its fields.
"""

from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Literal

from hf_tl.errors import ConfigError
from hf_tl.ranges import Settings, setting
from hf_tl.strategy_config import RECOMMENDED_STRATEGY, StrategyConfig, StrategyName

__all__ = [
    "DEMO_DATASET", "DEMO_LICENSE", "DEMO_MODEL", "LARGEST_SEED", "RECOMMENDED_STRATEGY", "DataConfig", "HubConfig",
    "ModelConfig", "RunConfig", "StrategyConfig", "StrategyName", "TrainingConfig",
]  # fmt: skip

DEMO_MODEL = "timm:tf_efficientnet_lite0"
"""Default backbone of `hf-tl train`, with the weights that the `[demo]` extra installs."""
DEMO_LICENSE = "apache-2.0"
"""License of those weights, as stated by their package."""
DEMO_DATASET = "digits"
"""Default dataset of `hf-tl train`: scikit-learn's digits."""


LARGEST_SEED = 2**32 - 1
"""Largest seed that numpy accepts."""


@dataclass(frozen=True)
class ModelConfig(Settings):
    """Backbone and its weights."""

    model: str | None = setting(
        None,
        "Hub id, local directory, or timm:ARCH[.TAG]; without it, the demo's EfficientNet-Lite0. Several with commas, "
        "or mobile, small or base, which are lists of some: --strategy auto chooses one",
    )
    model_revision: str | None = setting(None, "branch, tag or commit of the model on the Hub")
    weights: str | None = setting(
        None, "local file with the weights (.safetensors or torch), for timm:ARCH; one for each of several"
    )
    pretrained: bool = setting(True, "load the pretrained weights")
    image_size: int | None = setting(
        None, "height and width of the input in pixels; the checkpoint's by default", at_least=1
    )
    in_chans: int | None = setting(None, "channels of the input, for timm:ARCH", at_least=1)
    head: Literal["last_layer", "fully_connected"] = setting(
        "last_layer", "what counts as the head: the last layer, or the whole fully connected part (VGG, AlexNet)"
    )
    trust_remote_code: bool = setting(False, "allow code from the model's repository to run")


@dataclass(frozen=True)
class DataConfig(Settings):
    """Dataset and its splits."""

    dataset: str | None = setting(
        None, "Hub id, image folder (with or without split folders), parquet files, or digits; digits by default"
    )
    dataset_config: str | None = setting(None, "configuration of a Hub dataset")
    dataset_revision: str | None = setting(None, "branch, tag or commit of the dataset on the Hub")
    image_column: str | None = setting(None, "column with the images; found by its type by default")
    label_column: str | None = setting(
        None,
        "column with the labels; found by its type or name by default. Lists of labels, or several columns of 0 and 1 "
        "with commas (cat,dog,owl), make it multi-label",
    )
    validation_fraction: float = setting(
        0.1, "part of the training images set apart if there is no validation split", above=0, below=1
    )
    test_fraction: float = setting(
        0.2, "part of the training images set apart if there is no test split", above=0, below=1
    )
    streaming: bool = setting(
        False,
        "read the images of a Hub dataset, or of parquet files, as they are needed, without downloading the dataset: "
        "once for features of the frozen part, else once an epoch",
    )
    include_training_images: bool = setting(
        False,
        "measure on images that the starting model learned from, too; the card states how many. By default they are "
        "kept out of validation and test",
    )
    skip_bad_images: bool = setting(False, "leave out unreadable images instead of stopping")
    horizontal_flip: bool | None = setting(
        None, "whether augmentation may mirror images; true by default, false for digits"
    )


@dataclass(frozen=True)
class TrainingConfig(Settings):
    """Training loop and its outputs."""

    output_dir: str | None = setting(None, "folder for the model and its record; a new one under runs/ by default")
    overwrite_output_dir: bool = setting(False, "replace a run that the folder holds")
    seed: int = setting(
        0, "random seed (head initialization, data order, augmentation)", at_least=0, at_most=LARGEST_SEED
    )
    per_device_train_batch_size: int = setting(32, "images a step on each device", at_least=1)
    per_device_eval_batch_size: int = setting(
        64, "images a step in evaluation, and at most in the pass over a frozen part", at_least=1
    )
    gradient_accumulation_steps: int = setting(1, "steps whose gradients are added up before an update", at_least=1)
    auto_find_batch_size: bool = setting(
        False, "halve the batches, and accumulate twice as many, until a step fits into the memory of a GPU"
    )
    test_time_flip: bool = setting(False, "measure with the mean of the logits of each image and its mirror image")
    max_grad_norm: float | None = setting(1.0, "clip gradients to this L2 norm; none: no clipping", above=0)
    save_steps: int | None = setting(
        None, "optimizer steps between checkpoints; one after each epoch by default", at_least=1
    )
    save_total_limit: int = setting(2, "checkpoints to keep; 0 writes none until SIGTERM", at_least=0)
    resume_from_checkpoint: str | None = setting(
        None, "go on from a checkpoint's folder, or from the newest whole one of --output_dir: auto"
    )
    gradient_checkpointing: bool = setting(
        False, "compute the activations of trained stages again in the backward pass: less memory, more time"
    )
    dataloader_num_workers: int = setting(0, "processes that decode images beside each training process", at_least=0)
    report_to: str = setting("auto", "tracker: tensorboard, wandb, trackio, none; auto is tensorboard where installed")
    cpu_threads: int | None = setting(
        None, "threads of each process on a CPU; all cores shared equally by default", at_least=1
    )
    feature_cache: Literal["auto", "on", "off"] = setting(
        "auto", "keep what the frozen part computes for each image instead of computing it in every epoch: if it pays"
    )
    feature_cache_dir: str | None = setting(None, "folder for it; in the cache of Hugging Face by default")
    feature_cache_gb: float = setting(
        20.0, "how much of the disk it may take; what was not used for longest goes first", above=0
    )
    feature_dtype: Literal["float32", "bfloat16"] = setting(
        "float32", "bfloat16: compute and keep features in half the precision, faster on hardware that has it"
    )
    cached_views: int | None = setting(
        None,
        "augmented versions of each image to keep, which the epochs take in turn; without it, only phases "
        "without augmentation use the cache",
        at_least=1,
    )
    decode_reduced: bool = setting(
        False,
        "decode large JPEGs at a half, a quarter or an eighth of their size where the cache keeps features of training "
        "images without augmentation: faster, and nearly the same pixels; what is measured is decoded in full",
    )
    time_budget: float | None = setting(
        None, "minutes that --strategy auto may train: a rung that would not fit into them is not begun", above=0
    )
    measure_energy: bool = setting(
        False, 'tell in the card what energy training took; needs pip install "hf-tl[energy]"'
    )
    keep_memory: bool = setting(True, "let the C library keep freed memory: two to four times as fast on a CPU")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.measure_energy and find_spec("codecarbon") is None:
            raise ConfigError('--measure_energy needs codecarbon: pip install "hf-tl[energy]"')
        if self.resume_from_checkpoint is not None and self.output_dir is None:
            raise ConfigError("--resume_from_checkpoint needs the --output_dir of the run that it goes on with")


@dataclass(frozen=True)
class HubConfig(Settings):
    """Publishing of the model, and contents of its card."""

    push_to_hub: str | None = setting(None, "USER/NAME to push the model to when it is trained")
    hub_private: bool = setting(False, "make a new repository private")
    card_intended_use: str | None = setting(None, "what the model is meant for, in a sentence of its card")
    card_limits: str | None = setting(None, "what it must not be used for, or cannot do, in a sentence of its card")
    card_images: bool = setting(
        False, "show images of the test split in the card: the most confident mistakes, and where the model looked"
    )


@dataclass(frozen=True)
class RunConfig:
    """All settings of a run."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    strategy: StrategyConfig = field(default_factory=StrategyConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    hub: HubConfig = field(default_factory=HubConfig)
