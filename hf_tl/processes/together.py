"""Work for one process whose result, or exception, all processes get."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from accelerate import Accelerator

T = TypeVar("T")


class MainProcessError(RuntimeError):
    """Raised on the other processes when the main process failed with an exception that cannot be sent to them."""


def on_main_process(accelerator: "Accelerator", work: Callable[[], T]) -> T:
    """Run `work` on the main process, and return its result, or raise its exception, on all processes.

    Every exception is forwarded, `SystemExit` and `KeyboardInterrupt` included, so that no process waits for one that
    has failed.

    Args:
        accelerator: All processes must call with the same accelerator.
        work: Its result must be picklable where there are several processes.

    Raises:
        MainProcessError: On other processes, in place of an exception that cannot be pickled.
    """
    if accelerator.num_processes == 1:
        return work()
    outcome: list[Any] = [None, None]
    failure: BaseException | None = None
    if accelerator.is_main_process:
        try:
            outcome[0] = work()
        except BaseException as error:  # noqa: BLE001  raised again below, on every process
            failure, outcome[1] = error, _picklable(error)
    broadcast(accelerator, outcome)
    if failure is not None:
        raise failure
    if outcome[1] is not None:
        raise outcome[1]
    return outcome[0]


def agree(accelerator: "Accelerator", value: T) -> T:
    """Return the main process's value of something that the processes may see differently, such as a clock."""
    shared = [value]
    broadcast(accelerator, shared)
    return shared[0]


def broadcast(accelerator: "Accelerator", objects: list[Any]) -> None:
    """Replace `objects`, in place, by those of the main process."""
    from accelerate.utils import broadcast_object_list

    if accelerator.num_processes > 1:
        broadcast_object_list(objects)


def _picklable(error: BaseException) -> BaseException:
    import pickle

    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001  an exception's own pickling may raise anything
        return MainProcessError(f"the main process failed: {type(error).__name__}: {error}")
    return error
