import errno
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hf_tl.storage import folders
from hf_tl.storage.exchange import exchange
from hf_tl.storage.flush import flush_file, flush_folder
from hf_tl.storage.folders import (
    atomic_folder,
    partial_folder,
    partial_of,
    remove_leftovers,
    replace_files,
    replaced_file,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def write(folder: Path, content: str, *, replace: bool = False) -> None:
    with atomic_folder(folder, replace=replace) as partial:
        (partial / "deep").mkdir()
        (partial / "deep" / "file").write_text(content, encoding="utf-8")


def content(folder: Path) -> str:
    return (folder / "deep" / "file").read_text(encoding="utf-8")


def test_a_folder_appears_whole(tmp_path: Path) -> None:
    final = tmp_path / "new" / "folder"
    with atomic_folder(final) as partial:
        (partial / "file").touch()
        assert not final.exists()
    assert names(final) == ["file"]
    assert names(final.parent) == ["folder"]


def fail_to_write(folder: Path) -> None:
    with atomic_folder(folder, replace=True) as partial:
        (partial / "file").touch()
        raise KeyError


def test_an_exception_leaves_what_was_there(tmp_path: Path) -> None:
    write(tmp_path / "folder", "old")
    with pytest.raises(KeyError):
        fail_to_write(tmp_path / "folder")
    assert content(tmp_path / "folder") == "old"
    assert names(tmp_path) == ["folder"]


def test_an_existing_folder_is_replaced_only_when_asked(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    write(tmp_path / "folder", "first")  # an empty folder is replaced
    with pytest.raises(FileExistsError):
        write(tmp_path / "folder", "second")
    assert content(tmp_path / "folder") == "first"
    write(tmp_path / "folder", "second", replace=True)
    assert content(tmp_path / "folder") == "second"
    assert names(tmp_path) == ["folder"]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems replace a folder in two steps")
def test_two_folders_are_exchanged_in_one_step(tmp_path: Path) -> None:
    for name in ("first", "second"):
        write(tmp_path / name, name)
    if not exchange(tmp_path / "first", tmp_path / "second"):
        pytest.skip("the file system cannot")
    assert [content(tmp_path / name) for name in ("first", "second")] == ["second", "first"]
    with pytest.raises(FileNotFoundError, match="third"):
        exchange(tmp_path / "first", tmp_path / "third")


@pytest.mark.parametrize("in_steps", [False, True])
def test_an_old_folder_is_there_until_the_new_one_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_steps: bool
) -> None:
    """The disk fails at the rename of the new folder, and at nothing before or after it."""
    write(tmp_path / "folder", "old")
    replace = os.replace

    def failing(*paths: Path) -> None:
        if partial_of(tmp_path / "folder") in paths:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        replace(*paths)

    def exchange_fails(*paths: Path) -> bool:
        if in_steps:
            return False
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "replace", failing)
    monkeypatch.setattr(folders, "exchange", exchange_fails)
    with pytest.raises(OSError, match="Input/output"):
        write(tmp_path / "folder", "new", replace=True)
    assert content(tmp_path / "folder") == "old"
    assert names(tmp_path) == ["folder"]


class Killed(BaseException):
    pass


def kill_at(monkeypatch: pytest.MonkeyPatch, call: int) -> None:
    """End the process before the `call`-th rename, on a system that cannot exchange folders."""
    replace, calls = os.replace, iter(range(1000))

    def counted(*paths: Path) -> None:
        if next(calls) == call:
            raise Killed
        replace(*paths)

    monkeypatch.setattr(os, "replace", counted)
    monkeypatch.setattr(folders, "exchange", lambda *paths: False)
    monkeypatch.setattr(folders, "remove", lambda folder: None)  # a killed process does not clean up


@pytest.mark.parametrize("call", [0, 1])
def test_a_kill_while_replacing_loses_neither(tmp_path: Path, call: int) -> None:
    write(tmp_path / "folder", "old")
    with pytest.MonkeyPatch.context() as patch:
        kill_at(patch, call)
        with pytest.raises(Killed):
            write(tmp_path / "folder", "new", replace=True)
    with pytest.raises(KeyError):
        fail_to_write(tmp_path / "folder")
    assert content(tmp_path / "folder") == "old"
    write(tmp_path / "folder", "new", replace=True)
    assert content(tmp_path / "folder") == "new"
    assert names(tmp_path) == ["folder"]


