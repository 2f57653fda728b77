"""Inputs, record and saved folder of a training with `StrategyTrainer`, as those of the Accelerate loop."""

import dataclasses
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate import PartialState

from hf_tl.backbones.libraries.class_names import class_names
from hf_tl.backbones.stages.stage import list_stages
from hf_tl.backbones.weights.provenance import provenance_of
from hf_tl.checkpoints.state import Outcome
from hf_tl.config import DataConfig, HubConfig, TrainingConfig
from hf_tl.distillation.teacher import check_teacher
from hf_tl.errors import CheckpointError
from hf_tl.evaluation.holdout.loaded import LoadedClassifier
from hf_tl.evaluation.measure import Predictions, predict_split
from hf_tl.hub.hub import push
from hf_tl.job.interpolated import interpolate_weights, keeps_end, starting_point
from hf_tl.job.job import Job, RunResult
from hf_tl.job.opening import open_data
from hf_tl.job.records import build_record, learned_images
from hf_tl.job.run_job import Trained, finish_run, predict, write_model
from hf_tl.job.zero_shot import zero_shot_results
from hf_tl.lora.adapter import Adapter, adapter_of
from hf_tl.processes.accelerator import unwrap_precision
from hf_tl.publish.save import commit_model, complete_run, rewrite_card
from hf_tl.record import RECORD_FILE, LearnedFrom, RunRecord, read_record
from hf_tl.record.run import LAST_WEIGHTS
from hf_tl.reporting.console import say
from hf_tl.trainer.arguments import checkpoints_activations
from hf_tl.views.stream_views import viewed

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict
    from torch import Tensor
    from transformers import PreTrainedModel, TrainingArguments

    from hf_tl.data.datasets import ImageData
    from hf_tl.data.learned import Leakage
    from hf_tl.trainer.trainer import StrategyTrainer


def open_run_data(
    data: "ImageData | Dataset | DatasetDict | str",
    args: "TrainingArguments",
    model: "PreTrainedModel",
    *,
    from_scratch: bool,
    teacher: LoadedClassifier | None = None,
) -> "tuple[ImageData, dict[str, Leakage]]":
    """Load, split and check the images of a run, and leave out those that its weights or its teacher learned from."""
    if teacher is not None:
        check_teacher(teacher, class_names(model.config), student=model)
    learned = LearnedFrom() if from_scratch else provenance_of(model).learned
    state: Any = PartialState()  # there is no accelerator before the Trainer
    return open_data(state, data, DataConfig(), TrainingConfig(seed=args.seed), learned, teacher=teacher)


def training_config(args: "TrainingArguments", **after_training: Any) -> TrainingConfig:
    """Return the settings of the Accelerate loop that the training arguments correspond to.

    Args:
        args: Training arguments.
        after_training: Settings of what follows the training, by their names.
    """
    return TrainingConfig(
        output_dir=str(args.output_dir),
        seed=args.seed,
        per_device_train_batch_size=args.per_device_train_batch_size,
        per_device_eval_batch_size=args.per_device_eval_batch_size,
        gradient_accumulation_steps=args.gradient_accumulation_steps,
        max_grad_norm=args.max_grad_norm or None,
        gradient_checkpointing=checkpoints_activations(args),
        dataloader_num_workers=args.dataloader_num_workers,
        report_to="none",
        feature_cache="off",
        **after_training,
    )


