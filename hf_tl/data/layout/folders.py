"""Plan of a folder of class folders: which folders are splits, which are classes, and what is left out.

Two readings that names cannot decide between are an error that shows both and names the flag that decides.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from hf_tl.data.labels import tidy, tidy_notes
from hf_tl.data.layout.classes import UNLABELED, annotation_hint, class_folders, descend, where
from hf_tl.data.layout.listing import Listing, Tree, count_suffixes
from hf_tl.data.layout.names import SPLITS, is_plain, split_meanings, split_of
from hf_tl.data.layout.plan import FORMAT, Plan, PlannedSplit, Reading
from hf_tl.errors import ConfigError, DataError, name_some


def plan_folders(listing: Listing, reading: Reading | None = None, name: str = "") -> Plan:
    """Read class folders, inside split folders or with splits inside them, at any depth.

    Raises:
        DataError: The images are in no class folders, or there are several readings.

    >>> plan = plan_folders(Listing.of(["training_set/cat/1.jpg", "training_set/dog/2.jpg", "test_set/cat/3.jpg"]))
    >>> plan.counts()
    {'train': {'cat': 1, 'dog': 1}, 'test': {'cat': 1, 'dog': 0}}
    """
    reading = reading or Reading()
    notes: list[str] = []
    root = _without(listing.tree, reading.exclude_folders, notes)
    if not root.count:
        raise DataError(f"no images in {name or 'the folder'}: {FORMAT}")
    _note_others(listing, notes)
    splits = _split_folders(root, reading, notes, listing)
    classes: dict[str, dict[str, list[str]]] = {}
    known: frozenset[str] = frozenset()
    spellings: set[str] = set()
    for split in sorted(splits, key=lambda split: split != "train"):
        by_class: defaultdict[str, list[str]] = defaultdict(list)
        for folder in splits[split]:
            for name, images in class_folders(folder, reading, notes, listing, known).items():
                by_class[tidy(name)] += images
                spellings.add(name)
        classes[split] = dict(by_class)
        known = known or frozenset(by_class)
    names = sorted({name for by_class in classes.values() for name in by_class})
    notes += tidy_notes(spellings)
    _note_broken(listing, notes)
    planned = {split: _planned(classes[split], splits[split]) for split in SPLITS if split in splits}
    hint = annotation_hint(listing)
    if len(names) == 1 and hint:
        raise DataError(f"found one class folder, {names[0]}/{hint}")
    return Plan("class folders", planned, tuple(notes), "label", tuple(names))


def _planned(classes: Mapping[str, Sequence[str]], folders: Iterable["Folder"]) -> PlannedSplit:
    names = sorted(classes)
    origin = " + ".join(dict.fromkeys(folder.origin for folder in folders))
    labels: tuple[object, ...] = tuple(name for name in names for _ in classes[name])
    return PlannedSplit(tuple(image for name in names for image in classes[name]), {"label": labels}, origin)


class Folder(Tree):
    """A folder that holds class folders, of which some images may belong to another split."""

    def __init__(self, tree: Tree, origin: str | None = None) -> None:
        super().__init__(tree.path, tree.files, tree.folders)
        self.origin = origin or (f"folder {tree.path}" if tree.path else "all class folders")


def _split_folders(root: Tree, reading: Reading, notes: list[str], listing: Listing) -> dict[str, list[Folder]]:
    """Return the folders of each split; without splits, all class folders are `train`."""
    if reading.split_folders:
        _require_folders(root, [name for names in reading.split_folders.values() for name in names])
        return {
            split: [Folder(root if name == "." else root.at(name.strip("/"))) for name in names]
            for split, names in reading.split_folders.items()
        }
    node = descend(root, notes)
    if reading.split_folders is not None:
        return {"train": [Folder(node)]}
    children = node.filled()
    meanings = split_meanings(children)
    inside = _splits_inside_classes(node, notes)
    if inside:
        return inside
    holding = {name: split for name, split in meanings.items() if children[name].filled()}
    if not holding:
        _require_no_flat_splits(node, meanings, listing)
        return {"train": [Folder(node)]}
    return _split_level(node, holding, meanings, notes)


def _split_level(
    node: Tree, holding: Mapping[str, str], meanings: Mapping[str, str], notes: list[str]
) -> dict[str, list[Folder]]:
    """Return the splits among the subfolders of a folder; `holding` are named like splits and hold class folders."""
    children = node.filled()
    others = [name for name in children if name not in meanings]
    subfolders = {name: set(children[name].filled()) for name in children}
    train = next((name for name, split in holding.items() if split == "train"), None)
    reference = subfolders[train] if train else set().union(*(subfolders[name] for name in holding))
    alike = [name for name in others if subfolders[name] & reference]
    flat = [name for name in others if children[name].files]
    within = set().union(*(subfolders[name] for name in holding))
    if (
        len(within) > 1
        and all(split_of(name) for name in within)
        and any(len(subfolders[name]) > 1 for name in holding)
    ):
        raise DataError(
            f"two readings of {where(node)}: {name_some(sorted(holding))} and the folders in them "
            f"({name_some(sorted(within))}) are both named like splits; name the splits with --split_folders "
            "(train=FOLDER,test=FOLDER; a folder may be a path)"
        )
    is_split = train is not None and (len(set(holding.values())) > 1 or (is_plain(train) and not flat and not alike))
    if others and not is_split:
        raise DataError(
            f"two readings of {where(node)}: {name_some(holding)} "
            f"{'is a split' if len(holding) == 1 else 'are splits'}, or one of the classes "
            f"{name_some(sorted(children))}; name the splits with --split_folders (train=FOLDER,test=FOLDER; . is the "
            "folder itself), say --split_folders none, or leave folders out with --exclude_folders"
        )
    if unlabeled := [name for name in meanings if name not in holding]:
        listed = name_some(f"{name}/" for name in sorted(unlabeled))
        notes.append(f"folders of {UNLABELED} were left out: {listed}")
    if others:
        notes.append(f"folders beside the splits were left out: {name_some(f'{name}/' for name in sorted(others))}")
    splits: defaultdict[str, list[str]] = defaultdict(list)
    for name, split in holding.items():
        splits[split].append(name)
    for split, names in splits.items():
        if len(names) > 1:
            raise DataError(
                f"{len(names)} folders mean {split}: {name_some(names)}; name the folders of each split with "
                f"--split_folders (several: {split}={names[0]},{split}={names[1]})"
            )
    return {split: [Folder(children[names[0]])] for split, names in splits.items()}


def _splits_inside_classes(node: Tree, notes: list[str]) -> dict[str, list[Folder]]:
    """Return the splits where each class folder holds split folders: cat/train, cat/test, dog/train, dog/test."""
    children = node.filled()
    inside = {name: split_meanings(child.filled()) for name, child in children.items()}
    with_splits = [name for name, meanings in inside.items() if meanings and not children[name].files]
    meanings = split_meanings(children)
    is_split_level = any(name in meanings and child.filled() for name, child in children.items())
    if is_split_level or not any(len(set(inside[name].values())) > 1 for name in with_splits):
        return {}
    if without := sorted(children.keys() - set(with_splits)):
        raise DataError(
            "some class folders hold splits "
            f"({name_some(f'{name}/{next(iter(inside[name]))}' for name in with_splits)})"
            f" and some do not ({name_some(without)}); arrange them alike, or leave folders out with --exclude_folders"
        )
    splits: dict[str, Tree] = {}
    others: set[str] = set()
    for name, child in children.items():
        for part, folder in child.filled().items():
            if part not in inside[name]:
                others.add(part)
                continue
            tree = splits.setdefault(inside[name][part], Tree(node.path))
            if name in tree.folders:
                raise DataError(
                    f"two folders of {name} mean {inside[name][part]}; name them train, validation and test"
                )
            tree.folders[name] = folder
    if others:
        notes.append(f"left out, beside the splits of each class: {name_some(f'{name}/' for name in sorted(others))}")
    spellings = {
        split: sorted({part for spelled in inside.values() for part in spelled if spelled[part] == split})
        for split in splits
    }
    return {
        split: [Folder(tree, f"folder {name_some(spellings[split])} in each class")] for split, tree in splits.items()
    }


def _require_no_flat_splits(node: Tree, meanings: Mapping[str, str], listing: Listing) -> None:
    """Check that folders named like splits, with images and without class folders, are classes.

    Raises:
        DataError: They may be splits whose images have no labels.
    """
    children = node.filled()
    plain = [name for name in meanings if is_plain(name) or len(meanings) > 1]
    if not plain or (len(children) > 1 and [meanings[name] for name in plain] == ["train"]):
        return
    hint = annotation_hint(listing)
    if len(plain) == len(children):
        raise DataError(
            f"{name_some(f'{name}/' for name in children)} hold images without class folders, so the images have no "
            f"labels; {FORMAT}, or name their labels in a table (metadata.csv with the columns file_name and label; "
            f"or --dataset TABLE.csv){hint}"
        )
    rest = sorted(children.keys() - set(plain))
    raise DataError(
        f"two readings of {where(node)}: {name_some(sorted(children))} are classes, or {name_some(plain)} is a split "
        f"whose images have no labels, and the classes are {name_some(rest)}; say --split_folders none for the first, "
        f"--exclude_folders {','.join(plain)} for the second{hint}"
    )


def _without(tree: Tree, folders: Sequence[str], notes: list[str]) -> Tree:
    """Return the tree without some folders.

    Raises:
        ConfigError: One does not exist.
    """
    if not folders:
        return tree
    _require_folders(tree, folders, "--exclude_folders")
    excluded = {folder.strip("/") for folder in folders}
    notes.append(f"left out by --exclude_folders: {name_some(sorted(excluded))}")

    def copy(node: Tree) -> Tree:
        kept = {name: copy(child) for name, child in node.folders.items() if child.path not in excluded}
        return Tree(node.path, node.files, kept)

    return copy(tree)


def _require_folders(tree: Tree, folders: Iterable[str], flag: str = "--split_folders") -> None:
    if missing := [name for name in folders if name != "." and not tree.has(name.strip("/"))]:
        raise ConfigError(f"no folder {name_some(missing)}, found {name_some(sorted(tree.folders))}; check {flag}")


def _note_others(listing: Listing, notes: list[str]) -> None:
    """Note files that are not images, and folders without images."""
    if others := [*listing.others(), *listing.tables()]:
        notes.append(f"files that are not images were left out: {name_some(count_suffixes(others))}")
    empty = [name for name in listing.folders if not listing.tree.at(name).count]
    outermost = [name for name in empty if name.rpartition("/")[0] not in empty]
    if outermost:
        notes.append(f"folders without images were left out: {name_some(f'{name}/' for name in sorted(outermost))}")


def _note_broken(listing: Listing, notes: list[str]) -> None:
    if listing.broken:
        notes.append(f"{len(listing.broken)} links that lead nowhere were left out: {name_some(listing.broken)}")
