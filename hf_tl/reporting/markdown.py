"""Markdown that shows values of any origin as plain text.

Labels, dataset names and notes come from untrusted sources. In a card they must not add a heading, a link, a table cell
or HTML in any renderer. Special characters therefore become character references, which never form structure in
CommonMark (https://spec.commonmark.org/0.31.2/#entity-and-numeric-character-references). Unlike backslash escapes they
also work inside HTML and before a renderer's mathematics.
"""

import re

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from hf_tl.reporting.plain import one_line, printable

_SYNTAX = {ord(character): f"&#{ord(character)};" for character in '\\`*[]<>&|~$^{}#="'}
# GFM turns bare addresses into links after escapes are resolved; an invisible space inside them prevents it.
_BARE_LINK = re.compile(r"(?<=:)(?=//)|(?<=www)(?=\.)|(?<=@)|(?<=mailto)(?=:)|(?<=xmpp)(?=:)", re.IGNORECASE)
_EMPHASIS = re.compile(r"(?<![^\W_])_|_(?![^\W_])")  # underscores within words have no meaning
_BLOCK_START = re.compile(r"^(\d*)([-+.)])(?=\s|$|\2)")  # a list item, a rule or an underlined heading


def escape(value: object) -> Markup:
    """Escape a value for running text and table cells.

    >>> str(escape("<b> | [x](y)"))
    '&#60;b&#62; &#124; &#91;x&#93;(y)'
    """
    if isinstance(value, Markup):
        return value
    text = _BARE_LINK.sub("\u200b", one_line(value)).translate(_SYNTAX)
    text = _EMPHASIS.sub("&#95;", text)
    return Markup(_BLOCK_START.sub(lambda match: f"{match[1]}&#{ord(match[2])};", text))


def code(value: object) -> Markup:
    """Format a value as a code span, for names that a reader may copy.

    A value that a code span cannot hold (a pipe splits a table's cell even inside one) becomes escaped text.

    >>> str(code("layer4")), str(code("a|b"))
    ('`layer4`', 'a&#124;b')
    """
    text = one_line(value)
    return escape(text) if set(text) & set("`|\\") else Markup(f"`{text}`")


def code_block(value: object, language: str = "") -> Markup:
    """Format a value as a fenced code block; only newlines end lines.

    >>> print(code_block("ls", "bash"))
    ```bash
    ls
    ```
    """
    text = "\n".join(printable(line) for line in str(value).rstrip("\n").split("\n"))
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return Markup(f"{fence}{language}\n{text}\n{fence}")


def environment() -> Environment:
    """Return the environment of a card's template: every value is escaped, unless a filter made it safe.

    `finalize` sees each `{{ … }}`, so that the template cannot miss an escape.
    """
    env = Environment(
        finalize=escape, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    env.filters |= {"code": code, "code_block": code_block}
    return env
