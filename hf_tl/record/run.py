"""Record of a run, `run.json`: the single source of cards, metadata, tags and later runs."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from hf_tl.errors import PublishError
from hf_tl.record.abstention import AbstentionRecord
from hf_tl.record.codec import RecordError, decode, encode
from hf_tl.record.interpolation import InterpolationRecord
from hf_tl.record.learned import LearnedSplit
from hf_tl.record.migrate import migrate
from hf_tl.record.origin import Origin
from hf_tl.record.parts import (
    CardTexts,
    DataRecord,
    Measured,
    ModelRecord,
    PhaseRecord,
    RefitRecord,
    Seconds,
    StageRecord,
    Temperature,
    TextHeadRecord,
)
from hf_tl.record.teacher import TeacherRecord
from hf_tl.storage.documents import read_json
from hf_tl.storage.text import replace_text
from hf_tl.strategy import Strategy

RECORD_FILE = "run.json"
SCHEMA_VERSION = 2
Status = Literal["training", "trained", "complete"]


ONE_STANDARD_ERROR = "one standard error"
"""The latest checkpoint within one standard error of the best validation metric."""
LAST_WEIGHTS = "last weights"
"""No selection."""


@dataclass(frozen=True)
class RunRecord:
    """Record of a run. It is published with the model, so it contains no path, token, user or host name."""

    status: Status
    """`training`: intermediate weights, before the last step. `trained`: final weights, not yet evaluated. `complete`:
    evaluated and saved."""
    created: str
    origin: Origin
    """Origin of the weights before the first phase below; random where a phase initialized new ones."""
    model: ModelRecord
    strategy: Strategy
    """Strategy as executed."""
    stages: tuple[StageRecord, ...]
    phases: tuple[PhaseRecord, ...]
    """Phases that led to the weights: without reverted stage depths, and without the training before a
    refit."""
    data: DataRecord
    learned_from: tuple[LearnedSplit, ...]
    """All splits that the weights were trained on, including those of the starting model and of the teacher."""
    weights_digest: str | None = None
    """Digest of the saved tensors."""
    measured: Mapping[str, Measured] = field(default_factory=dict)
    """Results by split."""
    temperature: Temperature | None = None
    abstention: AbstentionRecord | None = None
    """Calibration of abstention and prediction sets, if the model was calibrated."""
    rungs: tuple[Mapping[str, Any], ...] = ()
    """All stage depths that a search (a climb) tried; a stage depth is a rung of the climb."""
    stopped: str | None = None
    """Reason why the search ended before its last stage depth."""
    text_head: TextHeadRecord | None = None
    """Head from class names that the training started from."""
    teacher: TeacherRecord | None = None
    """Classifier whose predictions were taught."""
    recommendation: Mapping[str, Any] | None = None
    transforms: Mapping[str, str] = field(default_factory=dict)
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    history: tuple[Mapping[str, Any], ...] = ()
    """One entry for each evaluation of the training that model selection used."""
    best: Mapping[str, Any] | None = None
    """Evaluation of the selected checkpoint."""
    selection: str = ONE_STANDARD_ERROR
    """Rule of the model selection: `ONE_STANDARD_ERROR`, `LAST_WEIGHTS`, or the metric that was the best."""
    interpolation: InterpolationRecord | None = None
    """Interpolation of the weights after fine-tuning with those before it, which gave the saved weights."""
    refit: RefitRecord | None = None
    seconds: Seconds = field(default_factory=Seconds)
    energy: Mapping[str, Any] | None = None
    hardware: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    command: str | None = None
    settings: Mapping[str, Any] | None = None
    card: CardTexts = field(default_factory=CardTexts)

    def __post_init__(self) -> None:
        digests = {measured.weights_digest for measured in self.measured.values()}
        temperature = self.temperature
        if (
            temperature is not None
            and temperature.value is not None
            and {temperature.weights_digest}
            != {measured.weights_digest for measured in self.measured.values() if measured.calibration.get("after")}
        ):
            raise RecordError("a temperature was fitted on other weights than those that were measured")
        if self.abstention is not None and self.abstention.weights_digest != self.weights_digest:
            raise RecordError("abstention was calibrated for other weights than those that were saved")
        if self.weights_digest is not None and digests and self.weights_digest not in digests:
            raise RecordError("what was measured was measured on other weights than those that were saved")

    def trained_in(self, stage: str) -> list[int]:
        """Return the indices of the phases that trained a stage."""
        return [index for index, phase in enumerate(self.phases) if stage in phase.trained_stages]

    def is_frozen(self, stage: str) -> bool:
        """Return whether a stage is frozen in the last phase."""
        return bool(self.phases) and stage not in self.phases[-1].trained_stages

    @property
    def start(self) -> Origin:
        """Return the origin that the saved weights descend from; random where a phase initialized new weights."""
        draws = any(phase.recipe.from_random_weights for phase in self.phases)
        return Origin.random() if draws and self.origin.kind != "random" else self.origin

    def is_of_saved_weights(self, split: str) -> bool:
        """Return whether the results of a split are from the saved weights, and not from those before a refit."""
        return self.weights_digest in (None, self.measured[split].weights_digest)

    @property
    def trains_head_alone(self) -> bool:
        """Return whether only the head was trained since the starting weights."""
        head = set(self.model.head.stages)
        return all(set(phase.trained_stages) <= head and phase.recipe.norm == "frozen" for phase in self.phases)

    def to_json(self) -> dict[str, Any]:
        """Return the record as plain values, as `run.json` holds it."""
        return {"schema_version": SCHEMA_VERSION, **encode(self)}

    @classmethod
    def from_json(cls, content: Any, where: str = "the record") -> "RunRecord":
        """Read a record of this schema version or an older one.

        Raises:
            RecordError: The version is newer, or a field is missing, unknown or of another type.
        """
        if not isinstance(content, Mapping):
            raise RecordError(f"{where} must map names to values, found {type(content).__name__}")
        try:
            return decode(cls, migrate(dict(content), SCHEMA_VERSION, where), where)
        except RecursionError as error:
            raise RecordError(f"{where} is nested too deeply") from error


def read_record(folder: str | os.PathLike[str]) -> RunRecord:
    """Read the record of a saved model.

    Raises:
        PublishError: The record is missing or damaged.
    """
    file = Path(folder) / RECORD_FILE
    if not file.is_file():
        raise PublishError(f"{folder} holds no {RECORD_FILE}: name the --output_dir of a training")
    return read_record_file(file, str(file))


def read_record_file(file: Path, where: str) -> RunRecord:
    """Read a record from a file, for example in the cache of the Hub.

    Args:
        file: The file.
        where: Name of the record in error messages.

    Raises:
        PublishError: The record is damaged.
    """
    try:
        content = read_json(file)
        json.dumps(content, ensure_ascii=False).encode("utf-8")  # halves of characters could not be written to a card
        return RunRecord.from_json(content, where)
    except (OSError, ValueError) as error:
        raise PublishError(f"{where} cannot be read: {error}; save the model again, or fetch it again") from error


def write_record(record: RunRecord, folder: Path) -> None:
    """Write `run.json` atomically.

    Raises:
        OSError: The file cannot be written.
    """
    text = json.dumps(record.to_json(), indent=2, ensure_ascii=False, allow_nan=False)
    replace_text(folder / RECORD_FILE, text + "\n")
