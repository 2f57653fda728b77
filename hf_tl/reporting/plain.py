"""Values of any origin as one line of plain text. Needs no library."""

import unicodedata

_BIDI_CONTROLS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def one_line(value: object) -> str:
    r"""Return a single non-empty line of printable text, without control characters and text reordering.

    >>> one_line("a\n# b\x00")
    'a # b'
    """
    return " ".join(printable(str(value)).split()) or "(empty)"


def printable(text: str) -> str:
    """Replace control characters by spaces, and remove characters that reorder text."""
    text = text.encode("utf-8", "replace").decode()  # lone surrogates cannot be written to a file
    return "".join(" " if unicodedata.category(c) == "Cc" else c for c in text if c not in _BIDI_CONTROLS)
