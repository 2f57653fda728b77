from typing import Any

import pytest
from publish.records import make_record


@pytest.fixture
def record() -> dict[str, Any]:
    return make_record()
