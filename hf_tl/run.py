"""The two entry points of a run, one for flags and one for Python; both make a `Request` and carry it out."""

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_tl.augmentation import PRESETS
from hf_tl.config import DEMO_DATASET, DEMO_MODEL, RunConfig
from hf_tl.errors import ConfigError
from hf_tl.job.job import Job, RunNotes, RunResult
from hf_tl.job.opening import flips, learned_by, open_data
from hf_tl.job.output import check_push, choose_output_dir
from hf_tl.job.request import Request, make_request
from hf_tl.processes.failure import failing_together
from hf_tl.processes.memory import image_pixel_limit, paused_collection
from hf_tl.record import LearnedFrom
from hf_tl.reporting.console import say
from hf_tl.strategy import Phase, Strategy

if TYPE_CHECKING:
    from accelerate import Accelerator
    from datasets import Dataset, DatasetDict
    from transformers import PreTrainedModel

    from hf_tl.advisor.advice import Advice
    from hf_tl.backbones.candidates import Backbone
    from hf_tl.backbones.libraries.preprocessing import Preprocessing
    from hf_tl.data.datasets import ImageData
    from hf_tl.data.decoding.images import Transforms
    from hf_tl.distillation.teacher import Teacher
    from hf_tl.evaluation.holdout.classifier import AnyModel
    from hf_tl.evaluation.holdout.loaded import LoadedClassifier


WITHOUT_ADVISOR = (
    "Searching the stage depth from its defaults: the advisor measures models by their names only; pass the name "
    "instead of the loaded model to start at the recommended depth"
)


def import_libraries() -> None:
    """Import the libraries of models, training and saving, all at once instead of at their first use.

    A run does so when its data are opened: a mistake in a dataset is reported without waiting for these libraries.
    """
    with paused_collection():
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
    from hf_tl.card.settings import describe_command, settings_of

    return _run(Request(config), RunNotes(describe_command(config), settings_of(config)))


def train(
    model: "PreTrainedModel | str | Path",
    dataset: "Dataset | DatasetDict | ImageData | str | Path",
    strategy: Strategy | str | Sequence[Phase] = "transfer",
    *,
    transforms: "Transforms | None" = None,
    dataset_name: str | None = None,
    teacher: "AnyModel | None" = None,
    **settings: Any,
) -> RunResult:
    """Train a model with Accelerate, phase by phase, and save it with its record and card.

    Args:
        model: Name of a backbone, as for `--model`, or folder of a trained model; its head gets the labels of the
            dataset. Or a model from `hf_tl.load_backbone` with these labels, which is trained in place.
        dataset: Name or folder, as for `--dataset`, a loaded dataset, or the result of `hf_tl.load_data`.
        strategy: Name of a strategy, a `Strategy`, or a list of phases. Defaults to `"transfer"`. What is not chosen
            follows the number of training images. `"auto"` asks the advisor if the model is a name; otherwise it
            searches the stage depth from its defaults.
        transforms: Transforms that `load_backbone` returned with `model`. Defaults to those of the model. A different
            `train` transform replaces augmentation presets; phases with augmentation `"none"` train on `eval`.
        dataset_name: Name of a loaded dataset in log, record and card. Defaults to the name in its `info`.
        teacher: Trained classifier for the same classes whose predictions are taught to the model: a folder, a Hub id,
            the result of a run, or a loaded model (`hf_tl.distillation`).
        settings: Flags of `hf-tl train` by their names, `epochs`, `lr` and `batch_size` included: `output_dir`, `seed`,
            `push_to_hub`, …; for a strategy by name, those of strategies (`epochs`, `trainable_stages`, `mixup`, …);
            for a model by name, those of models (`image_size`, `pretrained`, …).

    Raises:
        HfTlError: An input cannot be used; or, after training, something could not be evaluated or written, and the
            trained model is in `output_dir`.

    >>> import hf_tl
    >>> result = hf_tl.train("backbone", "photos", "finetune", trainable_stages=2, epochs=6, output_dir="run")
    >>> [phase.trained_stages for phase in result.record.phases]
    [('head',), ('layer4', 'head')]
    >>> model, transforms = hf_tl.load_backbone("backbone", ["dress", "hat"])
    >>> strategy = hf_tl.Strategy.finetune(trainable_stages=2, epochs=6)
    >>> again = hf_tl.train(model, "photos", strategy, transforms=transforms, output_dir="again")
    >>> again.test_accuracy == result.test_accuracy
    True
    """
    request = make_request(
        model, dataset, strategy, transforms=transforms, dataset_name=dataset_name, teacher=teacher, settings=settings
    )
    return _run(request, RunNotes())


