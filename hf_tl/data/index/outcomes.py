"""Outcomes of the check of images, by their content; a content that could be read in an earlier run is not read again.

What cannot be read is not kept: it is looked at in every run, which names it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
import PIL
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image
from tqdm import tqdm

from hf_tl.data.decoding.colors import CONVERSIONS
from hf_tl.data.decoding.conversions import Conversions, Examined
from hf_tl.data.fingerprint import holds_bytes, map_images
from hf_tl.data.index.contents import Unreadable, examine_stored
from hf_tl.data.index.files import files_of, known_digests
from hf_tl.data.index.tables import keep, read
from hf_tl.storage.tables import KeptTable

if TYPE_CHECKING:
    from datasets import Dataset

    from hf_tl.data.image_data import ImageData

VERSION = "1"
"""Version of the check; another one looks at all images again."""
MOST = 4_000_000
"""Largest number of contents of a table; the oldest are forgotten."""
SCHEMA = pa.schema(
    {
        "digest": pa.binary(32),
        "conversion": pa.int8(),
        "is_readable": pa.bool_(),
        "width": pa.int32(),
        "height": pa.int32(),
        "mode": pa.string(),
    }
)
CHUNK = 10_000
"""Number of outcomes that are packed at a time."""
NONE = -1
"""Conversion of an image that is none of `CONVERSIONS`."""


@dataclass(frozen=True)
class Outcomes:
    """Outcomes of the images of a split."""

    conversions: np.ndarray
    """Place in `CONVERSIONS`, or `NONE`, (images,)."""
    is_readable: np.ndarray
    """Whether the plain rule can read the image, (images,)."""
    unreadable: Mapping[int, Unreadable]
    """Images that cannot be used, by row."""

    def gather(self) -> Conversions:
        """Return the images that the plain rule converts differently."""
        rows = {kind: np.flatnonzero(self.conversions == place).tolist() for place, kind in enumerate(CONVERSIONS)}
        unreadable = np.flatnonzero((self.conversions != NONE) & ~self.is_readable).tolist()
        return Conversions({kind: listed for kind, listed in rows.items() if listed}, unreadable)


def examine_images(data: "ImageData", progress: tqdm, *, just_loaded: bool = False) -> dict[str, Outcomes]:
    """Examine the images of all splits, and remember those that can be read.

    Args:
        data: Images.
        progress: Progress bar over all images.
        just_loaded: Whether files are as they were when they were hashed; otherwise their state is asked again.
    """
    schema = SCHEMA.with_metadata({b"check": _check()})
    name, key = (data.name, data.name) if data.root is None else (data.root.name, str(data.root))
    table = KeptTable(f"checked images of {name}", f"outcomes {key}", schema)
    known = read(table, f"the images of {name}")
    outcomes, new = {}, _New()
    contents = _contents(data, just_loaded=just_loaded) if len(known) else {}
    for split, rows in data.splits.items():
        digests = data.digests[split]
        places = np.full(len(rows), NONE)
        if split in contents:
            places = pc.index_in(contents[split], known["digest"]).fill_null(NONE).to_numpy()
        missing = np.flatnonzero(places == NONE)
        progress.update(len(rows) - len(missing))
        conversions = _taken(known["conversion"], places, NONE)
        is_readable = _taken(known["is_readable"], places, True)
        unreadable = {}
        for row, digest, outcome in _examine(rows, split, missing, progress):
            if isinstance(outcome, Unreadable):
                unreadable[row] = outcome
                continue
            conversions[row] = NONE if outcome.conversion is None else CONVERSIONS.index(outcome.conversion)
            is_readable[row] = outcome.is_readable
            if digest == digests[row]:  # else the file has changed since it was hashed
                new.add((digest, conversions[row], *outcome[1:]))
        outcomes[split] = Outcomes(conversions, is_readable, unreadable)
    if len(added := new.table()):
        keep(table, partial(_merged, added))
    return outcomes


def _examine(
    rows: "Dataset", split: str, missing: np.ndarray, progress: tqdm
) -> Iterator[tuple[int, bytes | None, Examined | Unreadable]]:
    """Yield row, digest and outcome of some images.

    Those that cannot be read are examined once more in this process, which may have plugins of Pillow that others lack.
    """
    examine, unreadable = partial(examine_stored, Image.MAX_IMAGE_PIXELS), list[int]()
    examined = map_images(rows, split, examine, progress, only=missing, apart=True)
    for row, (digest, outcome) in zip(missing.tolist(), examined, strict=True):
        if isinstance(outcome, Unreadable):
            unreadable.append(row)
        else:
            yield row, digest, outcome
    examined = map_images(rows, split, examine, only=np.array(unreadable, np.int64))
    for row, (digest, outcome) in zip(unreadable, examined, strict=True):
        yield row, digest, outcome


def _contents(data: "ImageData", *, just_loaded: bool) -> dict[str, pa.Array]:
    """Return the digest of each image by split; null for a file that may have changed since it was hashed."""
    digests = {split: pa.array(of_split, pa.binary(32)) for split, of_split in data.digests.items()}
    if data.root is None:
        return {split: of_split for split, of_split in digests.items() if holds_bytes(data.splits[split])}
    if just_loaded:
        return digests
    current = known_digests(files_of(data.splits), data.root)
    contents, start = {}, 0
    for split, of_split in digests.items():
        of_files = current[start : start + len(of_split)]
        contents[split] = pc.if_else(pc.equal(of_split, of_files), of_split, None)
        start += len(of_split)
    return contents


def _check() -> bytes:
    """Return everything that an outcome depends on besides the content."""
    parts = (VERSION, PIL.__version__, Image.MAX_IMAGE_PIXELS, bool(find_spec("pillow_heif")), *CONVERSIONS)
    return ", ".join(map(str, parts)).encode()


class _New:
    """Outcomes to keep, in columns: tuples of a million images would take 300 MB."""

    def __init__(self) -> None:
        self._tables, self._rows = [SCHEMA.empty_table()], list[tuple[Any, ...]]()

    def add(self, row: tuple[Any, ...]) -> None:
        self._rows.append(row)
        if len(self._rows) == CHUNK:
            self._pack()

    def table(self) -> pa.Table:
        self._pack()
        return pa.concat_tables(self._tables).combine_chunks()

    def _pack(self) -> None:
        if self._rows:
            columns = zip(SCHEMA, zip(*self._rows, strict=True), strict=True)
            self._tables.append(pa.table([pa.array(values, column.type) for column, values in columns], SCHEMA))
            self._rows = []


def _merged(added: pa.Table, known: pa.Table) -> pa.Table:
    digests = added["digest"]
    added = added.filter(pc.equal(pc.index_in(digests, digests), pa.array(np.arange(len(added)), pa.int32())))
    others = known.filter(pc.invert(pc.is_in(known["digest"], added["digest"].combine_chunks())))
    return pa.concat_tables([added, others.replace_schema_metadata()])[:MOST]


def _taken(column: pa.ChunkedArray, places: np.ndarray, default: int | bool) -> np.ndarray:
    """Return the values of a column at some places, and the default for a place of `NONE`."""
    values = np.append(column.to_numpy(), np.array([default], column.type.to_pandas_dtype()))
    return np.asarray(values[places])
