"""Work on the main process, or on one process of each node first, with exceptions that reach all processes."""

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from accelerate import Accelerator

T = TypeVar("T")


class MainProcessError(RuntimeError):
    """Error on the other processes when a process raised an exception that cannot be pickled."""


def on_main_process(accelerator: "Accelerator", work: Callable[[], T]) -> T:
    """Run `work` on the main process; return its result, or raise its exception, on all processes.

    Every exception is forwarded, including `SystemExit` and `KeyboardInterrupt`, so that no process waits for one that
    failed.

    Args:
        accelerator: Accelerator; all processes must call with the same one.
        work: Function to run. Its result must be picklable if there are several processes.

    Raises:
        MainProcessError: On other processes, instead of an exception that cannot be pickled.
    """
    if accelerator.num_processes == 1:
        return work()
    outcome: list[Any] = [None, None]
    failure: BaseException | None = None
    if accelerator.is_main_process:
        try:
            outcome[0] = work()
        except BaseException as error:  # noqa: BLE001  raised again below, on every process
            failure, outcome[1] = error, picklable(error)
    broadcast(accelerator, outcome)
    if failure is not None:
        raise failure
    if outcome[1] is not None:
        raise outcome[1]
    return outcome[0]


def on_processes(accelerator: "Accelerator", ranks: Collection[int], work: Callable[[], T]) -> list[T]:
    """Run `work` on some processes; return their results in order, or raise the first exception, on all processes.

    Args:
        accelerator: Accelerator; all processes must call with the same one.
        ranks: Indices of the processes, in ascending order.
        work: Function to run. Its result must be picklable if there are several processes.

    Raises:
        MainProcessError: On other processes, instead of an exception that cannot be pickled.
    """
    from accelerate.utils import gather_object

    if accelerator.num_processes == 1:
        return [work()]
    outcome: tuple[Any, BaseException | None] = (None, None)
    failure: BaseException | None = None
    if accelerator.process_index in ranks:
        try:
            outcome = (work(), None)
        except BaseException as error:  # noqa: BLE001  raised again below, on every process
            failure, outcome = error, (None, picklable(error))
    outcomes = gather_object([outcome])
    if failure is not None:
        raise failure
    for _, other in outcomes:
        if other is not None:
            raise other
    return [outcomes[rank][0] for rank in ranks]


def on_all_processes(accelerator: "Accelerator", work: Callable[[], T]) -> T:
    """Run `work` on all processes; return its own result, or raise the first exception, on each.

    What a process decides by an exception that it handles, all decide then: no process waits in a collective that
    another does not call.

    Args:
        accelerator: Accelerator; all processes must call with the same one.
        work: Function to run on every process, without communication between them.

    Raises:
        MainProcessError: Instead of an exception of another process that cannot be pickled.
    """
    results: list[T] = []
    on_processes(accelerator, range(accelerator.num_processes), lambda: results.append(work()))
    return results[0]


def node_by_node(accelerator: "Accelerator", work: Callable[[], T]) -> T:
    """Run `work` on one process of each node, then on its others, which find there what the first one has kept.

    Args:
        accelerator: Accelerator; all processes must call with the same one.
        work: Function to run on every process, without communication between them.

    Raises:
        MainProcessError: Instead of an exception of another process that cannot be pickled.
    """
    from accelerate.utils import gather_object

    results: list[T] = []
    is_first = gather_object([accelerator.is_local_main_process])
    for turn in (True, False):
        ranks = [rank for rank, first in enumerate(is_first) if first is turn]
        if ranks:
            on_processes(accelerator, ranks, lambda: results.append(work()))
    return results[0]


def agree(accelerator: "Accelerator", value: T) -> T:
    """Return the main process's value of something that may differ between processes, such as a clock."""
    shared = [value]
    broadcast(accelerator, shared)
    return shared[0]


def broadcast(accelerator: "Accelerator", objects: list[Any]) -> None:
    """Replace `objects`, in place, by those of the main process."""
    from accelerate.utils import broadcast_object_list

    if accelerator.num_processes > 1:
        broadcast_object_list(objects)


def picklable(error: BaseException) -> BaseException:
    """Return a copy of an exception that other processes can receive, without its traceback.

    >>> picklable(ValueError("too large"))
    ValueError('too large')
    >>> picklable(type("LocalError", (Exception,), {})("too large"))
    MainProcessError('a process failed: LocalError: too large')
    """
    import pickle

    try:
        return pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001  an exception's own pickling may raise anything
        return MainProcessError(f"a process failed: {type(error).__name__}: {error}")
