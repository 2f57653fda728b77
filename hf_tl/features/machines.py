"""Cache folders of several machines: who sees which folder, and rows that travel between them."""

import contextlib
import os
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from hf_tl.features.feature_store import FeatureRows

if TYPE_CHECKING:
    from accelerate import Accelerator

BLOCK_BYTES = 64 * 2**20
"""Size of the blocks in which rows travel."""


def keepers_of(accelerator: "Accelerator", folder: Path) -> tuple[int, ...]:
    """Return, for each process, the process that keeps the cache folder that it sees: the first one that sees it.

    Machines with a common file system have one keeper, others one each. Whether a folder is common is tried with a
    file, because paths do not tell. All processes must call this.
    """
    from accelerate.utils import gather_object

    size, rank = accelerator.num_processes, accelerator.process_index
    if int(os.environ.get("LOCAL_WORLD_SIZE", "1")) == size:
        return (0,) * size
    keepers: dict[int, int] = {}
    while remaining := [process for process in range(size) if process not in keepers]:
        keeper = remaining[0]
        mark = folder / f".keeper-{gather_object([uuid.uuid4().hex])[keeper]}"
        if rank == keeper:
            with contextlib.suppress(OSError):  # a folder that cannot be written to is noticed when an entry begins
                folder.mkdir(parents=True, exist_ok=True)
                mark.touch()
        accelerator.wait_for_everyone()
        seen = gather_object([mark.exists()])
        keepers |= {process: keeper for process in remaining if seen[process] or process == keeper}
        if rank == keeper:
            with contextlib.suppress(OSError):
                mark.unlink()
    return tuple(keepers[process] for process in range(size))


def exchange(
    accelerator: "Accelerator", rows: FeatureRows, keepers: Sequence[int], missing: Sequence[int]
) -> OSError | None:
    """Send each process's share of the rows to the keepers of other folders that lack them. All processes must call it.

    Args:
        accelerator: Accelerator of the processes.
        rows: Rows of the folder that this process sees; it has written its own share, or finds it there.
        keepers: Result of `keepers_of`.
        missing: Keepers whose folder lacks the entry.

    Returns:
        The error of writing the rows of others, if any.
    """
    from torch import distributed

    size, rank, problem = accelerator.num_processes, accelerator.process_index, None
    step = max(1, BLOCK_BYTES // sum(layout.bytes for layout in rows.layouts))
    for source in range(size):
        takers = {keeper for keeper in missing if keeper != keepers[source]}
        first, end = source * rows.images // size, (source + 1) * rows.images // size
        for start in range(first, end, step) if takers else ():
            places = range(start, min(start + step, end))
            tensors = rows.read(places) if rank == source else rows.empty(len(places))
            for tensor in tensors:
                sent = tensor.view(-1).view(torch.uint8).to(accelerator.device)
                distributed.broadcast(sent, source)
                tensor.view(-1).view(torch.uint8).copy_(sent)
            if rank in takers and problem is None:
                try:
                    rows.write_at(places, tensors)
                except OSError as error:
                    problem = error
    return problem
