"""Course of a run: train, commit the model, evaluate it, write its card, push it."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from hf_tl.backbones.weights.provenance import set_provenance, trained_origin
from hf_tl.checkpoints.checkpoint import FOLDER as CHECKPOINTS
from hf_tl.checkpoints.checkpoint import remove_checkpoints
from hf_tl.checkpoints.state import Outcome
from hf_tl.errors import SaveError
from hf_tl.job.interpolated import interpolate_weights, keeps_end, starting_point
from hf_tl.job.job import Job, RunResult
from hf_tl.job.records import build_record, learned_images
from hf_tl.job.zero_shot import measure_zero_shot
from hf_tl.processes.together import on_main_process
from hf_tl.publish.measured import measure_run, plain_kinds, predict_plain, with_plain, with_robustness
from hf_tl.record import RunRecord
from hf_tl.reporting.console import say
from hf_tl.storage.writing import writing

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor

    from hf_tl.card.figures.mistakes import Example
    from hf_tl.checkpoints.state import TrainingLog
    from hf_tl.data.decoding.images import ImageTransform
    from hf_tl.evaluation.measure import Predictions
    from hf_tl.lora.adapter import Adapter
    from hf_tl.record.run import Status
    from hf_tl.training.loop import Training
    from hf_tl.training.refit import Refit

    Predict = Callable[[Dataset, str], Predictions]
    """Function of the images and the name of a split."""


@dataclasses.dataclass(frozen=True)
class Trained:
    """Trained weights, committed to the output folder but not yet evaluated."""

    outcome: Outcome
    """Outcome of the training that produced the weights."""
    predict: "Predict"
    """Prediction of a split by these weights."""
    record: RunRecord
    validation: "tuple[Predictions, str]"
    """Predictions of the validation images, and the digest of the weights that made them."""
    energy: dict[str, Any] | None = None
    """Energy use of the training, if it was measured."""


def run_job(job: Job) -> RunResult:
    """Train, commit the model, evaluate it, write its card and push it.

    Raises:
        HfTlError: Something cannot be used or written. If training was done, the trained model is in `output_dir`.
    """
    from hf_tl.card.summary import announce
    from hf_tl.head.tuning import fit_batch_size

    job.check()
    _ = job.provenance  # computed before training changes the weights
    job.model.to(job.accelerator.device)
    if job.config.auto_find_batch_size:
        size, teach = job.preprocessing.input_size, None if job.teacher is None else job.teacher.logits
        job.config = fit_batch_size(job.accelerator, job.model, job.strategy, job.config, size, teach)
    job.note_views()
    say(job.accelerator, announce(job.model, job.strategy, job.accelerator.num_processes))
    return finish_run(job, _train(job))


def finish_run(job: Job, trained: Trained) -> RunResult:
    """Evaluate a trained and committed model, write its card, and push it.

    Raises:
        HfTlError: Something cannot be used or written. The trained model is in `output_dir`.
    """
    with _saved(job):
        result = _evaluate(job, trained)
    set_provenance(job.model, trained_origin(result.record, head="kept"), learned_images(job, trained.outcome))
    return result


def _train(job: Job) -> Trained:
    """Train, and retrain after model selection where the strategy says so; commit the weights each time."""
    from hf_tl.processes.accelerator import close_logs, start_trackers
    from hf_tl.processes.energy import measured_energy

    training, refit = _prepare(job)
    start_trackers(job.accelerator, job.config, job.strategy)
    measure_zero_shot(job, training)
    try:
        with measured_energy(job.accelerator, is_wanted=job.config.measure_energy) as energy:
            log = training.run()
            record = _commit(job, training, log)
            with _saved(job):
                record = _interpolate(job, training, log, record)
                validation = predict(job, training.predictions, "validation"), str(record.weights_digest)
                if refit is not None and refit.is_due():
                    training = refit.run()
                    record = _commit(job, training, log)
                    record = _interpolate(job, training, log, record, is_held_out=not refit.learns_validation)
                    if not refit.learns_validation:
                        validation = predict(job, training.predictions, "validation"), str(record.weights_digest)
    finally:
        close_logs(job.accelerator, job.config)
    return Trained(training.outcome, training.predictions, record, validation, energy or None)


def _prepare(job: Job) -> "tuple[Training, Refit | None]":
    """Prepare the training, resumed from its checkpoint if there is one, and the refit that follows it."""
    from hf_tl.training.loop import Training
    from hf_tl.training.refit import Refit, is_given_back, is_refitted

    def hold(tensors: "Mapping[str, Tensor]", training: "Training") -> None:
        """Commit the best weights so far before the last step; a failure does not stop the training."""
        try:
            write_model(job, training.outcome, training.state.log, "training", tensors)
        except SaveError as error:
            say(job.accelerator, f"Continuing without saving the weights so far: {error}")

    training = Training(
        job.accelerator,
        job.model,
        job.strategy,
        job.images,
        job.config,
        identity=job.identity(),
        rung_seconds=job.rung_seconds,
        hold=hold,
    )
    training.start = starting_point(job)
    refit = None
    if is_refitted(job.strategy, job.data):
        refit = Refit.of(training, learns_validation=is_given_back(job.data))
    elif job.strategy.refit:
        say(job.accelerator, "Skipping --refit: the dataset has its own validation split, or is streamed")
    if job.config.resume_from_checkpoint is not None:
        training.restore(job.config.resume_from_checkpoint)
    elif training.checkpoints.folder is not None and job.accelerator.is_main_process:
        # checkpoints of the run that --overwrite_output_dir replaces
        remove_checkpoints(training.checkpoints.folder)
    return training, refit


def _commit(job: Job, training: "Training", log: "TrainingLog") -> RunRecord:
    """Commit the trained weights, and a checkpoint from which the evaluation can resume."""
    say(job.accelerator, f"Saving the trained weights in {job.folder}")
    record = write_model(job, training.outcome, log, "trained", adapter=training.adapter)
    training.write_final_checkpoint()
    return record


def _interpolate(
    job: Job, training: "Training", log: "TrainingLog", record: RunRecord, *, is_held_out: bool = True
) -> RunRecord:
    """Commit interpolated weights in place of the trained ones, if wanted; return the record of the weights."""

    def predict_validation() -> "Predictions":
        return training.predictions(job.data.splits["validation"], "validation")

    measure = predict_validation if is_held_out else None
    if not interpolate_weights(job, training.outcome, training.start, measure, log.interpolation):
        return record
    adapter = training.adapter if keeps_end(training.outcome) else None
    return write_model(job, training.outcome, log, "trained", adapter=adapter)


def write_model(
    job: Job,
    outcome: Outcome,
    log: "TrainingLog",
    status: "Status",
    tensors: "Mapping[str, Tensor] | None" = None,
    adapter: "Adapter | None" = None,
) -> RunRecord:
    """Write the weights and their record so far into the output folder. All processes must call it.

    Args:
        job: Inputs of the run.
        outcome: Outcome of the training that produced the weights.
        log: Log of the training with model selection.
        status: Status of the run.
        tensors: Tensors to write in place of the model's own.
        adapter: Adapter to write beside the model.
    """
    from hf_tl.publish.save import commit_model

    record, learned = build_record(job, outcome, log, status), learned_images(job, outcome)

    def write() -> RunRecord:
        with writing(f"the model in {job.folder}"):
            # a run that ends among the renames of its first model can be resumed
            (job.folder / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
        return commit_model(job.model, job.preprocessing, record, learned, job.folder, tensors, adapter)

    return on_main_process(job.accelerator, write)


def _evaluate(job: Job, trained: Trained) -> RunResult:
    """Predict the test images, also as a plain pipeline does and corrupted, and finish the run with the results."""
    test = predict(job, trained.predict, "test")
    kinds = plain_kinds(job.data, job.config, job.preprocessing.input_size[0])
    transform = job.transforms_of(trained.outcome.carried_out.phases[-1]).eval
    plain = predict_plain(job.accelerator, job.model, job.data, transform, job.config, test) if kinds else None
    corrupted = _predict_corrupted(job, transform) if job.config.corruptions else None

    def finish() -> RunResult:
        _check_saved(job)
        measured = measure_run(trained.record, job.problem, trained.validation, test, job.leakage, job.data.groups)
        record = measured if plain is None else with_plain(measured, job.problem, plain, kinds)
        if corrupted is not None:
            record = with_robustness(record, job.problem, test, corrupted)
        seconds = dataclasses.replace(record.seconds, total=time.perf_counter() - job.start)
        return _publish(job, dataclasses.replace(record, seconds=seconds, energy=trained.energy))

    return on_main_process(job.accelerator, finish)


def predict(job: Job, predict_images: "Predict", split: str) -> "Predictions":
    """Predict the images of a split."""
    images = job.data.splits[split]
    say(job.accelerator, f"Evaluating on {len(images):,} {split} images")
    return predict_images(images, split)


def _predict_corrupted(job: Job, transform: "ImageTransform") -> "Predictions":
    """Predict the test images under all corruptions."""
    from hf_tl.data.streaming.streams import streams_of
    from hf_tl.evaluation.robustness.measure import predict_corrupted
    from hf_tl.evaluation.robustness.views import corrupted
    from hf_tl.views.stream_views import viewed

    config, images = job.config, job.data.splits["test"]
    say(job.accelerator, f"Evaluating on {len(images):,} test images under 15 corruptions each")
    views = viewed(images, corrupted(transform, job.preprocessing.scaling))
    workers = 0 if streams_of(job.data.splits) else config.dataloader_num_workers
    batch_size = config.per_device_eval_batch_size
    return predict_corrupted(job.accelerator, job.model, views, batch_size, workers, flip=config.test_time_flip)


def _check_saved(job: Job) -> None:
    from hf_tl.publish.save import check_reload

    say(None, "Checking that the saved model loads and gives the same logits")
    check_reload(job.model, job.preprocessing, job.folder)


def _publish(job: Job, record: RunRecord) -> RunResult:
    """Write the card and the complete record, push them, and print the summary (main process only)."""
    from hf_tl.card.summary import summarize
    from hf_tl.hub.hub import push
    from hf_tl.publish.save import complete_run

    record, examples = _examples(job, record)
    result = RunResult(job.folder, complete_run(record, job.folder, examples))
    try:
        if job.hub.push_to_hub is not None:
            say(None, f"Pushing to {job.hub.push_to_hub}")
            url = push(result.output_dir, job.hub.push_to_hub, private=job.hub.hub_private or None)
            result = dataclasses.replace(result, commit_url=url)
    finally:  # print the accuracy and the folder of the model even if the push failed
        say(None, summarize(result.record, result.output_dir, result.commit_url))
    return result


def _examples(job: Job, record: RunRecord) -> "tuple[RunRecord, list[Example]]":
    """Collect the example images of the card; there are none unless the user allowed them."""
    from hf_tl.card.figures.mistakes import collect_examples

    if not job.hub.card_images:
        return record, []
    transform = job.transforms_of(record.phases[-1].recipe).eval
    examples = collect_examples(job.model, transform, job.data, record)
    has_maps = any(example.maps for example in examples)
    return dataclasses.replace(record, card=dataclasses.replace(record.card, maps=has_maps)), examples


@contextlib.contextmanager
def _saved(job: Job) -> Iterator[None]:
    """Say, where something fails after training, where the model is and how to finish the run."""
    try:
        yield
    except BaseException:
        resume = f"--output_dir {job.folder} --resume_from_checkpoint auto"
        say(
            job.accelerator,
            f"The trained model is saved in {job.folder} and can be loaded. To evaluate it and write its card, repeat "
            f"the run with {resume}; to write a card without evaluation, run hf-tl card {job.folder}",
        )
        raise
