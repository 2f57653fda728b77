"""The two entry points of a run: command-line flags and Python."""

import dataclasses
import difflib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_tl.config import DEMO_DATASET, DEMO_MODEL, READING, DataConfig, HubConfig, RunConfig, TrainingConfig
from hf_tl.errors import ConfigError, name_some
from hf_tl.job.job import Job, RunNotes, RunResult
from hf_tl.job.output import check_push, choose_output_dir
from hf_tl.job.run_job import run_job
from hf_tl.processes.memory import image_pixel_limit
from hf_tl.record import LearnedFrom
from hf_tl.reporting.console import say
from hf_tl.strategy import Strategy

if TYPE_CHECKING:
    from accelerate import Accelerator
    from datasets import Dataset, DatasetDict
    from transformers import PreTrainedModel

    from hf_tl.advisor.advice import Advice
    from hf_tl.backbones.candidates import Backbone
    from hf_tl.backbones.libraries.preprocessing import Preprocessing
    from hf_tl.data.datasets import ImageData
    from hf_tl.data.decoding.images import Transforms
    from hf_tl.data.learned import Leakage

SPLIT_SETTINGS = (*READING, "validation_fraction", "test_fraction")
"""Fields of `DataConfig` that `load_data` and `prepare_data` take."""


def import_libraries() -> None:
    """Import the libraries that every run needs, all at once instead of at their first use."""
    from transformers import PreTrainedModel  # noqa: F401

    import hf_tl.backbones.libraries.timm
    import hf_tl.job.run_job
    import hf_tl.publish.save
    import hf_tl.training.loop  # noqa: F401


def run(config: RunConfig) -> RunResult:
    """Train as configured, on all launched processes, and save the result.

    Raises:
        HfTlError: An input cannot be used; or, after training, something could not be evaluated or written, and the
            trained model is in the output folder.
    """
    with image_pixel_limit(config.data.max_image_pixels):
        return _run(config)


def _run(config: RunConfig) -> RunResult:
    from accelerate.utils import set_seed

    from hf_tl.advisor.advice import take_advice
    from hf_tl.backbones.candidates import candidates
    from hf_tl.backbones.load import set_problem_type
    from hf_tl.backbones.stages.head import head_stages
    from hf_tl.backbones.stages.stage import list_stages
    from hf_tl.card.settings import describe_command, settings_of
    from hf_tl.processes.accelerator import make_accelerator

    start = time.perf_counter()
    strategy = config.strategy.build()  # rejects wrong flags before anything is loaded
    backbones = candidates(config.model)
    _check_together(config, strategy, backbones)
    accelerator = make_accelerator(config.training)
    check_push(accelerator, config.hub.push_to_hub)
    output_dir = choose_output_dir(accelerator, config.training, _run_name(config, strategy))
    is_pretrained = config.model.pretrained and not strategy.from_scratch
    learned = learned_by(backbones) if is_pretrained else LearnedFrom()
    data, leakage = open_data(accelerator, config.data.dataset or DEMO_DATASET, config.data, config.training, learned)
    backbones = candidates(config.model, data.defaults.get("image_size"))
    advice = take_advice(accelerator, data, backbones, config)
    set_seed(config.training.seed)
    model, preprocessing = (advice.candidate or backbones[0]).load(data.labels, pretrained=is_pretrained)
    set_problem_type(model, data.problem_type)
    head = head_stages(list_stages(model)) if config.model.head == "fully_connected" else 1
    strategy, choices = _build_strategy(accelerator, model, preprocessing, data, config, advice, head)
    job = Job(
        accelerator,
        model,
        preprocessing,
        data,
        strategy,
        dataclasses.replace(config.training, output_dir=output_dir),
        config.hub,
        horizontal_flip=flips(config.data, data),
        leakage=leakage,
        head_stages=head,
        notes=RunNotes(describe_command(config), settings_of(config), choices, advice.record),
        rung_seconds=advice.rung_seconds,
        start=start,
    )
    return run_job(job)


def open_data(
    accelerator: "Accelerator",
    dataset: "Dataset | DatasetDict | ImageData | str",
    config: DataConfig,
    training: TrainingConfig,
    learned: LearnedFrom,
    name: str | None = None,
) -> "tuple[ImageData, dict[str, Leakage]]":
    """Load, split and check the images of a run, from Python and from the command line alike.

    Args:
        accelerator: Accelerator of the run.
        dataset: Value of `--dataset`, a loaded dataset, or the result of `hf_tl.load_data`.
        config: Columns and splits.
        training: Training settings; their seed draws the splits.
        learned: Images that the starting weights learned from.
        name: Name of a loaded dataset.

    Returns:
        The data, and for each split how many of its images the starting weights learned from.

    Raises:
        DataError: The dataset cannot be used for training.
    """
    from hf_tl.data.datasets import ImageData, check_images, load_data, prepare_data
    from hf_tl.data.learned import leave_out_learned, resolve

    shared: dict[str, Any] = {
        **{name: getattr(config, name) for name in SPLIT_SETTINGS},
        "seed": training.seed,
        "learned": learned,
        "include_training_images": config.include_training_images,
    }
    with accelerator.main_process_first():
        if isinstance(dataset, ImageData):
            data = dataset
        elif isinstance(dataset, str):
            source: dict[str, Any] = {"config_name": config.dataset_config, "revision": config.dataset_revision}
            data = load_data(dataset, **source, **shared, streaming=config.streaming)
        else:
            data = prepare_data(dataset, name=name, **shared)
        _say(accelerator, "Data", [*data.describe(), *data.notes])
        shown = data.notes
        data = check_images(data, skip_bad_images=config.skip_bad_images, verbose=accelerator.is_main_process)
    data, leakage = leave_out_learned(data, resolve(learned, data), keep=config.include_training_images)
    _say(accelerator, "Images", [note for note in data.notes if note not in shown])
    data = data.with_inspection(config.inspection)
    _say(accelerator, "Inspected", [] if data.inspection is None else [data.inspection.describe()])
    return data, leakage


