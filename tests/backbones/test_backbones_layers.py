"""The folders of hf_tl/backbones import one another as its page draws them."""

import re
from pathlib import Path

import pytest

import hf_tl.backbones

ROOM = Path(hf_tl.backbones.__file__).parent
LAYERS: dict[str, set[str]] = {
    "stages": set(),
    "weights": set(),
    "libraries": {"stages", "weights"},
    "prefix": {"stages"},
    "text": {"libraries", "stages", "weights"},
}
"""Folders, and the other folders that their modules may import. The modules beside the folders are above them all."""


def test_every_folder_has_a_layer() -> None:
    assert {path.parent.name for path in ROOM.glob("*/__init__.py")} == LAYERS.keys()


@pytest.mark.parametrize("folder", LAYERS)
def test_a_folder_imports_only_the_layers_below(folder: str) -> None:
    texts = [path.read_text(encoding="utf-8") for path in (ROOM / folder).glob("*.py")]
    imported = {name for text in texts for name in re.findall(r"^\s*from hf_tl\.backbones\.(\w+)", text, re.MULTILINE)}
    assert imported - {folder} <= LAYERS[folder]
