"""scripts/check_mutants.py on a small project: what it draws, and what becomes of each mutant."""

import sys
from argparse import Namespace
from pathlib import Path

import pytest

pytest.importorskip("mutmut", reason="mutants are made by mutmut")
sys.path.append(str(Path(__file__).parents[1] / "scripts"))
from check_mutants import Group, Result, check, table
from mutation.mutants import sample

CODE = '''"""Prices."""

LIMIT = 3


def price(number):
    """Return a price."""
    if number < 0:
        raise ValueError("the number is below " + "zero")
    return number * 2 if number < LIMIT else number


def countdown(number):
    while number > 0:
        number -= 1
    return number


def unused(number):
    return number + 1
'''
TESTS = """import pytest
from shop import countdown, price

@pytest.fixture(scope="session")
def shared():
    return countdown(7)

def test_with_a_shared_fixture(shared):
    assert shared == 0 and price(4) == 4

def test_price():
    assert [price(number) for number in range(5)] == [0, 2, 4, 3, 4]

def test_that_fails():
    assert price(1) == 1
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    root = tmp_path / "copy"
    (root / "tests").mkdir(parents=True)
    (root / "shop.py").write_text(CODE)
    (root / "tests" / "test_shop.py").write_text(TESTS)
    return root


def test_a_sample_is_drawn_by_its_seed(project: Path) -> None:
    everything, total = sample(project, ["shop.py"], 1000, 0)
    assert len({mutant.source for mutant in everything}) == len(everything) <= total
    assert sample(project, ["shop.py"], 5, 1)[0] == sample(project, ["shop.py"], 5, 1)[0]
    assert sample(project, ["shop.py"], 5, 1)[0] != sample(project, ["shop.py"], 5, 2)[0]
    assert all(mutant in everything for mutant in sample(project, ["shop.py"], 5, 1)[0])


def test_texts_of_errors_are_left_out(project: Path) -> None:
    everything, total = sample(project, ["shop.py"], 1000, 0)
    assert not [mutant for mutant in everything if "raise" in mutant.change]
    assert len(everything) < total
    assert {mutant.line for mutant in everything} == {3, 8, 10, 14, 15, 20}


@pytest.mark.long
def test_the_outcome_of_each_mutant(project: Path) -> None:
    group = Group(("shop.py",), ("tests",))
    _, results = check("shop", group, project, Namespace(sample=1000, seed=0, budget=20, wait=5))
    outcomes = {(result.line, result.change.splitlines()[-1]): result for result in results}
    assert outcomes[3, "+ LIMIT = 4"].outcome == "killed"
    assert outcomes[3, "+ LIMIT = 4"].test == "tests/test_shop.py::test_price"
    assert outcomes[8, "+ if number <= 0:"].killed
    assert outcomes[8, "+ if number < 1:"].killed
    assert outcomes[15, "+ number += 1"].outcome == "out of time"
    assert outcomes[14, "+ while number > 1:"].killed
    assert {"test_with_a_shared_fixture" in result.test for (line, _), result in outcomes.items() if line == 14} == {
        True
    }
    assert {result.outcome for (line, _), result in outcomes.items() if line == 20} == {"not run by any test"}
    assert (project / "shop.py").read_text() == CODE  # each mutant is undone


def test_the_table_states_the_share_with_its_interval() -> None:
    results = [Result("shop.py", 1, "", outcome) for outcome in ["killed"] * 8 + ["out of time", "survived"]]
    assert table({"shop": (1234, results)}).splitlines()[-1] == "| shop | 1,234 | 10 | 9 | 1 | 90% (60%–98%) |"
