"""A trained teacher for all tests."""

from pathlib import Path

import pytest
from distillation.taught import TEACHER, train_teacher

import hf_tl


@pytest.fixture(scope="session")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    result = train_teacher(tmp_path_factory.mktemp("taught") / TEACHER)
    assert result.test_accuracy == 1, "the teacher must know what it teaches"
    assert isinstance(result, hf_tl.RunResult)
    return result.output_dir
