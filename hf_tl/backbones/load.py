"""Loading of a checkpoint by name: model and transforms."""

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hf_tl.backbones.candidates import TIMM_PREFIX, candidates, check_revision, is_demo
from hf_tl.backbones.checks import check_image_size, check_labels, check_runs, check_settings, checked_text
from hf_tl.backbones.libraries.class_names import class_names, set_class_names
from hf_tl.backbones.weights.limits import settings_of
from hf_tl.backbones.weights.provenance import file_origin, set_provenance
from hf_tl.config import ModelConfig
from hf_tl.data.decoding.augmentation import AugmentedPipeline, Missing
from hf_tl.data.decoding.images import ImageTransform, Transforms
from hf_tl.errors import ConfigError, HfTlError, ModelError
from hf_tl.phase import Phase, ResizeMode
from hf_tl.prompts import HeadInit, TextInit
from hf_tl.record import LearnedFrom, Origin
from hf_tl.record.codec import encode
from hf_tl.renamed import renamed
from hf_tl.strategy import Strategy
from hf_tl.strategy_config import as_strategy

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from hf_tl.backbones.libraries.preprocessing import Preprocessing

SCHEMA_VERSION = 2
"""Version of the `hf_tl` entry in `config.json`."""
REMEMBERED = "hf_tl_preprocessing"
"""Model attribute that holds the preprocessing; copies of the model keep it."""


def load_backbone(
    name: str,
    labels: Sequence[str],
    strategy: Strategy | str | Sequence[Phase] | None = None,
    weights: str | None = None,
    pretrained: bool = True,
    *,
    image_size: int | None = None,
    resize_mode: ResizeMode | None = None,
    in_chans: int | None = None,
    problem_type: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    seed: int = 0,
    head_init: HeadInit | None = None,
    prompt: str | None = None,
    text_model: str | None = None,
) -> tuple["PreTrainedModel", Transforms]:
    """Load a backbone with a head for `labels`, frozen for the first phase of the strategy.

    Args:
        name: Hub id (`timm/resnet50.a1_in1k`, `google/vit-base-patch16-224`), local directory, `timm:ARCH[.TAG]`, or
            `demo` (ImageNet weights of the extra `demo`).
        labels: Class names, in the order of the logits. The head of the checkpoint is kept if its labels are the same
            in the same order; otherwise a new head is drawn with `seed`.
        strategy: Strategy, or its name, whose first phase decides what to freeze (default: everything trains).
        weights: Local weights file (`timm:` names only).
        pretrained: Whether to load pretrained weights.
        image_size: Height and width in pixels (default: those of the checkpoint).
        resize_mode: `"crop"` shows the center of an image, `"squash"` and `"pad"` all of it (default: as for the
            checkpoint). It is saved with the model.
        in_chans: Number of input channels (timm backbones only; default: that of the checkpoint).
        problem_type: `"single_label_classification"` or `"multi_label_classification"` (`problem_type` of the result of
            `load_data`). transformers selects the loss and the pipeline's scores by it.
        revision: Branch, tag or commit on the Hub.
        trust_remote_code: Whether code from the repository may run.
        seed: Random seed of new weights. `hf_tl.train` with the same seed and `hf-tl train --seed` start from the same
            weights.
        head_init: `"text"` makes the head from the class names with the text tower of a CLIP or SigLIP backbone.
        prompt: Prompts with `{}` in place of the class name, separated by `|` (default: seven of CLIP's authors).
        text_model: Checkpoint with the text tower, for backbones of timm (default: that of the backbone).

    Returns:
        A standard transformers image classifier in inference mode, and `transforms`, whose `train` and `eval` are
        passed to `dataset.with_transform`.

    Raises:
        ModelError: The model is unknown, or its weights do not fit.
        StageError: Its stages cannot be determined.

    >>> model, transforms = load_backbone("timm:test_resnet", ["cat", "dog"], Strategy.transfer(), pretrained=False)
    >>> type(model).__name__, [name for name, p in model.named_parameters() if p.requires_grad]
    ('TimmWrapperForImageClassification', ['timm_model.fc.weight', 'timm_model.fc.bias'])
    """
    from hf_tl.backbones.stages.freezing import freeze

    plan = None if strategy is None else as_strategy(strategy)
    is_pretrained = pretrained and not (plan is not None and plan.from_scratch)
    model, preprocessing = load_model(
        name,
        labels,
        weights=weights,
        pretrained=is_pretrained,
        image_size=image_size,
        resize_mode=resize_mode,
        in_chans=in_chans,
        revision=revision,
        trust_remote_code=trust_remote_code,
        seed=seed,
        text=checked_text(head_init, prompt, text_model, pretrained=is_pretrained),
    )
    set_problem_type(model, problem_type or model.config.problem_type)
    if plan is None:
        return model, preprocessing.transforms("light")
    phase = plan.phases[0]
    freeze(model, phase)
    model.config.hf_tl["strategy"] = plan.to_record()
    return model, preprocessing.transforms(phase.augmentation)


