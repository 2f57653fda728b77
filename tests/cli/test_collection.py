"""Garbage collection during imports: paused, and what was imported is excluded while a command runs."""

import gc

from hf_tl.processes.memory import paused_collection, uncollected


def test_what_is_imported_while_a_command_runs_is_excluded_until_its_end() -> None:
    with uncollected():
        before = gc.get_freeze_count()
        with paused_collection():
            assert not gc.isenabled()
            imported = [[] for _ in range(1000)]
        assert gc.isenabled()
        assert gc.get_freeze_count() >= before + len(imported)
    assert gc.get_freeze_count() == 0


def test_nothing_is_excluded_in_a_program_of_its_own() -> None:
    with paused_collection():
        assert not gc.isenabled()
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0
