"""`python -m hf_tl` is the command `hf-tl`."""

import atexit
import os
import sys

from hf_tl.cli import main
from hf_tl.reporting.console import TolerantStream


def command() -> None:
    """Run the command of this process, and exit without freeing its objects.

    Freeing the objects of torch and transformers one by one would take a tenth of the time of a run on cached features.
    """
    if not TolerantStream(sys.stderr).isatty():
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")  # bars of carriage returns are not for files
    is_done: list[bool] = []
    atexit.register(_leave, is_done)  # the first function registered is called last
    main()
    is_done.append(True)


def _leave(is_done: list[bool]) -> None:
    if is_done:  # an error exits in the usual way, with its status
        for stream in (sys.stdout, sys.stderr):
            TolerantStream(stream).flush()
        os._exit(0)


if __name__ == "__main__":
    command()
