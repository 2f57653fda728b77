"""Class names of any script in figures: a font that has their characters, or numbers."""

from pathlib import Path

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager
from PIL import Image
from publish.records import evaluated, make_record

from hf_tl.card.card import render_card
from hf_tl.card.figures.results import plot_confusion
from hf_tl.reporting import fonts
from hf_tl.reporting.canvas import INK
from hf_tl.reporting.fonts import drawn_names

RARE = "\U00020bb7"
"""Chinese character that few fonts have."""


def write_font(path: Path) -> None:
    """Write a font with one character, a black square."""
    pen = TTGlyphPen(None)
    for place, point in enumerate([(0, 0), (0, 1000), (1000, 1000), (1000, 0)]):
        (pen.lineTo if place else pen.moveTo)(point)
    pen.closePath()
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder([".notdef", "square"])
    builder.setupCharacterMap({ord(RARE): "square"})
    builder.setupGlyf({".notdef": TTGlyphPen(None).glyph(), "square": pen.glyph()})
    builder.setupHorizontalMetrics({".notdef": (1000, 0), "square": (1000, 0)})
    builder.setupHorizontalHeader(ascent=1000, descent=0)
    builder.setupNameTable({"familyName": "Squares", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(path)


def ink(file: Path) -> int:
    """Count the pixels in the color of texts."""
    color = tuple(int(INK[place : place + 2], 16) for place in (1, 3, 5))
    return int((np.asarray(Image.open(file).convert("RGB")) == color).all(axis=-1).sum())


@pytest.fixture(autouse=True)
def _no_fonts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use only the fonts of matplotlib, whatever the machine has."""
    own = Path(font_manager.findfont("DejaVu Sans")).resolve().parent
    listed = [font for font in font_manager.fontManager.ttflist if Path(font.fname).resolve().parent == own]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", listed)
    fonts._font_with.cache_clear()


def test_names_without_a_font_are_numbers_with_a_legend_in_the_card(tmp_path: Path) -> None:
    labels = ("\u732b", "\u72d7", "bird")
    assert drawn_names(labels) == ["1", "2", "3"]
    assert drawn_names(("Ж", "é", "bird")) == ["Ж", "é", "bird"]
    card = render_card(evaluated(make_record(labels=labels)))
    assert "Figures number the classes: 1 = \u732b, 2 = \u72d7, 3 = bird." in card
    assert "Figures number" not in render_card(evaluated(make_record()))


def test_a_font_that_has_the_characters_is_used(tmp_path: Path) -> None:
    write_font(tmp_path / "squares.ttf")
    font_manager.fontManager.addfont(tmp_path / "squares.ttf")
    fonts._font_with.cache_clear()
    labels = (RARE * 6, "bird")
    assert drawn_names(labels) == list(labels)
    plot_confusion(labels, [(0, 0, 1), (1, 1, 1)], tmp_path / "with.png")
    plot_confusion(("iiiiii", "bird"), [(0, 0, 1), (1, 1, 1)], tmp_path / "without.png")
    assert ink(tmp_path / "with.png") > ink(tmp_path / "without.png") + 500, "squares are black all over"