def _say(accelerator: "Accelerator", title: str, lines: Sequence[str]) -> None:
    if lines:
        say(accelerator, f"{title:<10}" + ("\n" + " " * 10).join(lines))


def learned_by(backbones: "Sequence[Backbone]") -> LearnedFrom:
    """Return the union of the images that the weights of several backbones learned from."""
    learned = LearnedFrom()
    for backbone in backbones:
        learned = learned.union(backbone.learned())
    return learned


def flips(config: DataConfig, data: "ImageData") -> bool:
    """Return whether mirrored images keep their labels: the setting, else the default of the dataset, else True."""
    return data.defaults.get("horizontal_flip", True) if config.horizontal_flip is None else config.horizontal_flip


def _check_together(config: RunConfig, strategy: Strategy, backbones: "Sequence[Backbone]") -> None:
    """Reject flags of different groups that exclude each other, before anything is loaded."""
    is_auto = config.strategy.strategy == "auto"
    if config.data.streaming and config.strategy.find_learning_rate:
        raise ConfigError("--find_learning_rate needs random access to images, not --streaming: set --learning_rate")
    if config.data.streaming and config.strategy.refit:
        raise ConfigError("--refit needs random access to two splits, not --streaming: leave out one of the two flags")
    if config.data.streaming and is_auto:
        raise ConfigError("--strategy auto needs random access to images, not --streaming: choose another strategy")
    if is_auto and not config.model.pretrained:
        raise ConfigError("--strategy auto needs pretrained weights: leave out --no_pretrained")
    if config.training.time_budget is not None and not strategy.is_climb:
        raise ConfigError(
            "--time_budget needs --strategy auto, or --phases with an expected_rung, found the strategy "
            f"{strategy.name}, which has no stage depths to skip: leave out --time_budget"
        )
    if len(backbones) > 1 and not is_auto and config.strategy.recommendation is None:
        raise ConfigError(
            f"expected one --model, found {len(backbones)}: name one, or let --strategy auto choose among them"
        )


def train(
    model: "PreTrainedModel",
    dataset: "Dataset | DatasetDict | ImageData | str",
    strategy: Strategy,
    *,
    transforms: "Transforms | None" = None,
    dataset_name: str | None = None,
    push_to_hub: str | None = None,
    **settings: Any,
) -> RunResult:
    """Train a model with Accelerate, phase by phase, and save it with its record and card.

    Args:
        model: Model from `hf_tl.load_backbone` with the labels of the dataset. It is trained in place, for the problem
            type of the dataset (single-label or multi-label).
        dataset: A loaded dataset, the result of `hf_tl.load_data` (streamed or not), or a value of `--dataset`.
        strategy: Strategy; its phases are trained in order.
        transforms: Transforms that `load_backbone` returned with `model`. Defaults to those of the model. A different
            `train` transform replaces the augmentation presets; phases with augmentation `"none"` train on `eval`.
        dataset_name: Name of a loaded dataset in log, record and card. Defaults to the name in its `info`.
        push_to_hub: `USER/NAME` to push the result to. Defaults to no push.
        settings: Fields of `hf_tl.config.DataConfig`, `TrainingConfig` and `HubConfig`, which are the flags of
            `hf-tl train`: for example `output_dir`, `seed`, `horizontal_flip`, `test_fraction` and `card_images`.

    Raises:
        HfTlError: An input cannot be used; or, after training, something could not be evaluated or written, and the
            trained model is in `output_dir`.

    >>> import hf_tl
    >>> strategy = hf_tl.Strategy.finetune(stages=1, epochs=6)
    >>> model, transforms = hf_tl.load_backbone("backbone", ["dress", "hat"], strategy)
    >>> result = hf_tl.train(model, "photos", strategy, transforms=transforms, output_dir="run")
    >>> [phase.trained_stages for phase in result.record.phases]
    [('head',), ('layer4', 'head')]
    """
    groups = _groups({"push_to_hub": push_to_hub, **settings})
    with image_pixel_limit(groups[1].max_image_pixels):
        return _train(model, dataset, strategy, transforms, dataset_name, *groups)


