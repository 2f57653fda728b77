"""Interpolation of weights between the start and the end of fine-tuning (WiSE-FT).

Wortsman et al. 2022, https://arxiv.org/abs/2109.01903: weights between a pretrained model with a trained head and the
same model after fine-tuning are often as accurate on images like those of the training, and more accurate on others.

The start is the model when the first phase began that trains more than the head. If no earlier training gave it a head,
the head of the end takes its place. All floating-point tensors are interpolated, also BatchNorm's statistics; integers,
such as BatchNorm's count of batches, are those of the end.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from hf_tl.backbones.stages.stage import Stage
from hf_tl.checkpoints.saving import names_trained_by
from hf_tl.checkpoints.state import Outcome
from hf_tl.errors import ConfigError
from hf_tl.evaluation.measure import Predictions
from hf_tl.evaluation.metrics import ProblemType
from hf_tl.evaluation.report import finite_metrics, metric_intervals
from hf_tl.record import InterpolationPoint, InterpolationRecord, Origin
from hf_tl.record.interpolation import InterpolationRule
from hf_tl.reporting.console import say
from hf_tl.reporting.numbers import measured_on
from hf_tl.strategy import Phase, Strategy

if TYPE_CHECKING:
    from accelerate import Accelerator
    from transformers import PreTrainedModel

COEFFICIENTS = tuple(step / 10 for step in range(11))
"""Points that are evaluated: the start, the end and nine between them."""
MIN_IMAGES = 50
"""Smallest number of validation images that choose the coefficient."""
MIDDLE = 0.5
"""Coefficient without images to choose it; close to the best one on most data sets of the paper (section 4)."""
Wanted = Literal["auto"] | float


@dataclass
class StartingPoint:
    """Weights when fine-tuning began. Without a phase, nothing is kept."""

    phase: int | None = None
    """Index of the first phase that trains more than the head."""
    head: frozenset[str] = frozenset()
    """Names of the tensors of the head."""
    came_with_head: bool = False
    """Whether the weights before the first phase had a trained head."""
    weights: dict[str, Tensor] = field(default_factory=dict)
    """Tensors that some phase trains, on the CPU; empty before the phase begins."""

    @classmethod
    def of(cls, phases: Sequence[Phase], stages: Sequence[Stage], head_stages: int, origin: Origin) -> "StartingPoint":
        """Find the phase at whose start the weights are kept.

        Args:
            phases: Phases of the strategy.
            stages: Result of `list_stages(model)`.
            head_stages: Number of trailing stages that count as the head.
            origin: Origin of the weights before the first phase.
        """
        own = stages[-head_stages:]
        head = frozenset(name for stage in own for name in (*stage.parameter_names, *stage.buffer_names))
        return cls(None, head, origin.head not in (None, "new")).again(phases, stages)

    def again(self, phases: Sequence[Phase], stages: Sequence[Stage]) -> "StartingPoint":
        """Return the starting point of another training from the same weights; an empty one stays empty."""
        deeper = (index for index, phase in enumerate(phases) if not names_trained_by([phase], stages) <= self.head)
        return replace(self, phase=next(deeper, None) if self.head else None, weights={})

    @property
    def has_head(self) -> bool:
        """Whether an earlier phase, or an earlier training, trained the head."""
        return self.came_with_head or bool(self.phase)

    def begin(self, phase: int, copy_weights: Callable[[], dict[str, Tensor]]) -> None:
        """Keep the weights, if this phase is the first that trains more than the head."""
        if phase == self.phase:
            self.weights = copy_weights()

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors to interpolate with: floating-point, and of the head only if it was trained."""
        return {
            name: tensor
            for name, tensor in self.weights.items()
            if tensor.is_floating_point() and (self.has_head or name not in self.head)
        }


def check_interpolation(start: StartingPoint, strategy: Strategy, origin: Origin) -> None:
    """Reject trainings without two ends to interpolate between.

    Raises:
        ConfigError: Only the head trains, or the starting weights are random.
    """
    if strategy.from_scratch or origin.kind == "random":
        raise ConfigError(
            "--interpolate keeps weights near the pretrained ones, and this training starts from random weights: leave "
            "out --interpolate, or start from pretrained weights"
        )
    if start.phase is None:
        raise ConfigError(
            f"--interpolate needs a phase that trains more than the head, found the strategy {strategy.name}, which "
            "trains the head alone: leave out --interpolate, or choose another strategy, such as finetune"
        )


def between(start: Mapping[str, Tensor], end: Mapping[str, Tensor], coefficient: float) -> dict[str, Tensor]:
    """Interpolate tensors linearly: 0 is exactly the start, 1 exactly the end.

    >>> between({"a": torch.tensor([0.0])}, {"a": torch.tensor([2.0]), "count": torch.tensor(7)}, 0.25)
    {'a': tensor([0.5000]), 'count': tensor(7)}
    """
    return {
        name: torch.lerp(start[name].float(), tensor.float(), coefficient).to(tensor.dtype) if name in start else tensor
        for name, tensor in end.items()
    }


