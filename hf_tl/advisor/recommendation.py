"""Recommendation: the recommended training with its evidence, and its files."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_tl.advisor.deciding.cost import Cost
from hf_tl.advisor.deciding.decision import leading, ranking
from hf_tl.advisor.deciding.expectation import Expectation
from hf_tl.advisor.measuring.evidence import BackboneEvidence
from hf_tl.advisor.trials.results import Trials
from hf_tl.backbones.candidates import Backbone
from hf_tl.config import RECOMMENDED_STRATEGY
from hf_tl.record import InspectionRecord
from hf_tl.record.codec import encode
from hf_tl.reporting.frames import to_frame
from hf_tl.reporting.html import picture_of
from hf_tl.reporting.shown import Shown
from hf_tl.storage.folders import report_folder
from hf_tl.strategy import Strategy

if TYPE_CHECKING:
    import pandas

SCHEMA_VERSION = 2
RECORD, FIGURE = "recommendation.json", "recommendation.png"


@dataclass(frozen=True, repr=False)
class Recommendation(Shown):
    """Recommended training, with its reason and its cost; `print` shows all of it, a notebook the figure too.

    >>> import hf_tl
    >>> recommendation = hf_tl.recommend("photos", "backbone", max_images=20, trial_budget=0)
    >>> [backbone.name for backbone in recommendation.evidence]
    ['backbone']
    """

    backbone: str | None
    """Name of the backbone; None where no training is recommended."""
    strategy: Strategy | None
    """Strategy with its phases, ready for `hf_tl.train`; None where no training is recommended."""
    rule: str
    """Name of the rule that decided."""
    advice: str
    """Short form of the recommendation."""
    reason: str
    """Reason in two sentences."""
    cost: Cost | None
    data: dict[str, Any]
    """Name, classes and sizes of the data."""
    evidence: tuple[BackboneEvidence, ...]
    """Evidence of each measured backbone."""
    warnings: tuple[str, ...]
    unavailable: Mapping[str, str] = field(default_factory=dict)
    """Reason why each other candidate could not be measured, by name."""
    command: str | None = None
    """Command of the recommended training; None for data without a name."""
    candidate: Backbone | None = None
    """Recommended backbone, with the settings to load it."""
    climb: Mapping[str, Any] | None = None
    """Stage depths of a climb from it (`hf_tl.advisor.deciding.plan`); None where no training is recommended."""
    inspection: InspectionRecord | None = None
    """Counts of an inspection of the same data, if there is one."""
    inspect_command: str | None = None
    """Command of the inspection; None for data without a name."""
    trials: Trials = field(default_factory=Trials)
    """Results of the strategies in cross-validation."""
    expected: Expectation | None = None
    """Expected test accuracy; None where no training is recommended."""

    def facts(self) -> Iterator[tuple[str, str]]:
        """Yield the advice, its reason and its cost."""
        from hf_tl.advisor.reporting.text import facts_of

        yield from facts_of(self)

    def pictures(self) -> Iterator[tuple[str, bytes]]:
        """Yield the figure of the rules and of the accuracies by depth."""
        from hf_tl.advisor.reporting.figure import plot_recommendation

        yield "Rules and accuracies", picture_of(lambda path: plot_recommendation(self.to_record(), path))

    def to_pandas(self) -> "pandas.DataFrame":
        """Return a table with a row for each candidate, best first; unavailable ones have a reason.

        Raises:
            ConfigError: pandas is not installed.
        """
        from hf_tl.advisor.reporting.text import candidate_records

        return to_frame(candidate_records(self))

    def to_record(self) -> dict[str, Any]:
        """Return the recommendation as plain values."""
        return {
            "schema_version": SCHEMA_VERSION,
            "backbone": self.backbone,
            "strategy": None if self.strategy is None else self.strategy.to_record(),
            "rule": self.rule,
            "advice": self.advice,
            "reason": self.reason,
            "cost": None if self.cost is None else vars(self.cost),
            "data": self.data,
            "evidence": [backbone.to_record() for backbone in self.evidence],
            "ranking": [backbone.name for backbone in ranking(self.evidence)],
            "leading": [backbone.name for backbone in leading(self.evidence)],
            "warnings": list(self.warnings),
            "unavailable": dict(self.unavailable),
            "command": self.command,
            "inspection": encode(self.inspection),
            "trials": self.trials.to_record(),
            "expected": None if self.expected is None else self.expected.to_record(),
        }

    def save(self, output_dir: str | Path) -> None:
        """Write `recommendation.json`, `recommendation.png` and `strategy.json` (for `hf-tl train --phases`).

        Earlier files of these names stay until all new ones are complete.

        Raises:
            ConfigError: The folder cannot be written to.
        """
        from hf_tl.advisor.reporting.figure import plot_recommendation

        record = self.to_record()
        with report_folder(output_dir, RECORD, obsolete=(RECOMMENDED_STRATEGY,)) as partial:
            (partial / RECORD).write_text(json.dumps(record, indent=2, allow_nan=False) + "\n", encoding="utf-8")
            if self.strategy is not None:
                text = json.dumps(record["strategy"], indent=2)
                (partial / RECOMMENDED_STRATEGY).write_text(text + "\n", encoding="utf-8")
            plot_recommendation(record, partial / FIGURE)

    def __str__(self) -> str:
        from hf_tl.advisor.reporting.text import describe

        return describe(self)
