"""Mutants of source files, made by mutmut, and random samples of them."""

import ast
import difflib
import functools
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import libcst as cst
from libcst.metadata import MetadataWrapper, ParentNodeProvider, PositionProvider
from mutmut.mutation.file_mutation import Mutation, MutationVisitor
from mutmut.mutation.mutators import mutation_operators
from mutmut.mutation.pragma_handling import IgnoredCode

MESSAGES = {"debug", "info", "warning", "error", "exception", "warn"}
"""Functions and methods that log or warn: their arguments are texts for people."""


@dataclass(frozen=True)
class Mutant:
    """One change of one source file."""

    file: str
    """Path in the repository."""
    line: int
    lines: range
    """Lines of the statement that is changed."""
    in_function: bool
    """Whether the statement runs when a function is called, and not when the module is imported."""
    source: str
    """The changed file."""
    change: str
    """Removed and added lines."""


def sample(root: Path, files: Sequence[str], number: int, seed: int) -> tuple[list[Mutant], int]:
    """Draw mutants of all files, each with the same probability.

    Returns:
        The sample, sorted by file and line, and the number of changes that mutmut can make.
    """
    places = [(file, index) for file in files for index in range(len(mutations(root / file)[1]))]
    random.Random(seed).shuffle(places)
    drawn: list[Mutant] = []
    for file, index in places:
        mutant = build(root, file, index) if len(drawn) < number else None
        if mutant:
            drawn.append(mutant)
    return sorted(drawn, key=lambda mutant: (mutant.file, mutant.line)), len(places)


@functools.cache
def mutations(path: Path) -> tuple[MetadataWrapper, list[Mutation]]:
    """Return a parsed file and all its mutations."""
    wrapper = MetadataWrapper(cst.parse_module(path.read_text(encoding="utf-8")))
    visitor = MutationVisitor(mutation_operators, IgnoredCode(set(), set(), set()))
    wrapper.visit(visitor)
    return wrapper, visitor.mutations


def build(root: Path, file: str, index: int) -> Mutant | None:
    """Return a mutant of a file by its index, or None if the changed code means the same or is no Python."""
    wrapper, all_of_file = mutations(root / file)
    changed = all_of_file[index].original_node, all_of_file[index].mutated_node
    original, source = wrapper.module.code, wrapper.module.deep_replace(*changed).code
    if meaning(source) in (None, meaning(original)):
        return None
    positions = wrapper.resolve(PositionProvider)
    within = list(ancestors(changed[0], wrapper.resolve(ParentNodeProvider)))
    statement = next(node for node in within if isinstance(node, cst.BaseSmallStatement | cst.BaseCompoundStatement))
    lines = range(positions[statement].start.line, positions[statement].end.line + 1)
    line = next(positions[node].start.line for node in within if node in positions)
    in_function = any(isinstance(node, cst.FunctionDef) for node in within)
    return Mutant(file, line, lines, in_function, source, changed_lines(original, source))


def ancestors(node: cst.CSTNode, parents: Mapping[cst.CSTNode, cst.CSTNode]) -> Iterator[cst.CSTNode]:
    """Yield a node and the nodes that hold it, from the inside out."""
    yield node
    while node in parents:
        node = parents[node]
        yield node


def meaning(source: str) -> str | None:
    """Return what code does, without what no test should depend on; None if it is no Python."""
    try:
        return ast.dump(_WithoutTexts().visit(ast.parse(source)))
    except SyntaxError:
        return None


class _WithoutTexts(ast.NodeTransformer):
    """Remove texts of errors, logs and warnings, names of encodings, checks of `zip`, types of `cast`, and `__all__`.

    Mistakes in the last two are found by the type checker and the linter.
    """

    def visit_Assign(self, node: ast.Assign) -> ast.AST:
        if ast.unparse(node.targets[0]) == "__all__":
            node.value = ast.Constant(None)
        return self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        if isinstance(node.exc, ast.Call):
            node.exc.args, node.exc.keywords = [], []
        return self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name in MESSAGES:
            node.args, node.keywords = [], []
        if name == "cast":
            node.args = node.args[1:]
        ignored = {"encoding", "strict"} if name == "zip" else {"encoding"}
        node.keywords = [keyword for keyword in node.keywords if keyword.arg not in ignored]
        return self.generic_visit(node)


def changed_lines(original: str, source: str) -> str:
    """Return the removed and added lines, without those around them."""
    lines = list(difflib.unified_diff(original.splitlines(), source.splitlines(), n=0, lineterm=""))[2:]
    return "\n".join(f"{line[0]} {line[1:].strip()}" for line in lines if not line.startswith("@@"))