def nearest_to_start(right: Mapping[float, np.ndarray]) -> float:
    """Return the smallest coefficient that is right on as many images as the best one, within one standard error.

    The standard error is that of the difference on the same images, which is smaller than that of each share.

    Args:
        right: For each coefficient, whether it is right on each validation image (images,).

    >>> start, end = np.arange(100) < 78, np.arange(100) < 80
    >>> nearest_to_start({0.0: start, 1.0: end}), nearest_to_start({0.0: start, 1.0: np.roll(end, 50)})
    (1.0, 0.0)
    """
    best = max(right, key=lambda coefficient: (right[coefficient].mean(), -coefficient))

    def is_as_good(coefficient: float) -> bool:
        lead = right[best].astype(float) - right[coefficient]
        return bool(lead.mean() <= lead.std() / math.sqrt(len(lead)))

    return min(filter(is_as_good, right))


@dataclass(frozen=True)
class Interpolation:
    """Trained model, and the weights from which its fine-tuning started."""

    accelerator: "Accelerator"
    model: "PreTrainedModel"
    start: StartingPoint
    problem: ProblemType

    def is_possible(self, outcome: Outcome) -> bool:
        """Return whether the kept weights descend from the start; otherwise say why they do not."""
        phase, kept = self.start.phase, len(outcome.log.kept_phases)
        reason = ""
        if phase is None or phase >= kept or not self.start.weights:
            reason = "the kept weights are from before fine-tuning"
        elif outcome.is_from_random:
            reason = "the weights descend from random ones"
        if reason:
            say(self.accelerator, f"Skipping the interpolation of the weights: {reason}")
        return not reason

    def search(self, wanted: Wanted, predict: Callable[[], Predictions]) -> InterpolationRecord:
        """Evaluate weights between start and end, and give the model those that are kept. All processes must call this.

        Args:
            wanted: `auto`, or the coefficient to keep.
            predict: Prediction of the validation images by the model as it is.
        """
        start, end = self.start.tensors(), self._end()
        coefficients = COEFFICIENTS if wanted == "auto" else tuple(sorted({*COEFFICIENTS, float(wanted)}))
        points: list[InterpolationPoint] = []
        right: dict[float, np.ndarray] = {}
        for coefficient in coefficients:
            self._load(between(start, end, coefficient))
            predictions = predict()
            right[coefficient] = self.problem.is_right(predictions.logits, predictions.labels)
            points.append(self._point(coefficient, predictions))
        images = len(right[0.0])
        kept, rule = self._choose(wanted, right)
        self._load(between(start, end, kept))
        result = InterpolationRecord(kept, rule, images, tuple(points), "start" if self.start.has_head else "end")
        say(self.accelerator, describe(result, self.problem))
        return result

    def _choose(self, wanted: Wanted, right: Mapping[float, np.ndarray]) -> tuple[float, InterpolationRule]:
        if wanted != "auto":
            return float(wanted), "chosen"
        if (images := len(right[0.0])) >= MIN_IMAGES:
            return nearest_to_start(right), "one standard error"
        say(self.accelerator, f"Interpolating in the middle, since {images} validation images are too few to choose")
        return MIDDLE, "too few images"

    def repeat(self, earlier: InterpolationRecord) -> InterpolationRecord:
        """Give the model the weights at the coefficient that an earlier training selected."""
        self._load(between(self.start.tensors(), self._end(), earlier.kept))
        say(self.accelerator, f"Interpolating the retrained weights at the coefficient {earlier.kept:g} as well")
        rule = earlier.rule if earlier.rule == "chosen" else "first training"
        return replace(earlier, rule=rule, head="start" if self.start.has_head else "end")

    def _end(self) -> dict[str, Tensor]:
        state = self.model.state_dict()
        return {name: state[name].to("cpu", copy=True) for name in self.start.weights}

    def _load(self, tensors: Mapping[str, Tensor]) -> None:
        self.model.load_state_dict(tensors, strict=False)

    def _point(self, coefficient: float, predictions: Predictions) -> InterpolationPoint:
        logits, labels = predictions.logits, predictions.labels.astype(np.int64)
        metrics = self.problem.compute(logits, predictions.labels)
        intervals = metric_intervals(self.problem, metrics, logits, labels, self.problem.decide(logits))
        return InterpolationPoint(coefficient, finite_metrics(metrics), intervals.get(self.problem.primary.key))


def describe(result: InterpolationRecord, problem: ProblemType) -> str:
    """Describe the kept weights in a line for the log."""
    points = {point.coefficient: point for point in result.points}
    kept, end, key = points[result.kept], points[1.0], problem.primary.key
    measured = measured_on(result.images, kept.interval)
    return (
        f"Keeping the coefficient {result.kept:g} between the weights before (0) and after fine-tuning (1): validation "
        f"{problem.primary.name} {kept.metrics[key] or 0:.1%} ({measured}), {end.metrics[key] or 0:.1%} at 1"
    )
