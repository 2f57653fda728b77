"""Fonts for the characters of a text: class names may be in any script, and the default font has few."""

import functools
from collections.abc import Sequence

from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font
from matplotlib.text import Text

DEFAULT = "DejaVu Sans"
"""Font of all figures; it comes with matplotlib."""
LAST_RESORT = "Last Resort High-Efficiency"
"""Font of matplotlib whose glyphs show the script of a character, not the character."""


def use_fonts(figure: Figure) -> None:
    """Let each text of a figure fall back to an installed font that has its characters."""
    for text in figure.findobj(Text):
        if (font := _fallback(text.get_text())) is not None:
            text.set_fontfamily([DEFAULT, font])


def drawn_names(labels: Sequence[str]) -> list[str]:
    """Return class names as figures show them: numbers from 1 if no installed font has the characters of a name.

    >>> drawn_names(["cat", "dog"])
    ['cat', 'dog']
    """
    can_draw = all(_fallback(label) is not None or not _missing(label) for label in labels)
    return list(labels) if can_draw else [str(number) for number in range(1, len(labels) + 1)]


def _fallback(text: str) -> str | None:
    """Return an installed font with all characters that the default font lacks; None without any."""
    missing = _missing(text)
    return _font_with(missing) if missing else None


def _missing(text: str) -> frozenset[str]:
    known = _characters(font_manager.findfont(DEFAULT))
    return frozenset(character for character in text if character.isprintable() and ord(character) not in known)


@functools.cache
def _font_with(characters: frozenset[str]) -> str | None:
    fonts = [font for font in font_manager.fontManager.ttflist if font.name != LAST_RESORT]
    fonts.sort(key=lambda font: (font.style != "normal", font.name))
    wanted = {ord(character) for character in characters}
    return next((font.name for font in fonts if wanted <= _characters(font.fname)), None)


@functools.cache
def _characters(path: str) -> frozenset[int]:
    try:
        return frozenset(FT2Font(path).get_charmap())
    except (OSError, RuntimeError, ValueError):  # the font was removed, or has no Unicode table
        return frozenset()
