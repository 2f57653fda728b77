"""Folders that are no complete saved model are not pushed."""

import json
from pathlib import Path

import pytest
from hub.server import HubServer
from publish.pushed import REPO
from publish.records import put
from safetensors.torch import load_file, save_file

from hf_tl.card.figures.training import STAGES_FIGURE
from hf_tl.errors import PublishError
from hf_tl.hub.hub import push
from hf_tl.record import read_record, write_record


def test_weights_of_a_training_that_has_not_ended_are_not_pushed(hub: HubServer, copy: Path) -> None:
    write_record(put(read_record(copy), status="training", measured={}), copy)
    for is_written in (True, False):
        if not is_written:
            (copy / "README.md").unlink()
        with pytest.raises(PublishError, match=r"an unfinished training: finish it.*resume_from_checkpoint=.auto"):
            push(copy, REPO)
    assert not hub.hub.log


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        (["model.safetensors"], "model.safetensors missing"),
        (["config.json", "run.json"], "config.json, run.json missing"),
        (["README.md"], "README.md missing; write the card again: hf-tl card"),
        ([STAGES_FIGURE], f"{STAGES_FIGURE} missing; write the card again: hf-tl card"),
        (["README.md", "config.json"], "README.md, config.json missing; name the output_dir"),
    ],
)
def test_incomplete_folder_is_not_pushed(hub: HubServer, copy: Path, missing: list[str], said: str) -> None:
    for name in missing:
        (copy / name).unlink()
    with pytest.raises(PublishError, match=said):
        push(copy, REPO)
    assert not hub.hub.log


def test_shard_that_the_index_names_is_missed(hub: HubServer, copy: Path) -> None:
    (copy / "model.safetensors").rename(copy / "model-00001-of-00002.safetensors")
    weight_map = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(PublishError, match=r"model-00002-of-00002\.safetensors missing"):
        push(copy, REPO)


@pytest.mark.parametrize("name", ["model.safetensors", "run.json", "config.json"])
def test_truncated_file_is_not_pushed(hub: HubServer, copy: Path, name: str) -> None:
    whole = (copy / name).read_bytes()
    (copy / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(PublishError, match=name):
        push(copy, REPO)
    assert not hub.hub.log


def test_weights_of_another_run_are_not_pushed(hub: HubServer, copy: Path) -> None:
    weights = load_file(copy / "model.safetensors")
    weights["fc.bias"] += 1
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(PublishError, match=r"weights in .* are not those of run\.json"):
        push(copy, REPO)
    assert not hub.hub.log


def test_weights_written_again_are_the_same(hub: HubServer, copy: Path) -> None:
    save_file(dict(reversed(load_file(copy / "model.safetensors").items())), copy / "model.safetensors")
    push(copy, REPO)


def test_config_of_another_run_is_not_pushed(hub: HubServer, copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text()) | {"label_names": ["cow", "dog", "owl"]}
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(PublishError, match=r"mixes two runs: config\.json has the classes cow, dog, owl"):
        push(copy, REPO)
    assert not hub.hub.log


@pytest.mark.parametrize("metadata", ["license: [", "- a list", "model-index: 3"])
def test_card_whose_metadata_cannot_be_read_is_not_pushed(hub: HubServer, copy: Path, metadata: str) -> None:
    (copy / "README.md").write_text(f"---\n{metadata}\n---\n\n# Pets\n")
    with pytest.raises(PublishError, match=r"metadata of .*README\.md cannot be read.*hf-tl card"):
        push(copy, REPO)
    assert not hub.hub.log
