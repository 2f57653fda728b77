"""A prepared run: train, commit, evaluate, write the card, push."""

import contextlib
import dataclasses
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_tl.backbones.weights.provenance import Provenance, provenance_of, set_provenance, trained_origin
from hf_tl.config import HubConfig, TrainingConfig
from hf_tl.errors import ConfigError, SaveError
from hf_tl.evaluation.metrics import PROBLEM_TYPES, ProblemType
from hf_tl.processes.together import on_main_process
from hf_tl.publish.measured import measure_run, plain_kinds, predict_plain, with_plain
from hf_tl.record import LearnedFrom, Origin, RefitRecord, RunRecord, Seconds
from hf_tl.reporting.console import say
from hf_tl.strategy import Phase, Strategy

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import Tensor
    from transformers import PreTrainedModel

    from hf_tl.backbones.libraries.preprocessing import Preprocessing
    from hf_tl.card.examples import Example
    from hf_tl.checkpoints.state import TrainingLog
    from hf_tl.data.datasets import ImageData
    from hf_tl.data.images import Transforms
    from hf_tl.data.learned import Leakage
    from hf_tl.evaluation.measure import Predictions
    from hf_tl.record.run import Status
    from hf_tl.training.loop import Training
    from hf_tl.training.refit import Refit


@dataclass(frozen=True)
class RunResult:
    """Result of a finished run."""

    output_dir: Path
    """Folder with the model, its card and its record."""
    record: RunRecord
    """Contents of `run.json`."""
    commit_url: str | None = None
    """Address of the commit on the Hub. None if the model was not pushed."""

    def __fspath__(self) -> str:
        return str(self.output_dir)

    @property
    def test_accuracy(self) -> float:
        """Accuracy on the test images; for multi-label data, the share of images with all labels correct."""
        problem = PROBLEM_TYPES[self.record.model.problem_type]
        return float(self.record.measured["test"].metrics[problem.accuracy] or 0.0)


