"""Single error type for damaged records in the code that renders them."""

from collections.abc import Iterator
from contextlib import contextmanager

from jinja2 import UndefinedError

from hf_tl.errors import PublishError


@contextmanager
def record_errors(failure: str) -> Iterator[None]:
    """Turn errors of a missing value of a record, or one of an unexpected type, into a `PublishError`.

    `RunRecord` checks the types of its own fields. Metrics by name, curves, stage depths and recommendations are plain
    values inside them.

    Args:
        failure: Failed action, for example `the card cannot be written`.
    """
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, UndefinedError) as error:
        raise PublishError(
            f"{failure}: the record (run.json) lacks or mixes up {error}; save the model again, or fetch it again"
        ) from error
