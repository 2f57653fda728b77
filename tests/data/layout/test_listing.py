"""Listings of real folders: links, hidden files, and names of every kind."""

import os
from pathlib import Path

import pytest
from data.pictures import picture

from hf_tl.data.datasets import load_data
from hf_tl.data.layout.listing import Listing, count_suffixes


def write(root: Path, *files: str) -> None:
    for number, file in enumerate(files):
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(number).save(path)


def test_links_that_lead_nowhere_are_noted(tmp_path: Path) -> None:
    root = tmp_path / "pets"
    write(root, *(f"{name}/{number}.png" for name in ("cat", "dog") for number in range(4)))
    for number in range(4, 8):
        (root / "cat" / f"{number}.png").symlink_to(tmp_path / "gone" / f"{number}.png")
    data = load_data(str(root))
    assert sum(map(sum, (data.class_counts(split) for split in data.splits))) == 8
    assert any(note.startswith("4 links that lead nowhere were left out: cat/4.png") for note in data.notes)


def test_links_to_files_and_folders_are_followed_and_circles_end(tmp_path: Path) -> None:
    root = tmp_path / "pets"
    write(tmp_path / "store", "1.png", "2.png")
    write(root, "cat/0.png")
    (root / "dog").symlink_to(tmp_path / "store")
    (root / "cat" / "1.png").symlink_to(tmp_path / "store" / "1.png")
    (root / "cat" / "circle").symlink_to(root)
    listing = Listing.read(root)
    assert [file for file in listing.files if "circle" not in file] == [
        "cat/0.png",
        "cat/1.png",
        "dog/1.png",
        "dog/2.png",
    ]
    assert not [file for file in listing.files if "circle" in file]


def test_hidden_files_and_folders_of_systems_are_not_listed(tmp_path: Path) -> None:
    write(tmp_path, "cat/0.png", ".git/0.png", "__MACOSX/0.png", "@eaDir/0.png", "cat/.trash/0.png", "__main__/0.png")
    assert Listing.read(tmp_path).files == ("__main__/0.png", "cat/0.png")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads every folder")
def test_folders_that_cannot_be_read_are_an_error(tmp_path: Path) -> None:
    from hf_tl.errors import DataError

    write(tmp_path, "cat/0.png", "dog/0.png")
    (tmp_path / "dog").chmod(0)
    with pytest.raises(DataError, match="the folder dog/ cannot be read"):
        Listing.read(tmp_path)


def test_listing_of_names_alone_equals_that_of_the_disk(tmp_path: Path) -> None:
    files = ["train/cat/0.png", "train/dog/1.png", "test/cat/2.png"]
    write(tmp_path, *files)
    assert sorted(Listing.read(tmp_path).files) == sorted(Listing.of(files).files)
    assert set(Listing.read(tmp_path).folders) == set(Listing.of(files).folders)


def test_links_of_every_kind(tmp_path: Path) -> None:
    root = tmp_path / "pets"
    write(root, "cat/0.png")
    (root / "cat" / "gone.png").symlink_to(root / "none.png")
    (root / "again").symlink_to(root / "cat")
    (root / "up").symlink_to(root / "cat" / "..")
    (root / ".hidden").symlink_to(root / "none.png")
    listing = Listing.read(root)
    assert listing.files == ("again/0.png", "cat/0.png")
    assert listing.folders == ("again", "cat", "up")
    assert listing.broken == ("again/gone.png", "cat/gone.png")


def test_kinds_of_files() -> None:
    listing = Listing.of(["b.PNG", "a/x.csv", "a/y.txt", "a.jpg", ".z.png", "z/.git/1.png", "none"], folders=["e", "a"])
    assert listing.files == ("a.jpg", "a/x.csv", "a/y.txt", "b.PNG", "none")
    assert (listing.images(), listing.tables(), listing.others()) == (
        ["a.jpg", "b.PNG"], ["a/x.csv"], ["a/y.txt", "none"],
    )  # fmt: skip
    assert (listing.folders, listing.broken) == (("a", "e"), ())


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["b.parquet", "a.PARQUET", "x.txt"], ["a.PARQUET", "b.parquet"]),
        (["b.parquet", "1.png"], []),
        (["b.parquet", "t.csv"], []),
        (["x.txt"], []),
    ],
)
def test_files_of_one_suffix(files: list[str], expected: list[str]) -> None:
    assert Listing.of(files).only(".parquet") == expected


def test_the_tree_of_a_listing() -> None:
    tree = Listing.of(["a/b/1.png", "a/2.png", "3.png", "c/x.txt"], folders=["a/d"]).tree
    assert (tree.path, tree.name, tree.files, tree.count, list(tree.folders)) == ("", "", ["3.png"], 3, ["a", "c"])
    assert list(tree.filled()) == ["a"]
    inner = tree.at("a/b")
    assert (inner.path, inner.name, inner.files, inner.count) == ("a/b", "b", ["1.png"], 1)
    assert sorted(tree.images()) == ["3.png", "a/2.png", "a/b/1.png"]
    assert list(inner.images()) == ["a/b/1.png"]
    assert [tree.has(path) for path in ("a", "a/b", "a/d", "b", "a/c", "a/b/1.png")] == [True] * 3 + [False] * 3
    assert tree.at("") is tree
    assert tree.at("new/one").path == "new/one"


def test_suffixes_are_counted_from_the_most_frequent() -> None:
    files = ["x/a.txt", "b.TXT", "LICENSE", "y/LICENSE", "c.md", "d.txt"]
    assert count_suffixes(files) == ["3 .txt", "2 LICENSE", "1 .md"]
