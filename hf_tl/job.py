"""One job, ready to be trained: train, measure, record, save, push."""

import dataclasses
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_tl.config import HubConfig, TrainingConfig
from hf_tl.errors import ConfigError
from hf_tl.evaluation.metrics import PROBLEM_TYPES
from hf_tl.processes.console import say
from hf_tl.processes.together import on_main_process
from hf_tl.strategy import Phase, Strategy

if TYPE_CHECKING:
    from accelerate import Accelerator
    from transformers import PreTrainedModel

    from hf_tl.backbones.preprocessing import Preprocessing
    from hf_tl.card.examples import Example
    from hf_tl.checkpoints.state import TrainingLog
    from hf_tl.data.datasets import ImageData
    from hf_tl.data.images import Transforms
    from hf_tl.evaluation.measure import Predictions
    from hf_tl.training.loop import Training
    from hf_tl.training.refit import Refit


@dataclass(frozen=True)
class RunResult:
    """A finished run."""

    output_dir: Path
    """The folder with the model, its card and its record."""
    record: dict[str, Any]
    """What `run.json` holds."""
    commit_url: str | None = None
    """Where it was pushed to, if it was."""

    def __fspath__(self) -> str:
        return str(self.output_dir)

    @property
    def test_accuracy(self) -> float:
        """The share of test images that the model gets right; of multi-label images, all their labels."""
        problem = PROBLEM_TYPES[self.record["model"]["problem_type"]]
        return float(self.record["metrics"]["test"][problem.accuracy])


