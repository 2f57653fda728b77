"""Training in one process of a run of several, which the others wait for."""

import contextlib
from collections.abc import Iterator

STANDALONE = {
    "RANK": 0,
    "LOCAL_RANK": -1,
    **dict.fromkeys(("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE"), 1),
    "ACCELERATE_USE_FSDP": "false",
}
"""Environment variables as without a launcher."""


@contextlib.contextmanager
def single_process() -> Iterator[None]:
    """Create the accelerators of this context for this process and its device alone.

    All accelerators of a process share their state. Those from before have it back after the context, with their
    processes and their number of accumulation steps.
    """
    from accelerate import PartialState
    from accelerate.state import AcceleratorState, GradientState
    from accelerate.utils import patch_environment

    device = PartialState().device
    shared = [kind._shared_state for kind in (PartialState, AcceleratorState, GradientState)]
    before = [dict(state) for state in shared]
    try:
        for state in shared:
            state.clear()  # in place: all instances refer to it
        with patch_environment(**STANDALONE, ACCELERATE_TORCH_DEVICE=device):
            yield
    finally:
        for state, values in zip(shared, before, strict=True):
            state.clear()
            state.update(values)
