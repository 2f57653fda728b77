"""`hf-tl cache`: listing and removal."""

import os
import re
import time
from pathlib import Path

import pytest
import torch

from hf_tl.cli import ERROR_STATUS, main
from hf_tl.features.description import Layout
from hf_tl.features.feature_store import FeatureRows, FeatureStore, key_of

LAYOUTS = [Layout((1, 250), torch.float32)]


def add_entry(folder: Path, title: str, images: int, days_ago: int) -> Path:
    store, key = FeatureStore(folder, 10**9), key_of({"title": title})
    partial = store.begin(key, LAYOUTS, images)
    rows = FeatureRows(partial, LAYOUTS, images, writable=True)
    rows.write(0, [torch.ones(images, 1, 250)])
    store.commit(key, title, rows, {"title": title})
    then = time.time() - days_ago * 24 * 3600
    os.utime(folder / key, (then, then))
    return folder / key


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    add_entry(tmp_path / "features", "train, 1,000 images before head", 1000, days_ago=2)
    add_entry(tmp_path / "features", "validation, 200 images before head", 200, days_ago=1)
    return tmp_path / "features"


def test_entries_are_listed_from_the_most_recently_used(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["cache", "--feature_cache_dir", str(folder)])
    first, second, total = capsys.readouterr().out.splitlines()
    day = r"last used \d{4}-\d\d-\d\d \d\d:\d\d"
    assert re.fullmatch(rf" *0\.2 MB  {day}  validation, 200 images before head", first)
    assert re.fullmatch(rf" *1\.0 MB  {day}  train, 1,000 images before head", second)
    assert total == f"2 entries, 1.2 MB in {folder}"


def test_clear_removes_entries_and_prints_the_freed_bytes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["cache", "clear", "--feature_cache_dir", str(folder)])
    assert capsys.readouterr().out == f"1.2 MB freed in {folder}\n"
    main(["cache", "list", "--feature_cache_dir", str(folder)])
    assert capsys.readouterr().out == f"0 entries, 0.0 MB in {folder}\n"


def test_the_environment_names_the_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_TL_CACHE", str(folder))
    main(["cache"])
    assert capsys.readouterr().out.endswith(f"2 entries, 1.2 MB in {folder}\n")


def test_a_missing_folder_is_empty_and_is_not_created(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for action in ("list", "clear"):
        main(["cache", action, "--feature_cache_dir", str(tmp_path / "none")])
        assert "0.0 MB" in capsys.readouterr().out
    assert not (tmp_path / "none").exists()


def test_another_action_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["cache", "remove", "--feature_cache_dir", str(folder)])
    assert stop.value.code == ERROR_STATUS
    assert "action takes one of list, clear, found remove" in capsys.readouterr().err
    assert len(list(folder.iterdir())) == 2