@dataclass
class Job:
    """All that a run needs, loaded and checked."""

    accelerator: "Accelerator"
    model: "PreTrainedModel"
    preprocessing: "Preprocessing"
    data: "ImageData"
    strategy: Strategy
    config: TrainingConfig
    """Its `output_dir` is chosen."""
    hub: HubConfig
    horizontal_flip: bool
    """Whether a mirrored image keeps its label."""
    command: str | None = None
    """How the run was started, for its record."""
    settings: dict[str, Any] | None = None
    """All its settings, for its record."""
    choices: dict[str, str] = field(default_factory=dict)
    """What was chosen by trying, for the record."""
    recommendation: dict[str, Any] | None = None
    """The evidence that the strategy was chosen by, for the record."""
    rung_seconds: Sequence[float] = ()
    """That the rungs of a climb are expected to take, for `time_budget`."""
    start: float = field(default_factory=time.perf_counter)

    def run(self) -> RunResult:
        """Train, measure on the test images, save and push.

        Raises:
            HfTlError: something cannot be used or written; a model that was saved before stays.
        """
        from hf_tl.card.summary import announce
        from hf_tl.head.tuning import fit_batch_size
        from hf_tl.optimization.loss import check_phases
        from hf_tl.processes.accelerator import close_logs, start_trackers
        from hf_tl.processes.energy import measured_energy

        if self.config.test_time_flip and not self.horizontal_flip:
            raise ConfigError(
                "--test_time_flip takes a mirrored image for one of the same class, which those of "
                f"{self.data.name} are not (--horizontal_flip false)"
            )
        check_phases(self.strategy.phases, PROBLEM_TYPES[self.data.problem_type])
        self.model.to(self.accelerator.device)
        if self.config.auto_find_batch_size:
            size = self.preprocessing.input_size
            self.config = fit_batch_size(self.accelerator, self.model, self.strategy, self.config, size)
        if self.accelerator.is_main_process:
            say(self.accelerator, announce(self.model, self.data, self.strategy, self.accelerator.num_processes))
        training, refit = self._training()
        start_trackers(self.accelerator, self.config, self.strategy)
        try:
            with measured_energy(self.accelerator, is_wanted=self.config.measure_energy) as energy:
                log = training.run()
                splits = self._predictions(training, "validation")
                if refit is not None and refit.is_due():
                    training = refit.run()
                    if not refit.learns_validation:
                        splits = self._predictions(training, "validation")
        finally:
            close_logs(self.accelerator, self.config)
        for tracker in self.accelerator.trackers:
            tracker.finish()
        result = RunResult(Path(str(self.config.output_dir)), self._record(training, log, splits, energy))
        if self.accelerator.is_main_process:
            result = self._save(result)
        self.accelerator.wait_for_everyone()
        return result

    def transforms_of(self, phase: Phase) -> "Transforms":
        """Give the transforms of a phase, for the data's columns."""
        transforms = self.preprocessing.transforms(phase.augmentation, horizontal_flip=self.horizontal_flip)
        return transforms.with_columns(self.data.image_column, self.data.label_column)

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
        )
        refit = None
        if is_refitted(self.strategy, self.data):
            refit = Refit.of(training, learns_validation=is_given_back(self.data))
        if self.strategy.refit and refit is None:
            say(self.accelerator, "Refit     none: the validation split was not set apart from train, or is streamed")
        if self.config.resume_from_checkpoint is not None:
            training.restore(self.config.resume_from_checkpoint)
        elif training.checkpoints.folder is not None and self.accelerator.is_main_process:
            # of a run that --overwrite_output_dir replaces
            shutil.rmtree(training.checkpoints.folder, ignore_errors=True)
        return training, refit

    def _predictions(self, training: "Training", split: str) -> "dict[str, Predictions]":
        return {split: training.predictions(self.data.splits[split], split)}

    def _record(
        self, training: "Training", log: "TrainingLog", splits: "dict[str, Predictions]", energy: dict[str, Any]
    ) -> dict[str, Any]:
        """Judge the model on the test images, and write down the run.

        Args:
            training: whose weights the model has.
            log: of the training that chose, which is the same one, or that before it.
            splits: what that predicted for the validation images.
            energy: that both took.
        """
        from hf_tl.evaluation.report import evaluate_splits
        from hf_tl.publish.record import build_record

        assert log.best is not None, "phase_ends refuses a strategy without a step"
        refit = None if training.state.log is log else training.state.log
        chosen = self.strategy.done(len(log.phases)) if refit is None else training.strategy
        self.strategy = dataclasses.replace(chosen, refit=refit is not None)
        transforms = self.transforms_of(self.strategy.phases[-1])
        problem = PROBLEM_TYPES[self.data.problem_type]
        splits |= self._predictions(training, "test")
        return build_record(
            model=self.model,
            preprocessing=self.preprocessing,
            transforms=transforms,
            data=self.data,
            strategy=self.strategy,
            config=self.config,
            accelerator=self.accelerator,
            log=log,
            refit=refit,
            metrics={name: problem.compute(one.logits, one.labels) for name, one in splits.items()},
            evaluation=evaluate_splits(problem, splits),
            seconds=time.perf_counter() - self.start,
            energy=energy or None,
            hub=self.hub,
            command=self.command,
            settings=self.settings,
            choices=self.choices,
            recommendation=self.recommendation,
        )

    def _examples(self, record: dict[str, Any]) -> "list[Example]":
        """Collect the images that the card may show: none, unless the user allowed it."""
        from hf_tl.card.examples import collect_examples

        if not self.hub.card_images:
            return []
        transform = self.transforms_of(self.strategy.phases[-1]).eval
        examples = collect_examples(self.model, transform, self.data, record)
        record["card"]["maps"] = any(example.maps for example in examples)
        return examples

    def _save(self, result: RunResult) -> RunResult:
        from hf_tl.card.summary import summarise
        from hf_tl.hub.hub import push
        from hf_tl.publish.checks import read_record
        from hf_tl.publish.save import save_run

        say(None, "Saving, and loading it again to compare …")
        save_run(self.model, self.preprocessing, result.record, result.output_dir, self._examples(result.record))
        result = dataclasses.replace(result, record=read_record(result.output_dir))
        try:
            if self.hub.push_to_hub is not None:
                say(None, f"Pushing to {self.hub.push_to_hub} …")
                url = push(result.output_dir, self.hub.push_to_hub, private=self.hub.hub_private or None)
                result = dataclasses.replace(result, commit_url=url)
        finally:  # how good the model is, and where it lies, is told also if the push failed
            say(None, summarise(result.record, result.output_dir, result.commit_url))
        return result


def choose_output_dir(accelerator: "Accelerator", config: TrainingConfig, name: str) -> str:
    """Choose the folder of a run on the main process, check it there, and tell the others.

    Args:
        accelerator: knows the other processes.
        config: its `output_dir`, if one is given.
        name: of a new folder under `runs/` otherwise; a number is added where it exists.

    Raises:
        ConfigError: it holds another run, or cannot be written to.
    """
    from hf_tl.publish.save import check_output_dir

    def choose() -> str:
        folder = config.output_dir or _new_folder(name)
        resume = config.resume_from_checkpoint is not None
        check_output_dir(folder, overwrite=config.overwrite_output_dir, resume=resume)
        return folder

    return on_main_process(accelerator, choose)


def check_push(accelerator: "Accelerator", push_to_hub: str | None) -> None:
    """Check before any work that the result may be pushed.

    Raises:
        PublishError: as `hf_tl.hub.hub.check_push_access`.
    """
    from hf_tl.hub.hub import check_push_access

    if push_to_hub is not None:
        on_main_process(accelerator, lambda: check_push_access(push_to_hub))


def _new_folder(name: str) -> str:
    number = 1
    while (folder := Path("runs", name if number == 1 else f"{name}-{number}")).exists():
        number += 1
    return str(folder)
