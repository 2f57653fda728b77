"""Figures of results: their content, for any number of classes and any names."""

import dataclasses
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from publish.records import (
    evaluated,
    make_multi_label_record,
    make_record,
    put,
    with_interpolation,
    with_robustness,
    without_temperature,
)
from publish.test_plots import share_of

from hf_tl.card.figures.draw import FIGURES, draw_figures, figures_of
from hf_tl.card.figures.mistakes import Example, plot_examples
from hf_tl.card.figures.results import CLASSES_DRAWN, plot_confusion
from hf_tl.errors import PublishError
from hf_tl.record import RunRecord
from hf_tl.reporting.canvas import AFTER, BEFORE, FROZEN, VALIDATION_LINE

pytestmark = pytest.mark.long

DARK = "#08306b"
"""Darkest color of the confusion matrix: all images of the class."""


def names(count: int) -> tuple[str, ...]:
    return tuple(f"class {index}" for index in range(count))


@pytest.mark.parametrize("classes", [2, 10, 20, CLASSES_DRAWN])
def test_a_confusion_matrix_is_as_dark_as_the_model_is_right(classes: int, tmp_path: Path) -> None:
    record = evaluated(make_record(labels=names(classes)))
    right = tuple((index, index, 9) for index in range(classes))
    spread = tuple((index, (index + shift) % classes, 1) for index in range(classes) for shift in range(classes))
    plot_confusion(record.data.labels, right, tmp_path / "right.png")
    plot_confusion(record.data.labels, spread, tmp_path / "spread.png")
    assert share_of(tmp_path / "right.png", DARK) > 0.3 / classes
    assert share_of(tmp_path / "spread.png", DARK) < 0.1 * share_of(tmp_path / "right.png", DARK) + 0.02
    assert max(Image.open(tmp_path / "right.png").size) <= 1280


def test_the_reliability_diagram_shows_both_and_one_where_there_is_one(tmp_path: Path) -> None:
    record = evaluated(make_record())
    draw_figures(record, tmp_path)
    (tmp_path / "reliability.png").rename(tmp_path / "both.png")
    assert share_of(tmp_path / "both.png", BEFORE) > 0.005
    assert share_of(tmp_path / "both.png", AFTER) > 0.005
    draw_figures(without_temperature(record, "no validation image is wrong"), tmp_path)
    (tmp_path / "reliability.png").rename(tmp_path / "one.png")
    assert share_of(tmp_path / "one.png", BEFORE) > 0.005
    assert share_of(tmp_path / "one.png", AFTER) < 0.001


def make_examples(record: RunRecord, color: tuple[float, float, float], *, maps: bool = True) -> list[Example]:
    mistakes = record.measured["test"].mistakes
    pixels, seen = np.broadcast_to(np.array(color), (16, 16, 3)), np.zeros((16, 16))
    return [
        Example(pixels, {role: seen for role in ("predicted", "true") if maps and mistake[role] is not None})
        for mistake in mistakes
    ]


@pytest.mark.parametrize("make", [make_record, make_multi_label_record])
def test_the_metric_under_corruptions_is_drawn_with_its_intervals(make: Any, tmp_path: Path) -> None:
    record = with_robustness(evaluated(make()))
    draw_figures(record, tmp_path)
    (tmp_path / "robustness.png").rename(tmp_path / "wide.png")
    assert share_of(tmp_path / "wide.png", VALIDATION_LINE) > 0.003
    results = record.measured["test"].robustness.results
    narrow = tuple(dataclasses.replace(result, intervals={}) for result in results)
    draw_figures(put(record, measured__test__robustness__results=narrow, measured__test__intervals={}), tmp_path)
    assert share_of(tmp_path / "robustness.png", FROZEN) < 0.2 * share_of(tmp_path / "wide.png", FROZEN)


@pytest.mark.parametrize("make", [make_record, make_multi_label_record])
def test_the_metric_of_interpolated_weights_is_drawn_with_the_coefficient_that_is_kept(
    make: Any, tmp_path: Path
) -> None:
    record = with_interpolation(make())
    draw_figures(record, tmp_path)
    (tmp_path / "interpolation.png").rename(tmp_path / "kept.png")
    assert share_of(tmp_path / "kept.png", VALIDATION_LINE) > 0.003
    assert share_of(tmp_path / "kept.png", FROZEN) > 0.01
    draw_figures(with_interpolation(make(), kept=0.2), tmp_path)
    assert (tmp_path / "interpolation.png").read_bytes() != (tmp_path / "kept.png").read_bytes()


@pytest.mark.parametrize("maps", [True, False])
@pytest.mark.parametrize("make", [make_record, make_multi_label_record])
def test_examples_are_shown(make: Any, maps: bool, tmp_path: Path) -> None:
    record = evaluated(make(), images=True)
    plot_examples(record, make_examples(record, (0.0, 1.0, 0.0), maps=maps), tmp_path / "mistakes.png")
    assert Image.open(tmp_path / "mistakes.png").size[0] == 1280
    assert share_of(tmp_path / "mistakes.png", "#00ff00") > 0.05


def test_hostile_names_are_text(tmp_path: Path) -> None:
    hostile = ("$\\frac{", "%s {0}", "\n\n", "\x00", "w" * 300, "a\ud800b", "猫")
    record = with_interpolation(with_robustness(evaluated(make_record(labels=hostile), images=True)))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # the font may lack a character: a box is drawn
        files = draw_figures(record, tmp_path, make_examples(record, (0.5, 0.5, 0.5)))
    assert [file.name for file in files] == list(FIGURES)
    assert all(Image.open(file).size[1] <= 1280 for file in files)


def test_a_record_shows_the_figures_that_it_has(tmp_path: Path) -> None:
    old = make_record()
    assert [file.name for file in draw_figures(old, tmp_path)] == ["stages.png", "history.png"]
    assert set(figures_of(evaluated(make_multi_label_record()))) == {"stages", "history", "reliability"}
    assert "confusion" not in figures_of(evaluated(make_record(labels=names(CLASSES_DRAWN + 1))))
    allowed = evaluated(make_record(), images=True)
    assert set(figures_of(allowed)) == {"stages", "history", "confusion", "reliability", "mistakes"}
    assert "mistakes.png" not in [file.name for file in draw_figures(allowed, tmp_path)]  # their images are missing


def test_the_same_record_gives_the_same_bytes(tmp_path: Path) -> None:
    record = evaluated(make_record())
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        draw_figures(record, tmp_path / name)
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()


@pytest.mark.parametrize(
    ("damage", "figure"),
    [
        ({"history": ({"epoch": 1.0},)}, "history.png"),
        ({"measured__test__confusion": ((0, 99, 1),)}, "confusion.png"),
        ({"measured__test__calibration": {"before": {"ece": None}}}, "reliability.png"),
    ],
)
def test_a_damaged_record_is_one_clear_error(tmp_path: Path, damage: dict[str, Any], figure: str) -> None:
    record = put(without_temperature(evaluated(make_record()), "x"), **damage)
    with pytest.raises(PublishError, match=rf"{figure} cannot be drawn: the record \(run\.json\) lacks or mixes up"):
        draw_figures(record, tmp_path)
