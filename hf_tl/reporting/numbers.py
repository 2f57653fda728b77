"""Number formats of cards and reports; a dash stands for a missing value."""

import math
from collections.abc import Sequence
from typing import Any

NOTHING = "–"


def is_number(value: Any) -> bool:
    """Return whether a value is a finite number."""
    return isinstance(value, int | float) and math.isfinite(value)


def percent(share: float | None) -> str:
    """Format a share as a percentage; small shares keep two digits.

    >>> percent(0.9472), percent(0.00375), percent(None)
    ('94.7%', '0.38%', '–')
    """
    if share is None or not is_number(share):
        return NOTHING
    return f"{100 * share:.2g}%" if 0 < share < 0.01 else f"{100 * share:.1f}%"


def counted(count: int, noun: str) -> str:
    """Format a count with its noun.

    >>> counted(1, "image"), counted(3068, "image"), counted(0, "class")
    ('1 image', '3,068 images', '0 classes')
    """
    plural = noun + ("es" if noun.endswith("s") else "s")
    return f"{count:,} {noun if count == 1 else plural}"


def decimal(value: float | None) -> str:
    """Format a number with three decimals.

    >>> decimal(0.9474)
    '0.947'
    """
    return f"{value:.3f}" if value is not None and is_number(value) else NOTHING


def range_of(interval: Sequence[float] | None, *, is_percentage: bool) -> str:
    """Format an interval.

    >>> range_of([0.9347, 0.9618], is_percentage=True), range_of([0.9, 0.95], is_percentage=False)
    ('93.5–96.2%', '0.900–0.950')
    """
    if interval is None:
        return NOTHING
    low, high = interval
    return f"{100 * low:.1f}–{100 * high:.1f}%" if is_percentage else f"{low:.3f}–{high:.3f}"


def with_interval(share: float | None, interval: Sequence[float] | None, *, is_titled: bool = False) -> str:
    """Format a share that was measured, with its 95% interval.

    Args:
        share: Share.
        interval: Its interval; None if there is none.
        is_titled: Whether the text stands below the title "95% CI", or "(95% CI)".

    >>> with_interval(0.9472, [0.9347, 0.9618]), with_interval(0.9472, [0.9347, 0.9618], is_titled=True)
    ('94.7% (95% CI 93.5–96.2%)', '94.7% (93.5–96.2%)')
    >>> with_interval(0.9472, None), with_interval(None, None)
    ('94.7%', '–')
    """
    if interval is None:
        return percent(share)
    return f"{percent(share)} ({'' if is_titled else '95% CI '}{range_of(interval, is_percentage=True)})"


def measured_on(images: int, interval: Sequence[float] | None) -> str:
    """Format the size of a sample and the interval of a share that was measured on it.

    >>> measured_on(1797, [0.9347, 0.9618]), measured_on(360, None)
    ('1,797 images, 95% CI 93.5–96.2%', '360 images')
    """
    count = f"{images:,} {'image' if images == 1 else 'images'}"
    return count if interval is None else f"{count}, 95% CI {range_of(interval, is_percentage=True)}"


def first_to_last(names: Sequence[str]) -> str:
    """Name the first and the last of some stages in forward order.

    >>> first_to_last(["head"]), first_to_last(["layer3", "layer4", "head"])
    ('head', 'layer3 to head')
    """
    return names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"


def points(share: float) -> str:
    """Format a difference of shares in percentage points, with its sign.

    >>> points(0.0213), points(-0.01), points(-0.0004)
    ('+2.1', '−1.0', '0.0')
    """
    text = f"{100 * share:+.1f}".replace("-", "−")
    return "0.0" if text[1:] == "0.0" else text


def p_value(value: float | None) -> str:
    """Format a p-value.

    >>> p_value(0.0312), p_value(0.21), p_value(2e-9), p_value(1.0)
    ('0.031', '0.21', '< 0.0001', '1')
    """
    if value is None or not is_number(value):
        return NOTHING
    return "< 0.0001" if value < 0.0001 else f"{value:.2g}"


def chance_of(value: float) -> str:
    """Format a p-value for the middle of a sentence.

    >>> chance_of(0.0312), chance_of(2e-9)
    ('p = 0.031', 'p < 0.0001')
    """
    text = p_value(value)
    return f"p {text}" if text.startswith("<") else f"p = {text}"


def epoch_in_phase(passes: float, passes_before: float, epochs: float) -> int:
    """Return the number of the epoch of a phase that an evaluation ended.

    An epoch ends with the step that completes a pass over the images, and that step may begin the next pass.

    Args:
        passes: Passes over the images up to the evaluation, over all phases.
        passes_before: Passes before the phase.
        epochs: Length of the phase; infinite for a phase that is counted in steps.

    >>> epoch_in_phase(3.02, 0, 5), epoch_in_phase(7.0, 5.02, 2)
    (3, 2)
    """
    completed = math.floor(passes + 1e-6) - math.floor(passes_before + 1e-6)
    return max(1, completed if math.isinf(epochs) else min(completed, math.ceil(epochs)))


def duration(seconds: float) -> str:
    """Format a duration.

    >>> duration(112), duration(31.2), duration(7261)
    ('1 min 52 s', '31 s', '2 h 1 min')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def megabytes(size: int) -> str:
    """Format a number of bytes.

    >>> megabytes(13_520_000)
    '13.5 MB'
    """
    return f"{size / 1e6:,.1f} MB"


def rate(value: float) -> str:
    """Format a learning rate.

    >>> rate(3e-3), rate(1.2345e-5)
    ('0.003', '1.23e-05')
    """
    return f"{value:.3g}"