@dataclass
class Job:
    """Everything that a run needs, loaded and checked."""

    accelerator: "Accelerator"
    model: "PreTrainedModel"
    preprocessing: "Preprocessing"
    data: "ImageData"
    strategy: Strategy
    config: TrainingConfig
    """Training settings, with `output_dir` set."""
    hub: HubConfig
    horizontal_flip: bool
    """Whether a mirrored image keeps its label."""
    leakage: "Mapping[str, Leakage]" = field(default_factory=dict)
    """Training images of the starting weights in each split, and whether they were excluded."""
    head_stages: int = 1
    """Number of trailing stages that count as the head."""
    command: str | None = None
    """Command of the run, for its record."""
    settings: dict[str, Any] | None = None
    """All settings of the run, for its record."""
    choices: dict[str, str] = field(default_factory=dict)
    """Hyperparameters that were selected by search, for the record."""
    recommendation: dict[str, Any] | None = None
    """Evidence for the recommended strategy, for the record."""
    rung_seconds: Sequence[float] = ()
    """Expected seconds of each stage depth of an escalation, for `time_budget`."""
    start: float = field(default_factory=time.perf_counter)

    @property
    def folder(self) -> Path:
        """Output folder."""
        return Path(str(self.config.output_dir))

    @property
    def problem(self) -> ProblemType:
        """Kind of labels."""
        return PROBLEM_TYPES[self.data.problem_type]

    @cached_property
    def provenance(self) -> Provenance:
        """Origin of the starting weights."""
        return provenance_of(self.model)

    @cached_property
    def _learned_before(self) -> LearnedFrom:
        """Training images of the starting weights.

        Where a published model states only a split, its images are looked up in the data.
        """
        from hf_tl.data.learned import resolve

        return resolve(self.provenance.learned, self.data)

    def run(self) -> RunResult:
        """Train, commit the model, evaluate it, write its card and push it.

        Raises:
            HfTlError: Something cannot be used or written. If training was done, the trained model is in `output_dir`.
        """
        from hf_tl.card.summary import announce
        from hf_tl.head.tuning import fit_batch_size
        from hf_tl.optimization.loss import check_phases
        from hf_tl.processes.accelerator import close_logs, start_trackers
        from hf_tl.processes.energy import measured_energy

        self._check_flip()
        check_phases(self.strategy.phases, self.problem)
        _ = self.provenance  # computed before training changes the weights
        self.model.to(self.accelerator.device)
        if self.config.auto_find_batch_size:
            size = self.preprocessing.input_size
            self.config = fit_batch_size(self.accelerator, self.model, self.strategy, self.config, size)
        say(self.accelerator, announce(self.model, self.data, self.strategy, self.accelerator.num_processes))
        training, refit = self._training()
        start_trackers(self.accelerator, self.config, self.strategy)
        try:
            with measured_energy(self.accelerator, is_wanted=self.config.measure_energy) as energy:
                log = training.run()
                record = self._commit(training, log)
                with self._saved():
                    validation = self._predictions(training, "validation"), str(record.weights_digest)
                    if refit is not None and refit.is_due():
                        training = refit.run()
                        record = self._commit(training, log)
                        if not refit.learns_validation:
                            validation = self._predictions(training, "validation"), str(record.weights_digest)
        finally:
            close_logs(self.accelerator, self.config)
        with self._saved():
            test = self._predictions(training, "test")
            kinds = plain_kinds(self.data, self.config, self.preprocessing.input_size[0])
            transform = self.transforms_of(training.carried_out.phases[-1]).eval
            plain = (
                predict_plain(self.accelerator, self.model, self.data, transform, self.config, test) if kinds else None
            )

            def measure() -> RunRecord:
                measured = measure_run(record, self.problem, validation, test, self.leakage)
                return measured if plain is None else with_plain(measured, self.problem, plain, kinds)

            energy_used = energy or None
            result = on_main_process(self.accelerator, lambda: self._finish(measure, energy_used))
        set_provenance(self.model, trained_origin(result.record, head="kept"), self._learned(training))
        return result

    def transforms_of(self, phase: Phase) -> "Transforms":
        """Return the transforms of a phase."""
        return self.preprocessing.transforms(phase.augmentation, horizontal_flip=self.horizontal_flip)

    def _check_flip(self) -> None:
        if self.config.test_time_flip and not self.horizontal_flip:
            raise ConfigError(
                "--test_time_flip averages the logits of an image and its mirror image, and mirrored images of "
                f"{self.data.name} change their class (--horizontal_flip false): leave one of them out"
            )

    def _training(self) -> "tuple[Training, Refit | None]":
        from hf_tl.training.loop import Training
        from hf_tl.training.refit import Refit, is_given_back, is_refitted

        training = Training(
            self.accelerator,
            self.model,
            self.strategy,
            self.transforms_of,
            self.data.splits["train"],
            self.data.splits["validation"],
            self.config,
            self.data.fingerprint,
            self.data.orders,
            self.rung_seconds,
            self._identity(),
            self._hold,
        )
        refit = None
        if is_refitted(self.strategy, self.data):
            refit = Refit.of(training, learns_validation=is_given_back(self.data))
        if self.strategy.refit and refit is None:
            say(self.accelerator, "Refit     none: the validation split was not drawn from train, or is streamed")
        if self.config.resume_from_checkpoint is not None:
            training.restore(self.config.resume_from_checkpoint)
        elif training.checkpoints.folder is not None and self.accelerator.is_main_process:
            # checkpoints of the run that --overwrite_output_dir replaces
            shutil.rmtree(training.checkpoints.folder, ignore_errors=True)
        return training, refit

    def _identity(self) -> dict[str, Any]:
        """Return what a checkpoint and the run that resumes from it must share, besides strategy, data and settings."""
        from hf_tl.backbones.stages.stage import list_stages
        from hf_tl.backbones.weights.digest import digest
        from hf_tl.record.codec import encode

        head = {*list_stages(self.model)[-1].parameter_names, *list_stages(self.model)[-1].buffer_names}
        backbone = {name: tensor for name, tensor in self.model.state_dict().items() if name not in head}
        starts_anew = self.strategy.phases[0].from_random_weights
        return {
            "origin": encode(self.provenance.origin),
            "starting weights": None if starts_anew else digest(backbone),
            "preprocessing": encode(self.preprocessing.to_record()),
            "horizontal_flip": self.horizontal_flip,
            "classes": list(self.data.labels),
        }

    def _predictions(self, training: "Training", split: str) -> "Predictions":
        return training.predictions(self.data.splits[split], split)

    def _learned(self, training: "Training") -> LearnedFrom:
        """Return the images that the trained weights learned from, including those of the starting weights."""
        from hf_tl.data.learned import learn

        learned = LearnedFrom() if _is_from_random(training) else self._learned_before
        for split in self._learned_splits(training):
            learned = learn(learned, self.data, split)
        return learned

    def _learned_splits(self, training: "Training") -> tuple[str, ...]:
        images = len(training.data.train_images)
        return ("train",) if images == len(self.data.splits["train"]) else ("train", "validation")

    def _hold(self, tensors: "Mapping[str, Tensor]", training: "Training") -> None:
        """Commit the best weights so far before the last step; a failure does not stop the training."""
        try:
            self._write(training, training.state.log, "training", tensors)
        except SaveError as error:
            say(self.accelerator, f"The weights so far could not be saved: {error}")

    def _commit(self, training: "Training", log: "TrainingLog") -> RunRecord:
        """Commit the trained weights, and a checkpoint from which the evaluation can resume."""
        record = self._write(training, log, "trained")
        training.keep_end()
        return record

    def _write(
        self,
        training: "Training",
        log: "TrainingLog",
        status: "Status",
        tensors: "Mapping[str, Tensor] | None" = None,
    ) -> RunRecord:
        from hf_tl.publish.save import commit_model

        record, learned = self._record(training, log, status), self._learned(training)
        return on_main_process(
            self.accelerator,
            lambda: commit_model(self.model, self.preprocessing, record, learned, self.folder, tensors),
        )

    def _record(self, training: "Training", log: "TrainingLog", status: "Status") -> RunRecord:
        """Build the record of the run so far.

        Args:
            training: Training that produced the weights.
            log: Log of the training with model selection: the same training, or the one before a refit.
            status: Status of the run.
        """
        from hf_tl.publish import record as parts

        done = training.state.log
        is_refitted = done is not log
        carried_out = training.strategy if status == "training" else training.carried_out
        phases = tuple(done.kept_phases)
        transforms = self.transforms_of(carried_out.phases[-1])
        return RunRecord(
            status=status,
            origin=Origin.random(self.config.seed) if _is_from_random(training) else self.provenance.origin,
            model=parts.describe_model(self.model, self.preprocessing, phases, self.head_stages),
            strategy=dataclasses.replace(carried_out, refit=is_refitted),
            stages=parts.describe_stages(self.model),
            phases=phases,
            data=self.data.to_record(),
            learned_from=self._learned(training).splits,
            rungs=tuple(log.rungs),
            stopped=log.stopped,
            recommendation=self.recommendation,
            transforms={"train": transforms.train.describe(), "eval": transforms.eval.describe()},
            hyperparameters={
                **parts.hyperparameters(carried_out, self.config, self.accelerator, phases),
                **self.choices,
            },
            history=tuple(log.history),
            best=log.best,
            refit=RefitRecord(len(training.data.train_images), self._learned_splits(training), done.seconds)
            if is_refitted
            else None,
            seconds=Seconds(time.perf_counter() - self.start, log.seconds + (done.seconds if is_refitted else 0.0)),
            command=self.command,
            settings=self.settings,
            card=parts.card_texts(self.hub),
            **parts.environment(self.accelerator),
        )

    def _finish(self, measure: Callable[[], RunRecord], energy: dict[str, Any] | None) -> RunResult:
        """Verify that the committed model loads, measure it, write its card and push it (main process only)."""
        from hf_tl.card.summary import summarize
        from hf_tl.hub.hub import push
        from hf_tl.publish.save import check_reload, complete_run

        say(None, "Loading the saved model again to compare")
        check_reload(self.model, self.preprocessing, self.folder)
        record = measure()
        seconds = dataclasses.replace(record.seconds, total=time.perf_counter() - self.start)
        record = dataclasses.replace(record, seconds=seconds, energy=energy)
        record, examples = self._examples(record)
        result = RunResult(self.folder, complete_run(record, self.folder, examples))
        try:
            if self.hub.push_to_hub is not None:
                say(None, f"Pushing to {self.hub.push_to_hub}")
                url = push(result.output_dir, self.hub.push_to_hub, private=self.hub.hub_private or None)
                result = dataclasses.replace(result, commit_url=url)
        finally:  # print the accuracy and the folder of the model even if the push failed
            say(None, summarize(result.record, result.output_dir, result.commit_url))
        return result

    def _examples(self, record: RunRecord) -> "tuple[RunRecord, list[Example]]":
        """Collect the example images of the card; there are none unless the user allowed them."""
        from hf_tl.card.examples import collect_examples

        if not self.hub.card_images:
            return record, []
        transform = self.transforms_of(record.phases[-1].recipe).eval
        examples = collect_examples(self.model, transform, self.data, record)
        has_maps = any(example.maps for example in examples)
        return dataclasses.replace(record, card=dataclasses.replace(record.card, maps=has_maps)), examples

    @contextlib.contextmanager
    def _saved(self) -> Iterator[None]:
        """Add to errors after training where the model is and how to finish the run."""
        try:
            yield
        except BaseException:
            resume = f"--output_dir {self.folder} --resume_from_checkpoint auto"
            say(
                self.accelerator,
                f"The trained weights are saved in {self.folder}, and loadable. To measure them and write their card, "
                f"run the same command with {resume}; `hf-tl card {self.folder}` writes a card without measurements",
            )
            raise


