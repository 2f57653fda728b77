"""Dataclasses of settings, one per concern. Command-line flags and YAML keys are generated from their fields.

Each field declares its type and range once (`hf_tl.ranges`). Creating a dataclass checks all of its fields.
"""

from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Literal

from hf_tl.errors import ConfigError
from hf_tl.phase import ResizeMode
from hf_tl.prompts import NEEDS_WEIGHTS, HeadInit, TextInit
from hf_tl.ranges import Settings, setting
from hf_tl.recipes.preset import StrategyName
from hf_tl.strategy_config import RECOMMENDED_STRATEGY, StrategyConfig

__all__ = [
    "DEMO_DATASET", "DEMO_LICENSE", "DEMO_MODEL", "LARGEST_SEED", "READING", "RECOMMENDED_STRATEGY", "SOURCE",
    "DataConfig", "HubConfig", "ModelConfig", "RunConfig", "StrategyConfig", "StrategyName", "TrainingConfig",
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
        "Hub id, local directory, timm:ARCH[.TAG], or demo (default: demo, EfficientNet-Lite0); with --strategy auto "
        "also several with commas, or a preset: mobile, small, base, self_supervised, image_text",
        metavar="MODEL",
    )
    model_revision: str | None = setting(None, "branch, tag or commit of the model on the Hub", metavar="REVISION")
    weights: str | None = setting(
        None,
        "local weights for timm:ARCH (.safetensors or a PyTorch file); for several models, as many files with commas",
        metavar="FILE",
    )
    pretrained: bool = setting(True, "start from random weights")
    image_size: int | None = setting(
        None, "input height and width in pixels (default: the checkpoint's)", metavar="PIXELS", at_least=1
    )
    resize_mode: ResizeMode | None = setting(
        None,
        "how an image fits the input: crop its center, squash it, or pad it (default: the checkpoint's); the saved "
        "model does the same",
    )
    in_chans: int | None = setting(None, "input channels, for timm:ARCH (default: the checkpoint's)", at_least=1)
    head: Literal["last_layer", "fully_connected"] = setting(
        "last_layer", "what counts as the head: the last layer, or all fully connected layers (VGG, AlexNet)"
    )
    head_init: HeadInit | None = setting(
        None,
        "text: make the first head from the class names, with the text tower of a CLIP or SigLIP backbone (default: "
        "random, or the checkpoint's head for the same classes)",
    )
    prompt: str | None = setting(
        None,
        "prompts of --head_init text, with {} in place of the class name, separated by | (default: seven of CLIP's "
        "authors)",
        metavar="TEMPLATES",
    )
    text_model: str | None = setting(
        None,
        "CLIP or SigLIP checkpoint in transformers' format with the text tower, for timm backbones (default: --model)",
        metavar="MODEL",
    )
    trust_remote_code: bool = setting(False, "allow code from the model's repository to run")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.text is not None and not self.pretrained:
            raise ConfigError(NEEDS_WEIGHTS)

    @property
    def text(self) -> TextInit | None:
        """Return the request for a head from class names; None without one."""
        return TextInit.of(self.head_init, self.prompt, self.text_model)


SOURCE = ("dataset_config", "dataset_revision")
"""Fields of `DataConfig` that name the part and the version of a Hub dataset."""
READING = (
    *("split_folders", "exclude_folders", "class_folder", "image_column", "label_column", "split_column"),
    *("label_separator", "uncertain_labels", "keep_empty_classes", "exclude_list"),
    *("group_column", "group_pattern", "group_near_duplicates"),
)
"""Fields of `DataConfig` that say how to read a dataset; every command that takes a dataset has them as flags."""


