"""Reading and writing of the tables of an index, without which everything works too."""

from collections.abc import Callable

import pyarrow as pa

from hf_tl.reporting.console import say
from hf_tl.storage.tables import KeptTable
from hf_tl.storage.writing import cause_of


def read(table: KeptTable, what: str) -> pa.Table:
    """Return what is known from earlier runs; a damaged table is noted and counts as empty.

    Args:
        table: Table of the cache.
        what: What is read again without it, for the message.
    """
    known, damage = table.read()
    if damage:
        say(None, f"Reading {what} again: their index is damaged ({damage})")
    return known


def keep(table: KeptTable, change: Callable[[pa.Table], pa.Table]) -> None:
    """Replace a table by a function of what it holds; where that is not possible, say so."""
    try:
        table.update(change)
    except OSError as error:
        say(None, f"Continuing without an index of the images, which cannot be written ({cause_of(error)})")
