"""The record states the true origin of a run's weights, for any flags, names and strategies."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from backbones.checkpoints import save_transformers, save_weights, timm_network, tiny_vit
from job.small_data import LABELS, QUICK, backbone, make_dataset, write_folder
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageClassification

import hf_tl
from hf_tl.card.metadata import card_metadata
from hf_tl.cli import main
from hf_tl.record import LearnedFrom, RunRecord, read_record
from hf_tl.strategy import Phase, Strategy

HEAD = Strategy.transfer(epochs=1)
QUICK_FLAGS = ("--num_train_epochs", "1", "--report_to", "none", "--feature_cache", "off")


def train(model: Any, strategy: Strategy, folder: Path, **settings: Any) -> RunRecord:
    return hf_tl.train(model, make_dataset(), strategy, output_dir=str(folder), **{**QUICK, **settings}).record


def run(flags: list[str], folder: Path) -> None:
    main(["train", *flags, "--output_dir", str(folder), "--image_size", "32", *QUICK_FLAGS])


def metadata(record: RunRecord) -> dict[str, Any]:
    return card_metadata(record).to_dict()


def test_random_weights(tmp_path: Path) -> None:
    record = train(backbone()[0], Strategy.full(epochs=1), tmp_path / "out")
    assert record.origin.kind == "random"
    assert "base_model" not in metadata(record)


def test_random_weights_of_a_local_checkpoint(tmp_path: Path) -> None:
    folder = save_transformers(tiny_vit(("dark", "light")), tmp_path / "vit")
    model, _ = hf_tl.load_backbone(str(folder), LABELS, pretrained=False)
    record = train(model, Strategy.full(epochs=1), tmp_path / "out")
    assert (record.origin.kind, record.origin.license) == ("random", None)


def test_a_users_own_file_has_no_license(tmp_path: Path) -> None:
    file = save_weights(timm_network(), tmp_path / "mine.safetensors")
    images = write_folder(make_dataset(), tmp_path / "images")
    folder = tmp_path / "out"
    run(["--model", "timm:test_resnet", "--weights", str(file), "--dataset", str(images)], folder)
    record = read_record(folder)
    assert (record.origin.kind, record.origin.file, record.origin.license) == ("file", "mine.safetensors", None)
    assert "license" not in metadata(record)
    assert "apache" not in (folder / "README.md").read_text()


def test_a_users_own_file_of_the_demos_network_has_no_license(tmp_path: Path) -> None:
    network = timm_network("tf_efficientnet_lite0")
    file = save_weights(network, tmp_path / "mine.safetensors")
    images = write_folder(make_dataset(), tmp_path / "images")
    folder = tmp_path / "out"
    run(["--weights", str(file), "--dataset", str(images)], folder)
    assert read_record(folder).origin.license is None


@pytest.mark.parametrize(
    "strategy",
    [Strategy.scratch(epochs=1), Strategy("mine", (Phase("all", 1, from_random_weights=True),))],
    ids=["scratch", "a phase from random weights"],
)
def test_a_strategy_from_scratch_draws_its_own_weights(tmp_path: Path, strategy: Strategy) -> None:
    """Neither the loaded weights nor their license remain; and no other weights are called random."""
    network = timm_network()
    for parameter in network.parameters():
        parameter.data.mul_(2.0)
    file = save_weights(network, tmp_path / "mine.safetensors")
    model, _ = backbone(weights=str(file), pretrained=True)
    tiny = replace(strategy, phases=tuple(replace(phase, learning_rate=1e-12) for phase in strategy.phases))
    record = train(model, tiny, tmp_path / "out")
    assert (record.origin.kind, record.origin.seed) == ("random", 0)
    loaded, trained = load_file(file), load_file(tmp_path / "out" / "model.safetensors")
    kernels = [name for name, tensor in trained.items() if tensor.ndim == 4]
    assert not any(torch.allclose(trained[name], loaded[name], atol=1e-3) for name in kernels)
    assert metadata(record)["tags"][-1] == "from-scratch"


def test_training_on_is_a_chain(tmp_path: Path) -> None:
    file = save_weights(timm_network(), tmp_path / "mine.safetensors")
    model, _ = backbone(weights=str(file), pretrained=True)
    first = train(model, HEAD, tmp_path / "first")
    again, _ = hf_tl.load(tmp_path / "first")
    second = train(again, HEAD, tmp_path / "second")
    assert (second.origin.kind, second.origin.earlier) == ("trained", first.origin)
    assert second.origin.weights_digest == first.weights_digest
    assert [split.split for split in second.learned_from] == ["train", "train"]


def test_a_second_training_of_the_same_object_is_a_chain(tmp_path: Path) -> None:
    model, _ = backbone()
    first = train(model, HEAD, tmp_path / "first")
    second = train(model, HEAD, tmp_path / "second")
    assert (second.origin.kind, second.origin.weights_digest) == ("trained", first.weights_digest)


def test_a_chain_through_a_weights_file(tmp_path: Path) -> None:
    train(backbone()[0], HEAD, tmp_path / "first")
    model, _ = backbone(weights=str(tmp_path / "first" / "model.safetensors"), pretrained=True)
    record = train(model, HEAD, tmp_path / "second")
    assert record.origin.kind == "trained"
    assert len(record.learned_from) == 2


def test_a_trained_model_that_plain_transformers_loaded(tmp_path: Path) -> None:
    """Its origin cannot be proven, but its training images are still left out of what is measured."""
    first = train(backbone()[0], HEAD, tmp_path / "first")
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "first")
    record = train(model, HEAD, tmp_path / "second", seed=1)
    assert record.origin.kind == "memory"
    assert record.learned_from[0] == first.learned_from[0]
    assert set(LearnedFrom.read(first.learned_from, tmp_path / "first").digests) <= set(
        LearnedFrom.read(record.learned_from, tmp_path / "second").digests
    )


def test_saved_weights_that_were_replaced(tmp_path: Path) -> None:
    train(backbone()[0], HEAD, tmp_path / "first")
    file = tmp_path / "first" / "model.safetensors"
    save_file({name: tensor * 2 for name, tensor in load_file(file).items()}, file, metadata={"format": "pt"})
    record = train(hf_tl.load(tmp_path / "first")[0], HEAD, tmp_path / "second")
    assert (record.origin.kind, record.origin.earlier.kind) == ("memory", "trained")
    assert any("cannot tell whether" in note for note in record.data.notes)


def test_weights_that_were_changed_in_memory(tmp_path: Path) -> None:
    file = save_weights(timm_network(), tmp_path / "mine.safetensors")
    model, _ = backbone(weights=str(file), pretrained=True)
    with torch.no_grad():
        model.timm_model.layer1[0].conv1.weight.add_(1.0)
    record = train(model, HEAD, tmp_path / "out")
    assert (record.origin.kind, record.origin.earlier.kind) == ("memory", "file")
    assert "base_model" not in metadata(record)


@pytest.mark.parametrize(
    ("strategy", "tag"),
    [
        (HEAD, "transfer-learning"),
        (replace(HEAD, name="mine"), "transfer-learning"),
        (Strategy.finetune(epochs=2), "fine-tuning"),
        (Strategy.transfer(epochs=1, norm="affine"), "fine-tuning"),
        (Strategy.full(epochs=1), "fine-tuning"),
    ],
    ids=["transfer", "phases of one's own", "finetune", "norms", "full"],
)
def test_the_tag_is_what_was_trained(tmp_path: Path, strategy: Strategy, tag: str) -> None:
    file = save_weights(timm_network(), tmp_path / "mine.safetensors")
    model, _ = backbone(weights=str(file), pretrained=True)
    assert metadata(train(model, strategy, tmp_path / "out"))["tags"][-1] == tag


def test_phases_after_the_kept_weights_are_not_in_the_record(tmp_path: Path) -> None:
    """A second phase that ruins the model: the selected weights, and the record, are those of the first phase."""
    folder = save_transformers(tiny_vit(("a", "b")), tmp_path / "vit")
    model, transforms = hf_tl.load_backbone(str(folder), LABELS)
    ruin = Phase("all", 1, learning_rate=50.0, backbone_learning_rate=50.0, warmup_ratio=0.0)
    strategy = Strategy("mine", (Phase(1, steps=1, solver="lbfgs", augmentation="none"), ruin))
    record = train(model, strategy, tmp_path / "out", transforms=transforms, validation_fraction=0.3)
    assert record.best is not None
    assert record.best["phase"] == 0
    assert [phase.trained_stages for phase in record.phases] == [("head",)]
    assert metadata(record)["tags"][-1] == "transfer-learning"
    trained = [
        name for name, parameter in hf_tl.load(tmp_path / "out")[0].named_parameters() if parameter.requires_grad
    ]
    assert trained == ["classifier.weight", "classifier.bias"]
