"""`python -m hf_tl` is the command `hf-tl`."""

import atexit
import os
import sys

from hf_tl.cli import main
from hf_tl.reporting.console import TolerantStream


def command() -> None:
    """Run the command of this process, and leave the process without taking everything in it apart.

    Of a run on cached features, Python would spend a tenth on freeing the objects of torch and transformers one by one.
    """
    is_done: list[bool] = []
    atexit.register(_leave, is_done)  # the first that is registered is called last, when all others are done
    main()
    is_done.append(True)


def _leave(is_done: list[bool]) -> None:
    if is_done:  # an error ends in the usual way, with its status
        for stream in (sys.stdout, sys.stderr):
            TolerantStream(stream).flush()
        os._exit(0)


if __name__ == "__main__":
    command()