def _run(request: Request, notes: RunNotes) -> RunResult:
    with failing_together(), image_pixel_limit(request.config.data.max_image_pixels):
        start = time.perf_counter()
        job = _prepare(request, notes)
        from hf_tl.job.run_job import run_job

        return run_job(dataclasses.replace(job, start=start))


def _prepare(request: Request, notes: RunNotes) -> Job:
    """Open the data, load the model, and build the strategy for both."""
    from accelerate.utils import set_seed

    from hf_tl.backbones.candidates import candidates
    from hf_tl.processes.accelerator import make_accelerator

    config = request.config
    strategy = request.strategy or config.strategy.build()  # rejects wrong flags before anything is loaded
    backbones = [] if request.model is not None else candidates(config.model)
    _check_together(config, strategy, backbones)
    _taught(request.strategy or config.strategy.preset(), request)  # rejects weights without effect
    accelerator = make_accelerator(config.training)
    check_push(accelerator, config.hub.push_to_hub)
    output_dir = choose_output_dir(accelerator, config.training, _run_name(request, strategy))
    teacher, learned = _open_teacher(request), _learned(request, strategy, backbones)
    source = request.dataset if request.dataset is not None else config.data.dataset or DEMO_DATASET
    data, leakage = open_data(accelerator, source, config.data, config.training, learned, request.dataset_name, teacher)
    import_libraries()
    model, preprocessing, advice = _load_model(accelerator, request, strategy, data, output_dir)
    strategy, head, notes = _build_strategy(accelerator, model, preprocessing, data, request, advice, notes)
    preprocessing.check_training_is_used(phase.augmentation for phase in strategy.phases)
    set_seed(config.training.seed)
    return Job(
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
        notes=notes,
        rung_seconds=advice.rung_seconds,
        teacher=_teacher_of(accelerator, teacher, data, preprocessing),
    )


def _taught(strategy: Strategy, request: Request) -> Strategy:
    """Return a strategy whose phases listen to the teacher of the request, if it has one."""
    if not request.has_teacher and not any(phase.distillation_weight for phase in strategy.phases):
        return strategy
    from hf_tl.distillation.recipe import with_teacher

    return with_teacher(strategy, has_teacher=request.has_teacher)


def _open_teacher(request: Request) -> "LoadedClassifier | None":
    """Load the teacher, and check it against the classes of a model in memory before data are loaded."""
    if not request.has_teacher:
        return None
    from hf_tl.backbones.libraries.class_names import class_names
    from hf_tl.distillation.teacher import check_teacher
    from hf_tl.evaluation.holdout.loaded import LoadedClassifier

    training = request.config.training
    teacher = LoadedClassifier.load(request.teacher or training.teacher, training.teacher_revision)
    if request.model is not None:
        check_teacher(teacher, class_names(request.model.config), student=request.model)
    return teacher


def _teacher_of(
    accelerator: "Accelerator", teacher: "LoadedClassifier | None", data: "ImageData", preprocessing: "Preprocessing"
) -> "Teacher | None":
    """Return the teacher of a model with a preprocessing."""
    if teacher is None:
        return None
    from hf_tl.distillation.teacher import Teacher

    result = Teacher.of(teacher, data.labels, preprocessing)
    say(accelerator, f"Teacher   {result.describe()}")
    return result


def _load_model(
    accelerator: "Accelerator", request: Request, strategy: Strategy, data: "ImageData", output_dir: str
) -> "tuple[PreTrainedModel, Preprocessing, Advice]":
    """Return the model with a head for the data, its preprocessing, and the advice that chose among backbones."""
    from hf_tl.advisor.advice import Advice, take_advice
    from hf_tl.backbones.candidates import candidates
    from hf_tl.backbones.load import set_problem_type
    from hf_tl.head.text_head import fit_text_head

    config, advice = request.config, Advice()
    if request.model is None:
        backbones = candidates(config.model, data.defaults.get("image_size"))
        advice = take_advice(accelerator, data, backbones, config, output_dir)
        is_pretrained = config.model.pretrained and not strategy.from_scratch
        chosen = advice.candidate or backbones[0]
        model, preprocessing = chosen.load(data.labels, pretrained=is_pretrained, seed=config.training.seed)
    else:
        if config.strategy.strategy == "auto":
            say(accelerator, WITHOUT_ADVISOR)
        model, preprocessing = request.model, _preprocessing_for(request.model, data, request.transforms)
    set_problem_type(model, data.problem_type)
    fit_text_head(accelerator, model, data.splits["train"], preprocessing.transforms().eval, config.training.seed)
    return model, preprocessing, advice


