"""`Trainer` for a strategy: losses, sampling and augmentation by phase, and the record and card of the run."""

import contextlib
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from accelerate import PartialState
from datasets import Dataset
from safetensors.torch import load_file
from transformers import EarlyStoppingCallback, TrainingArguments
from transformers.trainer_utils import HubStrategy
from transformers.utils import logging

from hf_tl.backbones.libraries.class_names import check_classes
from hf_tl.backbones.load import preprocessing_of, set_problem_type
from hf_tl.backbones.stages.freezing import fix_unused
from hf_tl.backbones.stages.stage import list_stages
from hf_tl.data.columns import IMAGE, LABEL
from hf_tl.data.streaming.streams import first_image, streams_of
from hf_tl.distillation.recipe import with_teacher
from hf_tl.distillation.teacher import Teacher
from hf_tl.errors import ConfigError
from hf_tl.evaluation.holdout.classifier import AnyModel
from hf_tl.evaluation.holdout.loaded import LoadedClassifier
from hf_tl.evaluation.metrics import problem_type_of, trainer_metrics
from hf_tl.evaluation.robustness.views import check_corruptible
from hf_tl.head.text_head import check_head, fit_text_head, with_head_penalty
from hf_tl.optimization.head_penalty import HeadPenalty
from hf_tl.optimization.loss import balanced_weights, check_phases, training_loss
from hf_tl.processes.failure import failing_together
from hf_tl.strategy import Phase, Strategy
from hf_tl.trainer.adapted import AdaptedTrainer
from hf_tl.trainer.callback import StrategyCallback
from hf_tl.trainer.images import PhaseCollate, PhaseSampler, PhaseViews
from hf_tl.trainer.interpolation import StartCallback
from hf_tl.trainer.progress import AVERAGE_FILE
from hf_tl.trainer.runs import TrainerRun, open_run_data, training_config
from hf_tl.trainer.saving import SavingTrainer
from hf_tl.views.stream_views import viewed

if TYPE_CHECKING:
    from datasets import DatasetDict
    from torch import Tensor, nn
    from torch.utils.data import DataLoader, Sampler
    from transformers import PreTrainedModel

    from hf_tl.data.datasets import ImageData
    from hf_tl.data.decoding.images import Transforms
    from hf_tl.job.job import RunResult

logger = logging.get_logger(__name__)

StrategySource = Strategy | str | Callable[[Any], Strategy]


