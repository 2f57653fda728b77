"""Entries of a feature store, written as training writes them."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from hf_tl.features.description import Layout
from hf_tl.features.feature_store import FeatureRows, FeatureStore, key_of

LAYOUTS = (Layout((2, 3), torch.float32), Layout((), torch.int64))
IMAGES = 6
LARGE = 10**9
KEYS = {name: key_of({"name": name}) for name in ("a", "b", "c", "d", "e", "old", "new")}


def draw(layout: Layout, images: int) -> Tensor:
    generator = torch.Generator().manual_seed(images)
    return torch.randint(0, 100, (images, *layout.shape), generator=generator).to(layout.dtype)


def write(store: FeatureStore, key: str, layouts: Sequence[Layout] = LAYOUTS, images: int = IMAGES) -> list[Tensor]:
    """Write an entry like training."""
    tensors = [draw(layout, images) for layout in layouts]
    rows = FeatureRows(store.begin(key, layouts, images), layouts, images, writable=True)
    rows.write(0, [tensor[:1] for tensor in tensors])
    rows.write(1, [tensor[1:] for tensor in tensors])
    store.commit(key, f"entry {key}", rows, {"key": key})
    return tensors


def open_entry(store: FeatureStore, key: str) -> FeatureRows:
    rows, problem = store.find(key)
    assert problem is None
    assert rows is not None
    return rows


def files_of(folder: Path) -> list[str]:
    """Return the names of the files, without locks."""
    return [path.name for path in folder.iterdir() if not path.name.endswith(".lock")]
