"""Class folders below a folder: outer or inner ones, and checks that they hold classes."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import cache

from hf_tl.data.layout.listing import Listing, Tree
from hf_tl.data.layout.names import ANNOTATIONS, split_of, stem_of, suffix_of, words_of
from hf_tl.data.layout.plan import FORMAT, Reading
from hf_tl.errors import DataError, name_some

UNLABELED = "images in no class folder"
ALIKE = 0.8
"""Share of equal file names above which two folders hold the same images in two forms."""


def class_folders(
    folder: Tree, reading: Reading, notes: list[str], listing: Listing, known: frozenset[str]
) -> dict[str, list[str]]:
    """Map each class to its images below a folder.

    Args:
        folder: Folder of a split.
        reading: Choices of the user.
        notes: List to which notes are added.
        listing: All files, from which an annotation format is recognized.
        known: Classes of the train split, if this is another split.
    """
    node = descend(folder, notes, known)
    children = node.filled()
    if node.files:
        hint = annotation_hint(listing)
        raise DataError(
            f"{UNLABELED} of {where(node)}: {name_some(sorted(node.files))}; {FORMAT}, or name their labels in a "
            f"table (metadata.csv with the columns file_name and label){hint}"
        )
    _require_different_images(node)
    outer = {name: list(child.images()) for name, child in children.items()}
    nested = {name: child for name, child in children.items() if child.filled()}
    if reading.class_folder == "inner":
        return _by_inner_folder(outer)
    if nested and reading.class_folder == "auto" and not known & outer.keys():
        _require_one_reading(node, nested, outer, _by_inner_folder(outer))
    if nested and any(child.files for child in nested.values()):
        within = sorted(f"{name}/{part}" for name, child in nested.items() for part in child.filled())
        notes.append(f"images in subfolders count for their class folder: {name_some(within)}")
    return outer


def _by_inner_folder(outer: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Return the images by the folder that they lie in."""
    inner: defaultdict[str, list[str]] = defaultdict(list)
    for images in outer.values():
        for image in images:
            inner[image.split("/")[-2]].append(image)
    return dict(inner)


def _require_one_reading(
    node: Tree, nested: Mapping[str, Tree], outer: Mapping[str, Sequence[str]], inner: Mapping[str, Sequence[str]]
) -> None:
    """Check that the outer folders are the classes, rather than the folders in them.

    Raises:
        DataError: Both readings give classes, and they differ.
    """
    if all(child.files for child in nested.values()) or len(inner) < 2:
        return
    if len(outer) > 1 and {frozenset(images) for images in outer.values()} == {frozenset(i) for i in inner.values()}:
        return
    parts: defaultdict[str, list[str]] = defaultdict(list)
    for name, child in nested.items():
        for part in child.filled():
            parts[part].append(name)
    shared = [part for part, names in parts.items() if len(names) > 1]
    example = f"{name_some(parts[shared[0]])} both hold {name_some(sorted(shared))}" if shared else ""
    names = sorted(nested)
    raise DataError(
        f"two readings of {where(node)}: {len(outer)} classes ({name_some(sorted(outer))}), or {len(inner)} classes "
        f"({name_some(sorted(inner))}){'; ' + example if example else ''}. Say --class_folder outer or inner; "
        f"if {name_some(names)} are splits, name them: --split_folders train={names[0]},test={names[-1]}"
    )


def _require_different_images(node: Tree) -> None:
    """Check that no class folder holds the images of another in another form (masks, depth).

    Raises:
        DataError: Two folders hold files of the same names, which are no plain numbers, or one is named like targets.
    """
    folders = {name: child for name, child in node.filled().items() if not child.filled()}

    @cache
    def stems_of(name: str) -> set[str]:
        return {_stem(file) for file in folders[name].files}

    for name in sorted(folders):
        if set(words_of(name)) & ANNOTATIONS:
            others = [other for other in folders if other != name and _are_alike(stems_of(name), stems_of(other))]
            if others:
                _raise_twice(node, [others[0], name])
    names = list(folders)
    # most datasets differ in the first two folders: the names in the others are not looked at
    if (
        len(names) > 1
        and all(_are_alike(stems_of(names[0]), stems_of(other)) for other in names[1:])
        and all(len(stems_of(name)) > 1 and not _are_numbered(stems_of(name)) for name in names)
    ):
        _raise_twice(node, names)


def _raise_twice(node: Tree, names: Sequence[str]) -> None:
    raise DataError(
        f"{name_some(names)} of {where(node)} hold files of the same names "
        f"({sorted(node.folders[names[0]].files)[0]}), as images and their masks do: classes hold different "
        "images. Give the folder that holds class folders, rename the files if they are classes, or leave one out: "
        f"--exclude_folders {names[-1]}"
    )


def _are_alike(first: set[str], second: set[str]) -> bool:
    return len(first & second) >= ALIKE * max(len(first), len(second), 1)


def _are_numbered(stems: Iterable[str]) -> bool:
    """Return whether file names are a common text and consecutive numbers, as in every class of many datasets."""
    numbers, texts = set(), set()
    for stem in stems:
        digits = re.search(r"\d+(?=\D*$)", stem)
        if not digits:
            return False
        numbers.add(int(digits.group()))
        texts.add(stem[: digits.start()] + stem[digits.end() :])
        if len(texts) > 1:
            return False
    return len(texts) == 1 and max(numbers) - min(numbers) < 2 * len(numbers)


def _stem(file: str) -> str:
    """Return a file's name without suffix and without words of annotations (`7_mask.png` is `7`)."""
    parts = re.split(r"[-_. ]", stem_of(file))
    return "_".join(part for part in parts if part.lower() not in ANNOTATIONS)


def descend(node: Tree, notes: list[str], known: frozenset[str] = frozenset()) -> Tree:
    """Go down where a folder holds nothing but one folder of folders, unless that is a split or a known class."""
    start = node
    while not node.files and len(children := node.filled()) == 1:
        [(name, child)] = children.items()
        if not child.filled() or child.files or ((not known and split_of(name)) and not start.path) or name in known:
            break
        node = child
    if node is not start:
        notes.append(f"class folders were found in {node.path}/")
    return node


def annotation_hint(listing: Listing) -> str:
    """Return a sentence if files look like annotations of a detection dataset."""
    texts = [file for file in listing.others() if suffix_of(file) in (".txt", ".xml", ".json")]
    if not texts:
        return ""
    stems = {stem_of(image) for image in listing.images()}
    matching = [file for file in texts if stem_of(file) in stems]
    named = [file for file in texts if file.endswith(".json") and "annotation" in file.lower()]
    if len(matching) >= max(1, len(stems) // 2) or named:
        example = sorted(matching or named)[0]
        return (
            f". This looks like a detection dataset ({example} beside the images): hf_tl assigns classes to whole "
            "images"
        )
    return ""


def where(node: Tree) -> str:
    """Name a folder in a message."""
    return f"{node.path}/" if node.path else "the folder"
