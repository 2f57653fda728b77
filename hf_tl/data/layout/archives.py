"""Archives: zip files are unpacked into the cache once, tar files are read as WebDataset shards."""

import os
import shutil
import zipfile
from hashlib import sha256
from pathlib import Path

import datasets

from hf_tl.errors import DataError, name_some
from hf_tl.storage.folders import atomic_folder
from hf_tl.storage.writing import writing

ZIP = ".zip"
TAR = (".tar", ".tar.gz", ".tgz")


def is_tar(name: str) -> bool:
    """Return whether a file is a tar archive by its suffix."""
    return name.lower().endswith(TAR)


def unpack(archive: Path) -> Path:
    """Unpack a zip file into the cache of datasets, and return the folder.

    The folder is used again while path, size and time of change of the archive stay the same.

    Raises:
        DataError: The archive is damaged, has members outside of it, or takes more than the free space.
    """
    state = archive.stat()
    key = f"{archive.resolve()}:{state.st_size}:{state.st_mtime_ns}".encode()
    cache = Path(os.fspath(datasets.config.HF_DATASETS_CACHE)) / "hf_tl_unpacked"
    folder = cache / f"{archive.stem}-{sha256(key).hexdigest()[:16]}"
    if folder.is_dir():
        return folder
    advice = "free some space, or set HF_HOME to a folder on another disk"
    with writing(cache, DataError, advice):
        cache.mkdir(parents=True, exist_ok=True)
    try:
        with zipfile.ZipFile(archive) as opened:
            outside = [name for name in opened.namelist() if name.startswith(("/", "\\")) or ".." in Path(name).parts]
            if outside:
                raise DataError(
                    f"{archive.name} has members outside of its folder: {name_some(outside)}; do not trust it"
                )
            size, room = sum(member.file_size for member in opened.infolist()), shutil.disk_usage(cache).free
            if size > room:  # a zip file of 10 MB can hold 10 GB of zeros, one of 50 MB 4 PB
                raise DataError(
                    f"{archive.name} takes {size / 1e9:,.1f} GB unpacked, and {cache} has {room / 1e9:,.1f} GB left; "
                    "do not trust it, or unpack it elsewhere and name the folder"
                )
            with writing(folder, DataError, advice), atomic_folder(folder, replace=True) as partial:
                opened.extractall(partial)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise DataError(f"the archive {archive.name} cannot be unpacked: {error}") from error
    return folder
