"""Figures of a card: their content, for any names and any number of stages."""

import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from PIL import Image
from publish.records import make_multi_label_record, make_record, put

from hf_tl.card.figures.training import FROZEN, PHASE_SHADES, TRAINED, _visible_widths, plot_history, plot_stages
from hf_tl.errors import PublishError
from hf_tl.record import RunRecord

pytestmark = pytest.mark.long


def share_of(path: Path, color: str) -> float:
    """Return the share of the image's pixels in this color."""
    pixels = np.asarray(Image.open(path).convert("RGB"), dtype=float) / 255
    return float((np.abs(pixels - np.asarray(to_rgb(color))).max(axis=-1) < 0.02).mean())


@pytest.mark.parametrize("count", [2, 4, 18, 50])
def test_stages_show_what_was_frozen(tmp_path: Path, count: int) -> None:
    record = make_record(stages=(*(f"blocks.{index}" for index in range(count - 1)), "head"))
    plot_stages(record, tmp_path / "stages.png")
    assert Image.open(tmp_path / "stages.png").size[0] == 1280
    assert share_of(tmp_path / "stages.png", TRAINED) > 0.01
    assert (share_of(tmp_path / "stages.png", FROZEN) > 0.01) == (count > 2)


def test_more_trained_stages_are_more_warm(tmp_path: Path, record: RunRecord) -> None:
    plot_stages(record, tmp_path / "some.png")
    everything = tuple(stage.name for stage in record.stages)
    plot_stages(put(record, phases__1__trained_stages=everything), tmp_path / "all.png")
    assert share_of(tmp_path / "all.png", TRAINED) > 1.5 * share_of(tmp_path / "some.png", TRAINED)


@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=60))
def test_every_stage_can_be_seen(parameters: list[int]) -> None:
    widths = _visible_widths(parameters)
    assert sum(widths) == pytest.approx(1)
    assert min(widths) >= 0.4 / len(parameters) - 1e-9
    assert [a < b for a, b in pairwise(widths)] == [a < b for a, b in pairwise(parameters)]


@pytest.mark.parametrize("name", ["$\\frac{", "$x$", "%s {0}", "\n\n", "\x00", "_" * 500, "a\ud800b"])
def test_hostile_names_are_text(tmp_path: Path, record: RunRecord, name: str) -> None:
    record = put(record, stages__2__name=name, model__architecture=name)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # the font may lack a character: a box is drawn
        plot_stages(record, tmp_path / "stages.png")
    assert Image.open(tmp_path / "stages.png").size[0] == 1280


def test_history_shades_each_phase(tmp_path: Path, record: RunRecord) -> None:
    plot_history(record, tmp_path / "two.png")
    plot_history(put(record, history=tuple({**entry, "phase": 0} for entry in record.history)), tmp_path / "one.png")
    assert share_of(tmp_path / "two.png", PHASE_SHADES[1]) > 0.2
    assert share_of(tmp_path / "one.png", PHASE_SHADES[1]) < 0.01


def test_history_names_stage_depths(tmp_path: Path, record: RunRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    """Including a reverted stage depth, which is no longer a phase of the strategy."""
    names: list[str] = []
    draw = Axes.text

    def watched(axes: Axes, x: float, y: float, text: str, **style: Any) -> Any:
        names.append(text)
        return draw(axes, x, y, text, **style)

    monkeypatch.setattr(Axes, "text", watched)
    plot_history(record, tmp_path / "phases.png")
    plot_history(put(record, rungs=({"is_kept": True}, {"is_kept": False})), tmp_path / "rungs.png")
    assert names == 2 * ["phase 1", "phase 2"] + 2 * ["depth 1", "depth 2,\nreverted"]


@pytest.mark.parametrize("epochs", [1, 2, 200])
def test_history_of_any_length(tmp_path: Path, epochs: int) -> None:
    plot_history(make_record(epochs=epochs), tmp_path / "history.png")
    assert Image.open(tmp_path / "history.png").size == (1280, 544)


def test_history_shows_what_the_model_was_chosen_by(tmp_path: Path) -> None:
    """The right half shows a curve of the mean average precision, not of an accuracy missing from the record."""
    record = make_multi_label_record()
    plot_history(record, tmp_path / "shown.png")
    plot_history(
        put(record, history=tuple({**entry, "validation": {}} for entry in record.history)), tmp_path / "missing.png"
    )
    halves = [np.asarray(Image.open(tmp_path / name))[:, 640:] for name in ("shown.png", "missing.png")]
    blue = np.array([0x2B, 0x6C, 0xA3])
    counts = [int((np.abs(half[..., :3].astype(int) - blue).max(-1) < 8).sum()) for half in halves]
    assert counts[0] > 500
    assert counts[1] == 0


def test_history_without_validation_loss_or_best(tmp_path: Path, record: RunRecord) -> None:
    record = put(record, history=tuple({**entry, "validation": {}} for entry in record.history))
    plot_history(put(record, best=None), tmp_path / "history.png")
    assert share_of(tmp_path / "history.png", PHASE_SHADES[1]) > 0.2


def test_empty_history_cannot_be_drawn(tmp_path: Path, record: RunRecord) -> None:
    with pytest.raises(PublishError, match="history is empty"):
        plot_history(put(record, history=()), tmp_path / "history.png")


def test_same_record_same_bytes_and_no_global_state(tmp_path: Path, record: RunRecord) -> None:
    backend = dict.__getitem__(matplotlib.rcParams, "backend")  # reading it in another way selects one
    for name in ("a.png", "b.png"):
        plot_stages(record, tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert dict.__getitem__(matplotlib.rcParams, "backend") is backend