def _is_from_random(training: "Training") -> bool:
    """Return whether the weights of a training descend from random ones that one of its phases drew."""
    kept = [phase.recipe for phase in training.state.log.kept_phases] or training.strategy.phases[:1]
    return any(phase.from_random_weights for phase in kept)


def choose_output_dir(accelerator: "Accelerator", config: TrainingConfig, name: str) -> str:
    """Choose and check the output folder on the main process, and return it on all processes.

    Args:
        accelerator: Accelerator of the run.
        config: Training settings; their `output_dir` is used if it is set.
        name: Name of a new folder under `runs/` otherwise. A number is appended if the folder exists.

    Raises:
        ConfigError: The folder holds another run, or is not writable.
    """
    from hf_tl.publish.save import check_output_dir

    def choose() -> str:
        folder = config.output_dir or _new_folder(name)
        resume = config.resume_from_checkpoint is not None
        check_output_dir(folder, overwrite=config.overwrite_output_dir, resume=resume)
        return folder

    return on_main_process(accelerator, choose)


def check_push(accelerator: "Accelerator", push_to_hub: str | None) -> None:
    """Check before training that the result may be pushed.

    Raises:
        PublishError: See `hf_tl.hub.hub.check_push_access`.
    """
    from hf_tl.hub.hub import check_push_access

    if push_to_hub is not None:
        on_main_process(accelerator, lambda: check_push_access(push_to_hub))


def _new_folder(name: str) -> str:
    number = 1
    while (folder := Path("runs", name if number == 1 else f"{name}-{number}")).exists():
        number += 1
    return str(folder)