class StrategyTrainer(AdaptedTrainer, SavingTrainer):
    """transformers' `Trainer` that carries out a strategy, and saves what `hf_tl.train` saves.

    One call sets everything up: views and collator of the training images, processor, metrics, loss and callback. After
    `train()`, `output_dir` holds the model with its record and card; `save_model` and `push_to_hub` publish the same.

    Args:
        model: Model from `hf_tl.load_backbone`, or any image classifier of transformers.
        args: Training arguments. What a phase also has is adopted, replaced or refused: see `hf_tl.trainer.arguments`.
        strategy: Strategy, or the name of one, whose recipe then follows the size of the data. A function of an Optuna
            trial (or None) that returns a strategy, for `hyperparameter_search`.
        data: Result of `hf_tl.load_data`, a loaded dataset, or what `hf-tl train --dataset` takes.
        transforms: Transforms that `load_backbone` returned with `model`. Defaults to those of the model.
        model_init: Function that returns a new model, in place of `model`.
        horizontal_flip: Whether a mirrored image keeps its label. Defaults to the dataset's own, else True.
        interpolate: Coefficient of the weights between those before and after fine-tuning, or `"auto"`, as
            `--interpolate` takes it. The end are the weights after the last phase, or the best ones that Trainer loads.
        corruptions: Whether to measure the test metrics under common corruptions too, as `--corruptions` does.
        teacher: Trained classifier whose predictions are taught to the model, as `--teacher` takes it, or a loaded one.
        options: Other arguments of `Trainer`, such as `callbacks`, `compute_metrics` and `optimizers`.

    Raises:
        ConfigError: Model, data, arguments and strategy do not fit together.

    >>> import hf_tl
    >>> from transformers import TrainingArguments
    >>> data = hf_tl.load_data("photos")
    >>> model, transforms = hf_tl.load_backbone("backbone", data.labels)
    >>> args = TrainingArguments("trainer", num_train_epochs=1, report_to="none", disable_tqdm=True)
    >>> trainer = hf_tl.StrategyTrainer(model, args, strategy="transfer", data=data, transforms=transforms)
    >>> trainer.strategy.phases[0].epochs  # adopted
    1
    """

    @failing_together()
    def __init__(
        self,
        model: "PreTrainedModel | None" = None,
        args: TrainingArguments | None = None,
        *,
        strategy: StrategySource,
        data: "ImageData | Dataset | DatasetDict | str",
        transforms: "Transforms | None" = None,
        model_init: "Callable[..., PreTrainedModel] | None" = None,
        horizontal_flip: bool | None = None,
        interpolate: Literal["auto"] | float | None = None,
        corruptions: bool = False,
        teacher: AnyModel | None = None,
        **options: Any,
    ) -> None:
        _check_options(options)
        args = args or TrainingArguments("tmp_trainer")  # the folder that Trainer takes
        args.hub_strategy = HubStrategy.END  # unfinished models are not published
        self._source = strategy
        if (first := model if model is not None or model_init is None else model_init()) is None:
            raise ConfigError("expected a model, or a model_init that returns one")
        self._has_teacher = teacher is not None
        self.phases = StrategyCallback(self._strategy_of(None, first))
        self.phases.carries_out = True
        self.finished: RunResult | None = None
        """Result of the last training, None before its end."""
        taught_by, anew = None if teacher is None else LoadedClassifier.load(teacher), self.strategy.from_scratch
        self.data, self.leakage = open_run_data(data, args, first, from_scratch=anew, teacher=taught_by)
        if streams_of(self.data.splits):
            raise ConfigError("StrategyTrainer draws images at random, found a stream: load the data without streaming")
        self._adapt(first)
        self.preprocessing = preprocessing_of(first, transforms)
        self.teacher = None if taught_by is None else Teacher.of(taught_by, self.data.labels, self.preprocessing)
        self._fit_head(first, args.seed)
        if corruptions:
            check_corruptible(self.preprocessing.scaling)
        self.after_training: dict[str, Any] = {"interpolate": interpolate, "corruptions": corruptions}
        training_config(args, **self.after_training)  # checks them
        flips = self.data.defaults.get("horizontal_flip", True) if horizontal_flip is None else horizontal_flip
        self.horizontal_flip: bool = flips
        self.phases.images = len(self.data.splits["train"])
        self.phases.steps_per_epoch = math.ceil(
            math.ceil(self.phases.images / (args.train_batch_size * args.world_size)) / args.gradient_accumulation_steps
        )
        evaluation = self.preprocessing.transforms().eval
        defaults = {
            "processing_class": self.preprocessing.processor,
            "compute_metrics": trainer_metrics,
            "eval_dataset": viewed(self.data.splits["validation"], evaluation),
        }
        self.start = StartCallback(self.phases)
        callbacks = [*(options.pop("callbacks", None) or ()), self.start, self.phases]
        super().__init__(
            model,
            args,
            train_dataset=self.data.splits["train"],
            model_init=model_init,
            callbacks=callbacks,
            **{**defaults, **options},
        )
        self._prepare_phases(self.model)

    @property
    def strategy(self) -> Strategy:
        """Strategy that is carried out, resolved for the data and the training arguments."""
        return self.phases.strategy

    @property
    def result(self) -> "RunResult":
        """Result of the last `train()`: folder, record, test accuracy.

        Raises:
            ConfigError: Nothing was trained.
        """
        if self.finished is None:
            raise ConfigError("expected a finished training, found none: call trainer.train() first")
        return self.finished

    def call_model_init(self, trial: Any = None) -> "PreTrainedModel":
        """Return a new model, and carry out the strategy of the trial on it."""
        model = super().call_model_init(trial)
        self._adapt(model)
        self._fit_head(model, self.args.seed)
        if trial is not None:
            self.phases.strategy = self._strategy_of(trial, model)
            self.phases.prepare(self.args, model)
            self._prepare_phases(model)
        return model

    def _strategy_of(self, trial: Any, model: "PreTrainedModel") -> Strategy:
        source = self._source
        strategy = source if isinstance(source, Strategy | str) else source(trial)
        strategy = Strategy.of(strategy) if isinstance(strategy, str) else strategy
        return with_teacher(with_head_penalty(strategy, model), has_teacher=self._has_teacher)

    def _adapt(self, model: "PreTrainedModel") -> None:
        """Check the classes of the model, and set its problem type."""
        check_classes(model.config, self.data.labels)
        set_problem_type(model, self.data.problem_type)

    def _fit_head(self, model: "PreTrainedModel", seed: int) -> None:
        """Scale the logits of a head from class names by training images, and freeze what no logit depends on."""
        transform, images = self.preprocessing.transforms().eval, self.data.splits["train"]
        fit_text_head(PartialState(), model, images, transform, seed)
        fix_unused(model, torch.stack([transform(first_image(images))] * 2).to(model.device))

    def _prepare_phases(self, model: "PreTrainedModel") -> None:
        """Build views, collator and class weights of the phases."""
        phases, data = self.strategy.phases, self.data
        self.preprocessing.check_training_is_used(phase.augmentation for phase in phases)
        check_phases(phases, problem_type_of(model))
        check_head(model, self.strategy)
        self._head_penalty = HeadPenalty(model, list_stages(model)[-1])
        self.run = TrainerRun(self)

        def transforms_of(phase: Phase) -> "Transforms":
            return self.preprocessing.transforms(phase.augmentation, horizontal_flip=self.horizontal_flip)

        self.train_dataset = PhaseViews(data.splits["train"], phases, transforms_of, self.args.seed)
        self.data_collator = PhaseCollate(phases, len(data.labels))
        self.label_smoother = None  # the phases' own
        needs_labels = any(phase.balanced_sampling or phase.class_weights == "balanced" for phase in phases)
        self._labels: list[int] | None = data.splits["train"][LABEL][:] if needs_labels else None
        self._weights: Tensor | None = None

    # what a phase says, in place of Trainer's own

    def _get_train_sampler(self, train_dataset: Any = None) -> "Sampler":
        """Return the order of the images; Trainer reads its signature columns from the dataset otherwise."""
        args = self.args
        images_per_step = self._train_batch_size * args.world_size * args.gradient_accumulation_steps
        size = len(self.data.splits["train"])

        def step_at(epoch: int) -> int:
            progress = self.phases.progress
            return 0 if progress is None else epoch * progress.steps_per_epoch

        def phase_at(step: int) -> int:
            progress = self.phases.progress
            return 0 if progress is None else progress.phase_at(step)

        seed = args.seed if args.data_seed is None else args.data_seed
        self.phases.sampler = PhaseSampler(
            size, seed, self.strategy.phases, self._labels, images_per_step, step_at, phase_at
        )
        return self.phases.sampler

    def compute_loss(
        self,
        model: "nn.Module",
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Compute the loss of the phase in training, and the loss of the model in evaluation."""
        rows = inputs.pop("row", None)
        if not model.training:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        phase, problem = self._phase, problem_type_of(self.model)
        taught = self.teacher.logits(inputs["pixel_values"]) if self.teacher and phase.distillation_weight else None
        weights = None
        if phase.class_weights == "balanced":
            if self._weights is None:
                self._weights = balanced_weights(self._labels or [], len(self.data.labels)).to(outputs.logits.device)
            weights = self._weights
        loss = training_loss(outputs.logits, labels, phase, weights, problem, taught)
        loss = loss + self._head_penalty(self.model, phase.head_penalty)
        self.phases.note_loss(loss.detach(), rows)
        self.loss_is_scaled_for_ga = False  # a mean over the batch, which Trainer divides by the accumulated batches
        return (loss, outputs) if return_outputs else loss

    @property
    def _phase(self) -> Phase:
        progress = self.phases.progress
        assert progress is not None, "training has begun"
        return self.strategy.phases[progress.phase]

    def evaluation_loop(self, *arguments: Any, **options: Any) -> Any:
        """Evaluate with the averaged weights, in a phase that averages."""
        average = self.phases.average if self.is_in_train else None
        with contextlib.nullcontext() if average is None else average.applied():
            return super().evaluation_loop(*arguments, **options)

    def evaluate(self, *arguments: Any, **options: Any) -> dict[str, float]:
        """Evaluate; during training, add the result to the record, and end a phase that no longer improves."""
        metrics = super().evaluate(*arguments, **options)
        if self.is_in_train:
            stoppers = [
                callback
                for callback in self.callback_handler.callbacks
                if isinstance(callback, EarlyStoppingCallback)
                and callback.early_stopping_patience_counter >= callback.early_stopping_patience
            ]
            rate = float(self.lr_scheduler.get_last_lr()[0])
            is_over = self.phases.note_evaluation(metrics, rate, self.state, problem_type_of(self.model))
            if stoppers or is_over:
                self.phases.end_phase(self.state, self.control, self.model)
                for callback in stoppers:
                    callback.early_stopping_patience_counter = 0
        return metrics

    def get_eval_dataloader(self, eval_dataset: Any = None) -> "DataLoader":
        """Return the loader of a dataset, or of rows as they are stored, such as those of a split of the data."""
        return super().get_eval_dataloader(self._viewed(eval_dataset))

    def get_test_dataloader(self, test_dataset: Any) -> "DataLoader":
        """Return the loader of a dataset, or of rows as they are stored, such as those of a split of the data."""
        return super().get_test_dataloader(self._viewed(test_dataset))

    def _viewed(self, images: Any) -> Any:
        """Add the evaluation transform to rows of images that have none."""
        is_stored = isinstance(images, Dataset) and images.format["type"] is None and IMAGE in images.features
        return viewed(images, self.preprocessing.transforms().eval) if is_stored else images

    # checkpoints, record and card

    @failing_together()
    def train(self, *arguments: Any, trial: Any = None, **options: Any) -> Any:
        """Train, save the model, evaluate it, and write its record and card.

        Raises:
            HfTlError: Something cannot be used or written. If training was done, the model is in `output_dir`.
        """
        self.finished = None
        self.phases.resumed_from = None
        if trial is None:
            self.run = TrainerRun(self)
            self.run.begin()
        try:
            output = super().train(*arguments, trial=trial, **options)
        finally:
            self.phases.resumed_from = None
        if trial is None:
            self.finished = self.run.finish()
        return output

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        self.phases.resumed_from = Path(resume_from_checkpoint)
        self.run.check_teacher(self.phases.resumed_from)
        super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self) -> None:
        super()._load_best_model()
        average = Path(str(self.state.best_model_checkpoint), AVERAGE_FILE)
        if average.is_file():  # the evaluated weights
            self.model.load_state_dict(load_file(average), strict=False)


def _check_options(options: Mapping[str, Any]) -> None:
    """Reject arguments of Trainer that the strategy or the data replace."""
    if replaced := sorted({"train_dataset", "data_collator", "compute_loss_func"} & options.keys()):
        raise ConfigError(
            f"StrategyTrainer takes {', '.join(replaced)} from the data and the phases: leave it out, or train with a "
            "Trainer of your own and hf_tl.StrategyCallback"
        )
