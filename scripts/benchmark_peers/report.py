"""Tables of the benchmark: measurements beside their goals."""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from benchmark_peers.sides import DATASETS, HF_TL, IMAGE_FOLDER, TRAINER, TRAINER_KEPT

Row = Mapping[str, Any]
Runs = Sequence[Mapping[str, Any]]
HEADER = ("work", "against", "figure to reach", "hf_tl", "the other", "ratio", "accuracy", "reached")
PROCESSES = (
    "work",
    "side",
    "seconds",
    "start-up",
    "CPU seconds",
    "largest process, GiB",
    "memory without file pages, GiB",
)
SECONDS_AGAIN = 10
SHARE_OF_PEAK = 0.9
IMAGES_PER_GFLOP = 90 / 150
"""Goal for lite0: images per second for each GFLOP/s of the GEMM peak."""
SPREAD = 0.10
START_SECONDS = {100_000: {"first": 8, "again": 2}, 1_000_000: {"first": 60, "again": 10}}
"""Goals of a start by the number of images."""


@dataclass(frozen=True)
class Goal:
    """Required speedup over another command, optionally without loss of accuracy."""

    ratio: float
    accuracy: bool = False

    def __str__(self) -> str:
        return f"{self.ratio:g} times faster" + (", accuracy not lower" if self.accuracy else "")


GOALS = {
    ("head", TRAINER): Goal(40, accuracy=True),
    ("head", TRAINER_KEPT): Goal(20, accuracy=True),
    ("finetune", TRAINER): Goal(6, accuracy=True),
    ("full", TRAINER): Goal(2.3),
    ("full", TRAINER_KEPT): Goal(1.2),
}


def tables(rows: Mapping[str, Row]) -> str:
    """Return the rows as two Markdown tables, followed by machines and versions."""
    lines = [line for row in rows.values() for line in LINES[row["kind"]](row)]
    processes = [line for row in rows.values() for line in _processes(row)]
    contexts = dict.fromkeys(_context(row) for row in rows.values())
    return "\n\n".join([_markdown(HEADER, lines), _markdown(PROCESSES, processes), "\n".join(contexts)])


def _context(row: Row) -> str:
    settings = row["settings"]
    images = " + ".join(f"{count:,}" for count in settings["images"].values())
    flags = f", hf-tl train {settings['hf_tl_flags']}" if settings["hf_tl_flags"] else ""
    data = f"{settings['dataset']}, {images} images, {settings['image_size']} px{flags}"
    return f"{row['date']}: {row['machine']}; {row['versions']}; {data}."


