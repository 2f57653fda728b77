"""Rooms (folders of hf_tl) import each other without circles, and the lowest ones import little."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "hf_tl"
FOUNDATION = {"errors", "phase", "strategy", "ranges"}
LOW_ROOMS = {"record": FOUNDATION, "storage": {"errors"}}
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
    found: defaultdict[str, set[str]] = defaultdict(set)
    for path in modules():
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if len(parts) > 1:
            found[parts[0]] |= {room_of(name) for name in imports(path)} - {parts[0]}
    return found


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