def _check_together(config: RunConfig, strategy: Strategy, backbones: "Sequence[Backbone]") -> None:
    """Reject flags of different groups that exclude each other, and unknown transforms, before anything is loaded."""
    for phase in strategy.phases:
        if phase.augmentation not in PRESETS:
            from hf_tl.data.decoding.own_augmentation import check_augmentation

            check_augmentation(phase.augmentation)
    is_auto = config.strategy.strategy == "auto"
    if config.model.text is not None:
        from hf_tl.head.text_head import check_text_strategy

        check_text_strategy(strategy)
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


def _run_name(request: Request, strategy: Strategy) -> str:
    """Return the name of a new output folder: dataset, model if it was named, and strategy."""
    config, dataset = request.config, request.dataset
    if dataset is None:
        title = Path((config.data.dataset or DEMO_DATASET).split(",")[0]).name
    else:
        named = getattr(dataset, "name", None) or getattr(getattr(dataset, "info", None), "dataset_name", None)
        title = request.dataset_name or named or "dataset"
    if request.model is not None:
        return f"{title}-{strategy.name}"
    model = config.model.model or DEMO_MODEL
    model = "chosen" if "," in model and strategy.name == "auto" else Path(model.removeprefix("timm:")).name
    return f"{title}-{model}-{strategy.name}"


def _learned(request: Request, strategy: Strategy, backbones: "Sequence[Backbone]") -> LearnedFrom:
    """Return the images that the starting weights learned from."""
    from hf_tl.backbones.weights.provenance import provenance_of

    if strategy.from_scratch or not request.config.model.pretrained:
        return LearnedFrom()
    return learned_by(backbones) if request.model is None else provenance_of(request.model).learned


def _preprocessing_for(model: "PreTrainedModel", data: "ImageData", transforms: "Transforms | None") -> "Preprocessing":
    """Return the preprocessing of a loaded model, whose labels must be those of the data."""
    from hf_tl.backbones.libraries.class_names import check_classes
    from hf_tl.backbones.load import preprocessing_of

    check_classes(model.config, data.labels)
    return preprocessing_of(model, transforms)


def _build_strategy(
    accelerator: "Accelerator",
    model: "PreTrainedModel",
    preprocessing: "Preprocessing",
    data: "ImageData",
    request: Request,
    advice: "Advice",
    notes: RunNotes,
) -> tuple[Strategy, int, RunNotes]:
    """Build the strategy for this model and data.

    Returns:
        Strategy, number of stages that count as the head, and notes on what was recommended or selected by search.
    """
    from hf_tl.backbones.stages.family import family_of
    from hf_tl.backbones.stages.head import head_stages
    from hf_tl.backbones.stages.stage import list_stages
    from hf_tl.backbones.weights.provenance import provenance_of
    from hf_tl.head.text_head import with_head_penalty
    from hf_tl.head.tuning import sweep_learning_rates

    config, images = request.config.strategy, data.splits["train"]
    head = head_stages(list_stages(model)) if request.config.model.head == "fully_connected" else 1
    notes = dataclasses.replace(notes, recommendation=advice.record)
    pretrained = request.config.model.pretrained
    if request.model is not None:
        pretrained = provenance_of(model).origin.kind != "random"
    known: dict[str, Any] = {"pretrained": pretrained, "head_stages": head, "family": family_of(model)}
    if request.strategy is not None:
        strategy = _taught(with_head_penalty(request.strategy, model), request)
        return strategy.resolve(len(images), **known), head, notes
    preset = with_head_penalty(config.preset(head, advice.climb), model)
    strategy = _taught(preset, request).resolve(len(images), **known)
    if not config.find_learning_rate:
        return strategy, head, notes
    plain = preprocessing.transforms().eval
    model.to(accelerator.device)
    inputs, units = plain.over(images), data.units["train"]
    sweep = sweep_learning_rates(accelerator, model, inputs, strategy.phases[0], request.config.training, units)
    say(accelerator, f"Choosing the learning rate of the head: {sweep}")
    chosen = dataclasses.replace(config, find_learning_rate=False, learning_rate=sweep.best)
    notes = dataclasses.replace(notes, choices={"learning rate of the head": str(sweep)})
    preset = with_head_penalty(chosen.preset(head, advice.climb), model)
    strategy = _taught(preset, request).resolve(len(images), **known)
    return strategy, head, notes
