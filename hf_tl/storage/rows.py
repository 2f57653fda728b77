"""Matrices with a row for each image: in memory, or in a temporary file where they are large."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hf_tl.storage.blocks import check_space, reserve

IN_MEMORY = 1 << 30
"""Largest size in bytes of a matrix in memory."""
BLOCK = 1 << 25
"""Size in bytes of the blocks of rows that are processed at a time."""


def new_rows(images: int, values: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return a matrix of undefined values (images, values).

    On the CPU, a large one is mapped from a temporary file without a name (in `TMPDIR`), which the system removes with
    the matrix: its pages are memory that the system can take back.

    Raises:
        OSError: The disk is full or read-only.
    """
    size = images * values * dtype.itemsize
    if device.type != "cpu" or size <= IN_MEMORY:
        return torch.empty(images, values, dtype=dtype, device=device)
    check_space(Path(tempfile.gettempdir(), "rows"), size)
    with tempfile.TemporaryFile() as file:
        reserve(file, size)
        kind = torch.empty(0, dtype=dtype).numpy().dtype
        return torch.from_numpy(np.memmap(file, kind, "r+", shape=(images, values)))


def blocks(rows: Tensor) -> Iterator[slice]:
    """Yield slices that divide a matrix into blocks of rows.

    >>> list(blocks(torch.zeros(3, 2)))
    [slice(0, 3, None)]
    """
    step = max(1, BLOCK // max(1, rows.shape[1] * rows.dtype.itemsize))
    for first in range(0, len(rows), step):
        yield slice(first, min(first + step, len(rows)))
