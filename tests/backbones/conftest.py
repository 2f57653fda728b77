"""Processes that load the models saved by the tests of this folder."""

from collections.abc import Iterator

import pytest

pytest.register_assert_rewrite("backbones.checks")

from backbones.reload import Reloader  # noqa: E402


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reloader]:
    """Yield a process without hf_tl."""
    with Reloader(tmp_path_factory.mktemp("plain")) as reloader:
        yield reloader


@pytest.fixture(scope="session")
def with_classics(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reloader]:
    """Yield a process that has imported `hf_tl.classics`."""
    with Reloader(tmp_path_factory.mktemp("classics"), has_classics=True) as reloader:
        yield reloader
