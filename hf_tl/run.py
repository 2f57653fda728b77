"""The two ways to start a run: from flags, and from Python."""

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_tl.config import (
    DATASET_DEFAULTS,
    DEMO_DATASET,
    DEMO_LICENSE,
    DEMO_MODEL,
    HubConfig,
    RunConfig,
    TrainingConfig,
)
from hf_tl.errors import ConfigError
from hf_tl.job import Job, RunResult, check_push, choose_output_dir
from hf_tl.processes.console import say
from hf_tl.strategy import Strategy

if TYPE_CHECKING:
    from accelerate import Accelerator
    from datasets import Dataset, DatasetDict
    from transformers import PreTrainedModel

    from hf_tl.advisor.advice import Advice
    from hf_tl.backbones.candidates import Backbone
    from hf_tl.backbones.preprocessing import Preprocessing
    from hf_tl.data.datasets import ImageData
    from hf_tl.data.images import Transforms


def import_libraries() -> None:
    """Import what any run needs; otherwise that happens where it is used first."""
    from transformers import PreTrainedModel  # noqa: F401

    import hf_tl.backbones.timm
    import hf_tl.job
    import hf_tl.publish.save
    import hf_tl.training.loop  # noqa: F401


def run(config: RunConfig) -> RunResult:
    """Train as `config` says, on as many processes as were launched, and save the result.

    Raises:
        HfTlError: something in the input cannot be used; nothing was trained or saved.
    """
    from accelerate.utils import set_seed

    from hf_tl.advisor.advice import take_advice
    from hf_tl.backbones.candidates import candidates
    from hf_tl.backbones.load import set_problem_type
    from hf_tl.card.settings import describe_command, settings_of
    from hf_tl.data.datasets import check_images, load_data
    from hf_tl.features.features import decoded_before
    from hf_tl.processes.accelerator import make_accelerator

    start = time.perf_counter()
    strategy = config.strategy.build()  # its flags are wrong before anything is loaded, or not at all
    _check_together(config, strategy, candidates(config.model))
    accelerator = make_accelerator(config.training)
    check_push(accelerator, config.hub.push_to_hub)
    dataset = config.data.dataset or DEMO_DATASET
    output_dir = choose_output_dir(accelerator, config.training, _run_name(config, strategy))
    with accelerator.main_process_first():
        data = load_data(
            dataset,
            config_name=config.data.dataset_config,
            revision=config.data.dataset_revision,
            image_column=config.data.image_column,
            label_column=config.data.label_column,
            validation_fraction=config.data.validation_fraction,
            test_fraction=config.data.test_fraction,
            seed=config.training.seed,
            streaming=config.data.streaming,
        )
        data = check_images(
            data,
            skip_bad_images=config.data.skip_bad_images,
            verbose=accelerator.is_main_process,
            readable=decoded_before(config.training),
        )
    defaults = DATASET_DEFAULTS.get(data.name, {})
    backbones = candidates(config.model, defaults.get("image_size"))
    advice = take_advice(accelerator, data, backbones, config)
    set_seed(config.training.seed)
    model, preprocessing = (advice.candidate or backbones[0]).load(
        data.labels, pretrained=config.model.pretrained and not strategy.from_scratch
    )
    set_problem_type(model, data.problem_type)
    if config.model.model is None:
        model.config.hf_tl["base"]["license"] = DEMO_LICENSE
    strategy, choices = _build_strategy(accelerator, model, preprocessing, data, config, advice)
    flip = config.data.horizontal_flip
    return Job(
        accelerator,
        model,
        preprocessing,
        data,
        strategy,
        dataclasses.replace(config.training, output_dir=output_dir),
        config.hub,
        horizontal_flip=defaults.get("horizontal_flip", True) if flip is None else flip,
        command=describe_command(config),
        settings=settings_of(config),
        choices=choices,
        recommendation=advice.record,
        rung_seconds=advice.rung_seconds,
        start=start,
    ).run()


def _check_together(config: RunConfig, strategy: Strategy, backbones: "Sequence[Backbone]") -> None:
    """Refuse flags of different concerns that do not go together, before anything is loaded."""
    is_auto = config.strategy.strategy == "auto"
    if config.data.streaming and config.strategy.find_learning_rate:
        raise ConfigError("--find_learning_rate draws images at random, which --streaming cannot: give --learning_rate")
    if config.data.streaming and config.strategy.refit:
        raise ConfigError("--refit trains on two splits in one random order, which --streaming cannot: leave one out")
    if config.data.streaming and is_auto:
        raise ConfigError("--strategy auto measures images drawn at random, which --streaming cannot: name a strategy")
    if is_auto and not config.model.pretrained:
        raise ConfigError("--strategy auto climbs from pretrained weights: leave out --no_pretrained")
    if config.training.time_budget is not None and strategy.expected_rung is None:
        raise ConfigError(
            "--time_budget goes with --strategy auto, or --phases with an expected_rung: others have no rungs to leave "
            f"out, and the strategy is {strategy.name}"
        )
    if len(backbones) > 1 and not is_auto and config.strategy.recommendation is None:
        raise ConfigError(f"--model names {len(backbones)} models, and --strategy auto alone chooses one: name one")


