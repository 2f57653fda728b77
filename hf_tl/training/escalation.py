"""Escalation: training the head, then deeper and deeper stages, while accuracy improves.

The phases of such a strategy are the rungs of a climb: a rung is a stage depth, that is, a number of trainable trailing
stages. Each rung starts from the best weights so far (LP-FT, Kumar et al. 2022, https://arxiv.org/abs/2202.10054), or
from random weights if its phase says so. A paired test on the validation images decides whether its weights are kept.
Where the head was made from class names, its zero-shot predictions are the stage depth 0.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from hf_tl.checkpoints.state import TrainingState
from hf_tl.config import TrainingConfig
from hf_tl.evaluation.intervals import share_interval
from hf_tl.evaluation.paired import difference_p_value
from hf_tl.processes.together import agree
from hf_tl.record import PhaseRecord
from hf_tl.reporting.console import say
from hf_tl.reporting.numbers import chance_of, first_to_last, measured_on, points
from hf_tl.strategy import Strategy

if TYPE_CHECKING:
    from accelerate import Accelerator

SIGNIFICANT = 0.05
"""Significance level of all tests of a climb together."""


@dataclass(frozen=True)
class Verdict:
    """Decision about a rung."""

    is_kept: bool
    """Whether the weights of the rung are kept and the climb continues; otherwise the previous weights are restored and
    the climb ends."""
    why: str
    gain: float | None = None
    """Gain in validation accuracy over the last rung that was kept, or over zero-shot; None without either."""
    p_value: float | None = None
    """P-value of the gain or loss (McNemar's exact test, two-sided)."""


@dataclass(frozen=True)
class Escalation:
    """Rule that decides which rungs are kept, and when the climb ends.

    Up to the rung that the evidence favors, a rung is kept unless it is significantly worse: a small validation set
    cannot show its gain, and the evidence supports it. Beyond that rung, a rung is kept only if it is significantly
    better.
    """

    rungs: int
    expected: int
    """Number, from 1, of the rung that the evidence favors."""
    seconds: Sequence[float] = ()
    """Expected seconds of each rung, if known."""
    budget: float | None = None
    """Time limit of all rungs together, in seconds. None means no limit."""
    has_zero_shot: bool = False
    """Whether the first rung is compared too: with the zero-shot model, the stage depth 0."""

    @property
    def level(self) -> float:
        """Significance level of each test (Bonferroni correction)."""
        return SIGNIFICANT / max(1, self.rungs - 1 + self.has_zero_shot)

    def judge(
        self, rung: int, right: np.ndarray, before: np.ndarray | None, groups: np.ndarray | None = None
    ) -> Verdict:
        """Decide whether the weights of a finished rung are kept.

        Args:
            rung: Number of the rung, from 1.
            right: Whether each validation image is classified correctly (images,).
            before: The same for the last rung that was kept, or for the zero-shot model; None without either.
            groups: Number of the group of each image (images,), which counts as one image. Defaults to independent
                images.
        """
        if before is None:
            return Verdict(True, "the first stage depth")
        gain, p_value = float(right.mean() - before.mean()), difference_p_value(right, before, groups)
        is_significant = p_value < self.level
        if is_significant and gain < 0:
            return Verdict(False, "significantly worse than the stage depth before", gain, p_value)
        if is_significant:
            return Verdict(True, "significantly better than the stage depth before", gain, p_value)
        if rung <= self.expected:
            return Verdict(True, "no significant difference, and the evidence favors this stage depth", gain, p_value)
        return Verdict(False, "no significant gain over the stage depth before", gain, p_value)

    def has_time(self, rung: int, spent: float) -> bool:
        """Return whether a rung fits into the time budget.

        Args:
            rung: Number of the rung, from 1.
            spent: Seconds of the previous rungs.
        """
        expected = self.seconds[rung - 1] if rung <= len(self.seconds) else 0.0
        return self.budget is None or spent + expected <= self.budget


def climb_of(strategy: Strategy, config: TrainingConfig, seconds: Sequence[float] = ()) -> "Climb | None":
    """Create the climb of an escalation; return None for other strategies."""
    if not strategy.is_climb or strategy.expected_rung is None:
        return None
    budget = None if config.time_budget is None else 60 * config.time_budget
    return Climb(Escalation(len(strategy.phases), strategy.expected_rung, seconds, budget))


class Climb:
    """Climb in progress; it holds the best weights while the next rung is trained."""

    def __init__(self, escalation: Escalation) -> None:
        self.escalation = escalation
        self.weights: dict[str, Tensor] = {}
        """Weights of the best finished rung while another one is trained."""

    def continues(self, accelerator: "Accelerator", state: TrainingState, index: int) -> bool:
        """Return whether to train a rung, the same on all processes; otherwise the log says why not.

        Args:
            accelerator: Accelerator of the training.
            state: State of the training.
            index: Index of the rung's phase, from 0.
        """
        if state.frozen_digest is not None:  # the rung began before the checkpoint
            return True
        log = state.log
        if log.stopped is None and index and not self.escalation.has_time(index + 1, log.seconds):
            log.stopped = "the time budget leaves no room for the next stage depth"
        log.stopped = agree(accelerator, log.stopped)  # clocks of the processes differ
        if log.stopped is not None:
            say(accelerator, f"Ending the search of the stage depth: {log.stopped}")
        return log.stopped is None

    def begin(self, state: TrainingState, best: dict[str, Tensor]) -> None:
        """Store the best weights so far, and reset the best evaluation for the new rung."""
        self.weights, state.kept = best, state.log.best
        state.log.best = state.log.highest = None

    def end(
        self, state: TrainingState, best: dict[str, Tensor], right: np.ndarray, groups: np.ndarray | None = None
    ) -> dict[str, Tensor]:
        """Judge the finished rung, add it to the log, and return the weights that are kept.

        Args:
            state: State of the training; the rung is the last phase of its log.
            best: Weights of the rung.
            right: Whether they classify each validation image correctly (images,).
            groups: Number of the group of each image (images,). Defaults to independent images.
        """
        before = None if state.kept_right is None else np.array(list(state.kept_right)) == "1"
        rung = len(state.log.rungs) + 1
        escalation = replace(self.escalation, has_zero_shot=state.log.zero_shot is not None)
        verdict = escalation.judge(rung, right, before, groups)
        state.log.rungs.append(_record(state.log.phases[-1], right, groups, verdict))
        if verdict.is_kept:
            state.kept_right = "".join(map(str, right.astype(int)))
        else:
            if rung > 1:  # the phase of the first rung remains, with the zero-shot head that it started from
                state.log.phases.pop()
            state.log.best, best = state.kept, self.weights
        if not verdict.is_kept and rung < self.escalation.rungs:
            state.log.stopped = verdict.why
        self.weights, state.kept = {}, None
        return best


def _record(phase: PhaseRecord, right: np.ndarray, groups: np.ndarray | None, verdict: Verdict) -> dict[str, Any]:
    accuracy, images = float(right.mean()), len(right)
    return {
        "trainable_stages": list(phase.trained_stages),
        "parameters_trained": phase.parameters_trained,
        "from_random_weights": phase.recipe.from_random_weights,
        "seconds": phase.seconds,
        "accuracy": accuracy,
        "interval": share_interval(accuracy, images if groups is None else len(np.unique(groups))),
        "images": images,
        **asdict(verdict),
    }


def describe_rung(rung: Mapping[str, Any], number: int, rungs: int) -> str:
    """Describe a judged rung in a line for the terminal."""
    depth = first_to_last(rung["trainable_stages"]) + (" from random weights" if rung["from_random_weights"] else "")
    accuracy = f"validation accuracy {rung['accuracy']:.1%} ({measured_on(rung['images'], rung['interval'])})"
    if rung["gain"] is not None:
        accuracy += f", {points(rung['gain'])} points ({chance_of(rung['p_value'])}): {rung['why']}"
    return f"{'Keeping' if rung['is_kept'] else 'Undoing'} stage depth {number}/{rungs} ({depth}): {accuracy}"