def _train(
    model: "PreTrainedModel",
    dataset: "Dataset | DatasetDict | ImageData | str",
    strategy: Strategy,
    transforms: "Transforms | None",
    dataset_name: str | None,
    hub: HubConfig,
    data_config: DataConfig,
    training: TrainingConfig,
) -> RunResult:
    from accelerate.utils import set_seed

    from hf_tl.backbones.load import preprocessing_of, set_problem_type
    from hf_tl.backbones.weights.provenance import provenance_of
    from hf_tl.data.datasets import ImageData
    from hf_tl.processes.accelerator import make_accelerator

    start = time.perf_counter()
    if data_config.dataset is not None:
        raise ConfigError("hf_tl.train takes the dataset as its second argument: leave out dataset=")
    if isinstance(dataset, ImageData):
        _check_unsplit(data_config)
    if dataset_name is not None and isinstance(dataset, str | ImageData):
        raise ConfigError("dataset_name names a loaded dataset, and this one has a name: leave out dataset_name=")
    accelerator = make_accelerator(training)
    check_push(accelerator, hub.push_to_hub)
    learned = LearnedFrom() if strategy.from_scratch else provenance_of(model).learned
    data, leakage = open_data(accelerator, dataset, data_config, training, learned, dataset_name)
    _check_labels(model, data)
    set_problem_type(model, data.problem_type)
    preprocessing = preprocessing_of(model, transforms)
    preprocessing.check_training_is_used(phase.augmentation for phase in strategy.phases)
    output_dir = choose_output_dir(accelerator, training, f"{data.name}-{strategy.name}")
    set_seed(training.seed)
    job = Job(
        accelerator,
        model,
        preprocessing,
        data,
        strategy,
        dataclasses.replace(training, output_dir=output_dir),
        hub,
        horizontal_flip=flips(data_config, data),
        leakage=leakage,
        start=start,
    )
    return run_job(job)


def _groups(settings: dict[str, Any]) -> tuple[HubConfig, DataConfig, TrainingConfig]:
    """Group keyword arguments by the dataclass that has the field.

    Raises:
        ConfigError: A setting does not exist, or a value is outside its range.
    """
    kinds = (HubConfig, DataConfig, TrainingConfig)
    fields = {field.name: kind for kind in kinds for field in dataclasses.fields(kind)}
    if unknown := [name for name in settings if name not in fields]:
        near = [near for name in unknown for near in difflib.get_close_matches(name, fields, n=1)]
        hint = f"did you mean {name_some(near)}?" if near else "hf_tl.config lists all settings"
        raise ConfigError(f"hf_tl.train has no setting {name_some(unknown)}; {hint}")
    hub, data, training = (
        kind(**{name: value for name, value in settings.items() if fields[name] is kind}) for kind in kinds
    )
    return hub, data, training  # type: ignore[return-value]


def _check_unsplit(config: DataConfig) -> None:
    """Reject settings of splits and columns for data that are already split."""
    default = DataConfig()
    if changed := [name for name in SPLIT_SETTINGS if getattr(config, name) != getattr(default, name)]:
        raise ConfigError(f"the dataset is already split by hf_tl.load_data: pass {name_some(changed)} to load_data")


def _build_strategy(
    accelerator: "Accelerator",
    model: "PreTrainedModel",
    preprocessing: "Preprocessing",
    data: "ImageData",
    config: RunConfig,
    advice: "Advice",
    head: int,
) -> tuple[Strategy, dict[str, str]]:
    """Build the strategy for this model and data, and describe the hyperparameters that were selected by search."""
    from hf_tl.head.tuning import sweep_learning_rates

    images, pretrained = data.splits["train"], config.model.pretrained
    strategy = config.strategy.build(head, len(images), pretrained=pretrained, climb=advice.climb)
    if not config.strategy.find_learning_rate:
        return strategy, {}
    plain = preprocessing.transforms().eval
    sweep = sweep_learning_rates(
        accelerator, model.to(accelerator.device), plain.over(images), strategy.phases[0], config.training
    )
    say(accelerator, f"Choosing the learning rate of the head: {sweep}")
    chosen = dataclasses.replace(config.strategy, find_learning_rate=False, learning_rate=sweep.best)
    strategy = chosen.build(head, len(images), pretrained=pretrained, climb=advice.climb)
    return strategy, {"learning rate of the head": str(sweep)}


def _run_name(config: RunConfig, strategy: Strategy) -> str:
    named = config.model.model or DEMO_MODEL
    model = "chosen" if "," in named and strategy.name == "auto" else Path(named.removeprefix("timm:")).name
    dataset = Path((config.data.dataset or DEMO_DATASET).split(",")[0]).name
    return f"{dataset}-{model}-{strategy.name}"


def _check_labels(model: "PreTrainedModel", data: "ImageData") -> None:
    labels = [model.config.id2label[index] for index in range(model.config.num_labels)]
    if labels != list(data.labels):
        raise ConfigError(
            f"expected a model with the classes of the dataset, {list(data.labels[:5])}, found {labels[:5]}: pass the "
            "labels of the dataset to load_backbone, in their order"
        )