@dataclass(frozen=True)
class DataConfig(Settings):
    """Dataset and its splits."""

    dataset: str | None = setting(
        None,
        "folder, table, parquet, tar or zip files, Hub id, or digits (default: digits)",
        metavar="DATASET",
    )
    dataset_config: str | None = setting(None, "configuration of a Hub dataset", metavar="NAME")
    dataset_revision: str | None = setting(None, "branch, tag or commit of the dataset on the Hub", metavar="REVISION")
    split_folders: str | None = setting(
        None,
        "folders, files or values of the split column of each split, as train=A,validation=B,test=C; none: no name is "
        "a split (default: by their names)",
        metavar="SPLITS",
    )
    exclude_folders: str | None = setting(None, "folders to leave out, with commas", metavar="FOLDERS")
    class_folder: Literal["auto", "outer", "inner"] = setting(
        "auto", "whether outer folders or those that images lie in are the classes; auto: an error where both can be"
    )
    image_column: str | None = setting(
        None, "column of images, or of file names of a table (default: detected)", metavar="NAME"
    )
    label_column: str | None = setting(
        None,
        "label column (default: detected by type or name); lists of labels, or several 0/1 columns with commas "
        "(cat,dog,owl), make the task multi-label",
        metavar="NAME",
    )
    split_column: str | None = setting(
        None, "column with the split of each row (default: one such as split)", metavar="NAME"
    )
    label_separator: str | None = setting(
        None,
        "characters between labels of an image in the label column (scab|rust): multi-label",
        metavar="CHARACTERS",
    )
    uncertain_labels: Literal["ignore", "zero", "one"] | None = setting(
        None, "meaning of -1 and blanks beside 0 and 1 in 0/1 columns: no, -1 as yes, or leave the image out"
    )
    keep_empty_classes: bool = setting(False, "keep classes of which there is no image")
    group_column: str | None = setting(
        None,
        "column of groups (patient, video, object): images of a group stay in one split",
        metavar="NAME",
    )
    group_pattern: str = setting(
        "auto",
        "regular expression of the group in a file's path; auto: series such as IMG_2041_1 and IMG_2041_2; none: no "
        "groups by names",
        metavar="PATTERN",
    )
    group_near_duplicates: bool = setting(False, "keep near-duplicates, as hf-tl inspect finds them, in one split")
    validation_fraction: float = setting(0.1, "share of train for validation, if that is no split", above=0, below=1)
    test_fraction: float = setting(0.2, "share of train for test, if that is no split", above=0, below=1)
    streaming: bool = setting(
        False,
        "read a Hub dataset or parquet files without downloading them first: one pass to cache frozen features, "
        "otherwise one pass per epoch",
    )
    include_training_images: bool = setting(
        False,
        "also evaluate on images that the starting model was trained on, and count them in the card (default: excluded "
        "from validation and test)",
    )
    exclude_list: str | None = setting(
        None, "CSV file of images to leave out, as hf-tl inspect writes it", metavar="FILE"
    )
    inspection: str | None = setting(
        None,
        "output folder of hf-tl inspect, whose counts the card names (default: runs/DATASET-inspection, if it is of "
        "the same images)",
        metavar="DIR",
    )
    skip_bad_images: bool = setting(False, "skip unreadable images instead of stopping")
    max_image_pixels: int | None = setting(
        None, "largest image to decode, in pixels (default: Pillow's 89,478,485)", metavar="PIXELS", at_least=1
    )
    horizontal_flip: bool | None = setting(
        None, "allow or forbid horizontal flips in augmentation (default: allowed, except for digits)"
    )