def load_model(
    name: str,
    labels: Sequence[str] | None,
    *,
    weights: str | None = None,
    pretrained: bool = True,
    image_size: int | None = None,
    resize_mode: ResizeMode | None = None,
    in_chans: int | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    weights_license: str | None = None,
    seed: int = 0,
    text: TextInit | None = None,
) -> tuple["PreTrainedModel", "Preprocessing"]:
    """Load a model and its preprocessing; the arguments are those of `load_backbone`.

    Without `labels`, the model keeps the labels of the checkpoint, and its head if there is one.
    `hf_tl.backbones.weights.provenance.provenance_of(model)` returns the origin of the weights. `weights_license` is
    the license of the file `weights`, if its source states one. `text` asks for a head from class names. A black image
    is run through the model, so that a model that does not accept images of this size is rejected before training.

    Raises:
        ModelError: As in `load_backbone`.
    """
    if labels is not None:
        check_labels(labels)
    settings = {"weights": weights, "pretrained": pretrained, "image_size": image_size, "resize_mode": resize_mode}
    settings |= {"in_chans": in_chans, "model_revision": revision, "trust_remote_code": trust_remote_code}
    check_settings(name, settings, seed)
    with drawing_with(seed):
        model, preprocessing = _load_model(
            name, labels, weights, pretrained, image_size, in_chans, revision, trust_remote_code, weights_license, text
        )
    if resize_mode is not None:
        from hf_tl.backbones.libraries.resize_mode import with_resize_mode

        preprocessing = with_resize_mode(model, preprocessing, resize_mode)
        model.__dict__[REMEMBERED] = preprocessing
    check_image_size(model, image_size)
    check_runs(model, preprocessing.input_size)
    return model, preprocessing


@contextlib.contextmanager
def drawing_with(seed: int) -> Iterator[None]:
    """Draw the random numbers of new weights with a seed, and leave those of the program as they are."""
    import torch

    with torch.random.fork_rng(devices=[]):  # models are built on the CPU
        torch.default_generator.manual_seed(seed)
        yield


def _load_model(
    name: str,
    labels: Sequence[str] | None,
    weights: str | None = None,
    pretrained: bool = True,
    image_size: int | None = None,
    in_chans: int | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    weights_license: str | None = None,
    text: TextInit | None = None,
) -> tuple["PreTrainedModel", "Preprocessing"]:
    if weights is None and is_demo(name):
        [demo] = candidates(ModelConfig(name))
        name, weights, weights_license = demo.name, demo.weights, demo.weights_license
    model_args = {} if in_chans is None else {"in_chans": in_chans}
    learned, towers = LearnedFrom(), None
    if name.startswith(TIMM_PREFIX):
        from hf_tl.backbones.libraries.timm import create_timm_backbone

        architecture = name.removeprefix(TIMM_PREFIX)
        model, origin = create_timm_backbone(
            architecture,
            labels,
            weights=weights,
            weights_license=weights_license,
            pretrained=pretrained,
            model_args=model_args,
            image_size=image_size,
        )
        if origin.kind == "file" and weights is not None:
            origin, learned = file_origin(origin, weights)
    elif weights is not None or model_args:
        raise ConfigError(f"expected --model timm:ARCHITECTURE with --weights or --in_chans, found --model {name!r}")
    else:
        options = {"image_size": image_size, "revision": revision, "trust_remote_code": trust_remote_code}
        model, origin, learned, towers = _load_checkpoint(name, labels, text, pretrained=pretrained, **options)
    if labels is not None:
        set_class_names(model.config, labels)
    if labels is not None and text is not None and pretrained:
        from hf_tl.backbones.text.loading import add_text_head

        origin = add_text_head(model, origin, labels, text, towers, name, revision)
    model.config.hf_tl = {"schema_version": SCHEMA_VERSION, "origin": encode(origin)}
    set_provenance(model, origin, learned)
    preprocessing = _preprocessing(model, name, image_size, revision, trust_remote_code)
    model.__dict__[REMEMBERED] = preprocessing
    return model, preprocessing


def _load_checkpoint(
    name: str, labels: Sequence[str] | None, text: TextInit | None, **options: Any
) -> tuple["PreTrainedModel", "Origin", LearnedFrom, "PreTrainedModel | None"]:
    """Load a checkpoint as `load_checkpoint` does; for a head from class names, with both of its towers if it has two.

    Returns:
        Model, origin of its weights, their known training images, and the two-tower model.
    """
    from hf_tl.backbones.libraries.transformers import load_checkpoint

    if text is not None:
        from hf_tl.backbones.text.loading import load_image_classifier

        if (loaded := load_image_classifier(name, labels, **options)) is not None:
            return loaded
    return *load_checkpoint(name, labels, **options), None


