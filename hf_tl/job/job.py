"""Inputs of a run, loaded and checked, and its result."""

import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_tl.augmentation import MIRRORS, NONE, PRESETS, describe_phases, names_in
from hf_tl.backbones.weights.provenance import Provenance, provenance_of
from hf_tl.config import HubConfig, TrainingConfig
from hf_tl.errors import ConfigError
from hf_tl.evaluation.metrics import PROBLEM_TYPES, ProblemType
from hf_tl.record import LearnedFrom, RunRecord
from hf_tl.reporting.frames import to_frame
from hf_tl.reporting.shown import Shown
from hf_tl.strategy import Phase, Strategy

if TYPE_CHECKING:
    import pandas
    from accelerate import Accelerator
    from transformers import PreTrainedModel

    from hf_tl.backbones.libraries.preprocessing import Preprocessing
    from hf_tl.backbones.text.text_head import TextHead
    from hf_tl.data.datasets import ImageData
    from hf_tl.data.decoding.images import Transforms
    from hf_tl.data.learned import Leakage
    from hf_tl.distillation.teacher import Teacher
    from hf_tl.training.phase_data import TrainingImages


@dataclass(frozen=True, repr=False)
class RunResult(Shown):
    """Result of a finished run; usable as the path of its folder.

    >>> import hf_tl
    >>> strategy = hf_tl.Strategy.transfer(epochs=1)
    >>> model, transforms = hf_tl.load_backbone("backbone", ["dress", "hat"], strategy)
    >>> result = hf_tl.train(model, "photos", strategy, transforms=transforms, output_dir="run")
    >>> result.output_dir.name, 0 <= result.test_accuracy <= 1, result.record.data.labels
    ('run', True, ('dress', 'hat'))
    """

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

    def facts(self) -> Iterator[tuple[str, str]]:
        """Yield the metrics, what was trained, the folder, and what to do next."""
        from hf_tl.card.summary import metric_lines

        yield from metric_lines(self.record)
        record = self.record
        yield "Trained", f"{record.model.architecture} on {record.data.name}, strategy {record.strategy.name}"
        yield "Saved in", str(self.output_dir)
        if self.commit_url is not None:
            yield "Published at", self.commit_url
        else:
            yield "Next", 'hf_tl.predict(result, images), hf_tl.push(result, "USER/NAME")'

    def pictures(self) -> Iterator[tuple[str, bytes]]:
        """Yield the confusion matrix of the test images, unless there are too many classes."""
        from hf_tl.card.figures.draw import confusion_picture

        picture = confusion_picture(self.record)
        yield from [] if picture is None else [("Confusion matrix of the test images", picture)]

    def to_pandas(self) -> "pandas.DataFrame":
        """Return the history of the training: a row for each evaluation.

        Raises:
            ConfigError: pandas is not installed.
        """
        return to_frame(map(_flat, self.record.history))


