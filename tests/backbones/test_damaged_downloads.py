"""Downloaded weights that were cut off are named, with what to do."""

from pathlib import Path

import pytest
from backbones.checkpoints import save_timm, timm_network
from huggingface_hub import constants
from timm.models import get_pretrained_cfg

from hf_tl.backbones.load import load_backbone
from hf_tl.errors import ModelError

COMMIT = "0" * 40


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the weights file of `timm:test_resnet` in a cache of the Hub, cut off."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    settings = get_pretrained_cfg("test_resnet")
    assert settings is not None
    repository = tmp_path / f"models--{settings.hf_hub_id.replace('/', '--')}"
    snapshot = save_timm(timm_network(), repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    (repository / "blobs").mkdir()
    blob = (snapshot / "model.safetensors").rename(repository / "blobs" / "weights")
    (snapshot / "model.safetensors").symlink_to(blob)
    blob.write_bytes(blob.read_bytes()[:-1000])
    return blob


@pytest.mark.parametrize("name", ["timm:test_resnet", "timm/test_resnet.r160_in1k"])
def test_a_cached_file_that_is_cut_off_is_named(cached: Path, name: str) -> None:
    with pytest.raises(ModelError, match=f"the cached file {cached} is damaged .*: delete it, and it is downloaded"):
        load_backbone(name, ["cat", "dog"])


def test_an_intact_file_in_the_cache_is_loaded(cached: Path) -> None:
    cached.unlink()
    save_timm(timm_network(), cached.parent / "again")
    (cached.parent / "again" / "model.safetensors").rename(cached)
    load_backbone("timm:test_resnet", ["cat", "dog"])