class TrainerRun:
    """Job of a `StrategyTrainer`: its record during and after training."""

    def __init__(self, trainer: "StrategyTrainer") -> None:
        self.trainer = trainer
        self.zero_shot: dict[str, Any] | None = None
        """Results of a head from class names before training."""

    @cached_property
    def job(self) -> Job:
        """Job of the training, with the model that is trained."""
        trainer = self.trainer
        return Job(
            trainer.accelerator,
            trainer.accelerator.unwrap_model(trainer.model),
            trainer.preprocessing,
            trainer.data,
            trainer.strategy,
            training_config(trainer.args, **trainer.after_training),
            HubConfig(),
            horizontal_flip=trainer.horizontal_flip,
            leakage=trainer.leakage,
            teacher=trainer.teacher,
        )

    @property
    def outcome(self) -> Outcome:
        """Outcome of the training so far."""
        trainer = self.trainer
        log = trainer.phases.log_so_far(trainer.state.global_step, self.job.model)
        log = dataclasses.replace(log, zero_shot=self.zero_shot)
        args = trainer.args
        is_best = args.load_best_model_at_end and trainer.state.best_model_checkpoint is not None
        selection = str(args.metric_for_best_model) if is_best else LAST_WEIGHTS
        return Outcome(trainer.strategy, log, len(self.job.data.splits["train"]), selection)

    def begin(self) -> None:
        """Determine the origin of the weights, before training changes them, and print what the model sees.

        Raises:
            ConfigError: The weights are to be interpolated, and only the head trains, or they are random.
        """
        _ = self.job.provenance, self.job.learned_before
        self.trainer.start.point = starting_point(self.job)
        self.job.note_views()
        if self.job.text_head is not None:
            self.zero_shot, _ = zero_shot_results(self.job)

    def check_teacher(self, checkpoint: Path) -> None:
        """Check that a checkpoint has the teacher of this run.

        Raises:
            CheckpointError: It has another one, or only one of the two has any.
        """
        if not (checkpoint / RECORD_FILE).is_file():
            return
        recorded, teacher = read_record(checkpoint).teacher, self.job.teacher
        before, now = recorded and recorded.weights_digest, teacher and teacher.identity()
        if before != now:
            raise CheckpointError(
                f"the checkpoint {checkpoint} is from another run: teacher was {before!r}, now {now!r}. Resume with "
                "the teacher of that run, or start a new run in another output_dir"
            )

    def finish(self) -> RunResult:
        """Commit the trained weights, evaluate them, and write record and card. All processes must call it."""
        job, outcome = self.job, self.outcome
        unwrap_precision(job.model)  # what is saved is compared in float32
        say(job.accelerator, f"Saving the trained weights in {job.folder}")
        adapter = self.adapter
        record = self.with_arguments(write_model(job, outcome, outcome.log, "trained", adapter=adapter))
        if interpolate_weights(job, outcome, self.trainer.start.point, self._predict_validation):
            adapter = adapter if keeps_end(outcome) else None
            record = self.with_arguments(write_model(job, outcome, outcome.log, "trained", adapter=adapter))
        validation = predict(job, self.predict, "validation"), str(record.weights_digest)
        return finish_run(job, Trained(outcome, self.predict, record, validation))

    def _predict_validation(self) -> Predictions:
        return self.predict(self.job.data.splits["validation"], "validation")

    @property
    def adapter(self) -> Adapter | None:
        """Adapter of the trained weights, if they are the starting weights with one."""
        model, phases = self.job.model, self.outcome.carried_out.phases
        return adapter_of(phases, list_stages(model), {**model.state_dict(), **self.trainer.phases.adapters})

    def predict(self, images: "Dataset", split: str) -> Predictions:
        """Predict images with the evaluation transform."""
        job = self.job
        seen = viewed(images, job.preprocessing.transforms().eval)
        return predict_split(job.accelerator, job.model, seen, job.config.per_device_eval_batch_size)

    def with_arguments(self, record: RunRecord) -> RunRecord:
        """Return a record that names Trainer and its optimizer."""
        args = self.trainer.args
        optimizer = str(getattr(args.optim, "value", args.optim))
        if optimizer.startswith("adam"):
            optimizer += f" (betas {args.adam_beta1:g} and {args.adam_beta2:g})"
        settings = {"trainer": "transformers Trainer", "optimizer": optimizer}
        return dataclasses.replace(record, hyperparameters={**record.hyperparameters, **settings})

    def save(self, folder: Path, tensors: "Mapping[str, Tensor] | None") -> None:
        """Save the model with processor, record and card, into a checkpoint or a folder of the user's.

        The record of a finished run is kept for the weights that it describes. Otherwise it states what was trained so
        far, and no measurements.

        Args:
            folder: Folder to save in.
            tensors: Tensors of the model to write in place of its own.

        Raises:
            SaveError: The disk is full or read-only.
        """
        job, outcome = self.job, self.outcome
        record = self.with_arguments(build_record(job, outcome, outcome.log, "training"))
        written = commit_model(job.model, job.preprocessing, record, learned_images(job, outcome), folder, tensors)
        result = self.trainer.finished
        if result is not None and result.record.weights_digest == written.weights_digest:
            complete_run(result.record, folder)
        else:
            rewrite_card(folder)

    def publish(self, folder: Path, **access: Any) -> str:
        """Push a saved folder to the repository of the Trainer, and return the URL of the commit.

        Args:
            folder: Folder that `save` wrote.
            access: `token`, `revision` and `private` of `hf_tl.push`, None for those of the training arguments.

        Raises:
            PublishError: The Hub refused the push.
        """
        trainer, args = self.trainer, self.trainer.args
        settings = {"token": args.hub_token, "revision": args.hub_revision, "private": args.hub_private_repo}
        settings |= {name: value for name, value in access.items() if value is not None}
        name = trainer.hub_model_id or args.hub_model_id
        if name is None or "/" not in name:  # Trainer asks the Hub for the user
            trainer.init_hf_repo(token=settings["token"], private=settings["private"])
            name = trainer.hub_model_id
        return push(folder, str(name), **settings)
