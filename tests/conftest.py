"""One thread per test process, a feature cache, and the fast loop (`pytest --fast`); see also `hub/fixtures.py`."""

import ast
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from parts import is_drawn

# the networks are tiny, and two test processes share the cores; child processes inherit the setting
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)

# the same examples in every run; `pytest --hypothesis-profile=default` draws others
settings.register_profile("repeated", derandomize=True)
settings.load_profile("repeated")

LONG_TOPICS = {
    "subprocess",
    "backbones.reload",
    "hub",
    "job",
    "small_runs",
    "training",
    "trainer",
    "hf_tl.cli",
    "cli.runs",
}
"""Modules and folders that start processes, servers or trainings: test files that import them take long."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--fast", action="store_true", help="leave out files that start processes, servers or trainings, and long tests"
    )
    parser.addoption("--share", type=float, default=1.0, help="share of the slow tests to run (default: 1, all)")
    parser.addoption("--draw", default="", help="name of the draw of these tests, such as today's date")


def pytest_report_header(config: pytest.Config) -> str | None:
    """State the share of slow tests and the name of their draw, with which a failure can be repeated."""
    share, draw = config.getoption("share"), config.getoption("draw")
    return f"slow tests: --share {share:g} --draw '{draw}'" if share < 1 else None


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave files out before they are imported, which takes seconds too."""
    is_test = collection_path.name.startswith("test_") and collection_path.suffix == ".py"
    return True if config.getoption("fast") and is_test and LONG_TOPICS & imported(collection_path) else None


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Compute with one thread, whatever an earlier test set: other numbers of threads round in another way."""
    torch.set_num_threads(1)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    share, draw = config.getoption("share"), config.getoption("draw")
    left_out = [
        item
        for item in items
        if (config.getoption("fast") and item.get_closest_marker("long"))
        or (item.get_closest_marker("slow") and not is_drawn(item.nodeid, share, draw))
    ]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in set(left_out)]


def imported(file: Path) -> set[str]:
    """Return the modules that a file imports, and the folders that they are in."""
    modules = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            modules |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
    return modules | {module.rpartition(".")[0] for module in modules} | {module.split(".")[0] for module in modules}


@pytest.fixture(scope="session", autouse=True)
def feature_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Set the feature cache of tests and their child processes, instead of the user's own cache."""
    folder = tmp_path_factory.mktemp("features")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_TL_CACHE", str(folder))
        yield folder


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Reset the thread count: a run in this process may have used all cores, and more threads change the last bits."""
    torch.set_num_threads(1)