@dataclass(frozen=True)
class TrainingConfig(Settings):
    """Training loop and its outputs."""

    output_dir: str | None = setting(None, "folder for the results (default: a new one under runs/)", metavar="DIR")
    overwrite_output_dir: bool = setting(False, "replace an earlier run in the output folder")
    seed: int = setting(
        0, "random seed (head initialization, data order, augmentation)", at_least=0, at_most=LARGEST_SEED
    )
    teacher: str | None = setting(
        None,
        "trained classifier for the same classes, a folder or Hub id, whose predictions are taught to the model",
        metavar="MODEL",
    )
    teacher_revision: str | None = setting(None, "branch, tag or commit of the teacher on the Hub", metavar="REVISION")
    per_device_train_batch_size: int = setting(32, "training batch size per device", at_least=1)
    per_device_eval_batch_size: int = setting(
        64, "evaluation batch size per device, and the largest batch for computing frozen features", at_least=1
    )
    gradient_accumulation_steps: int = setting(1, "batches per optimizer step", at_least=1)
    auto_find_batch_size: bool = setting(
        False, "on a GPU, halve the batch size and double the gradient accumulation until a step fits into memory"
    )
    test_time_flip: bool = setting(False, "evaluate the mean logits of each image and its mirror image")
    interpolate: Literal["auto"] | float | None = setting(
        None,
        "after fine-tuning, keep weights between those before it (0) and those after it (1): a coefficient, or auto, "
        "the nearest to 0 that is as good as the best on the validation images",
        metavar="{auto,X}",
        at_least=0,
        at_most=1,
    )
    corruptions: bool = setting(
        False,
        "also measure the test metrics under common corruptions (noise, blur, JPEG, brightness, contrast at three "
        "strengths), for record and card",
    )
    max_grad_norm: float | None = setting(1.0, "clip gradients to this L2 norm; none: no clipping", above=0)
    save_steps: int | None = setting(None, "optimizer steps between checkpoints (default: one epoch)", at_least=1)
    save_total_limit: int = setting(2, "checkpoints to keep; 0: write one on SIGTERM only", at_least=0)
    resume_from_checkpoint: str | None = setting(
        None, "resume from a checkpoint's folder; auto: from the latest complete one in --output_dir", metavar="DIR"
    )
    gradient_checkpointing: bool = setting(
        False, "recompute the activations of trained stages in the backward pass: less memory, more time"
    )
    dataloader_num_workers: int = setting(0, "image decoding processes per training process", at_least=0)
    report_to: str = setting(
        "auto",
        "experiment tracker: tensorboard, wandb, trackio or none; auto: tensorboard if installed",
        metavar="TRACKER",
    )
    cpu_threads: int | None = setting(None, "CPU threads per process (default: all cores, shared equally)", at_least=1)
    mixed_precision: Literal["auto", "no", "bf16"] = setting(
        "auto",
        "precision of training steps, unless the launcher sets one; auto: bf16 where it is measured to be faster, with "
        "the same losses",
    )
    feature_cache: Literal["auto", "on", "off"] = setting("auto", "cache frozen features on disk; auto: when faster")
    feature_cache_dir: str | None = setting(
        None, "folder of the feature cache (default: in the Hugging Face cache)", metavar="DIR"
    )
    feature_cache_gb: float = setting(20.0, "limit of the feature cache in GB", above=0)
    feature_dtype: Literal["auto", "float32", "bfloat16"] = setting(
        "auto",
        "precision of the frozen stages and of cached features; auto: bfloat16 where it is measured to be faster, with "
        "the same features",
    )
    cached_views: int | None = setting(
        None,
        "augmented views of each image to cache, used in turn by the epochs (default: cache only phases without "
        "augmentation)",
        at_least=1,
    )
    decode_reduced: bool = setting(
        False,
        "decode large training JPEGs at 1/2, 1/4 or 1/8 size for cached features without augmentation: faster, nearly "
        "the same pixels; evaluation images are decoded in full",
    )
    time_budget: float | None = setting(
        None,
        "minutes of training for --strategy auto: a stage depth that would not fit is not started",
        metavar="MINUTES",
        above=0,
    )
    measure_energy: bool = setting(
        False, 'report the energy of the training in the card; needs pip install "hf-tl[energy]"'
    )
    keep_memory: bool = setting(True, "let glibc return freed memory to the system (slower on CPUs)")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.measure_energy and find_spec("codecarbon") is None:
            raise ConfigError('--measure_energy needs codecarbon: pip install "hf-tl[energy]"')
        if self.resume_from_checkpoint is not None and self.output_dir is None:
            raise ConfigError("--resume_from_checkpoint needs the --output_dir of the run to resume: add --output_dir")
        if self.teacher_revision is not None and self.teacher is None:
            raise ConfigError("--teacher_revision is of a teacher on the Hub: add --teacher USER/NAME")


@dataclass(frozen=True)
class HubConfig(Settings):
    """Publishing of the model, and contents of its card."""

    push_to_hub: str | None = setting(
        None, "push the model with its card to this Hub repository after training", metavar="USER/NAME"
    )
    hub_private: bool = setting(False, "create the repository as private")
    card_intended_use: str | None = setting(None, "intended use of the model, as a sentence for its card")
    card_limits: str | None = setting(None, "out-of-scope use and limitations of the model, as a sentence for its card")
    card_images: bool = setting(
        False, "show test images in the card: the most confident mistakes, with activation maps"
    )


@dataclass(frozen=True)
class RunConfig:
    """All settings of a run."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    strategy: StrategyConfig = field(default_factory=StrategyConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    hub: HubConfig = field(default_factory=HubConfig)
