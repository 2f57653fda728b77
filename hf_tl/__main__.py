"""`python -m hf_tl` is the command `hf-tl`."""

import atexit
import os
import sys
from collections.abc import Sequence

from hf_tl.cli import INTERRUPTED_STATUS, main
from hf_tl.errors import TERMINATED_STATUS
from hf_tl.reporting.console import TolerantStream


def command(arguments: Sequence[str] | None = None) -> None:
    """Run the command of this process, and exit without freeing its objects.

    Freeing the objects of torch and transformers one by one would take a tenth of the time of a run on cached features.
    A process of several that fails, or one that a signal ends, frees none either: threads of torch.distributed or of a
    server, which still run, could abort it in place of its exit status.

    Args:
        arguments: Words after `hf-tl` (default: those of the process).
    """
    if not TolerantStream(sys.stderr).isatty():
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")  # bars of carriage returns are not for files
    statuses: list[int] = []
    atexit.register(_leave, statuses)  # the first function registered is called last
    try:
        main(arguments)
        statuses.append(0)
    except SystemExit as end:
        statuses.append(end.code if isinstance(end.code, int) else int(end.code is not None))
        raise
    except BaseException:
        statuses.append(1)
        raise


def _leave(statuses: list[int]) -> None:
    if statuses and (statuses[0] in (0, INTERRUPTED_STATUS, TERMINATED_STATUS) or "RANK" in os.environ):
        for stream in (sys.stdout, sys.stderr):
            TolerantStream(stream).flush()
        os._exit(statuses[0])


if __name__ == "__main__":
    command()
