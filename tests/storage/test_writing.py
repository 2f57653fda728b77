"""Errors of writes: path, cause and advice, in place of errors of the system and of libraries."""

import errno
import os
import tempfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from hf_tl.errors import CheckpointError, ConfigError, SaveError
from hf_tl.storage.text import replace_text
from hf_tl.storage.writing import failure_of, library_writing, temporary_folder, writing


def full(path: Path | None = None) -> OSError:
    place = [] if path is None else [str(path)]
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), *place)


def test_an_error_of_the_system_names_the_path_and_the_cause(tmp_path: Path) -> None:
    file = tmp_path / "none" / "text"
    expected = rf"^the table {file} cannot be written: No such file or directory; name another$"
    with pytest.raises(ConfigError, match=expected), writing(f"the table {file}", ConfigError, "name another"):
        file.write_text("text", encoding="utf-8")


def test_an_error_of_a_library_in_rust_names_the_cause(tmp_path: Path) -> None:
    expected = r"^the model cannot be written: No such file or directory$"
    with pytest.raises(SaveError, match=expected), writing("the model"):
        save_file({"weight": torch.zeros(1)}, tmp_path / "none" / "model.safetensors")


@pytest.mark.parametrize("error", [ValueError("no number"), CheckpointError("another"), KeyboardInterrupt()])
def test_other_errors_pass(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, writing("a file"):
        raise error
    assert caught.value is error


def test_a_failure_of_the_disk_behind_the_error_of_a_library() -> None:
    error = RuntimeError("the download failed")
    error.__cause__ = full(Path("/disk/blob"))
    expected = r"^/disk/blob cannot be written: No space left on device; free some space"
    with pytest.raises(SaveError, match=expected), library_writing():
        raise error


def test_a_missing_file_is_no_failure_of_the_disk(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), library_writing():
        (tmp_path / "none").read_bytes()
    assert failure_of(None) is None
    error, cause = ValueError("one"), OSError("the other")
    error.__cause__, cause.__cause__ = cause, error
    assert failure_of(error) is None
    assert failure_of(SaveError("an error that says all")) is None


def test_a_failure_without_a_path_names_the_folders_of_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", "/disk/home")
    monkeypatch.setattr(tempfile, "tempdir", "/disk/tmp")
    failure = failure_of(full())
    assert failure is not None
    assert failure.startswith("a file cannot be written: No space left on device")
    assert "HF_HOME (/disk/home" in failure
    assert "TMPDIR (/disk/tmp)" in failure


def test_a_temporary_folder_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    expected = rf"small images in {tmp_path} cannot be written: No such file or directory.*TMPDIR"
    with pytest.raises(SaveError, match=expected), temporary_folder("small images") as folder:
        (folder / "none" / "part").touch()
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(tempfile, "tempdir", "/proc/none")
    expected = "small images in /proc/none cannot be written: No such file"
    with pytest.raises(SaveError, match=expected), temporary_folder("small images"):
        pass


def test_a_text_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    file = tmp_path / "text"
    replace_text(file, "old")
    with pytest.raises(UnicodeEncodeError):
        replace_text(file, "new \ud800")
    assert [(path.name, path.read_text(encoding="utf-8")) for path in tmp_path.iterdir()] == [("text", "old")]
