"""Meaning of names: which folder, file or column value stands for train, validation or test."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import PurePosixPath

from hf_tl.errors import ConfigError, name_some

SPLITS = ("train", "validation", "test")
WORDS = {
    "train": ("trainval", "training", "train", "trn"),
    "validation": ("validation", "development", "evaluation", "valid", "eval", "val", "dev"),
    "test": ("testing", "test", "tst"),
}
MEANINGS = {word: split for split, words in WORDS.items() for word in words}
COMPANIONS = frozenset(
    {
        *("set", "sets", "data", "dataset", "image", "images", "img", "imgs", "picture", "pictures", "pic", "pics"),
        *(
            "photo",
            "photos",
            "split",
            "splits",
            "folder",
            "folders",
            "file",
            "files",
            "subset",
            "part",
            "my",
            "the",
            "of",
        ),
        *("full", "final", "all"),
    }
)
"""Words beside a split's name that do not change its meaning."""
JUNK = frozenset(
    {"__MACOSX", "__pycache__", "@eaDir", "lost+found", "$RECYCLE.BIN", "System Volume Information", "#recycle"}
)
"""Folders that systems and tools create."""
ANNOTATIONS = frozenset(
    {
        *("mask", "masks", "label", "labels", "annotation", "annotations", "segmentation", "segmentations"),
        *("segmented", "gt", "groundtruth", "target", "targets", "bbox", "bboxes"),
    }
)
"""Words of folders that hold targets of detection or segmentation, beside a folder of images."""

IMAGE_SUFFIXES = frozenset(
    {
        *(".apng", ".avif", ".avifs", ".blp", ".bmp", ".bw", ".cur", ".dcx", ".dds", ".dib", ".flc", ".fli", ".ftc"),
        *(".ftu", ".gbr", ".gif", ".heic", ".heif", ".icb", ".icns", ".ico", ".iim", ".im", ".j2c", ".j2k", ".jfif"),
        *(".jp2", ".jpc", ".jpe", ".jpeg", ".jpf", ".jpg", ".jpx", ".jxl", ".msp", ".pbm", ".pcd", ".pcx", ".pgm"),
        *(".png", ".pnm", ".ppm", ".psd", ".pxr", ".qoi", ".ras", ".rgb", ".rgba", ".sgi", ".tga", ".tif", ".tiff"),
        *(".vda", ".vst", ".webp", ".xbm", ".xpm"),
    }
)
"""Suffixes of files that are read as images: those of datasets' `imagefolder`, and newer ones, without vectors, movies
and scientific data. A file that Pillow cannot read is reported by name."""


def is_hidden(name: str) -> bool:
    """Return whether a file or folder is hidden or made by a system.

    >>> is_hidden(".cache"), is_hidden("__MACOSX"), is_hidden("cat")
    (True, True, False)
    """
    return name.startswith(".") or name in JUNK


def suffix_of(file: str) -> str:
    """Return the suffix of a file, in lowercase, as `PurePosixPath.suffix` finds it.

    >>> [suffix_of(file) for file in ("a/1.JPG", "a.b/1", "a/.hidden", "1.")]
    ['.jpg', '', '', '']
    """
    name = file[file.rfind("/") + 1 :]
    dot = name.rfind(".")
    return name[dot:].lower() if 0 < dot < len(name) - 1 else ""


def is_image(file: str) -> bool:
    """Return whether a file is an image by its suffix."""
    return suffix_of(file) in IMAGE_SUFFIXES


def stem_of(file: str) -> str:
    """Return the name of a file without its suffix; see `suffix_of`.

    >>> [stem_of(file) for file in ("a/1.JPG", "a.b/1", "a/.hidden", "1.")]
    ['1', '1', '.hidden', '1.']
    """
    name = file[file.rfind("/") + 1 :]
    dot = name.rfind(".")
    return name[:dot] if 0 < dot < len(name) - 1 else name


def words_of(name: str) -> list[str]:
    """Split a name into lowercase words at separators, digits and capitals.

    >>> words_of("Train Data-2"), words_of("myTestImages")
    (['train', 'data', '2'], ['my', 'test', 'images'])
    """
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^\W\d_A-Za-z]+", name)]


@lru_cache(100_000)
def split_of(name: str) -> str | None:
    """Return the split that a name stands for, by the one split word in it; None if there is none or more than one.

    >>> [split_of(name) for name in ("training_set", "Test Data", "valset", "cat", "train_test")]
    ['train', 'test', 'validation', None, None]
    """
    meanings = {meaning for word in words_of(name) if (meaning := _meaning(word))}
    return meanings.pop() if len(meanings) == 1 else None


