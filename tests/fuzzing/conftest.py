"""Parts of the tests of mutated files."""

import pytest
from fuzzing.reading import PARTS
from parts import parts


@pytest.fixture(params=parts(PARTS))
def part(request: pytest.FixtureRequest) -> int:
    """Return the number of the part."""
    number: int = request.param
    return number
