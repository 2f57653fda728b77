"""Escalation: from the head to deeper and deeper stages, as long as it pays.

The phases of such a strategy are the rungs of a climb. Each goes on from the best weights so far (LP-FT, Kumar et al.
2022, https://arxiv.org/abs/2202.10054), or from random weights where its phase says so, and is judged when it is done,
by a paired test on the validation images.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from hf_tl.checkpoints.state import TrainingState
from hf_tl.config import TrainingConfig
from hf_tl.evaluation.intervals import wilson_interval
from hf_tl.evaluation.paired import difference_p_value
from hf_tl.processes.together import agree
from hf_tl.record import PhaseRecord
from hf_tl.reporting.console import say
from hf_tl.strategy import Strategy

if TYPE_CHECKING:
    from accelerate import Accelerator

SIGNIFICANT = 0.05
"""Of all the tests of a climb together."""


@dataclass(frozen=True)
class Verdict:
    """What became of a rung."""

    is_kept: bool
    """Whether its weights are the best so far, and the climb goes on from them; otherwise those of before are put back,
    and it ends."""
    why: str
    gain: float | None = None
    """Of the validation accuracy over the rung that was kept before; None for the first."""
    p_value: float | None = None
    """Of the gain, or loss, by chance."""


@dataclass(frozen=True)
class Escalation:
    """Which rungs are kept, and when the climb ends.

    Up to the rung that the evidence expects to serve best, a rung is kept unless it is surely worse: few validation
    images cannot show what it gains, and the evidence spoke for it. Beyond it, only a rung that is surely better is.
    """

    rungs: int
    expected: int
    """The number, from 1, of the rung that the evidence speaks for."""
    seconds: Sequence[float] = ()
    """That the rungs are expected to take, where it is known."""
    budget: float | None = None
    """Seconds that all of them may take."""

    @property
    def level(self) -> float:
        """How improbable by chance a difference must be, so often is looked (Bonferroni)."""
        return SIGNIFICANT / max(1, self.rungs - 1)

    def judge(self, rung: int, right: np.ndarray, before: np.ndarray | None) -> Verdict:
        """Judge a rung that is done.

        Args:
            rung: its number, from 1.
            right: whether it gets each validation image right (images,).
            before: the same of the rung that was kept before; None for the first.
        """
        if before is None:
            return Verdict(True, "the first rung")
        gain, p_value = float(right.mean() - before.mean()), difference_p_value(right, before)
        is_sure = p_value < self.level
        if is_sure and gain < 0:
            return Verdict(False, "surely worse than the rung before", gain, p_value)
        if is_sure:
            return Verdict(True, "surely better than the rung before", gain, p_value)
        if rung <= self.expected:
            return Verdict(True, "within noise of the rung before, and the evidence speaks for it", gain, p_value)
        return Verdict(False, "no gain beyond noise over the rung before", gain, p_value)

    def has_time(self, rung: int, spent: float) -> bool:
        """Tell whether a rung can be done within the budget.

        Args:
            rung: its number, from 1.
            spent: seconds on the rungs before.
        """
        expected = self.seconds[rung - 1] if rung <= len(self.seconds) else 0.0
        return self.budget is None or spent + expected <= self.budget


def climb_of(strategy: Strategy, config: TrainingConfig, seconds: Sequence[float] = ()) -> "Climb | None":
    """Make the climb of a strategy whose phases are rungs; None of any other."""
    if not strategy.is_climb or strategy.expected_rung is None:
        return None
    budget = None if config.time_budget is None else 60 * config.time_budget
    return Climb(Escalation(len(strategy.phases), strategy.expected_rung, seconds, budget))


class Climb:
    """A climb under way: its best rung is set aside while the next one is trained."""

    def __init__(self, escalation: Escalation) -> None:
        self.escalation = escalation
        self.weights: dict[str, Tensor] = {}
        """Of the best rung that is done, while another is under way."""

    def goes_on(self, accelerator: "Accelerator", state: TrainingState, index: int) -> bool:
        """Tell whether a rung is to be trained, the same on all processes; if not, the log says why.

        Args:
            accelerator: of the training.
            state: of the training.
            index: of the rung's phase.
        """
        if state.frozen_digest is not None:  # it was begun before the checkpoint
            return True
        log = state.log
        if log.stopped is None and index and not self.escalation.has_time(index + 1, log.seconds):
            log.stopped = "the time budget leaves no room for the next rung"
        log.stopped = agree(accelerator, log.stopped)  # clocks differ
        if log.stopped is not None:
            say(accelerator, f"\nThe climb ends: {log.stopped}")
        return log.stopped is None

    def begin(self, state: TrainingState, best: dict[str, Tensor]) -> None:
        """Set the best weights so far aside: a rung has none of its own when it begins."""
        self.weights, state.kept = best, state.log.best
        state.log.best = state.log.highest = None

    def end(self, state: TrainingState, best: dict[str, Tensor], right: np.ndarray) -> dict[str, Tensor]:
        """Judge the rung that is done, write it down, and give the weights that are kept.

        Args:
            state: its last phase in the log is the rung.
            best: weights of the rung.
            right: whether they get each validation image right (images,).
        """
        before = None if state.kept_right is None else np.array(list(state.kept_right)) == "1"
        rung = len(state.log.rungs) + 1
        verdict = self.escalation.judge(rung, right, before)
        state.log.rungs.append(_record(state.log.phases[-1], right, verdict))
        if verdict.is_kept:
            state.kept_right = "".join(map(str, right.astype(int)))
        else:
            state.log.phases.pop()
            state.log.best, best = state.kept, self.weights
        if not verdict.is_kept and rung < self.escalation.rungs:
            state.log.stopped = verdict.why
        self.weights, state.kept = {}, None
        return best


def _record(phase: PhaseRecord, right: np.ndarray, verdict: Verdict) -> dict[str, Any]:
    correct, images = int(right.sum()), len(right)
    return {
        "trainable_stages": list(phase.trained_stages),
        "parameters_trained": phase.parameters_trained,
        "from_random_weights": phase.recipe.from_random_weights,
        "seconds": phase.seconds,
        "accuracy": correct / images,
        "interval": wilson_interval(correct, images),
        "images": images,
        **asdict(verdict),
    }


def describe_rung(rung: Mapping[str, Any], number: int, rungs: int) -> str:
    """Write a rung that was judged as a line for the terminal."""
    stages = rung["trainable_stages"]
    what = stages[0] if len(stages) == 1 else f"{stages[0]} to {stages[-1]}"
    what += " from random weights" if rung["from_random_weights"] else ""
    low, high = rung["interval"]
    line = f"Rung {number}/{rungs}  {what}: {rung['accuracy']:.1%} ({low:.1%} to {high:.1%}) of {rung['images']:,} "
    line += f"validation images in {rung['seconds']:.0f} s"
    if rung["gain"] is None:
        return line
    return f"{line}, {100 * rung['gain']:+.1f} points (p {rung['p_value']:.2g}): {rung['why']}"
