"""Rooms (folders of hf_tl) import each other without circles, and the lowest ones import little."""

import ast
from collections import Counter, defaultdict
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "hf_tl"
FOUNDATION = {"errors", "phase", "strategy", "ranges", "tuning"}
LOW_ROOMS = {"record": FOUNDATION | {"storage"}, "recipes": FOUNDATION - {"strategy"}, "storage": {"errors"}}
"""Modules of hf_tl that the lowest rooms may import."""


def modules() -> Iterator[Path]:
    return (path for path in PACKAGE.rglob("*.py") if path.name != "__main__.py")


def room_of(name: str) -> str:
    """Return the folder of a module of hf_tl, or the module's own name outside of folders."""
    return name.split(".")[1]


def imports(path: Path) -> Iterator[str]:
    """Yield the modules of hf_tl that a module imports at run time, including imports in functions."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    of_types = [node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)]
    unseen = {id(inner) for node in of_types for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.ImportFrom)
            and node.module
            and node.module.startswith("hf_tl.")
            and id(node) not in unseen
        ):
            yield node.module


def aliases(node: ast.AST) -> list[ast.alias]:
    if isinstance(node, ast.ImportFrom):
        return [ast.alias(str(node.module))]
    return node.names if isinstance(node, ast.Import) else []


def rooms() -> dict[str, set[str]]:
    edges: defaultdict[str, set[str]] = defaultdict(set)
    for path in modules():
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if len(parts) > 1:
            edges[parts[0]] |= {room_of(name) for name in imports(path)} - {parts[0]}
    return edges


def test_no_circle() -> None:
    try:
        list(TopologicalSorter(rooms()).static_order())
    except CycleError as error:
        pytest.fail(f"rooms import one another in a circle: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize("room", sorted(LOW_ROOMS))
def test_low_rooms_import_little(room: str) -> None:
    assert rooms()[room] <= LOW_ROOMS[room]


def test_the_record_needs_no_torch() -> None:
    for path in (PACKAGE / "record").glob("*.py"):
        named = {
            alias.name for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) for alias in aliases(node)
        }
        assert not {name for name in named if name.split(".")[0] in ("torch", "transformers", "timm", "datasets")}


def sized(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*.py") if path.name != "__init__.py")


@pytest.mark.parametrize("folder", ["hf_tl", "scripts", "tests"])
def test_files_have_at_most_350_lines(folder: str) -> None:
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in sized(PACKAGE.parent / folder)}
    assert not {str(path): count for path, count in lines.items() if count > 350}


def test_folders_have_at_most_twelve_modules() -> None:
    folders = [path for path in PACKAGE.rglob("*") if path.is_dir() and path.name != "__pycache__"]
    modules = {folder: sum(path.name != "__init__.py" for path in folder.glob("*.py")) for folder in folders}
    assert not {str(folder): count for folder, count in modules.items() if count > 12}


def test_files_of_tests_have_names_of_their_own() -> None:
    """pytest imports them by their names, whatever their folders are."""
    names = Counter(path.name for path in (PACKAGE.parent / "tests").rglob("test_*.py"))
    assert not [name for name, count in names.items() if count > 1]


def test_functions_have_at_most_50_lines() -> None:
    functions = {
        f"{path.relative_to(PACKAGE)}:{node.lineno} {node.name}": body_lines(node)
        for path in sized(PACKAGE)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef)
    }
    assert not {name: count for name, count in functions.items() if count > 50}


def body_lines(function: ast.FunctionDef) -> int:
    """Return the number of lines of a function without its docstring."""
    first = function.body[1] if ast.get_docstring(function) and len(function.body) > 1 else function.body[0]
    return (function.end_lineno or 0) - first.lineno + 1
