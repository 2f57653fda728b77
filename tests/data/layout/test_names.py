"""Words and suffixes that decide how a folder is read: of splits, of masks, of systems, and of images."""

import pytest
from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder

from hf_tl.data.layout.folders import plan_folders
from hf_tl.data.layout.listing import Listing
from hf_tl.data.layout.names import folder_splits, is_plain, parse_split_folders, split_meanings, words_of
from hf_tl.data.layout.plan import Reading
from hf_tl.errors import ConfigError, DataError

TRAIN = ("train", "training", "trainval", "trn")
OTHERS = {
    "validation": ("validation", "valid", "val", "development", "dev", "evaluation", "eval"),
    "test": ("test", "testing", "tst"),
}
SYSTEM = ("__MACOSX", "__pycache__", "@eaDir", "lost+found", "$RECYCLE.BIN", "System Volume Information", "#recycle")
MASKS = ("mask", "masks", "label", "labels", "annotation", "annotations", "segmentation", "segmentations", "segmented")
TARGETS = (*MASKS, "gt", "groundtruth", "target", "targets", "bbox", "bboxes")
NO_PICTURES = {".bufr", ".emf", ".eps", ".fit", ".fits", ".grib", ".mpeg", ".mpg", ".ps", ".wmf"}
"""Suffixes of vectors, movies and scientific data."""
NEWER = {".avif", ".avifs", ".heic", ".heif", ".jxl", ".qoi"}
PICTURES = ({*ImageFolder.EXTENSIONS} - NO_PICTURES) | NEWER


def files(*folders: str) -> list[str]:
    return [f"{folder}/{number}.jpg" for folder in folders for number in range(3)]


@pytest.mark.parametrize("train", TRAIN)
@pytest.mark.parametrize(("split", "other"), [(split, word) for split, words in OTHERS.items() for word in words])
def test_words_of_splits(train: str, split: str, other: str) -> None:
    listing = Listing.of(files(f"{train}/cat", f"{train}/dog", f"{other}/cat", f"{other}/dog"))
    plan = plan_folders(listing)
    assert {name: planned.origin for name, planned in plan.splits.items()} == {
        "train": f"folder {train}",
        split: f"folder {other}",
    }
    assert plan_folders(listing, Reading(split_folders={"train": [train], split: [other]})).splits == plan.splits


@pytest.mark.parametrize("suffix", sorted(PICTURES))
def test_suffixes_of_pictures(suffix: str) -> None:
    listing = Listing.of([f"cat/1{suffix}", f"dog/2{suffix.upper()}", "readme.txt"])
    assert plan_folders(listing).counts() == {"train": {"cat": 1, "dog": 1}}


@pytest.mark.parametrize("suffix", sorted(NO_PICTURES | {".svg", ".pdf", ".txt", ".mp4", ""}))
def test_files_that_are_no_pictures(suffix: str) -> None:
    plan = plan_folders(Listing.of([*files("cat", "dog"), f"cat/x{suffix}", f"dog/y{suffix}"]))
    assert plan.counts() == {"train": {"cat": 3, "dog": 3}}
    assert plan.notes == (f"files that are not images were left out: {f'2 {suffix}' if suffix else '1 x, 1 y'}",)


@pytest.mark.parametrize("name", [*SYSTEM, ".git"])
def test_folders_of_systems_are_no_classes(name: str) -> None:
    assert plan_folders(Listing.of(files("cat", "dog", name))).counts() == {"train": {"cat": 3, "dog": 3}}
    assert set(plan_folders(Listing.of(files("cat", "dog", f"my {name}"))).counts()["train"]) > {"cat", "dog"}


@pytest.mark.parametrize("word", TARGETS)
@pytest.mark.parametrize("spelling", ["{}", "car_{}", "{}_images"])
def test_folders_of_targets_are_no_classes(word: str, spelling: str) -> None:
    """Numbered files occur in every class; in a folder named like targets they are those of the other folder."""
    name = spelling.format(word)
    with pytest.raises(DataError, match=f"of the folder hold files of the same names .*exclude_folders {name}"):
        plan_folders(Listing.of(files("cars", "bikes", name)))
    assert plan_folders(Listing.of(files("cars", "bikes", f"a{word}a"))).splits


def test_words_of_targets_in_file_names_do_not_count() -> None:
    images = [f"images/{name}.jpg" for name in ("ant", "bee", "fly")]
    for suffix in ("_mask", "-segmentation", ".GT", " labels"):
        masks = [f"other/{name}{suffix}.png" for name in ("ant", "bee", "fly")]
        with pytest.raises(DataError, match="images, other of the folder hold files of the same names"):
            plan_folders(Listing.of([*images, *masks]))
    wings = [f"other/{name}_wing.png" for name in ("ant", "bee", "fly")]
    assert plan_folders(Listing.of([*images, *wings])).counts() == {"train": {"images": 3, "other": 3}}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("HTMLPage", ["html", "page"]),
        ("trainB2", ["train", "b", "2"]),
        ("caf\u00e9-Bar", ["caf", "\u00e9", "bar"]),
        ("a__b", ["a", "b"]),
        ("", []),
    ],
)
def test_words_of_names(name: str, words: list[str]) -> None:
    assert words_of(name) == words


@pytest.mark.parametrize(
    ("names", "meanings"),
    [
        (["xtrain", "xtest", "ytest"], {"xtrain": "train", "xtest": "test"}),
        (["restrain", "contest"], {}),
        (["train", "mytrain"], {"train": "train"}),
        (["MYTRAINSET", "myvalset"], {"MYTRAINSET": "train", "myvalset": "validation"}),
        (["trainval", "test"], {"trainval": "train", "test": "test"}),
        (["atrainb", "atestb", "train test"], {"atrainb": "train", "atestb": "test"}),
    ],
)
def test_meanings_of_siblings(names: list[str], meanings: dict[str, str]) -> None:
    assert split_meanings(names) == meanings


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("train", True),
        ("train_7", True),
        ("val images", True),
        ("train_test", False),
        ("train bus", False),
        ("7", False),
    ],
)
def test_plain_names(name: str, plain: bool) -> None:
    assert is_plain(name) == plain


@pytest.mark.parametrize(
    ("folders", "splits"),
    [
        (["train/a", "train/b"], {"train": "train"}),
        (["train station", "bus station"], {}),
        (["x/seg_train", "x/seg_val", "seg_test"], {"x/seg_train": "train", "x/seg_val": "validation"}),
        (["seg_train", "cut_test"], {}),
        (["a/train", "b/test images"], {"a/train": "train", "b/test images": "test"}),
        (["Seg_Train", "seg_test"], {"Seg_Train": "train", "seg_test": "test"}),
    ],
)
def test_splits_above_files(folders: list[str], splits: dict[str, str]) -> None:
    assert folder_splits(files(*folders)) == splits


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        (" train = a/b , test=c ", {"train": ("a/b",), "test": ("c",)}),
        ("train=a=b", {"train": ("a=b",)}),
        (" None ", {}),
        ("test=c,train=a,validation=b,test=d", {"test": ("c", "d"), "train": ("a",), "validation": ("b",)}),
    ],
)
def test_split_folders_as_text(text: str, parsed: dict[str, tuple[str, ...]]) -> None:
    assert parse_split_folders(text) == parsed


@pytest.mark.parametrize("text", ["", "train", "train=", "=a", "val=a", "test=a", "train=a,", "train=a;test=b,test"])
def test_split_folders_of_another_form(text: str) -> None:
    with pytest.raises(ConfigError, match="split_folders"):
        parse_split_folders(text)