def set_problem_type(model: "PreTrainedModel", problem_type: str | None) -> None:
    """Write the problem type into a model's config."""
    model.config.problem_type = problem_type
    if problem_type == "multi_label_classification":
        # transformers' binary loss is a mean whatever `num_items_in_batch` says, so Trainer itself must divide by the
        # number of accumulated batches
        model.accepts_loss_kwargs = False


def _preprocessing(
    model: "PreTrainedModel", name: str, image_size: int | None, revision: str | None, trust_remote_code: bool
) -> "Preprocessing":
    if model.config.model_type == "timm_wrapper":
        from hf_tl.backbones.libraries.timm import timm_preprocessing

        with settings_of(name, "config.json"):
            return _tried(timm_preprocessing(model.config))
    from hf_tl.backbones.libraries.processors import load_processor, processor_preprocessing

    with settings_of(name, "preprocessor_config.json"):
        return _tried(processor_preprocessing(load_processor(name, image_size, revision, trust_remote_code)))


def _tried(preprocessing: "Preprocessing") -> "Preprocessing":
    """Run a preprocessing on images, so that settings on which it fails are found while they are read."""
    _ = preprocessing.scaling
    return preprocessing


@renamed(name="model")
def load(
    model: str | os.PathLike[str], *, revision: str | None = None, trust_remote_code: bool = False
) -> tuple["PreTrainedModel", Transforms]:
    """Load a saved model with its head and labels, frozen as in the last phase of its training.

    Args:
        model: Folder that hf_tl saved a model in, `RunResult`, or Hub id. Any other image classifier loads too, with
            nothing frozen.
        revision: Branch, tag or commit on the Hub.
        trust_remote_code: Whether code from the repository may run.

    Returns:
        Model in inference mode, and its transforms. Where the record cannot rebuild the augmentation, because it was a
        Python function, `transforms.train` raises a `ConfigError`.

    Raises:
        ConfigError: The revision is of a folder.
        ModelError: There is no such model.

    >>> model, transforms = load("photos-model")
    >>> model.config.id2label
    {0: 'dress', 1: 'hat'}
    """
    from hf_tl.backbones.libraries.configs import load_config
    from hf_tl.backbones.stages.freezing import freeze

    source = os.fspath(model)
    check_revision(source, revision)
    config = load_config(source, revision, trust_remote_code)
    labels = class_names(config)  # no check for duplicates: ImageNet has two classes named "crane"
    record = getattr(config, "hf_tl", None)
    loaded, preprocessing = _load_model(source, labels, revision=revision, trust_remote_code=trust_remote_code)
    set_problem_type(loaded, loaded.config.problem_type)
    check_runs(loaded, preprocessing.input_size)
    if not isinstance(record, Mapping) or "strategy" not in record:
        return loaded, preprocessing.transforms()
    loaded.config.hf_tl = record
    try:
        phase = Strategy.from_record(record["strategy"]).phases[-1]
        freeze(loaded, phase)
    except HfTlError as error:
        raise ModelError(f"the strategy in config.json of {source} does not fit the model: {error}") from error
    try:
        return loaded, preprocessing.transforms(phase.augmentation)
    except ConfigError as error:  # a Python function, or a transform that this torchvision does not have
        return loaded, replace(preprocessing.transforms(), train=ImageTransform(AugmentedPipeline([Missing(error)])))


def preprocessing_of(model: "PreTrainedModel", transforms: Transforms | None = None) -> "Preprocessing":
    """Return the preprocessing that a model is trained, evaluated and saved with.

    Args:
        model: Model from `load_backbone` or `load`, which store its preprocessing. For other models, the preprocessing
            is found by config or name.
        transforms: Transforms to train with. Their `eval` must be the model's own preprocessing, or, for models of
            transformers' own classes, a `ProcessorPipeline`, which is saved with the model. A user's own `train` is
            used as it is; augmentation presets are set by the phases.

    Raises:
        ConfigError: `transforms.eval` produces pixels that the published model could not reproduce.
        ModelError: The checkpoint has no image processor.
    """
    own = _own_preprocessing(model, transforms)
    return own if transforms is None else own.with_user_transforms(transforms)


def _own_preprocessing(model: "PreTrainedModel", transforms: Transforms | None) -> "Preprocessing":
    from hf_tl.backbones.libraries.preprocessing import Preprocessing
    from hf_tl.backbones.libraries.processors import ProcessorPipeline, processor_preprocessing

    remembered = model.__dict__.get(REMEMBERED)
    if model.config.model_type == "timm_wrapper":
        saved = _preprocessing(model, model.config.name_or_path, None, None, False)  # from the config, as it is saved
        return replace(saved, resize_mode=None if remembered is None else remembered.resize_mode)
    if transforms is not None:
        pipeline = transforms.eval.pipeline
        for known in (transforms.preprocessing, remembered):
            if isinstance(known, Preprocessing) and known.evaluation == pipeline:
                return known
        if isinstance(pipeline, ProcessorPipeline):
            return processor_preprocessing(pipeline.processor)
    return remembered or _preprocessing(model, model.config.name_or_path, None, None, False)
