"""Folders of one or two images and classes are read by the same rules as large ones."""

import pytest

from hf_tl.data.grouping.series import find_series
from hf_tl.data.layout.folders import plan_folders
from hf_tl.data.layout.listing import Listing
from hf_tl.data.layout.names import split_of
from hf_tl.errors import DataError

WORDS = [
    *("set", "sets", "data", "dataset", "image", "images", "img", "imgs", "picture", "pictures", "pic", "pics"),
    *("photo", "photos", "split", "splits", "folder", "folders", "file", "files", "subset", "part", "my", "the", "of"),
    *("full", "final", "all"),
]


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize(("part", "split"), [("train", "train"), ("val", "validation"), ("Test", "test")])
def test_words_beside_the_name_of_a_split(word: str, part: str, split: str) -> None:
    assert split_of(f"{part}_{word}") == split_of(f"{word.upper()} {part}") == split
    assert split_of(f"{part}{word}") == split_of(f"{part}{word}".upper()) == split
    assert split_of(f"{word}_{word}") is None


@pytest.mark.parametrize("classes", [["cat", "dog"], ["cat", "dog", "owl"]])
def test_classes_with_one_folder_each(classes: list[str]) -> None:
    names = [f"{name}/pictures of {name}/1.jpg" for name in classes]
    assert plan_folders(Listing.of(names)).counts() == {"train": dict.fromkeys(classes, 1)}


def test_a_mask_of_one_image() -> None:
    with pytest.raises(DataError, match=r"exclude_folders masks"):
        plan_folders(Listing.of(["images/1.jpg", "masks/1.png"]))
    assert plan_folders(Listing.of(["images/1.jpg", "masks/2.png"])).counts() == {"train": {"images": 1, "masks": 1}}


def test_a_folder_of_images_and_folders_is_a_class() -> None:
    plan = plan_folders(Listing.of(["pets/1.jpg", "pets/cat/2.jpg", "pets/dog/3.jpg"]))
    assert plan.counts() == {"train": {"pets": 3}}
    assert plan.notes == ("images in subfolders count for their class folder: pets/cat, pets/dog",)


def test_images_beside_the_folders_of_sessions_are_in_no_series() -> None:
    kinds = ("cat", "dog")
    paths = [f"{kind}/session{number}/{view}.jpg" for kind in kinds for number in range(5) for view in range(2)]
    paths += [f"{kind}/{view}.jpg" for kind in kinds for view in ("front", "side", "back")]
    series = find_series({"train": paths}, {"train": [[path[:3]] for path in paths]})
    assert series is not None
    assert series.names[:3] == ("session0", "session0", "session1")
    assert set(series.names[20:]) == {None}