def train(
    model: "PreTrainedModel",
    dataset: "Dataset | DatasetDict | ImageData | str",
    strategy: Strategy,
    *,
    transforms: "Transforms | None" = None,
    push_to_hub: str | None = None,
    **settings: Any,
) -> RunResult:
    """Train a model through Accelerate, phase by phase, and save it with its record and card.

    Args:
        model: from `hf_tl.load_backbone` with the dataset's labels; trained in place, for the kind of labels (one or
            any number of them) that the dataset has.
        dataset: a loaded dataset, what `hf_tl.load_data` returned, also of a stream, or what `--dataset` takes.
        strategy: its phases are walked in order.
        transforms: those that `load_backbone` returned with `model`; found by the model's name where they are missing.
        push_to_hub: `USER/NAME` to push the result to.
        settings: fields of `hf_tl.config.TrainingConfig` and `HubConfig`, for example `output_dir`, `seed` and
            `card_images`.

    Raises:
        HfTlError: something in the input cannot be used; nothing was trained or saved.

    ```python
    strategy = hf_tl.Strategy.finetune(stages=1)
    model, transforms = hf_tl.load_backbone("timm/resnet50.a1_in1k", labels=["cat", "dog"], strategy=strategy)
    result = hf_tl.train(model, "pets", strategy, transforms=transforms, output_dir="out")
    ```
    """
    from accelerate.utils import set_seed

    from hf_tl.backbones.load import preprocessing_of, set_problem_type
    from hf_tl.data.datasets import ImageData, check_images, load_data, prepare_data
    from hf_tl.features.features import decoded_before
    from hf_tl.processes.accelerator import make_accelerator

    start = time.perf_counter()
    of_card = {field.name for field in dataclasses.fields(HubConfig)} & settings.keys()
    hub = HubConfig(push_to_hub, **{name: settings.pop(name) for name in of_card})
    training = TrainingConfig(**settings)
    accelerator = make_accelerator(training)
    check_push(accelerator, push_to_hub)
    if isinstance(dataset, str):
        data = load_data(dataset, seed=training.seed)
    else:
        data = dataset if isinstance(dataset, ImageData) else prepare_data(dataset, seed=training.seed)
    data = check_images(data, verbose=accelerator.is_main_process, readable=decoded_before(training))
    _check_labels(model, data)
    set_problem_type(model, data.problem_type)
    output_dir = choose_output_dir(accelerator, training, f"{data.name}-{strategy.name}")
    set_seed(training.seed)
    return Job(
        accelerator,
        model,
        preprocessing_of(model, transforms),
        data,
        strategy,
        dataclasses.replace(training, output_dir=output_dir),
        hub,
        horizontal_flip=DATASET_DEFAULTS.get(data.name, {}).get("horizontal_flip", True),
        start=start,
    ).run()


def _build_strategy(
    accelerator: "Accelerator",
    model: "PreTrainedModel",
    preprocessing: "Preprocessing",
    data: "ImageData",
    config: RunConfig,
    advice: "Advice",
) -> tuple[Strategy, dict[str, str]]:
    """Build the strategy for this model and data, and tell what was chosen for it by trying."""
    from hf_tl.backbones.stages import head_stages, list_stages
    from hf_tl.head.tuning import sweep_learning_rates

    head = head_stages(list_stages(model)) if config.model.head == "fully_connected" else 1
    images, pretrained = data.splits["train"], config.model.pretrained
    strategy = config.strategy.build(head, len(images), pretrained=pretrained, climb=advice.climb)
    if not config.strategy.find_learning_rate:
        return strategy, {}
    plain = preprocessing.transforms().with_columns(data.image_column, data.label_column).eval
    sweep = sweep_learning_rates(
        accelerator, model.to(accelerator.device), images.with_transform(plain), strategy.phases[0], config.training
    )
    say(accelerator, f"Rate      {sweep}")
    found = dataclasses.replace(config.strategy, find_learning_rate=False, learning_rate=sweep.best)
    strategy = found.build(head, len(images), pretrained=pretrained, climb=advice.climb)
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
            f"the model has the classes {labels[:5]} and the dataset {list(data.labels[:5])}: "
            "give load_backbone the dataset's labels, in its order"
        )