def test_the_folder_that_a_link_leads_to_is_replaced(tmp_path: Path) -> None:
    write(tmp_path / "disk" / "folder", "first")
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "folder", target_is_directory=True)
    for text in ("second", "third"):
        write(tmp_path / "link", text, replace=True)
        assert content(tmp_path / "disk" / "folder") == text
    assert (tmp_path / "link").is_symlink()
    assert names(tmp_path) == ["disk", "link"]
    assert names(tmp_path / "disk") == ["folder"]


def fail_to_replace(file: Path) -> None:
    with replaced_file(file) as partial:
        partial.write_text("third", encoding="utf-8")
        raise KeyError


def test_a_file_is_replaced_by_a_whole_one_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "file"
    for text in ("first", "second"):
        with replaced_file(file) as partial:
            partial.write_text(text, encoding="utf-8")
    with pytest.raises(KeyError):
        fail_to_replace(file)
    assert file.read_text(encoding="utf-8") == "second"
    assert names(tmp_path) == ["file"]


def test_leftovers_go(tmp_path: Path) -> None:
    for name in (".partial-a", ".replaced-b", "kept"):
        (tmp_path / name).mkdir()
    remove_leftovers(tmp_path)
    assert names(tmp_path) == ["kept"]


FILES = ("model.safetensors", "config.json", "deep/figure.png", "run.json")


def new_files(folder: Path) -> Path:
    (folder / "deep").mkdir(parents=True)
    for name in FILES:
        (folder / name).write_text("new", encoding="utf-8")
    return folder


def test_files_take_the_place_of_old_ones_the_record_last(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("model.safetensors", "run.json", "old.png", "mine.txt"):
        (folder / name).write_text("old", encoding="utf-8")
    with partial_folder(folder / "files") as partial:
        new_files(partial)
        replace_files(partial, folder, ("config.json", "run.json"), obsolete=("old.png", "run.json", "never.png"))
    assert names(folder) == ["config.json", "deep", "mine.txt", "model.safetensors", "run.json"]
    assert {(folder / name).read_text(encoding="utf-8") for name in FILES} == {"new"}


@pytest.mark.parametrize("call", range(4))
def test_a_kill_between_files_leaves_a_whole_file_of_each_name(tmp_path: Path, call: int) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("model.safetensors", "run.json"):
        (folder / name).write_text("old", encoding="utf-8")
    partial = new_files(tmp_path / "partial")
    with pytest.MonkeyPatch.context() as patch:
        kill_at(patch, call)
        with pytest.raises(Killed):
            replace_files(partial, folder)
    assert (folder / "run.json").read_text(encoding="utf-8") == "old"
    assert (folder / "model.safetensors").read_text(encoding="utf-8") in ("old", "new")


def refuse(number: int) -> Callable[..., None]:
    def fail(*arguments: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


def test_a_system_that_cannot_flush_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", refuse(errno.EINVAL))
    flush_folder(tmp_path)
    monkeypatch.setattr(os, "open", refuse(errno.EACCES))
    flush_folder(tmp_path)


def test_a_broken_disk_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(os, "fsync", refuse(errno.EIO))
    with pytest.raises(OSError, match="Input/output"):
        flush_folder(tmp_path)
    with pytest.raises(OSError, match="Input/output"):
        flush_file(tmp_path / "file")


def test_the_partial_folder_is_a_neighbor(tmp_path: Path) -> None:
    assert partial_of(tmp_path / "a").parent == tmp_path


def test_an_interruption_waits_for_the_renames(tmp_path: Path) -> None:
    """Ctrl-C arrives at the first of two renames."""
    folder, partial = tmp_path / "out", tmp_path / "new"
    for place, text in ((folder, "old"), (partial, "new")):
        place.mkdir()
        for name in ("a", "b"):
            (place / name).write_text(text, encoding="utf-8")

    def interrupt(event: str, arguments: tuple[object, ...]) -> None:
        if event == "os.rename" and Path(str(arguments[0])).parent == partial and not interrupted:
            interrupted.append(event)
            signal.raise_signal(signal.SIGINT)

    interrupted: list[str] = []
    sys.addaudithook(interrupt)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            replace_files(partial, folder, last=("b",))
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert interrupted
    assert [(folder / name).read_text(encoding="utf-8") for name in ("a", "b")] == ["new", "new"]
