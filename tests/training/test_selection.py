"""Model selection: the checkpoint that a training keeps."""

from hypothesis import given
from hypothesis import strategies as st

from hf_tl.checkpoints.state import TrainingLog
from hf_tl.evaluation.metrics import SINGLE_LABEL
from hf_tl.training.selection import count_without_gain, judge_evaluation, standard_error


def judged(right: list[int], images: int) -> TrainingLog:
    """Evaluate once per epoch, with given numbers of correct images."""
    log = TrainingLog()
    for epoch, count in enumerate(right, 1):
        entry = {"phase": 0, "epoch": epoch, "validation": {"accuracy": count / images, "loss": 1.0}}
        log.history.append(entry)
        judge_evaluation(log, entry, SINGLE_LABEL, images)
    return log


@given(st.lists(st.integers(0, 40), min_size=1, max_size=30))
def test_the_latest_within_one_standard_error_of_the_best_is_kept(right: list[int]) -> None:
    log, highest = judged(right, 40), max(right)
    assert log.best is not None
    assert log.highest is not None
    assert log.highest["epoch"] == right.index(highest) + 1
    border = highest / 40 - standard_error(highest / 40, 40)
    within = [epoch for epoch, count in enumerate(right, 1) if count / 40 >= border]
    assert log.best["epoch"] == within[-1]


def test_many_images_distinguish_epochs_and_twenty_do_not() -> None:
    assert judged([14, 16, 15, 14, 15], 20).best["epoch"] == 5  # type: ignore[index]
    assert judged([1400, 1600, 1500, 1400, 1500], 2000).best["epoch"] == 2  # type: ignore[index]


def test_patience_counts_from_the_highest() -> None:
    assert count_without_gain(judged([14, 16, 15, 14, 15], 20), 0) == 3
    assert count_without_gain(judged([14, 16, 15], 20), 1) == 0