def _markdown(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rule = ["---"] * len(header)
    return "\n".join("| " + " | ".join(line) + " |" for line in (header, rule, *lines))


def _training(row: Row) -> list[list[str]]:
    """Return one line per peer, with the pairwise ratios of its time to hf_tl's."""
    work, runs = row["work"], row["sides"]
    own = runs.get(HF_TL, [])
    title = f"{work}, {own[0]['epochs']} epochs" if own else work
    lines = []
    for side in [name for name in (*runs, *row["missing"]) if name != HF_TL]:
        goal, words = GOALS.get((work, side)), row["missing"].get(side)
        if words is not None or not own:
            lines.append([title, side, _text(goal), _seconds(own), words or "", "", _accuracy(own, []), ""])
            continue
        ratios = [other["seconds"] / mine["seconds"] for mine, other in zip(own, runs[side], strict=False)]
        reached = ""
        if goal is not None:
            reached = _reached(goal, ratios, own, runs[side])
        accuracy = _accuracy(own, runs[side])
        lines.append([title, side, _text(goal), _seconds(own), _seconds(runs[side]), _range(ratios), accuracy, reached])
    return lines or _failed(row)


def _reached(goal: Goal, ratios: Sequence[float], own: Runs, other: Runs) -> str:
    if statistics.median(ratios) < goal.ratio:
        return "no"
    if goal.accuracy and other[0]["epochs_run"] < other[0]["epochs"]:
        return "in time"  # the accuracy of a shorter training is not comparable
    return _yes(not goal.accuracy or _median(own, "accuracy") >= _median(other, "accuracy"))


def _again(row: Row) -> list[list[str]]:
    own = row["sides"].get(HF_TL, [])
    if not own:
        return _failed(row)
    reached = _yes(_median(own, "seconds") < SECONDS_AGAIN)
    figure = f"under {SECONDS_AGAIN} s"
    return [[row["work"], "", figure, _seconds(own), "", "", _accuracy(own, []), reached]]


def _forward(row: Row) -> list[list[str]]:
    """Return the lines of a forward pass: its rate, and the share of the machine's peak."""
    own = row["sides"].get(HF_TL, [])
    if not own:
        return _failed(row)
    rate, peak, share = (_median(own, name) for name in ("images_per_second", "gemm_gflops", "share_of_peak"))
    if row["work"] == "forward_lite0":
        wanted = IMAGES_PER_GFLOP * peak
        figure, is_reached = f"{wanted:.0f} images/s at this GEMM peak", rate >= wanted
    else:
        figure, is_reached = f"{SHARE_OF_PEAK:.0%} of the GEMM peak", share >= SHARE_OF_PEAK
    cell = f"{_rates(own)}, {share:.0%} of {peak:.0f} GFLOP/s"
    lines = _rate_lines(row, HF_TL) or [[row["work"], *[""] * 7]]
    return [[*line[:2], figure, cell, *line[4:7], _yes(is_reached)] for line in lines]


def _rate_lines(row: Row, mine: str) -> list[list[str]]:
    """Return one line per other command, with the pairwise ratios of hf_tl's images per second to its own."""
    own = row["sides"].get(mine, [])
    lines = []
    for side, runs in row["sides"].items():
        if side == mine or not runs:
            continue
        ratios = [a["images_per_second"] / b["images_per_second"] for a, b in zip(own, runs, strict=False)]
        lines.append([row["work"], side, "", _rates(own), _rates(runs), _range(ratios), "", ""])
    return lines


def _decode(row: Row) -> list[list[str]]:
    return _rate_lines(row, HF_TL) or _failed(row)


def _scaling(row: Row) -> list[list[str]]:
    """Return the seconds per thousand additional images between consecutive sizes, which excludes constant costs."""
    sizes = {int(side.split()[0].replace(",", "")): runs for side, runs in row["sides"].items() if runs}
    if len(sizes) < len(row["sides"]) or not sizes:
        return _failed(row)
    numbers = sorted(sizes)
    rates = []
    for before, after in pairwise(numbers):
        seconds = _median(sizes[after], "seconds") - _median(sizes[before], "seconds")
        rates.append(1000 * seconds / (after - before))
    cells = [f"{number:,}: {_median(sizes[number], 'seconds'):.1f} s" for number in numbers]
    memory = [_median(sizes[number], "peak_gib") for number in numbers]
    own = [_median(sizes[number], "own_gib") for number in numbers]
    measured = "; ".join(f"{rate:.2f}" for rate in rates)
    figure = f"time a thousand images constant, peak memory flat within {SPREAD:.0%}"
    title, others = row["work"], "sizes with one another"
    reached = _yes(_spread_of(rates) <= SPREAD), _yes(_spread_of(memory) <= SPREAD)
    resident, without = ("; ".join(f"{value:.2f}" for value in values) for values in (memory, own))
    further = f"seconds a thousand further images: {measured}"
    return [
        [title, others, figure, ", ".join(cells), further, _spread(rates), "", reached[0]],
        [title, others, figure, f"GiB: {resident}", f"without file pages: {without}", _spread(memory), "", reached[1]],
    ]


def _start(row: Row) -> list[list[str]]:
    """Return the lines of the starts on many images, for the first time and again, one per other library."""
    lines = []
    for turn in ("first", "again"):
        own = row["sides"].get(f"{HF_TL}, {turn}", [])
        if not own:
            continue
        images = int(own[0]["images"])
        limit = START_SECONDS.get(images, {}).get(turn)
        reached = "" if limit is None else _yes(_median(own, "seconds") <= limit)
        goal = "" if limit is None else f"at most {limit} s"
        for name in (IMAGE_FOLDER, DATASETS):
            other = row["sides"].get(f"{name}, {turn}", [])
            ratios = [peer["seconds"] / run["seconds"] for run, peer in zip(own, other, strict=False)]
            title = f"start on {images:,} images, {turn}"
            lines.append([title, name, goal, _start_seconds(own), _start_seconds(other), _range(ratios), "", reached])
    return lines or _failed(row)


def _start_seconds(runs: Runs) -> str:
    return f"{_seconds(runs)}, CPU {_median(runs, 'start_cpu_seconds'):.1f} s" if runs else ""


def _gpu(row: Row) -> list[list[str]]:
    lines = []
    for mine in [side for side in row["sides"] if side.startswith(f"{HF_TL}, ") and row["sides"][side]]:
        model = mine.removeprefix(HF_TL)
        pair = {side: runs for side, runs in row["sides"].items() if side.endswith(model)}
        for line in _rate_lines({**row, "sides": pair}, mine):
            synthetic = line[1].startswith("synthetic")
            ratio = _median(pair[mine], "images_per_second") / _median(pair[line[1]], "images_per_second")
            figure = f"{SHARE_OF_PEAK:.0%} of its rate" if synthetic else ""
            lines.append([*line[:2], figure, *line[3:7], _yes(ratio >= SHARE_OF_PEAK) if synthetic else ""])
    return lines or _failed(row)


def _failed(row: Row) -> list[list[str]]:
    reasons = dict.fromkeys(row["missing"].values())
    return [[row["work"], "", "", "; ".join(reasons), "", "", "", ""]]


def _processes(row: Row) -> list[list[str]]:
    lines = []
    for side, runs in row["sides"].items():
        if runs:
            start = f"{_median(runs, 'start_up_seconds'):.1f}" if "start_up_seconds" in runs[0] else ""
            cells = [f"{_median(runs, name):{form}}" for name, form in
                     (("cpu_seconds", ",.0f"), ("peak_gib", ".2f"), ("own_gib", ".2f"))]  # fmt: skip
            lines.append([row["work"], side, _range([run["measured_seconds"] for run in runs], " s"), start, *cells])
    return lines


def _median(runs: Runs, name: str) -> float:
    return statistics.median(run[name] for run in runs)


def _range(values: Sequence[float], unit: str = "") -> str:
    """Format the median, with minimum and maximum if there are several values."""
    if not values:
        return ""
    form = ",.0f" if max(values) >= 100 else ".1f" if max(values) >= 10 else ".2f"
    text = f"{statistics.median(values):{form}}{unit}"
    return text if len(values) == 1 else f"{text} ({min(values):{form}}–{max(values):{form}})"


def _seconds(runs: Runs) -> str:
    text = _range([run["seconds"] for run in runs], " s")
    if runs and runs[0]["epochs_run"] < runs[0]["epochs"]:
        text += f", computed from {runs[0]['epochs_run']:g} of {runs[0]['epochs']} epochs"
    return text


def _rates(runs: Runs) -> str:
    return _range([run["images_per_second"] for run in runs], " images/s")


def _accuracy(own: Runs, other: Runs) -> str:
    cells = [f"{_median(runs, 'accuracy'):.1%}" for runs in (own, other) if runs]
    if other and other[0]["epochs_run"] < other[0]["epochs"]:
        cells[-1] += f" after {other[0]['epochs_run']:g}"
    return " / ".join(cells)


def _spread_of(values: Sequence[float]) -> float:
    return max(values) / min(values) - 1 if values and min(values) > 0 else float("inf")


def _spread(values: Sequence[float]) -> str:
    return f"within {_spread_of(values):.0%}" if len(values) > 1 else ""


def _text(goal: Goal | None) -> str:
    return "" if goal is None else str(goal)


def _yes(is_reached: bool) -> str:
    return "yes" if is_reached else "no"


LINES: dict[str, Callable[[Row], list[list[str]]]] = {
    "training": _training,
    "again": _again,
    "forward": _forward,
    "scaling": _scaling,
    "decode": _decode,
    "start": _start,
    "gpu": _gpu,
}
