"""Rows as a table of pandas, which is optional."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hf_tl.errors import ConfigError

if TYPE_CHECKING:
    import pandas


def to_frame(rows: Iterable[Mapping[str, Any]], columns: Sequence[str] | None = None) -> "pandas.DataFrame":
    """Return rows as a table of pandas.

    Args:
        rows: Values by column.
        columns: Columns in order (default: those of the rows).

    Raises:
        ConfigError: pandas is not installed.
    """
    try:
        import pandas
    except ImportError as error:
        raise ConfigError("to_pandas() needs pandas: pip install pandas") from error
    return pandas.DataFrame(list(rows), columns=None if columns is None else list(columns))
