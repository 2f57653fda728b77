"""Zip archives as datasets: members that lead out of the folder, links, and more than the disk holds."""

import os
import zipfile
from pathlib import Path

import datasets
import pytest

from hf_tl.data.layout.archives import is_tar, unpack
from hf_tl.errors import DataError

CENTRAL_ENTRY = b"PK\x01\x02"
"""Start of an archive's entry about a member; the unpacked size lies 24 bytes after it, in four bytes."""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path / "cache"


def zipped(file: Path, members: dict[str, bytes]) -> Path:
    file.parent.mkdir(exist_ok=True)
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file


@pytest.mark.parametrize("name", ["../evil.png", "/evil.png", "a/../../evil.png", "a/../../../cache/evil.png"])
def test_a_member_outside_of_the_folder_is_refused(cache: Path, tmp_path: Path, name: str) -> None:
    archive = zipped(tmp_path / "pets.zip", {"cat/1.png": b"1", name: b"2"})
    with pytest.raises(DataError, match=r"pets\.zip has members outside of its folder: .*evil\.png; do not trust it"):
        unpack(archive)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["pets.zip"]


def test_a_link_is_unpacked_as_a_file_of_its_target_s_name(cache: Path, tmp_path: Path) -> None:
    link = zipfile.ZipInfo("cat/link.png")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "pets.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    file = unpack(tmp_path / "pets.zip") / "cat" / "link.png"
    assert not file.is_symlink()
    assert file.read_text() == "/etc/passwd"


def test_an_archive_that_would_fill_the_disk_is_refused_before_it_is_unpacked(cache: Path, tmp_path: Path) -> None:
    archive = zipped(tmp_path / "pets.zip", {f"cat/{number}.png": b"1" for number in range(20_000)})
    content = bytearray(archive.read_bytes())
    at = content.index(CENTRAL_ENTRY)
    while at >= 0:
        content[at + 24 : at + 28] = (2**32 - 2).to_bytes(4, "little")
        at = content.find(CENTRAL_ENTRY, at + 1)
    archive.write_bytes(content)
    with pytest.raises(DataError, match=r"pets\.zip takes 85,899\.3 GB unpacked, and .* GB left; do not trust it"):
        unpack(archive)
    assert not [path for path in cache.rglob("*") if path.is_file()]


def test_an_archive_is_unpacked_once_while_it_stays_the_same(cache: Path, tmp_path: Path) -> None:
    archive = zipped(tmp_path / "pets.zip", {"cat/1.png": b"1"})
    folder = unpack(archive)
    assert folder.parent == cache / "hf_tl_unpacked"
    assert folder.name.startswith("pets-")
    (folder / "mark").touch()
    assert unpack(archive) == folder
    assert (folder / "mark").exists()
    changed = unpack(zipped(archive, {"cat/1.png": b"1", "dog/2.png": b"22"}))
    assert changed != folder
    assert (changed / "dog" / "2.png").read_bytes() == b"22"
    os.utime(archive, ns=(0, 0))
    again = unpack(archive)
    assert again not in (folder, changed)
    assert unpack(zipped(tmp_path / "other" / "pets.zip", {"cat/1.png": b"1"})) not in (folder, changed, again)


@pytest.mark.parametrize(
    "content", [b"", b"PK\x03\x04 no archive", b"<html></html>"], ids=["empty", "start of an archive", "text"]
)
def test_a_file_that_is_no_archive(cache: Path, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "pets.zip").write_bytes(content)
    with pytest.raises(DataError, match=r"^the archive pets\.zip cannot be unpacked: "):
        unpack(tmp_path / "pets.zip")


def test_a_damaged_member_leaves_no_folder(cache: Path, tmp_path: Path) -> None:
    archive = zipped(tmp_path / "pets.zip", {"cat/1.png": b"some bytes"})
    archive.write_bytes(archive.read_bytes().replace(b"some bytes", b"none bytes"))
    for _ in range(2):
        with pytest.raises(DataError, match=r"^the archive pets\.zip cannot be unpacked: Bad CRC"):
            unpack(archive)
    assert not [path for path in cache.rglob("*") if path.is_file()]


def test_names_with_dots_that_stay_inside(cache: Path, tmp_path: Path) -> None:
    folder = unpack(zipped(tmp_path / "pets.zip", {"cat..s/1..png": b"1", "./dog/2.png": b"2"}))
    assert sorted(path.name for path in folder.rglob("*.png")) == ["1..png", "2.png"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [("a.tar", True), ("a.TAR.GZ", True), ("a.tgz", True), ("a.gz", False), ("a.tar.bz2", False), ("atar", False)],
)
def test_names_of_tar_archives(name: str, expected: bool) -> None:
    assert is_tar(name) == expected
