"""Images that a list leaves out of a dataset: `--exclude_list FILE.csv`, as `hf-tl inspect` writes it.

Each row names an image by the column `file`: its path, or the end of it, or `row 5 of train` for a dataset without
file names. With the column `digest` (SHA-256 of the length and bytes of the file, in hexadecimal), the image must also
have that content, so that a list never leaves out another image that took its name.
"""

import csv
import io
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from datasets import Dataset

from hf_tl.data.columns import IMAGE
from hf_tl.data.decoding.images import as_stored
from hf_tl.data.decoding.stored import digest_image
from hf_tl.data.fingerprint import row_name
from hf_tl.data.streaming.streams import PLACE
from hf_tl.errors import DataError, unreadable
from hf_tl.storage.text import read_text

FILE, DIGEST = "file", "digest"
"""Columns of the list that are read; others are for the reader."""


def leave_out_listed(splits: Mapping[str, Dataset], exclude_list: str | None, notes: list[str]) -> dict[str, Dataset]:
    """Leave out the images of a list, and note how many of each split; see `kept_rows`."""
    if exclude_list is None:
        return dict(splits)
    kept = kept_rows(splits, exclude_list, notes)
    return {
        split: rows if len(kept[split]) == len(rows) else rows.select(kept[split], keep_in_memory=True)
        for split, rows in splits.items()
    }


def kept_rows(splits: Mapping[str, Dataset], exclude_list: str | None, notes: list[str]) -> dict[str, list[int]]:
    """Return the rows of each split that a list does not name, and note how many it names.

    Args:
        splits: Splits with a column `image`.
        exclude_list: CSV file; None names nothing.
        notes: Notes about the data, to which this adds.

    Raises:
        DataError: The file cannot be read, has no column `file`, or names all images of a split; or the images are
            streamed.
    """
    if exclude_list is None:
        return {split: list(range(len(rows))) for split, rows in splits.items()}
    file = Path(exclude_list).expanduser()
    listed = _read(file)
    kept, unmatched = {}, {(name, digest) for name, digests in listed.items() for digest in digests}
    for split, rows in splits.items():
        if PLACE in rows.features:
            raise DataError("--exclude_list needs the content of the images, which --streaming does not read: omit one")
        stored = enumerate(as_stored(rows).select_columns([IMAGE])[IMAGE])
        matches = [_match(image, row_name(image, row, split), listed) for row, image in stored]
        unmatched -= {match for match in matches if match is not None}
        kept[split] = [row for row, match in enumerate(matches) if match is None]
        if not kept[split]:
            raise DataError(f"--exclude_list {file.name} names all images of {split}: remove some of its rows")
        if len(kept[split]) < len(rows):
            number = len(rows) - len(kept[split])
            notes.append(f"{number:,} of {len(rows):,} images of {split} left out by {file.name}")
    if unmatched:
        notes.append(f"{len(unmatched):,} images of {file.name} are not in the dataset, or have other content")
    return kept


def _read(file: Path) -> dict[str, set[str]]:
    """Return the digests listed for each file name; an empty digest stands for any content."""
    listed: defaultdict[str, set[str]] = defaultdict(set)
    title, advice = f"--exclude_list {file}", "use a list that hf-tl inspect wrote, or name the images in such a column"
    text = read_text(file, title, f"a CSV file with a column {FILE!r}", advice, kind=DataError, encoding="utf-8-sig")
    try:
        reader = csv.DictReader(io.StringIO(text))
        if FILE not in (reader.fieldnames or ()):
            columns = ", ".join(reader.fieldnames or ()) or "an empty file"
            raise DataError(f"{title}: expected a column {FILE!r}, found {columns}; {advice}")
        for row in reader:
            if name := (row[FILE] or "").strip():
                listed[PurePosixPath(name).as_posix().lstrip("/")].add((row.get(DIGEST) or "").strip().lower())
    except csv.Error as error:
        raise DataError(f"{title}: expected a CSV file, found {unreadable(error)}; {advice}") from error
    return dict(listed)


def _match(stored: Mapping[str, object] | None, name: str, listed: Mapping[str, set[str]]) -> tuple[str, str] | None:
    """Return the row of the list that names an image: by the end of its path, and by its content."""
    parts = Path(name).as_posix().lstrip("/").split("/")
    for first in range(len(parts)):
        digests = listed.get("/".join(parts[first:]))
        if digests is None:
            continue
        digest = digest_image(stored, name).hex()
        for content in digests:
            if content in ("", digest):
                return "/".join(parts[first:]), content
    return None
