"""Names and texts use the words of the field, in American spelling; see "Language" in `tests/README.md`.

Run one room with `pytest -n0 tests/test_language.py -k advisor`.
"""

import ast
import re
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PYTHON = sorted(path for folder in ("hf_tl", "scripts", "tests") for path in (ROOT / folder).rglob("*.py"))
FOLDERS = ("hf_tl", "scripts", "tests", "model_cards")
PAGES = sorted([*ROOT.glob("*.md"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.md"))])

PRONOUNS = {
    *("one", "ones", "found", "told", "left", "few", "given", "those", "these", "surely", "which", "whose", "theirs")
}
"""Words that name nothing when they stand alone. `left` of a rectangle has companions (`left, top, right`)."""
RECTANGLE = {"right", "top", "bottom"}
BRITISH = (
    r"(?:summar|normal|optim|initial|general|regular|recogn|organ|serial|visual|minim|maxim|standard|util|token|"
    r"quant|real|penal|equal|emphas|special)is(?:e[sdr]?|ing|ation)(?![a-z])"
    r"|colour|grey(?:s|scale)?(?![a-z])|neighbour|behaviour|favour|licenc(?:e|ing)|centr(?:e|ed|es)(?![a-z])"
    r"|(?:label|model|cancel)l(?:ed|ing)|analys(?:e[sd]?|ing)(?![a-z])|artefact|catalogue"
)
DIALECT = (
    r"\bsurely (?:better|worse)|\bset apart\b|\bcannot be told\b|\b(?:is|are|was|were) told\b"
    r"|\btells? (?:\S+ ){0,3}apart\b|\bthe one found\b|\bgo(?:es|ing)? on from\b"
)
PREPOSITIONS = {
    "of",
    "that",
    "in",
    "for",
    "with",
    "from",
    "to",
    "by",
    "on",
    "at",
    "as",
    "if",
    "where",
    "when",
    "what",
    "which",
    "how",
}
TEST_WORDS = {"told", "tell", "tells", "surely", "rung", "rungs", "goes", "lets"}


def bound_names(tree: ast.AST) -> Iterator[tuple[int, str, set[str]]]:
    """Yield each name that a module binds (line, name, the names bound beside it)."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.lineno, node.name, set()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            together = {argument.arg for argument in arguments}
            yield from ((argument.lineno, argument.arg, together) for argument in arguments)
        if isinstance(node, ast.Tuple) and isinstance(node.ctx, ast.Store):
            together = {element.id for element in node.elts if isinstance(element, ast.Name)}
            yield from ((node.lineno, name, together) for name in sorted(together))
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id, set()


def docstrings(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield the docstrings of modules, classes, functions and attributes."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Module):
            continue
        text = ast.get_docstring(node)
        if text:
            yield node.body[0].lineno, text
        for before, after in pairwise(node.body):
            match before, after:
                case (ast.Assign() | ast.AnnAssign(), ast.Expr(value=ast.Constant(value=str(text)))):
                    yield after.lineno, text


def names_to_change(text: str) -> Iterator[str]:
    tree = ast.parse(text)
    rectangles = {(line, name) for line, name, together in bound_names(tree) if name == "left" and together & RECTANGLE}
    for line, name, _ in bound_names(tree):
        if name.strip("_") in PRONOUNS and (line, name) not in rectangles:
            yield f"{line}: {name} names nothing: use a noun of the field"


def openings_to_change(text: str) -> Iterator[str]:
    for line, docstring in docstrings(ast.parse(text)):
        if docstring.split()[0].lower() in PREPOSITIONS:
            yield f"{line}: a docstring opens with {docstring.split()[0]!r}"


def names_of_tests_to_change(text: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(text)):
        if (
            isinstance(node, ast.FunctionDef)
            and node.name.startswith("test_")
            and TEST_WORDS & set(node.name.split("_"))
        ):
            yield f"{node.lineno}: {node.name}"


def texts_to_change(text: str) -> Iterator[str]:
    for number, line in enumerate(text.splitlines(), 1):
        for pattern, advice in (
            (rf"(?i){BRITISH}", "American spelling"),
            (r"(?<![%\w])(?:[\d.,]*\d|\}) %(?![\w(]| \d)", "no space before the percent sign"),
            (DIALECT, "words of the field"),
        ):
            match = re.search(pattern, line)
            if match:
                yield f"{number}: {match.group()!r}: {advice}"


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", [path for path in PYTHON if path != Path(__file__)], ids=name_of)
def test_python(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    checks = [names_to_change, openings_to_change, texts_to_change]
    if path.name.startswith("test_"):
        checks.append(names_of_tests_to_change)
    offenders = [offender for check in checks for offender in check(text)]
    assert not offenders, "\n".join(offenders)


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_page(path: Path) -> None:
    offenders = list(texts_to_change(path.read_text(encoding="utf-8")))
    assert not offenders, "\n".join(offenders)


@pytest.mark.parametrize(
    ("check", "text"),
    [
        (names_to_change, "found = 1"),
        (names_to_change, "def few(): ..."),
        (openings_to_change, 'def f():\n    """Of the sample."""'),
        (openings_to_change, 'class A:\n    x: int = 1\n    """That decided."""'),
        (names_of_tests_to_change, "def test_what_is_told(): ..."),
        (texts_to_change, "# normalise"),
        (texts_to_change, '"99 %"'),
        (texts_to_change, "the backbone's licence"),
    ],
)
def test_the_checks_find_what_they_are_for(check: Callable[[str], Iterator[str]], text: str) -> None:
    assert list(check(text))


def test_a_rectangle_has_a_left_side() -> None:
    assert not list(names_to_change("left, top, right, bottom = box"))