def _flat(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return an evaluation of the history with a column for each metric."""
    flat: dict[str, Any] = {}
    for name, value in entry.items():
        nested = {f"{name}_{key}": each for key, each in value.items()} if isinstance(value, Mapping) else {name: value}
        flat |= nested
    return flat


@dataclass(frozen=True)
class RunNotes:
    """Settings of a run, and how they were chosen, for its record."""

    command: str | None = None
    """Command of the run."""
    settings: dict[str, Any] | None = None
    """All settings of the run."""
    choices: Mapping[str, str] = field(default_factory=dict)
    """Hyperparameters that were selected by search."""
    recommendation: dict[str, Any] | None = None
    """Evidence for the recommended strategy."""


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
    notes: RunNotes = field(default_factory=RunNotes)
    rung_seconds: Sequence[float] = ()
    """Expected seconds of each stage depth of an escalation, for `time_budget`."""
    teacher: "Teacher | None" = None
    """Classifier whose predictions are taught, if any."""
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
        """Origin of the starting weights, computed before training changes them."""
        return provenance_of(self.model)

    @cached_property
    def text_head(self) -> "TextHead | None":
        """Head from class names that the training starts from, looked up before training changes it."""
        from hf_tl.backbones.text.text_head import text_head_of

        return text_head_of(self.model)

    @cached_property
    def learned_before(self) -> LearnedFrom:
        """Training images of the starting weights.

        Where a published model states only a split, its images are looked up in the data.
        """
        from hf_tl.data.learned import resolve

        return resolve(self.provenance.learned, self.data)

    @cached_property
    def learned_by_teacher(self) -> LearnedFrom:
        """Training images of the teacher, looked up in the data like those of the starting weights."""
        from hf_tl.data.learned import resolve
        from hf_tl.distillation.teacher import learned_by_teacher

        return (
            LearnedFrom() if self.teacher is None else resolve(learned_by_teacher(self.teacher.classifier), self.data)
        )

    @property
    def images(self) -> "TrainingImages":
        """Training and validation images, their transforms and their teacher."""
        from hf_tl.training.phase_data import TrainingImages

        data, transforms_of = self.data, self.transforms_of
        train, validation = data.splits["train"], data.splits["validation"]
        known = data.fingerprint, data.orders, data.units
        return TrainingImages(train, validation, transforms_of, *known, self.teacher)

    def transforms_of(self, phase: Phase) -> "Transforms":
        """Return the transforms of a phase."""
        return self.preprocessing.transforms(phase.augmentation, horizontal_flip=self.horizontal_flip)

    @property
    def flips_in_presets(self) -> bool | None:
        """Whether augmentation presets flip images; None if no phase trains on a preset."""
        presets = set(PRESETS) - {NONE}
        is_used = self.preprocessing.training is None and any(p.augmentation in presets for p in self.strategy.phases)
        return self.horizontal_flip if is_used else None

    @property
    def augmentations(self) -> list[tuple[str, str]]:
        """Phases with augmentation, and its transforms."""
        if self.preprocessing.training is not None:
            return [("all phases", f"{self.preprocessing.training.describe()} (your `transforms.train`)")]
        augmentations = [phase.augmentation for phase in self.strategy.phases]
        return describe_phases(augmentations, horizontal_flip=self.horizontal_flip)

    def note_views(self) -> None:
        """Print what the model sees of the images; notes on it are added to those of the data."""
        from hf_tl.reporting.console import say
        from hf_tl.views.notes import crop_notes, flip_notes

        notes = crop_notes(self.data, self.preprocessing.evaluation, self.preprocessing.input_size)
        if self.horizontal_flip and any(MIRRORS in names_in(phase.augmentation) for phase in self.strategy.phases):
            notes += flip_notes(self.data.labels)
        for phases, transforms in self.augmentations:
            say(self.accelerator, f"Images    augmentation of {phases}: {transforms}")
        for note in notes:
            say(self.accelerator, f"Images    {note}")
        self.data = dataclasses.replace(self.data, notes=(*self.data.notes, *notes))

    def check(self) -> None:
        """Reject settings that contradict the data or the model.

        Raises:
            ConfigError: A setting does not fit the labels of the dataset, or an augmentation its images.
            ModelError: The preprocessing of the model does not allow corruptions.
        """
        from hf_tl.evaluation.robustness.views import check_corruptible
        from hf_tl.head.text_head import check_head
        from hf_tl.optimization.loss import check_phases

        if self.config.corruptions:
            check_corruptible(self.preprocessing.scaling)
        if self.config.test_time_flip and not self.horizontal_flip:
            raise ConfigError(
                "--test_time_flip averages the logits of an image and its mirror image, but mirrored images of "
                f"{self.data.name} change their class (--horizontal_flip false): leave out one of the two flags"
            )
        check_phases(self.strategy.phases, self.problem)
        check_head(self.model, self.strategy, self.accelerator)
        for phase in self.strategy.phases:
            self.transforms_of(phase)  # which tries the augmentation on images

    def identity(self) -> dict[str, Any]:
        """Return the origin and preprocessing that a checkpoint and the run that resumes from it must share."""
        from hf_tl.backbones.stages.stage import list_stages
        from hf_tl.backbones.weights.digest import digest
        from hf_tl.record.codec import encode

        stages = list_stages(self.model)[-self.head_stages :]
        head = {name for stage in stages for name in (*stage.parameter_names, *stage.buffer_names)}
        backbone = {name: tensor for name, tensor in self.model.state_dict().items() if name not in head}
        starts_anew = self.strategy.phases[0].from_random_weights
        return {
            "origin": encode(self.provenance.origin),
            "starting weights": None if starts_anew else digest(backbone),
            "preprocessing": encode(self.preprocessing.to_record()),
            "horizontal_flip": self.horizontal_flip,
            "text head": None if self.text_head is None else self.text_head.identity(),
            "teacher": None if self.teacher is None else self.teacher.identity(),
            "classes": list(self.data.labels),
        }