def is_plain(name: str) -> bool:
    """Return whether a name consists of one split word, numbers and words such as "set" or "images" only.

    >>> is_plain("train_images_2"), is_plain("train station")
    (True, False)
    """
    others = [word for word in words_of(name) if not _meaning(word)]
    return split_of(name) is not None and all(word in COMPANIONS or word.isdigit() for word in others)


def split_meanings(names: Iterable[str]) -> dict[str, str]:
    """Return the names among siblings that stand for a split.

    A word of its own counts ("cifar10_train"). A part of a word counts if siblings differ in that part alone
    ("mytrain", "mytest").

    >>> split_meanings(["mytrain", "mytest", "restrain"])
    {'mytrain': 'train', 'mytest': 'test'}
    """
    meanings: dict[str, str] = {}
    remainders: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for name in names:
        if (split := split_of(name)) is not None:
            meanings[name] = split
            continue
        for word, split in MEANINGS.items():
            before, separator, after = name.lower().partition(word)
            if separator:
                remainders[f"{before}*{after}"].setdefault(name, split)
    for siblings in remainders.values():
        if len(set(siblings.values())) > 1:
            meanings |= {name: split for name, split in siblings.items() if name not in meanings}
    return meanings


def parents_of(files: Iterable[str]) -> set[str]:
    """Return the folders above some files, by relative path.

    >>> sorted(parents_of(["a/b/1.jpg", "a/b/2.jpg", "3.jpg"]))
    ['a', 'a/b']
    """
    nearest = {file.rpartition("/")[0] for file in files}
    return {str(folder) for path in nearest for folder in (PurePosixPath(path), *PurePosixPath(path).parents)} - {"."}


def folder_splits(files: Iterable[str]) -> dict[str, str]:
    """Return the folders above some files that stand for a split, by relative path.

    A name with words of its own ("seg_train") counts if a sibling stands for another split.

    >>> folder_splits(["seg_train/1.jpg", "seg_test/2.jpg", "train station/3.jpg"])
    {'seg_test': 'test', 'seg_train': 'train'}
    """
    folders = sorted(parents_of(files))
    siblings: defaultdict[str, list[str]] = defaultdict(list)
    for folder in folders:
        siblings[folder.rpartition("/")[0]].append(folder.rpartition("/")[2])
    splits = {}
    for parent, names in siblings.items():
        meanings = split_meanings(names)
        own = {name: split for name, split in meanings.items() if is_plain(name)}
        forms: defaultdict[str, set[str]] = defaultdict(set)
        for name, split in meanings.items():
            forms[remainder_of(name)].add(split)
        for name, split in meanings.items():
            if name in own or len(forms[remainder_of(name)]) > 1:
                splits[f"{parent}/{name}" if parent else name] = split
    return splits


def remainder_of(name: str) -> str:
    """Return a name without its split word, which names of sibling splits share.

    >>> remainder_of("seg_train") == remainder_of("seg_test")
    True
    """
    text = name.lower()
    word = next((word for word in MEANINGS if word in text), "")
    return text.replace(word, "*", 1) if word else text


def _meaning(word: str) -> str | None:
    if word in MEANINGS:
        return MEANINGS[word]
    return next(
        (split for known, split in MEANINGS.items() if word.startswith(known) and word[len(known) :] in COMPANIONS),
        None,
    )


def parse_split_folders(text: str | None) -> Mapping[str, tuple[str, ...]] | None:
    """Parse `train=A,test=B` into the names of each split; a split may occur several times. `none` is no split at all.

    Raises:
        ConfigError: The text has another form.

    >>> parse_split_folders("train=a,train=b,test=c")
    {'train': ('a', 'b'), 'test': ('c',)}
    """
    if text is None:
        return None
    if text.strip().lower() == "none":
        return {}
    parsed: dict[str, tuple[str, ...]] = {}
    for pair in text.split(","):
        split, separator, name = (part.strip() for part in pair.partition("="))
        if not separator or not name or split not in SPLITS:
            raise ConfigError(
                f"expected --split_folders train=FOLDER,validation=FOLDER,test=FOLDER (or none), found "
                f"{pair.strip()!r}; "
                f"the splits are {name_some(SPLITS)}"
            )
        parsed[split] = (*parsed.get(split, ()), name)
    if "train" not in parsed:
        raise ConfigError(f"expected a train folder in --split_folders, found {text!r}; add train=FOLDER")
    return parsed
