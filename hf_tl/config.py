"""One small dataclass a concern. Command-line flags and YAML keys are generated from their fields."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

from hf_tl.errors import ConfigError, name_some
from hf_tl.phase import OF_ADAMW
from hf_tl.recipes import recipe_for, solved
from hf_tl.strategy import Augmentation, BatchNorm, ClassWeights, Norm, Solver, Strategy

StrategyName = Literal["transfer", "finetune", "gradual", "full", "scratch", "auto"]

DEMO_MODEL = "timm:tf_efficientnet_lite0"
"""What `hf-tl train` runs on without `--model`, with the weights that the `[demo]` extra installs."""
DEMO_LICENSE = "apache-2.0"
"""Of those weights, as their package says."""
DEMO_DATASET = "digits"
"""What it runs on without `--dataset`: scikit-learn's digits."""


RECOMMENDED_STRATEGY = "strategy.json"
"""What `hf-tl recommend --output_dir` writes for `--recommendation`, and for `--phases`."""


def _flag(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class ModelConfig:
    """Which backbone, with which weights."""

    model: str | None = _flag(
        None,
        "Hub id, local directory, or timm:ARCH[.TAG]; without it, the demo's EfficientNet-Lite0. Several with commas, "
        "or mobile, small or base, which are lists of some: --strategy auto chooses one",
    )
    model_revision: str | None = _flag(None, "branch, tag or commit of the model on the Hub")
    weights: str | None = _flag(
        None, "local file with the weights (.safetensors or torch), for timm:ARCH; one for each of several"
    )
    pretrained: bool = _flag(True, "load the pretrained weights")
    image_size: int | None = _flag(None, "height and width of the input in pixels; the checkpoint's by default")
    in_chans: int | None = _flag(None, "channels of the input, for timm:ARCH")
    head: Literal["last_layer", "fully_connected"] = _flag(
        "last_layer", "what counts as the head: the last layer, or the whole fully connected part (VGG, AlexNet)"
    )
    trust_remote_code: bool = _flag(False, "allow code from the model's repository to run")


@dataclass(frozen=True)
class DataConfig:
    """Which images, and how they are split."""

    dataset: str | None = _flag(
        None, "Hub id, image folder (with or without split folders), parquet files, or digits; digits by default"
    )
    dataset_config: str | None = _flag(None, "configuration of a Hub dataset")
    dataset_revision: str | None = _flag(None, "branch, tag or commit of the dataset on the Hub")
    image_column: str | None = _flag(None, "column with the images; found by its type by default")
    label_column: str | None = _flag(
        None,
        "column with the labels; found by its type or name by default. Lists of labels, or several columns of 0 and 1 "
        "with commas (cat,dog,owl), make it multi-label",
    )
    validation_fraction: float = _flag(0.1, "part of the training images set apart if there is no validation split")
    test_fraction: float = _flag(0.2, "part of the training images set apart if there is no test split")
    streaming: bool = _flag(
        False,
        "read the images of a Hub dataset, or of parquet files, as they are needed, without downloading the dataset: "
        "once for features of the frozen part, else once an epoch",
    )
    include_training_images: bool = _flag(
        False,
        "measure on images that the starting model learned from, too; the card states how many. By default they are "
        "kept out of validation and test",
    )
    skip_bad_images: bool = _flag(False, "leave out unreadable images instead of stopping")
    horizontal_flip: bool | None = _flag(
        None, "whether augmentation may mirror images; true by default, false for digits"
    )


@dataclass(frozen=True)
class StrategyConfig:
    """What is trained, for how long, at which rate. A value that is not given follows the size of the data."""

    strategy: StrategyName = _flag(
        "transfer",
        "transfer: the head; finetune: head first, then the last stages too; gradual: one stage after another from the "
        "top; full: everything; scratch: random weights; auto: measures the data, then the head, and deeper as long as "
        "it pays",
    )
    phases: str | None = _flag(None, "YAML file with phases of your own, instead of a strategy's; or their list itself")
    recommendation: str | None = _flag(
        None, "folder that hf-tl recommend wrote: its strategy is trained, and the card tells its evidence"
    )
    trainable_stages: int | None = _flag(
        None, "stages to train, the head included (finetune: 2 by default; gradual: 4, then all)"
    )
    head_solver: Solver = _flag(
        "adamw",
        "adamw trains the head; lbfgs solves it to convergence as logistic regression on features of the frozen "
        "network, its L2 strength chosen by cross-validation (transfer, finetune, gradual)",
    )
    num_train_epochs: float | None = _flag(
        None, "passes over the training images, over all phases; of auto, in each rung"
    )
    learning_rate: float | None = _flag(None, "peak rate of the head")
    find_learning_rate: bool = _flag(False, "choose the head's rate by a short sweep on features of the frozen network")
    backbone_learning_rate: float | None = _flag(None, "peak rate of the last trained stage of the backbone")
    layer_decay: float | None = _flag(None, "each earlier trained stage gets this fraction of the rate of the next")
    norm: Norm | None = _flag(
        None, "norms of frozen stages: frozen, affine (train scale and shift), adapt (statistics)"
    )
    batch_norm: BatchNorm | None = _flag(None, "statistics of BatchNorm in trained stages: update or keep")
    weight_decay: float | None = _flag(None, "decoupled weight decay")
    warmup_ratio: float | None = _flag(None, "part of each phase over which the rate rises from zero")
    augmentation: Augmentation | None = _flag(None, "none, light, medium or strong")
    mixup: float | None = _flag(None, "alpha of mixup; 0 is none")
    cutmix: float | None = _flag(None, "alpha of CutMix; 0 is none")
    label_smoothing: float | None = _flag(None, "part of each label spread over all classes")
    ema_decay: float | None = _flag(None, "evaluate and keep an exponential moving average of the weights; 0 is none")
    class_weights: ClassWeights | None = _flag(None, "balanced: rare classes count for more in the loss")
    balanced_sampling: bool = _flag(False, "draw every class equally often")
    patience: int | None = _flag(None, "end a phase after so many evaluations without a new best")
    refit: bool | None = _flag(
        None,
        "when validation images have chosen, train once more from the start, on them too where they were set apart "
        "from train; by default after auto, of fewer than 20,000 images",
    )

    def build(
        self,
        head_stages: int = 1,
        images: int = 10_000,
        *,
        pretrained: bool = True,
        climb: Mapping[str, Any] | None = None,
    ) -> Strategy:
        """Build the strategy: its defaults for the size of the data (`hf_tl.recipes`), and the flags that are given.

        Args:
            head_stages: how many trailing stages count as the head.
            images: in the training split.
            pretrained: whether the network starts from trained weights.
            climb: from evidence, `stages` and `expected_rung` of `Strategy.auto`, and whether it `ends_from_scratch`.

        Raises:
            ConfigError: a flag that the strategy does not take.
        """
        values = {name: getattr(self, name) for name in _RECIPE}
        given = {name: value for name, value in values.items() if value is not None and value is not False}
        if self.phases is not None or self.recommendation is not None:
            written = self._written(given)
            return written if self.refit is None else replace(written, refit=self.refit)
        if self.strategy not in get_args(StrategyName):
            raise ConfigError(f"--strategy {self.strategy} is not one of {', '.join(get_args(StrategyName))}")
        self._check_learning_rate()
        self._check_solver(given)
        trainable = self.trainable_stages
        if trainable is not None and self.strategy not in ("finetune", "gradual"):
            raise ConfigError(f"--trainable_stages goes with --strategy finetune or gradual, and it is {self.strategy}")
        if trainable is not None and trainable <= head_stages:
            raise ConfigError(
                f"--strategy {self.strategy} trains the head and at least one stage more: --trainable_stages must be "
                f"at least {head_stages + 1}, found {trainable}; --strategy transfer trains the head alone"
            )
        stages = None if trainable is None else trainable - head_stages
        defaults = recipe_for(self.strategy, images, pretrained=pretrained, augmentation=self.augmentation)
        asked = {_RECIPE[name]: value for name, value in given.items()}
        recipe = {**defaults, **asked}
        if "head_recipe" in recipe:  # what is asked for holds in all phases
            recipe["head_recipe"] = {name: value for name, value in recipe["head_recipe"].items() if name not in asked}
        recipe["ema_decay"] = recipe.get("ema_decay") or None
        is_usual = recipe.pop("refit", False)
        strategy = self._build(recipe, head_stages, stages, images, climb)
        return replace(strategy, refit=is_usual if self.refit is None else self.refit)

    def _build(
        self,
        recipe: dict[str, Any],
        head_stages: int,
        stages: int | None,
        images: int,
        climb: Mapping[str, Any] | None,
    ) -> Strategy:
        """Build the strategy of a recipe."""
        if self.head_solver == "lbfgs":
            recipe = solved(recipe, is_alone=self.strategy == "transfer")
        if self.strategy == "transfer":
            return Strategy.transfer(head_stages=head_stages, **recipe)
        if self.strategy == "finetune":
            return Strategy.finetune(stages or 1, head_stages=head_stages, **recipe)
        if self.strategy == "gradual":
            return Strategy.gradual(stages, head_stages=head_stages, **recipe)
        if self.strategy == "auto":
            rungs = dict(climb or {})
            if rungs.pop("ends_from_scratch", False):  # whose rate is its own: the flag's is that of a new head
                alone = replace(self, strategy="scratch", learning_rate=None, backbone_learning_rate=None)
                rungs["scratch"] = alone.build(images=images).phases[0]
            return Strategy.auto(head_stages=head_stages, **recipe, **rungs)
        return Strategy.full(**recipe) if self.strategy == "full" else Strategy.scratch(**recipe)

    def _written(self, given: Mapping[str, Any]) -> Strategy:
        """Read the strategy from a file, which tells all of it."""
        if self.recommendation is None:
            self._check_alone("phases", given)
            return Strategy.from_yaml(str(self.phases))
        self._check_alone("recommendation", {**given, **({} if self.phases is None else {"phases": self.phases})})
        file = Path(self.recommendation) / RECOMMENDED_STRATEGY
        if not file.is_file():
            raise ConfigError(
                f"--recommendation {self.recommendation} holds no {RECOMMENDED_STRATEGY}: hf-tl recommend --output_dir "
                "writes it where it recommends a training"
            )
        return Strategy.from_yaml(file)

    def _check_alone(self, flag: str, given: Mapping[str, Any]) -> None:
        others = [*given, *(["trainable_stages"] if self.trainable_stages is not None else [])]
        others += ["find_learning_rate"] if self.find_learning_rate else []
        others += ["head_solver"] if self.head_solver != type(self).head_solver else []
        others += ["strategy"] if self.strategy != type(self).strategy else []
        if others:
            flags = ", ".join(f"--{name}" for name in others)
            raise ConfigError(f"--{flag} tells all of the strategy: leave out {flags}, or write it into its phases")

    def _check_learning_rate(self) -> None:
        if self.find_learning_rate and self.learning_rate is not None:
            raise ConfigError("--find_learning_rate chooses the rate that --learning_rate gives: leave one of them out")
        if self.find_learning_rate and self.strategy == "scratch":
            raise ConfigError("--find_learning_rate needs pretrained features, and --strategy scratch has none")

    def _check_solver(self, given: Mapping[str, Any]) -> None:
        if self.head_solver not in get_args(Solver):
            raise ConfigError(f"--head_solver {self.head_solver} is not one of {', '.join(get_args(Solver))}")
        if self.head_solver == "adamw":
            return
        if self.strategy in ("full", "scratch", "auto"):
            raise ConfigError(
                f"--head_solver lbfgs solves the head for good, and --strategy {self.strategy} trains it on with the "
                "rest; it goes with transfer, finetune and gradual"
            )
        meaningless = ["find_learning_rate"] if self.find_learning_rate else []
        if self.strategy == "transfer":
            meaningless += [name for name in given if _RECIPE[name] in ("epochs", *OF_ADAMW)]
        if meaningless:
            raise ConfigError(
                f"--head_solver lbfgs has no use for {name_some([f'--{name}' for name in meaningless])}: the head is "
                "solved, not trained step by step; leave one of them out"
            )


_RECIPE = {"num_train_epochs": "epochs"} | {
    name: name
    for name in (
        "learning_rate", "backbone_learning_rate", "layer_decay", "norm", "batch_norm", "weight_decay", "warmup_ratio",
        "augmentation", "mixup", "cutmix", "label_smoothing", "ema_decay", "class_weights", "balanced_sampling",
        "patience",
    )
}  # fmt: skip
"""Flags of a strategy's recipe, and what `Strategy` calls them."""


@dataclass(frozen=True)
class TrainingConfig:
    """How the training runs, and where its results go."""

    output_dir: str | None = _flag(None, "folder for the model and its record; a new one under runs/ by default")
    overwrite_output_dir: bool = _flag(False, "replace a run that the folder holds")
    seed: int = _flag(0, "of the head's first weights, the order of the images and the augmentation")
    per_device_train_batch_size: int = _flag(32, "images a step on each device")
    per_device_eval_batch_size: int = _flag(
        64, "images a step in evaluation, and at most in the pass over a frozen part"
    )
    gradient_accumulation_steps: int = _flag(1, "steps whose gradients are added up before an update")
    auto_find_batch_size: bool = _flag(
        False, "halve the batches, and accumulate twice as many, until a step fits into the memory of a GPU"
    )
    test_time_flip: bool = _flag(False, "measure with the mean of the logits of each image and its mirror image")
    max_grad_norm: float = _flag(1.0, "gradients are scaled down to this norm")
    save_steps: int | None = _flag(None, "optimizer steps between checkpoints; one after each epoch by default")
    save_total_limit: int = _flag(2, "checkpoints to keep; 0 writes none until SIGTERM")
    resume_from_checkpoint: str | None = _flag(
        None, "go on from a checkpoint's folder, or from the newest whole one of --output_dir: auto"
    )
    gradient_checkpointing: bool = _flag(
        False, "compute the activations of trained stages again in the backward pass: less memory, more time"
    )
    dataloader_num_workers: int = _flag(0, "processes that decode images beside each training process")
    report_to: str = _flag("auto", "tracker: tensorboard, wandb, trackio, none; auto is tensorboard where installed")
    cpu_threads: int | None = _flag(None, "threads of each process on a CPU; all cores shared equally by default")
    feature_cache: Literal["auto", "on", "off"] = _flag(
        "auto", "keep what the frozen part computes for each image instead of computing it in every epoch: if it pays"
    )
    feature_cache_dir: str | None = _flag(None, "folder for it; in the cache of Hugging Face by default")
    feature_cache_gb: float = _flag(20.0, "how much of the disk it may take; what was not used for longest goes first")
    feature_dtype: Literal["float32", "bfloat16"] = _flag(
        "float32", "bfloat16: compute and keep features in half the precision, faster on hardware that has it"
    )
    cached_views: int | None = _flag(
        None,
        "augmented versions of each image to keep, which the epochs take in turn; without it, only phases "
        "without augmentation use the cache",
    )
    decode_reduced: bool = _flag(
        False,
        "decode large JPEGs at a half, a quarter or an eighth of their size where the cache keeps features of training "
        "images without augmentation: faster, and nearly the same pixels; what is measured is decoded in full",
    )
    time_budget: float | None = _flag(
        None, "minutes that --strategy auto may train: a rung that would not fit into them is not begun"
    )
    measure_energy: bool = _flag(False, 'tell in the card what energy training took; needs pip install "hf-tl[energy]"')
    keep_memory: bool = _flag(True, "let the C library keep freed memory: two to four times as fast on a CPU")

    def __post_init__(self) -> None:
        for name in ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"):
            if getattr(self, name) < 1:
                raise ConfigError(f"--{name} must be at least 1, found {getattr(self, name)}")
        for name in ("dataloader_num_workers", "save_total_limit"):
            if getattr(self, name) < 0:
                raise ConfigError(f"--{name} cannot be negative, found {getattr(self, name)}")
        if self.cached_views is not None and self.cached_views < 1:
            raise ConfigError(f"--cached_views must be at least 1, found {self.cached_views}")
        if self.feature_cache_gb <= 0:
            raise ConfigError(f"--feature_cache_gb must be more than 0, found {self.feature_cache_gb:g}")
        if self.time_budget is not None and self.time_budget <= 0:
            raise ConfigError(f"--time_budget must be more than 0 minutes, found {self.time_budget:g}")
        if self.save_steps is not None and self.save_steps < 1:
            raise ConfigError(f"--save_steps must be at least 1, found {self.save_steps}")
        if self.measure_energy and find_spec("codecarbon") is None:
            raise ConfigError('--measure_energy needs codecarbon: pip install "hf-tl[energy]"')
        if self.resume_from_checkpoint is not None and self.output_dir is None:
            raise ConfigError("--resume_from_checkpoint needs the --output_dir of the run that it goes on with")


@dataclass(frozen=True)
class HubConfig:
    """Where the model is published, and what its card may say and show."""

    push_to_hub: str | None = _flag(None, "USER/NAME to push the model to when it is trained")
    hub_private: bool = _flag(False, "make a new repository private")
    card_intended_use: str | None = _flag(None, "what the model is meant for, in a sentence of its card")
    card_limits: str | None = _flag(None, "what it must not be used for, or cannot do, in a sentence of its card")
    card_images: bool = _flag(
        False, "show images of the test split in the card: the most confident mistakes, and where the model looked"
    )


@dataclass(frozen=True)
class RunConfig:
    """All that one run needs."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    strategy: StrategyConfig = field(default_factory=StrategyConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    hub: HubConfig = field(default_factory=HubConfig)
